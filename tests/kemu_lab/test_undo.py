"""What an emulated loss of power takes from a real file: the same as from one in memory."""

from __future__ import annotations

import os
import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

from kemu_lab.undo import Undo
from kemu_nfs.server.inode import Inode
from kemu_nfs.sunrpc.nfs3_const import NF3REG

steps = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 20000), st.integers(1, 9000), st.integers(1, 255), st.booleans()),
    st.tuples(st.just("resize"), st.integers(0, 20000)),
    st.tuples(st.just("commit"), st.integers(0, 5), st.one_of(st.none(), st.integers(0, 5))),
    st.tuples(st.just("restore")),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(steps, max_size=14))
def test_it_loses_what_a_file_in_memory_loses(todo):
    inode, undo = Inode(NF3REG, 3, b"", 0o644, 0, 0, 0), None
    with tempfile.TemporaryFile() as file:
        fd = file.fileno()
        for step in [*todo, ("restore",)]:
            if step[0] == "write":
                _, offset, count, fill, stable = step
                inode.write_data(offset, bytes([fill]) * count, stable)
                if undo is None and not stable:
                    undo = Undo(os.fstat(fd).st_size)
                if not stable:
                    undo.remember(fd, offset, count)
                os.pwrite(fd, bytes([fill]) * count, offset)
                if stable and undo is not None:
                    undo.settle(offset, count, os.fstat(fd).st_size)
            elif step[0] == "resize":
                inode.resize(step[1])
                os.ftruncate(fd, step[1])
                if undo is not None:
                    undo.cut(step[1])
            elif step[0] == "commit":
                blocks = inode.commit(step[1], step[2])
                assert blocks == (0 if undo is None else undo.commit(step[1], step[2], os.fstat(fd).st_size))
            else:
                lost = inode.lose_unstable()
                assert lost == (0 if undo is None else undo.restore(fd))
                undo = None
            assert os.pread(fd, 30000, 0) == inode.read_data(0, 30000)
