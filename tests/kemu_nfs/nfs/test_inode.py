"""Open contexts, attributes, lengths of pages, and requests by page."""

from __future__ import annotations

import struct

import pytest

from kemu.errors import KernelBug
from kemu.mm.page import PG_private
from kemu_nfs.nfs.inode import FMODE_READ, FMODE_WRITE, NFS_INO_INVALID_DATA
from kemu_nfs.nfs.nfs3xdr import Nfs3Result
from nfs_ground import PAGE, mounted


@pytest.fixture
def ground():
    with mounted() as g:
        yield g


@pytest.fixture
def file(ground):
    ground.mount.create("f")
    return ground.mount.open("f")


NEWER, OLDER = 0x5000 << 48, 0x4800 << 48  # as seconds and nanoseconds of 2012 and 2008


def attributes(nfsi, *, size=None, mtime=None, ctime=None):
    """Return the inode's attributes with some of them changed."""
    attr = bytearray(nfsi.attr)
    for at, value in ((20, size), (68, mtime), (76, ctime)):
        if value is not None:
            struct.pack_into("!Q", attr, at, value)
    return bytes(attr)


def result(attr, pre_op=None):
    made = Nfs3Result(0)
    made.fattr, made.pre_op = attr, pre_op
    return made


def known(nfsi):
    return nfsi.attr[20:28] + nfsi.attr[68:84]


def test_a_context_holds_its_openers_credential_until_the_last_reference(ground):
    ground.mount.create("f")
    before = ground.mount.auth.references()
    file = ground.mount.open("f")
    ctx = file.private_data
    ctx.count += 1
    assert ground.mount.auth.references() == before + 1
    ground.mount.close(file)
    assert ground.mount.auth.references() == before + 1
    ground.mount.ops.inodes.put_nfs_open_context(ctx)
    assert ground.mount.auth.references() == before


def test_a_context_is_found_by_credential_and_mode(ground, file):
    inodes = ground.mount.ops.inodes
    ctx = file.private_data
    mine, other = ground.mount.auth.lookup_cred(0, 0), ground.mount.auth.lookup_cred(7, 7)
    assert inodes.nfs_find_open_context(ctx.nfsi, mine, FMODE_WRITE) is ctx
    assert inodes.nfs_find_open_context(ctx.nfsi, other, FMODE_WRITE) is None
    assert inodes.nfs_find_open_context(ctx.nfsi, None, FMODE_READ) is ctx
    ctx.mode = FMODE_READ
    assert inodes.nfs_find_open_context(ctx.nfsi, mine, FMODE_WRITE) is None
    assert ctx.count == 3


def test_a_file_of_a_page_and_a_bit_has_a_short_last_page(ground, file):
    inodes, inode = ground.mount.ops.inodes, file.inode
    inode.size = PAGE + 100
    lengths = []
    for index in range(3):
        page = ground.machine.filemap.find_or_create_page(file.f_mapping, index)
        lengths.append(inodes.nfs_page_length(page))
        ground.machine.filemap.unlock_page(page)
        ground.machine.page_alloc.put_page(page)
    assert lengths == [PAGE, 100, 0]
    inode.size = 0


@pytest.mark.parametrize(("size", "length"), [(0, 0), (1, 1), (PAGE - 1, PAGE - 1), (PAGE, PAGE), (PAGE + 1, PAGE)])
def test_the_first_page_is_as_long_as_the_file(ground, file, size, length):
    page = ground.machine.filemap.find_or_create_page(file.f_mapping, 0)
    file.inode.size = size
    assert ground.mount.ops.inodes.nfs_page_length(page) == length


def test_our_own_change_invalidates_nothing(ground, file):
    nfsi = file.private_data.nfsi
    attr = attributes(nfsi, size=500, mtime=NEWER, ctime=NEWER)
    ground.mount.ops.inodes.nfs_refresh_inode(nfsi, result(attr, known(nfsi)))
    assert not nfsi.cache_validity & NFS_INO_INVALID_DATA
    assert nfsi.inode.size == 500


def test_somebody_elses_change_does(ground, file):
    nfsi = file.private_data.nfsi
    attr = attributes(nfsi, mtime=NEWER, ctime=NEWER)
    ground.mount.ops.inodes.nfs_refresh_inode(nfsi, result(attr))
    assert nfsi.cache_validity & NFS_INO_INVALID_DATA
    ground.mount.ops.inodes.nfs_revalidate_mapping(nfsi)
    assert not nfsi.cache_validity & NFS_INO_INVALID_DATA
    assert ground.stats.invalidations == 1


def test_attributes_that_were_overtaken_are_ignored(ground, file):
    nfsi = file.private_data.nfsi
    new = attributes(nfsi, ctime=NEWER)
    ground.mount.ops.inodes.nfs_refresh_inode(nfsi, result(new, known(nfsi)))
    ground.mount.ops.inodes.nfs_refresh_inode(nfsi, result(attributes(nfsi, size=1, ctime=OLDER)))
    assert nfsi.attr == new


def test_a_request_is_in_the_tree_and_behind_its_page(ground, file):
    inodes, pagelist, ctx = ground.mount.ops.inodes, ground.mount.ops.pagelist, file.private_data
    page = ground.machine.filemap.find_or_create_page(file.f_mapping, 3)
    req = pagelist.nfs_create_request(ctx, ctx.nfsi, page, 0, 10)
    assert inodes.nfs_page_find_request_locked(ctx.nfsi, page) is None
    assert inodes.nfs_inode_add_request(ctx.nfsi, req) == 0
    assert (req.wb_count, page.private, bool(page.flags & PG_private)) == (2, req.addr, True)
    assert inodes.nfs_page_find_request_locked(ctx.nfsi, page) is req
    assert req.wb_count == 3
    inodes.check(ctx.nfsi)
    with pytest.raises(KernelBug, match="a second request"):
        inodes.nfs_inode_add_request(ctx.nfsi, req)
    inodes.nfs_inode_remove_request(req)
    assert (page.private, page.flags & PG_private, ctx.nfsi.npages) == (0, 0, 0)
    for _ in range(3):
        pagelist.nfs_release_request(req)
    assert ground.machine.slub.objects_in_use(ground.mount.modules.page_cache) == 0


def test_an_inode_in_use_is_not_freed(ground, file):
    with pytest.raises(KernelBug):
        ground.mount.ops.inodes.nfs_clear_inode(file.private_data.nfsi)
