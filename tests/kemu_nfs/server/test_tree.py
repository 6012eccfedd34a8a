"""What all trees share: which names can be, and which blocks a COMMIT means."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu_nfs.server.tree import NAME_MAX, block_range, check_name
from kemu_nfs.sunrpc.nfs3_const import NFS3_OK, NFS3ERR_ACCES, NFS3ERR_NAMETOOLONG


@pytest.mark.parametrize(
    ("name", "status"),
    [
        (b"a", NFS3_OK),
        (b"\xff\xfe", NFS3_OK),
        (b" ", NFS3_OK),
        (b"n" * NAME_MAX, NFS3_OK),
        (b"n" * (NAME_MAX + 1), NFS3ERR_NAMETOOLONG),
        (b"", NFS3ERR_ACCES),
        (b"a/b", NFS3ERR_ACCES),
        (b"/", NFS3ERR_ACCES),
        (b"a\0", NFS3ERR_ACCES),
    ],
)
def test_which_names_can_be(name, status):
    assert check_name(name) == status


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1 << 16), st.integers(1, 1 << 16), st.integers(0, 1 << 17))
def test_a_range_holds_the_blocks_of_its_bytes(offset, count, byte):
    first, last = block_range(offset, count, 12)
    if offset <= byte < offset + count:
        assert first <= byte >> 12 <= last
    assert (first, last) == (offset // 4096, (offset + count - 1) // 4096)


def test_a_count_of_0_means_to_the_end():
    assert block_range(5000, 0, 12) == (1, None)
