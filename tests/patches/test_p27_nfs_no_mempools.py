"""Patch 27: no private pools in the NFS client."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import ENOMEM
from kemu.kernel.task import PF_MEMALLOC
from kemu.machine import Machine, MachineConfig
from kemu.mm.address_space import WritebackControl
from kemu.mm.gfp import _GFP_NOMEMALLOC
from kemu.mm.page import PG_dirty, PG_locked, PG_writeback
from kemu_nfs.mount import NfsMount
from kemu_nfs.server.nfsd import make_nfsd
from kemu_nfs.sunrpc.nfs3_const import NFS3PROC_WRITE
from leaks import assert_pools_full
from nfs_ground import MIB, PAGE, SECOND, mounted, page_bytes


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


# -- two servers, one of them dead


def short_of_memory(ground):
    """Let the cache of WRITEs serve only who may wait for reclaim, or may use the reserve. A mempool's tries may do neither."""
    slub, cache = ground.machine.slub, ground.mount.modules.wdata_cache
    alloc = slub.kmem_cache_alloc
    slub.kmem_cache_alloc = lambda asked, gfp: None if asked is cache and gfp & _GFP_NOMEMALLOC else alloc(asked, gfp)


def dirty_pages(mount, count):
    """Make a file with so many dirty pages that none goes with another."""
    mount.create("f")
    file = mount.open("f")
    for index in range(0, 2 * count, 2):
        assert mount.write_buffered(file, index * PAGE, page_bytes(index)) == PAGE
    return file


def thirty_two_to_the_dead_server(ground):
    """Send 32 WRITEs that nobody answers."""
    short_of_memory(ground)
    file = dirty_pages(ground.mount, 32)
    ground.faults.drop(NFS3PROC_WRITE, times=None)
    assert ground.mount.ops.writepages(file.f_mapping, WritebackControl(100)) == 0
    assert ground.stats.writes_outstanding == 32
    return file


def second_mount(ground):
    """Mount from a second server too."""
    machine = Machine(MachineConfig("living", 64 * MIB), world=ground.world)
    stack = ground._stack(machine, bytes((2, 0, 0, 0, 0, 3)), 0x0A000003)
    make_nfsd(machine.kernel, stack.tcp, 0x0A000003).start()
    mount = NfsMount(ground.machine, ground.stack, 0x0A000003, modules=ground.mount.modules)
    assert mount.mount() == 0
    return mount


def writer_to_the_living_server(patches):
    """Return how long an ordinary writer needs for his fsync, in seconds; None if he still waits after a minute."""
    with mounted(patches=patches) as ground:
        living = second_mount(ground)
        thirty_two_to_the_dead_server(ground)
        ended = []

        def writer():
            begin = ground.sched.now
            file = dirty_pages(living, 1)
            assert living.fsync(file) == 0
            ended.append((ground.sched.now - begin) / SECOND)

        task = ground.spawn(writer, "writer")
        ground.run_for(50 * SECOND)
        if not ended:
            assert task.why[0] == "mempool"
        return ended[0] if ended else None


def test_on_a_writer_to_the_living_server_proceeds():
    assert writer_to_the_living_server("all") < 1


def test_off_he_sleeps_for_what_the_dead_server_has():
    assert writer_to_the_living_server("all,-27") is None


@pytest.mark.parametrize(
    ("patches", "proceeds"), [("all", True), ("all,-27", True), ("all,-27,-4", False)], ids=["on", "off", "off, without 04"]
)
def test_kswapds_swap_write(patches, proceeds):
    """Off, patch 04's fall to the reserve still helps a reclaimer; without it he naps until the server is back."""
    with mounted(patches=patches) as ground:
        ground.swapon()
        ground.process()
        ground.write(0, page_bytes(0))
        thirty_two_to_the_dead_server(ground)
        page = ground.isolated(0)
        begun = []

        def kswapd():
            ground.sched.current.flags |= PF_MEMALLOC
            begin = ground.sched.now
            _, rest = ground.shrink(page)
            ground.machine.reclaim._put_back(rest)
            begun.append(ground.sched.now - begin)

        task = ground.spawn(kswapd, "kswapd")
        ground.run_for(30 * SECOND)
        if proceeds:
            assert begun[0] < SECOND // 100
            assert ground.stats.writes_outstanding == 33
        else:
            assert not begun
            assert task.why[0] == "mempool"
            assert ground.mount.modules.wdata_pool.sleeps >= 5, "naps of five seconds"
        ground.faults.rules.clear()
        ground.run_for(200 * SECOND)
        assert len(begun) == 1, "the server is back: elements too"
        assert ground.read(0) == page_bytes(0)


