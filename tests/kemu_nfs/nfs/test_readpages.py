"""Readahead over NFS: neighbours share a READ, small READs of one page go out at once, and none of it loses a page."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import EBADF, EIO, ENOMEM, ESTALE
from kemu.mm.page import PG_error, PG_locked, PG_uptodate
from kemu_nfs.sunrpc.nfs3_const import NFS3ERR_IO, NFS3ERR_JUKEBOX, NFS3ERR_STALE, NFS3PROC_READ
from nfs_ground import PAGE, SECOND, mounted, page_bytes


@pytest.fixture
def ground():
    with mounted() as g:
        g.mount.create("f")
        g.file = g.mount.open("f")
        g.nfsi = g.file.private_data.nfsi
        yield g
        g.wait_for_calls()
        modules = g.mount.modules
        assert modules.io == {}
        for cache in (modules.rdata_cache, modules.page_cache):
            assert g.machine.slub.objects_in_use(cache) == 0
        g.check()


def fill(ground, pages, extra=b""):
    ground.mount.write(ground.file, 0, b"".join(page_bytes(i) for i in range(pages)) + extra)


def noted(ground):
    """Note offset and count of every READ."""
    client = ground.mount.client
    init = client.rpc_init_task
    seen = []

    def note(flags, proc, argp, *rest):
        if proc.name == "READ":
            seen.append((argp.offset, argp.count))
        return init(flags, proc, argp, *rest)

    client.rpc_init_task = note
    return seen


def read_ahead(ground, first, nr):
    """Read pages ahead, wait, and return the cached ones by index."""
    ground.machine.memory.file_io.readahead.do_page_cache_readahead(ground.file.f_mapping, ground.file, first, nr)
    ground.wait_for_calls()
    return dict(ground.file.f_mapping.page_tree.items())


def test_neighbours_share_reads_of_rsize(ground):
    fill(ground, 20)
    seen = noted(ground)
    pages = read_ahead(ground, 0, 20)
    assert seen == [(0, 32768), (32768, 32768), (65536, 4 * PAGE)]
    assert {index: page.contents for index, page in pages.items()} == {i: page_bytes(i) for i in range(20)}
    assert all(page.flags & PG_uptodate and not page.flags & PG_locked for page in pages.values())


def test_a_page_that_is_cached_parts_two_reads(ground):
    fill(ground, 5)
    read_ahead(ground, 2, 1)
    seen = noted(ground)
    read_ahead(ground, 0, 5)
    assert seen == [(0, 2 * PAGE), (3 * PAGE, 2 * PAGE)]


def test_the_last_page_is_read_as_far_as_the_file_goes(ground):
    fill(ground, 1, b"tail")
    seen = noted(ground)
    pages = read_ahead(ground, 0, 10)
    assert seen == [(0, PAGE + 4)]
    assert pages[1].contents == b"tail".ljust(PAGE, b"\0")


def test_a_sequential_reader_needs_few_calls(ground):
    fill(ground, 64)
    seen = noted(ground)
    data = ground.machine.memory.file_io.read(ground.file, 0, 64 * PAGE)
    assert data == b"".join(page_bytes(i) for i in range(64))
    assert len(seen) == 9, "windows of 4, 8, 16, 32 and the last 4 pages, in READs of at most 8"
    assert max(count for _, count in seen) == 32768


def test_a_server_that_gives_less_is_asked_for_the_rest(ground):
    fill(ground, 6)
    ground.nfsd.server.nfs.rsize = 10_000
    pages = read_ahead(ground, 0, 6)
    assert [pages[i].contents for i in range(6)] == [page_bytes(i) for i in range(6)]
    assert ground.stats.reads == 1, "one call, three times"


def test_a_file_that_has_become_shorter_ends_in_zeros(ground):
    fill(ground, 4)
    size = ground.nfsi.inode.size
    tree = ground.nfsd.server.tree
    inode = tree.lookup_path("/export/f")
    inode.resize(PAGE + 10)
    assert ground.nfsi.inode.size == size
    pages = read_ahead(ground, 0, 4)
    assert pages[1].contents == page_bytes(1)[:10].ljust(PAGE, b"\0")
    assert pages[3].contents == bytes(PAGE)


def test_an_error_leaves_all_pages_of_the_read_to_be_read_again(ground):
    fill(ground, 8)
    ground.faults.error(NFS3PROC_READ, NFS3ERR_IO)
    pages = read_ahead(ground, 0, 8)
    assert not any(page.flags & (PG_locked | PG_uptodate) for page in pages.values())
    assert ground.stats.read_errors == 1
    assert ground.machine.memory.file_io.read(ground.file, 7 * PAGE, PAGE) == page_bytes(7)


def test_pages_that_came_whole_stay_when_the_rest_fails(ground):
    fill(ground, 4)
    ground.nfsd.server.nfs.rsize = 2 * PAGE + 100
    ground.faults.error(NFS3PROC_READ, NFS3ERR_IO, after=1)
    pages = read_ahead(ground, 0, 4)
    assert [bool(pages[i].flags & PG_uptodate) for i in range(4)] == [True, True, False, False]
    assert pages[1].contents == page_bytes(1)


def test_a_busy_server_is_asked_again(ground):
    fill(ground, 3)
    ground.faults.error(NFS3PROC_READ, NFS3ERR_JUKEBOX)
    before = ground.sched.now
    assert read_ahead(ground, 0, 3)[2].contents == page_bytes(2)
    assert ground.sched.now - before > 4 * SECOND


def test_estale_makes_the_inode_stale_and_nobody_asks_again(ground):
    fill(ground, 3)
    ground.faults.error(NFS3PROC_READ, NFS3ERR_STALE)
    read_ahead(ground, 0, 3)
    assert ground.nfsi.stale
    calls = ground.nfsd.server.calls
    assert ground.machine.filemap.read_mapping_page(ground.file.f_mapping, 0, ground.file) == -ESTALE
    fresh = [ground.machine.filemap.find_or_create_page(ground.file.f_mapping, 2)]
    assert ground.mount.ops.readpages(ground.file, ground.file.f_mapping, fresh) == -ESTALE
    assert not fresh[0].flags & PG_locked
    ground.machine.page_alloc.put_page(fresh[0])
    assert ground.nfsd.server.calls == calls


def test_without_an_opening_nothing_is_read(ground):
    fill(ground, 2)
    page = ground.machine.filemap.find_or_create_page(ground.file.f_mapping, 0)
    ground.mount.close(ground.file)
    assert ground.mount.ops.readpages(None, ground.nfsi.mapping, [page]) == -EBADF
    assert not page.flags & PG_locked
    ground.machine.page_alloc.put_page(page)


def test_without_memory_the_pages_are_left_for_later(ground, monkeypatch):
    fill(ground, 10)
    monkeypatch.setattr(ground.mount.modules, "readdata_alloc", lambda: None)
    pages = read_ahead(ground, 0, 10)
    assert len(pages) == 10
    assert not any(page.flags & (PG_locked | PG_uptodate) for page in pages.values())
    monkeypatch.undo()
    assert ground.machine.memory.file_io.read(ground.file, 9 * PAGE, PAGE) == page_bytes(9)


# -- rsize below the page size


@pytest.fixture
def small(ground):
    ground.mount.server.rsize = 1024
    return ground


def page_of(ground, index):
    page = ground.machine.filemap.read_mapping_page(ground.file.f_mapping, index, ground.file)
    if not isinstance(page, int):
        ground.machine.page_alloc.put_page(page)
    return page


def test_four_reads_of_one_page_are_under_way_at_once(small):
    fill(small, 1)
    small.mount.stats.reads = 0
    seen = noted(small)
    page = small.machine.filemap.find_or_create_page(small.file.f_mapping, 0)
    assert small.mount.ops.readpage(small.file, page) == 0
    assert seen == [(0, 1024), (1024, 1024), (2048, 1024), (3072, 1024)]
    assert small.stats.reads_outstanding == 4
    small.machine.filemap.wait_on_page_locked(page)
    assert page.contents == page_bytes(0)
    small.machine.page_alloc.put_page(page)


def test_the_last_piece_is_as_long_as_the_file(small):
    fill(small, 0, b"x" * 1500)
    seen = noted(small)
    assert page_of(small, 0).contents == (b"x" * 1500).ljust(PAGE, b"\0")
    assert seen == [(0, 1024), (1024, 476)]


def test_a_size_that_divides_nothing(ground):
    fill(ground, 2)
    ground.mount.server.rsize = 3000
    assert [page_of(ground, i).contents for i in (0, 1)] == [page_bytes(0), page_bytes(1)]


def test_readahead_sends_pages_in_pieces_too(small):
    fill(small, 3)
    seen = noted(small)
    pages = read_ahead(small, 0, 3)
    assert len(seen) == 12
    assert [pages[i].contents for i in range(3)] == [page_bytes(i) for i in range(3)]


def test_one_failed_piece_fails_the_page(small):
    fill(small, 1)
    small.faults.error(NFS3PROC_READ, NFS3ERR_IO, after=2)
    assert page_of(small, 0) == -EIO
    page = small.file.f_mapping.page_tree.lookup(0)
    assert page.flags & PG_error
    assert not page.flags & (PG_locked | PG_uptodate)
    page.flags &= ~PG_error
    assert page_of(small, 0).contents == page_bytes(0)


def test_without_memory_for_all_pieces_none_is_sent(small, monkeypatch):
    fill(small, 1)
    alloc = small.mount.modules.readdata_alloc
    left = [2]

    def few():
        left[0] -= 1
        return alloc() if left[0] >= 0 else None

    monkeypatch.setattr(small.mount.modules, "readdata_alloc", few)
    seen = noted(small)
    assert page_of(small, 0) == -ENOMEM
    assert seen == []


def test_a_swap_in_stays_one_read_a_page():
    with mounted() as ground:
        ground.swapon()
        ground.process()
        for vpn in range(16):
            ground.write(vpn, page_bytes(vpn))
        for vpn in range(16):
            ground.swap_out(vpn)
        seen = noted(ground)
        for vpn in range(16):
            assert ground.read(vpn) == page_bytes(vpn)
        assert {count for _, count in seen} == {PAGE}
        assert len(seen) == 16
        ground.check()


# -- pages that are handed over one by one


def handed_over(ground, *indexes):
    """Give locked pages of the cache to ->readpages, wait, and return them."""
    pages = [ground.machine.filemap.find_or_create_page(ground.file.f_mapping, index) for index in indexes]
    assert ground.mount.ops.readpages(ground.file, ground.file.f_mapping, pages) == 0
    ground.wait_for_calls()
    for page in pages:
        assert not page.flags & PG_locked
        ground.machine.page_alloc.put_page(page)
    return pages


def test_beyond_the_end_nobody_is_asked(ground):
    fill(ground, 1)
    (page,) = handed_over(ground, 5)
    assert page.contents == bytes(PAGE)
    assert page.flags & PG_uptodate
    assert ground.stats.reads == 0


def test_a_page_that_is_uptodate_already_is_left_alone(ground):
    fill(ground, 2)
    ground.mount.write_buffered(ground.file, 0, page_bytes(7))
    first, second = handed_over(ground, 0, 1)
    assert (first.contents, second.contents) == (page_bytes(7), page_bytes(1))
    assert ground.stats.reads == 1


@pytest.mark.parametrize("rsize", [1024, 32768])
def test_an_answer_without_a_byte_is_an_error_not_a_loop(ground, rsize):
    fill(ground, 2)
    ground.mount.server.rsize = rsize
    ground.nfsd.server.nfs.rsize = 0
    assert page_of(ground, 0) == -EIO
    assert ground.stats.read_errors >= 1


def test_a_soft_mount_gives_up_a_read():
    with mounted(soft=True) as ground:
        ground.mount.create("f")
        ground.file = ground.mount.open("f")
        fill(ground, 2)
        ground.wire.cut()
        assert page_of(ground, 0) == -EIO
        assert ground.stats.read_errors == 1
        ground.wire.mend()
        ground.run_for(400 * SECOND)
        assert page_of(ground, 0).contents == page_bytes(0)
