"""Requests: references, the lock, gathering."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.mm.fault_inject import FailPageAlloc
from kemu_nfs.nfs.pagelist import PG_NEED_COMMIT, NfsPageio
from nfs_ground import PAGE, mounted


@pytest.fixture
def ground():
    with mounted() as g:
        g.mount.create("f")
        g.file = g.mount.open("f")
        g.ctx = g.file.private_data
        g.pagelist = g.mount.ops.pagelist
        yield g


def request(ground, index, offset=0, count=PAGE, ctx=None):
    page = ground.machine.filemap.find_or_create_page(ground.file.f_mapping, index)
    ground.machine.filemap.unlock_page(page)
    req = ground.pagelist.nfs_create_request(ctx or ground.ctx, ground.ctx.nfsi, page, offset, count)
    ground.machine.page_alloc.put_page(page)
    return req


def test_a_request_holds_its_page_and_its_context(ground):
    req = request(ground, 0)
    page, contexts = req.wb_page, ground.ctx.count
    count = page.count
    ground.pagelist.nfs_release_request(req)
    assert page.count == count - 1
    assert ground.ctx.count == contexts - 1


def test_a_request_for_a_page_of_another_file_is_a_bug(ground):
    ground.mount.create("g")
    other = ground.mount.open("g")
    page = ground.machine.filemap.find_or_create_page(other.f_mapping, 0)
    with pytest.raises(KernelBug, match="another file"):
        ground.pagelist.nfs_create_request(ground.ctx, ground.ctx.nfsi, page, 0, 10)


def test_without_memory_a_request_is_waited_for(ground):
    addrs = [None, None, 0x1234]
    ground.pagelist.nfs_page_alloc = lambda: addrs.pop(0)
    before = ground.sched.now
    page = ground.machine.filemap.find_or_create_page(ground.file.f_mapping, 0)
    assert ground.pagelist.nfs_create_request(ground.ctx, ground.ctx.nfsi, page, 0, 10).addr == 0x1234
    assert ground.sched.now > before, "others ran meanwhile"


def test_the_lock_is_had_by_one(ground):
    req = request(ground, 0)
    assert ground.pagelist.nfs_lock_request_dontget(req)
    assert not ground.pagelist.nfs_lock_request_dontget(req)
    ground.pagelist.nfs_unlock_request(req)
    req = request(ground, 1)
    with pytest.raises(KernelBug, match="invalid unlock"):
        ground.pagelist.nfs_unlock_request(req)


def test_a_request_that_is_worked_on_is_not_freed(ground):
    req = request(ground, 0)
    req.wb_busy = True
    with pytest.raises(KernelBug):
        ground.pagelist.nfs_release_request(req)


def test_a_waiter_is_woken_by_the_unlock(ground):
    req = request(ground, 0)
    req.wb_busy = True
    req.wb_count += 1
    done = []

    def waiter():
        ground.pagelist.nfs_wait_on_request(req)
        done.append(ground.sched.now)

    ground.spawn(waiter)
    ground.run_for(1_000_000)
    assert done == []
    ground.pagelist.nfs_unlock_request(req)
    ground.run_for(1_000_000)
    assert len(done) == 1


def gathered(ground, *reqs, bsize=32768):
    sent = []
    desc = NfsPageio(ground.ctx.nfsi, lambda d: sent.append([req.wb_index for req in d.pg_list]) or 0, bsize, 0)
    for req in reqs:
        ground.pagelist.nfs_pageio_add_request(desc, req)
    ground.pagelist.nfs_pageio_complete(desc)
    return sent


def test_neighbours_go_together_up_to_wsize(ground):
    assert gathered(ground, *(request(ground, i) for i in range(10))) == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9]]


def test_a_gap_or_a_part_or_another_opening_ends_a_gathering(ground):
    other = ground.mount.open("f").private_data
    reqs = [
        request(ground, 0),
        request(ground, 2),
        request(ground, 3, 0, 100),
        request(ground, 4),
        request(ground, 5, 8, 10),
        request(ground, 6, ctx=other),
    ]
    assert gathered(ground, *reqs) == [[0], [2, 3], [4], [5], [6]]


def test_below_a_page_nothing_is_gathered(ground):
    """Not even the end of one page and the beginning of the next: a request may need several calls there."""
    reqs = [request(ground, 0, PAGE - 100, 100), request(ground, 1, 0, 100)]
    assert gathered(ground, *reqs, bsize=1024) == [[0], [1]]


def test_a_request_says_that_it_waits_for_a_commit(ground):
    req = request(ground, 0)
    assert "COMMIT" not in repr(req)
    req.wb_flags |= PG_NEED_COMMIT
    assert repr(req).endswith("count=1 needs COMMIT>")


def test_what_does_not_continue_is_sent_first(ground):
    sent = []
    desc = NfsPageio(ground.ctx.nfsi, lambda d: sent.append(len(d.pg_list)) or 0, 32768, 0)
    ground.pagelist.nfs_pageio_add_request(desc, request(ground, 0))
    ground.pagelist.nfs_pageio_cond_complete(desc, 1)
    assert sent == []
    ground.pagelist.nfs_pageio_cond_complete(desc, 5)
    assert sent == [1]


def test_an_error_of_a_sending_stops_the_gathering(ground):
    desc = NfsPageio(ground.ctx.nfsi, lambda _: -12, PAGE, 0)
    assert ground.pagelist.nfs_pageio_add_request(desc, request(ground, 0))
    assert not ground.pagelist.nfs_pageio_add_request(desc, request(ground, 1))
    assert desc.pg_error == -12


def test_the_cache_can_really_be_empty(ground):
    ground.machine.page_alloc.fail_page_alloc = FailPageAlloc(ground.kernel, ignore_gfp_wait=False, min_order=0)
    assert None in [ground.pagelist.nfs_page_alloc() for _ in range(64)]
