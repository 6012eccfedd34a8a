"""Pages on their way back."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import EBADF, EIO
from kemu.mm.page import ZERO_PAGE, PG_locked, PG_uptodate
from kemu_nfs.sunrpc.nfs3_const import NFS3ERR_IO, NFS3ERR_JUKEBOX, NFS3PROC_READ
from nfs_ground import PAGE, SECOND, mounted, page_bytes


@pytest.fixture
def ground():
    with mounted() as g:
        g.mount.create("f")
        g.file = g.mount.open("f")
        yield g
        g.check()


def page_of(ground, index):
    page = ground.machine.filemap.read_mapping_page(ground.file.f_mapping, index, ground.file)
    if not isinstance(page, int):
        ground.machine.page_alloc.put_page(page)
    return page


def test_a_page_is_one_read(ground):
    ground.mount.write(ground.file, 0, page_bytes(0) + page_bytes(1))
    assert page_of(ground, 1).contents == page_bytes(1)
    assert ground.stats.reads == 1


def test_the_last_page_is_filled_with_zeros(ground):
    ground.mount.write(ground.file, 0, b"short")
    assert page_of(ground, 0).contents == b"short".ljust(PAGE, b"\0")


def test_beyond_the_end_nobody_is_asked(ground):
    ground.mount.write(ground.file, 0, b"short")
    assert page_of(ground, 7).contents == ZERO_PAGE
    assert ground.stats.reads == 0


def test_what_is_not_written_yet_goes_out_first(ground):
    ground.mount.write(ground.file, 0, page_bytes(0))
    ground.mount.write_buffered(ground.file, 10, b"changed")
    page = ground.machine.filemap.find_lock_page(ground.file.f_mapping, 0)
    page.flags &= ~PG_uptodate
    assert ground.mount.ops.readpage(ground.file, page) == 0
    ground.machine.filemap.wait_on_page_locked(page)
    assert page.contents == page_bytes(0)[:10] + b"changed" + page_bytes(0)[17:]
    ground.machine.page_alloc.put_page(page)


def test_small_pieces_are_put_together(ground):
    ground.mount.write(ground.file, 0, page_bytes(5))
    ground.mount.server.rsize = 1024
    assert page_of(ground, 0).contents == page_bytes(5)


def test_a_server_that_gives_less_is_asked_for_the_rest(ground):
    ground.mount.write(ground.file, 0, page_bytes(5))
    ground.nfsd.server.nfs.rsize = 1000
    calls = ground.nfsd.server.calls
    assert page_of(ground, 0).contents == page_bytes(5)
    assert ground.nfsd.server.calls - calls == 5


def test_an_error_leaves_the_page_unlocked_and_not_uptodate(ground):
    ground.mount.write(ground.file, 0, page_bytes(0))
    ground.faults.error(NFS3PROC_READ, NFS3ERR_IO)
    assert page_of(ground, 0) == -EIO
    page = ground.machine.filemap.find_get_page(ground.file.f_mapping, 0)
    assert not page.flags & (PG_locked | PG_uptodate)
    ground.machine.page_alloc.put_page(page)
    assert ground.stats.read_errors == 1
    assert page_of(ground, 0).contents == page_bytes(0), "the next try succeeds"


def test_a_busy_server_is_asked_again(ground):
    ground.mount.write(ground.file, 0, page_bytes(0))
    ground.faults.error(NFS3PROC_READ, NFS3ERR_JUKEBOX)
    before = ground.sched.now
    assert page_of(ground, 0).contents == page_bytes(0)
    assert ground.sched.now - before > 4 * SECOND


def test_without_a_file_any_opening_will_do_and_none_is_ebadf(ground):
    ground.mount.write(ground.file, 0, page_bytes(0))
    mapping = ground.file.f_mapping
    page = ground.machine.filemap.read_mapping_page(mapping, 0, None)
    assert page.contents == page_bytes(0)
    page.flags &= ~PG_uptodate
    ground.machine.page_alloc.put_page(page)
    ground.mount.close(ground.file)
    assert ground.machine.filemap.read_mapping_page(mapping, 0, None) == -EBADF


def test_nothing_is_left_behind(ground):
    for i in range(20):
        ground.mount.write(ground.file, i * PAGE, page_bytes(i))
    for i in range(20):
        assert page_of(ground, i).contents == page_bytes(i)
    modules = ground.mount.modules
    assert ground.machine.slub.objects_in_use(modules.page_cache) == 0
    assert ground.machine.slub.objects_in_use(modules.rdata_cache) == 0
    assert modules.io == {}
