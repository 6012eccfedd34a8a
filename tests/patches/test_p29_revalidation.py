"""Patch 29, second half: what others do to a swap file makes nobody throw its cached pages away, nor ask."""

from __future__ import annotations

import pytest

from kemu_nfs.mount_options import mount_options
from kemu_nfs.nfs.attr_cache import NFS_INO_INVALID_DATA, NFS_INO_REVAL_PAGECACHE
from kemu_nfs.sunrpc.nfs3_const import NFS3PROC_GETATTR
from nfs_ground import PAGE, SECOND, mounted, page_bytes

OFF = "all,-29"


def getattrs(ground):
    return ground.nfsd.server.counts.get((100003, NFS3PROC_GETATTR), 0)


def others_write(ground, offset, data=b"x", name="swap"):
    """Write at the server, as another client does: its mtime and ctime move."""
    tree = ground.nfsd.server.tree
    inode = tree.lookup_path(f"/export/{name}")
    before = inode.mtime_ns
    ground.run_for(SECOND)
    assert tree.write(inode, offset, data, True) == (0, len(data))
    assert inode.mtime_ns > before


def prepare(ground):
    ground.file = ground.swapon()
    ground.nfsi = ground.file.private_data.nfsi
    ground.process()
    ground.write(0, page_bytes(0))
    ground.header = ground.file.f_mapping.page_tree.lookup(0).contents


@pytest.fixture
def ground():
    with mounted() as g:
        prepare(g)
        yield g
        g.check()


def read2(ground):
    """Read a swap file as dd does: the one way to its revalidation."""
    return ground.machine.memory.file_io.read(ground.file, 0, 10)


def is_cached(ground):
    """Tell whether page 0 holds the very bytes that swapon() has read; a page that was read again holds others like them."""
    return ground.file.f_mapping.page_tree.lookup(0).contents is ground.header


def test_a_new_mtime_drops_nothing_and_nobody_asks(ground):
    before = getattrs(ground)
    others_write(ground, 150 * PAGE)
    ground.run_for(100 * SECOND)
    read2(ground)
    assert is_cached(ground)
    assert ground.stats.invalidations == 0
    assert getattrs(ground) == before


def test_nothing_is_dropped_even_if_we_know(ground):
    others_write(ground, 150 * PAGE)
    ground.mount.getattr(ground.nfsi)
    assert ground.nfsi.cache_validity & NFS_INO_INVALID_DATA
    assert ground.mount.ops.inodes.nfs_revalidate_mapping(ground.nfsi) == 0
    assert is_cached(ground)
    assert ground.stats.invalidations == 0


def test_our_own_swap_writes_move_the_mtime_and_drop_nothing(ground):
    before = ground.nfsi.attr[68:76]
    for generation in range(5):
        ground.write(0, page_bytes(0, generation))
        ground.swap_out(0)
        assert ground.read(0) == page_bytes(0, generation)
        read2(ground)
    assert ground.nfsi.attr[68:76] > before
    assert is_cached(ground)
    assert ground.stats.invalidations == 0


def test_an_old_age_of_the_attributes_is_no_reason_either():
    with mounted(options=mount_options("noac")) as ground:
        prepare(ground)
        before = getattrs(ground)
        for _ in range(3):
            read2(ground)
        assert getattrs(ground) == before
        ground.check()


def test_a_reader_does_not_wait_for_swap_writes(ground):
    others_write(ground, 150 * PAGE)
    ground.run_for(100 * SECOND)
    ground.wire.cut()
    ground.pageout(0)
    seen = []
    ground.spawn(lambda: seen.append(read2(ground)))
    ground.run_for(SECOND)
    assert seen == [bytes(10)], "from the cached page, with the server away"
    ground.wire.mend()
    ground.wait_for_calls()
    assert ground.read(0) == page_bytes(0)


def test_after_swapoff_the_file_is_one_like_others(ground):
    others_write(ground, 150 * PAGE)
    assert ground.machine.swapfile.swapoff(ground.file) == 0
    ground.run_for(100 * SECOND)
    read2(ground)
    assert not is_cached(ground)
    assert ground.stats.invalidations == 1


def test_other_files_are_dropped_while_one_is_swapped_to(ground):
    ground.mount.create("f")
    other = ground.mount.open("f")
    ground.mount.write(other, 0, page_bytes(0))
    file_io = ground.machine.memory.file_io
    assert file_io.read(other, 0, PAGE) == page_bytes(0)
    others_write(ground, 0, page_bytes(7), name="f")
    ground.run_for(100 * SECOND)
    assert file_io.read(other, 0, PAGE) == page_bytes(7)
    assert ground.stats.invalidations == 1


def test_off_a_new_mtime_drops_the_pages():
    with mounted(patches=OFF) as ground:
        prepare(ground)
        others_write(ground, 150 * PAGE)
        ground.run_for(100 * SECOND)
        read2(ground)
        assert not is_cached(ground)
        assert ground.stats.invalidations == 1


def test_off_the_invalidation_races_with_a_swap_write():
    """A reader comes while a page is on its way out: he waits for the server, and then the pages go while the file is in use."""
    with mounted(patches=OFF) as ground:
        prepare(ground)
        others_write(ground, 150 * PAGE)
        ground.run_for(100 * SECOND)
        ground.wire.cut()
        ground.pageout(0)
        seen = []
        ground.spawn(lambda: seen.append(read2(ground)))
        ground.run_for(SECOND)
        assert seen == [], "he waits for a GETATTR; with the patch he reads the cached page"
        assert ground.nfsi.npages == 1
        ground.wire.mend()
        ground.run_for(100 * SECOND)
        assert seen == [bytes(10)]
        assert ground.stats.invalidations == 1
        assert not is_cached(ground)
        assert ground.file.inode.is_swapfile


def test_off_overtaken_swap_writes_make_every_reader_ask():
    with mounted(patches=OFF) as ground:
        prepare(ground)
        ground.nfsi.cache_validity |= NFS_INO_REVAL_PAGECACHE  # as WRITEs leave it that were under way together
        before = getattrs(ground)
        read2(ground)
        assert getattrs(ground) == before + 1