def test_on_nothing_of_nfs_naps_in_a_mempool(ground):
    short_of_memory(ground)
    file = dirty_pages(ground.mount, 70)
    assert ground.mount.fsync(file) == 0
    assert ground.machine.vmstat.mempool_sleeps == 0
    assert (ground.mount.modules.wdata_pool, ground.mount.modules.rdata_pool, ground.mount.modules.commit_pool) == (None,) * 3


# -- what fails, and what comes back


@pytest.mark.parametrize("wsize", [1024, 32768])
def test_on_a_flush_without_memory_leaves_pages_of_files_dirty(wsize):
    with mounted() as ground:
        ground.mount.server.wsize = wsize
        starved(ground)
        file = dirty_pages(ground.mount, 3)
        assert ground.mount.ops.writepages(file.f_mapping, WritebackControl(100)) == -ENOMEM
        for page in file.f_mapping.page_tree.gang_lookup(0, 100):
            assert page.flags & (PG_dirty | PG_writeback | PG_locked) == PG_dirty
        assert ground.stats.writes == 0
        del ground.machine.slub.kmem_cache_alloc
        assert ground.mount.fsync(file) == 0


def test_on_a_read_without_memory_unlocks_its_page_and_fails(ground):
    file = dirty_pages(ground.mount, 1)
    ground.mount.fsync(file)
    ground.machine.filemap.invalidate_mapping_pages(file.f_mapping)
    slub = ground.machine.slub
    slub.kmem_cache_alloc = _refusing(slub, ground.mount.modules.rdata_cache)
    assert ground.machine.memory.file_io.read(file, 0, PAGE) in (-ENOMEM, -5)
    assert not any(page.flags & PG_locked for page in file.f_mapping.page_tree.gang_lookup(0, 100))
    del slub.kmem_cache_alloc
    assert ground.machine.memory.file_io.read(file, 0, PAGE) == page_bytes(0)


def everything(ground):
    """Swap, buffered writes in pieces, COMMIT, reads."""
    for vpn in range(5):
        ground.write(vpn, page_bytes(vpn))
        ground.swap_out(vpn)
    file = dirty_pages(ground.mount, 5)
    ground.mount.fsync(file)
    ground.mount.server.wsize = 1024
    ground.mount.write_buffered(file, 0, page_bytes(0, 1))
    ground.mount.fsync(file)
    ground.machine.filemap.invalidate_mapping_pages(file.f_mapping)
    ground.machine.memory.file_io.read(file, 0, 9 * PAGE)
    for vpn in range(5):
        assert ground.read(vpn) == page_bytes(vpn)
    ground.wait_for_calls()


def test_on_every_object_goes_back_once(ground):
    slub, modules = ground.machine.slub, ground.mount.modules
    alloc, free = slub.kmem_cache_alloc, slub.kmem_cache_free
    out = []
    caches = (modules.wdata_cache, modules.rdata_cache)

    def noted_alloc(cache, gfp):
        addr = alloc(cache, gfp)
        if cache in caches:
            out.append(addr)
        return addr

    def noted_free(cache, addr):
        if cache in caches:
            out.remove(addr)  # fails for one that is not out
        free(cache, addr)

    slub.kmem_cache_alloc, slub.kmem_cache_free = noted_alloc, noted_free
    everything(ground)
    assert out == []


def test_off_every_element_goes_back(off):
    everything(off)
    modules = off.mount.modules
    assert_pools_full(modules.wdata_pool, modules.rdata_pool, modules.commit_pool)
    assert off.machine.slub.objects_in_use(modules.wdata_cache) == 36


def test_the_calls_are_the_same(ground, off):
    seen = []
    for g in (ground, off):
        calls = []
        init = g.mount.client.rpc_init_task

        def noted(flags, proc, argp, *rest, calls=calls, init=init):
            calls.append((proc.name, (argp.offset, argp.count) if proc.name in ("READ", "WRITE") else argp))
            return init(flags, proc, argp, *rest)

        g.mount.client.rpc_init_task = noted
        everything(g)
        seen.append(calls)
    assert seen[0] == seen[1]
    assert {"WRITE", "READ", "COMMIT"} <= {name for name, *_ in seen[0]}
