"""Patch 27: no private pools in the NFS client."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import ENOMEM
from kemu.mm.page import PG_dirty, PG_writeback
from nfs_ground import SECOND, mounted, page_bytes


@pytest.fixture
def ground():
    with mounted() as g:
        g.swapon(400)
        g.process(128)
        yield g


@pytest.fixture
def off():
    with mounted(patches="all,-27") as g:
        g.swapon(400)
        g.process(128)
        yield g


def send(ground, count):
    """Begin to swap pages out; nobody answers."""
    ground.wire.cut()
    for vpn in range(count):
        ground.write(vpn, page_bytes(vpn))
    return [ground.pageout(vpn) for vpn in range(count)]


def test_off_the_pools_hold_32_32_and_4_objects_for_ever(off):
    modules = off.mount.modules
    assert off.machine.slub.objects_in_use(modules.wdata_cache) == 32 + 4
    assert off.machine.slub.objects_in_use(modules.rdata_cache) == 32


def test_on_nothing_is_tied_up(ground):
    modules = ground.mount.modules
    assert ground.machine.slub.objects_in_use(modules.wdata_cache) == 0
    assert ground.machine.slub.objects_in_use(modules.rdata_cache) == 0


def test_on_writes_are_not_limited_to_32(ground):
    send(ground, 100)
    assert ground.stats.writes_outstanding == 100
    assert ground.machine.slub.objects_in_use(ground.mount.modules.wdata_cache) == 100
    ground.wire.mend()
    ground.wait_for_calls()
    assert ground.machine.slub.objects_in_use(ground.mount.modules.wdata_cache) == 0, "each freed once"


def starved(ground):
    """Let the slab cache of WRITEs give nothing any more."""
    ground.machine.slub.kmem_cache_alloc = _refusing(ground.machine.slub, ground.mount.modules.wdata_cache)


def _refusing(slub, cache):
    alloc = slub.kmem_cache_alloc

    def refuse(asked, gfp):
        return None if asked is cache else alloc(asked, gfp)

    return refuse


def test_on_a_reclaimer_without_memory_gets_his_page_back_dirty_at_once(ground):
    starved(ground)
    ground.write(0, page_bytes(0))
    before = ground.sched.now
    page = ground.pageout(0)
    assert ground.sched.now - before < SECOND // 100
    assert page.flags & PG_dirty
    assert not page.flags & PG_writeback
    assert ground.mount.server.writeback == 0
    assert ground.machine.swapfile.swap_count(page.private) >= 1


def test_on_such_a_page_goes_out_when_there_is_memory_again(ground):
    alloc = ground.machine.slub.kmem_cache_alloc
    starved(ground)
    ground.write(0, page_bytes(0))
    page = ground.pageout(0)
    assert page.flags & PG_dirty
    ground.machine.slub.kmem_cache_alloc = alloc
    ground.push_out(page)
    assert ground.read(0) == page_bytes(0)
    ground.check()


def test_on_in_v14_such_a_page_stays_for_ever_its_request_holds_it():
    with mounted(fixes="none") as ground:
        ground.swapon(400)
        ground.process()
        alloc = ground.machine.slub.kmem_cache_alloc
        starved(ground)
        ground.write(0, page_bytes(0))
        page = ground.pageout(0)
        ground.machine.slub.kmem_cache_alloc = alloc
        assert page.flags & PG_dirty
        with pytest.raises(AssertionError, match="stays"):
            ground.push_out(page)


def test_on_writepage_says_enomem(ground):
    starved(ground)
    errors = []
    writepage = ground.mount.ops.write.nfs_writepage
    ground.mount.ops.write.nfs_writepage = lambda page, wbc: errors.append(writepage(page, wbc)) or errors[-1]
    ground.write(0, page_bytes(0))
    ground.pageout(0)
    assert errors == [-ENOMEM]


def test_off_the_33rd_write_of_a_starved_machine_sleeps_until_the_server_answers():
    with mounted(patches="all,-27,-4") as ground:
        ground.swapon(400)
        ground.process(128)
        ground.wire.cut()
        for vpn in range(40):
            ground.write(vpn, page_bytes(vpn))
        starved(ground)
        progress = []

        def reclaimer():
            for vpn in range(40):
                page = ground.isolated(vpn, task=ground.kernel.init)
                _, rest = ground.shrink(page)
                ground.machine.reclaim._put_back(rest)
                progress.append(vpn)

        task = ground.spawn(reclaimer, "kswapd")
        ground.run_for(60 * SECOND)
        assert len(progress) == 32
        assert task.why[0] == "mempool"
        assert ground.mount.modules.wdata_pool.sleeps >= 10, "naps of five seconds"
        ground.wire.mend()
        ground.run_for(100 * SECOND)
        assert len(progress) == 40


def test_with_memory_the_traffic_is_the_same(ground, off):
    for g in (ground, off):
        for vpn in range(20):
            g.write(vpn, page_bytes(vpn))
            g.swap_out(vpn)
        for vpn in range(20):
            assert g.read(vpn) == page_bytes(vpn)
    assert ground.file_bytes("swap") == off.file_bytes("swap")
    assert (ground.stats.writes, ground.stats.reads) == (off.stats.writes, off.stats.reads)
