"""Inodes, files and address spaces (mm/address_space.py)."""

from __future__ import annotations

from kemu.kernel.errno import EIO, ENOSPC
from kemu.mm.address_space import (
    AS_EIO,
    AS_ENOSPC,
    I_DIRTY,
    LLONG_MAX,
    S_SWAPFILE,
    AddressSpace,
    Cred,
    File,
    Inode,
    SuperBlock,
    WritebackControl,
)


def test_the_first_address_space_of_an_inode_is_its_own():
    inode = Inode(ino=7)
    mapping = AddressSpace(inode, None)
    other = AddressSpace(inode, None)
    assert inode.i_mapping is mapping and other.host is inode


def test_is_swapfile_reads_the_flag():
    inode = Inode()
    assert not inode.is_swapfile
    inode.i_flags |= S_SWAPFILE
    assert inode.is_swapfile


def test_write_errors_leave_their_note():
    mapping = AddressSpace(None, None)
    mapping.set_error(-EIO)
    assert mapping.flags == AS_EIO
    mapping.set_error(-ENOSPC)
    assert mapping.flags == AS_EIO | AS_ENOSPC


def test_a_file_is_opened_by_root_unless_said_otherwise():
    inode = Inode()
    file = File(inode, AddressSpace(inode, None))
    assert file.f_cred == Cred(0, 0)


def test_an_address_space_is_not_anonymous():
    assert not AddressSpace(None, None).is_anon


def test_writeback_by_default_is_not_for_reclaim():
    wbc = WritebackControl()
    assert (wbc.nr_to_write, wbc.for_reclaim, wbc.nonblocking) == (32, False, False)


def test_what_an_oops_prints_has_no_address_of_the_emulator():
    inode = Inode(ino=7, i_bdev=object(), private=object())
    file = File(inode, AddressSpace(inode, object(), page_tree=object()), private_data=object())
    assert " at 0x" not in repr(file)


def test_a_writer_may_write_everything_unless_it_is_limited():
    wbc = WritebackControl()
    assert (wbc.bdi, wbc.older_than_this, wbc.range_start, wbc.range_end) == (None, None, 0, LLONG_MAX)
    assert not wbc.range_cyclic and not wbc.for_kupdate and not wbc.encountered_congestion


def test_a_new_inode_is_clean_and_on_no_list():
    inode = Inode()
    assert inode.i_state & I_DIRTY == 0
    assert inode.i_list is None
    sb = SuperBlock("test")
    assert not sb.s_dirty and not sb.s_io and not sb.s_inodes


def test_an_opening_has_one_user():
    assert File(Inode(), AddressSpace(None, None)).f_count == 1
