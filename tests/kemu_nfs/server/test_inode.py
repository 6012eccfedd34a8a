"""A file's data: the same as a flat array of bytes, with what power may take remembered."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kemu_nfs.server.cred import Cred
from kemu_nfs.server.filetree import FileTree
from kemu_nfs.server.inode import BLOCK_SIZE, ZERO_BLOCK, Inode
from kemu_nfs.sunrpc.nfs3_const import NF3REG


def regular():
    return Inode(NF3REG, 3, b"", 0o644, 0, 0, 0)


def test_a_page_is_shared_and_not_copied():
    inode, page = regular(), bytes([5]) * BLOCK_SIZE
    inode.write_data(2 * BLOCK_SIZE, page, stable=True)
    assert inode.read_data(2 * BLOCK_SIZE, BLOCK_SIZE) is page
    assert inode.read_data(0, BLOCK_SIZE) is ZERO_BLOCK


def test_what_was_cut_off_does_not_come_back():
    inode = regular()
    inode.write_data(0, b"x" * 5000, stable=True)
    inode.resize(10)
    inode.resize(5000)
    assert inode.read_data(0, 5000) == b"x" * 10 + bytes(4990)


def test_a_stable_write_leaves_nothing_of_its_block_to_lose():
    inode = regular()
    inode.write_data(0, b"u" * 4096, stable=False)
    inode.write_data(0, b"s" * 100, stable=True)
    assert inode.lose_unstable() == 0
    assert inode.read_data(0, 4096) == b"s" * 100 + b"u" * 3996


steps = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 20000), st.integers(0, 9000), st.integers(1, 255), st.booleans()),
    st.tuples(
        st.just("write"), st.sampled_from([0, 4096, 8192]), st.sampled_from([4096, 8192]), st.integers(1, 255), st.booleans()
    ),
    st.tuples(st.just("resize"), st.integers(0, 20000)),
    st.tuples(st.just("commit")),
    st.tuples(st.just("restart")),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(steps, max_size=12), st.integers(0, 20000), st.integers(0, 9000))
def test_a_file_is_a_flat_array(todo, offset, count):
    inode, flat = regular(), bytearray()
    for step in todo:
        if step[0] == "write":
            _, at, size, fill, stable = step
            inode.write_data(at, bytes([fill]) * size, stable)
            if size:
                flat.extend(bytes(max(0, at + size - len(flat))))
                flat[at : at + size] = bytes([fill]) * size
        elif step[0] == "resize":
            inode.resize(step[1])
            del flat[step[1] :]
            flat.extend(bytes(step[1] - len(flat)))
        else:
            inode.commit()
        inode.check()
    assert inode.size == len(flat)
    assert inode.read_data(offset, count) == flat[offset : offset + count]


@settings(max_examples=50, deadline=None)
@given(st.lists(steps, max_size=12))
def test_losing_power_gives_back_what_was_stable(todo):
    """Block by block: after a loss each block is as the last stable write, commit or cut left it."""
    inode, kept = regular(), {}
    for step in todo:
        if step[0] == "write":
            _, at, size, fill, stable = step
            inode.write_data(at, bytes([fill]) * size, stable)
            if stable:
                for block in range(at // BLOCK_SIZE, -(-(at + size) // BLOCK_SIZE) if size else 0):
                    kept[block] = inode.blocks[block]
        elif step[0] == "resize":
            inode.resize(step[1])
            for block, data in list(kept.items()):
                left = step[1] - block * BLOCK_SIZE
                if left <= 0:
                    del kept[block]
                elif left < BLOCK_SIZE:
                    kept[block] = data[:left] + bytes(BLOCK_SIZE - left)
        elif step[0] == "commit":
            inode.commit()
            kept = dict(inode.blocks)
        elif step[0] == "restart":
            inode.lose_unstable()
            assert {block: data for block, data in inode.blocks.items() if data != ZERO_BLOCK} == {
                block: data for block, data in kept.items() if data != ZERO_BLOCK
            }
    inode.lose_unstable()
    inode.check()
    assert not inode.undo


@settings(max_examples=50, deadline=None)
@given(st.lists(steps, max_size=10), st.integers(0, 6), st.one_of(st.none(), st.integers(0, 6)))
def test_committing_a_part_keeps_that_part_and_loses_the_rest(todo, first, last):
    inode = regular()
    for step in todo:
        if step[0] == "write":
            inode.write_data(step[1], bytes([step[3]]) * step[2], step[4])
        elif step[0] == "resize":
            inode.resize(step[1])
        elif step[0] == "commit":
            inode.commit()
        else:
            inode.lose_unstable()
    written, undone = dict(inode.blocks), dict(inode.undo)
    chosen = {block for block in undone if first <= block and (last is None or block <= last)}
    assert inode.commit(first, last) == len(chosen)
    size = inode.size
    assert inode.lose_unstable() == len(undone) - len(chosen)
    inode.check()
    for block, data in written.items():
        wanted = data if block in chosen or block not in undone else undone[block] or ZERO_BLOCK
        left = max(0, inode.size - block * BLOCK_SIZE)
        assert inode.blocks.get(block, ZERO_BLOCK)[:left] == wanted[:left]
    if chosen:
        assert inode.size >= min(size, max(chosen) * BLOCK_SIZE + BLOCK_SIZE)


def test_a_loss_of_power_leaves_directories_and_links_alone():
    files = FileTree(lambda: 0)
    folder = files.make_dir("/d")
    _, link = files.symlink(folder, b"l", b"target", 0o777, Cred(0, 0))
    size = folder.size
    files.crash(lose_unstable=True)
    assert (folder.size, link.size) == (size, 6)
    files.check()
