"""Patch 32: what the write path allocates does not start I/O, so it does not come back into itself."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import ENOMEM
from kemu.mm.address_space import WritebackControl
from kemu.mm.gfp import _GFP_FS, _GFP_IO, GFP_KERNEL, GFP_NOFS, GFP_NOIO
from kemu.mm.page import PG_dirty, PG_writeback
from nfs_ground import PAGE, SECOND, mounted, page_bytes


def asked(ground, call):
    """Note with which gfp each cache of NFS is asked."""
    modules = ground.mount.modules
    names = {modules.page_cache: "page", modules.wdata_cache: "write", modules.rdata_cache: "read"}
    slub = ground.machine.slub
    alloc = slub.kmem_cache_alloc
    seen = {}

    def noted(cache, gfp):
        if cache in names:
            seen[names[cache]] = gfp
        return alloc(cache, gfp)

    slub.kmem_cache_alloc = noted
    call()
    slub.kmem_cache_alloc = alloc
    return seen


def round_trip(ground):
    ground.write(0, page_bytes(0))
    ground.swap_out(0)
    assert ground.read(0) == page_bytes(0)


@pytest.mark.parametrize(
    ("patches", "page", "write"),
    [("all", GFP_NOIO, GFP_NOIO), ("all,-32", GFP_KERNEL, GFP_NOFS), ("all,-27,-32", GFP_KERNEL, None)],
)
def test_the_table_of_flags(patches, page, write):
    with mounted(patches=patches) as ground:
        ground.swapon()
        ground.process()
        seen = asked(ground, lambda: round_trip(ground))
        assert seen["page"] == page
        if write is not None:
            assert seen["write"] == write
            assert seen["read"] == GFP_NOFS, "reads are not reclaim's: unchanged"


def recursion(patches):
    """Let the allocation of a WRITE, in a buffered write's flush, enter reclaim with a dirty swap page at hand; give the depth."""
    with mounted(patches=patches) as ground:
        ground.swapon()
        ground.process()
        ground.write(0, page_bytes(0))
        swapping = ground.isolated(0)
        sc = ground.scan_control(GFP_NOIO)  # into the swap cache, but not out
        _, rest = ground.machine.reclaim.shrink_list.shrink_page_list([swapping], sc)
        assert rest == [swapping]
        ground.mount.create("f")
        file = ground.mount.open("f")
        ground.mount.write_buffered(file, 0, page_bytes(1))
        page = ground.machine.filemap.find_lock_page(file.f_mapping, 0)
        slub = ground.machine.slub
        alloc = slub.kmem_cache_alloc
        entered = []

        def reclaiming(cache, gfp):
            if cache is ground.mount.modules.wdata_cache and not entered:
                entered.append(gfp)
                sc = ground.scan_control(gfp)
                ground.machine.reclaim.shrink_list.shrink_page_list([swapping], sc)
            return alloc(cache, gfp)

        slub.kmem_cache_alloc = reclaiming
        ground.machine.filemap.clear_page_dirty_for_io(page)
        ground.mount.ops.writepage(page, WritebackControl())
        slub.kmem_cache_alloc = alloc
        ground.wait_for_calls()
        ground.machine.page_alloc.put_page(page)
        return ground.stats.writepage_depth, ground.stats.writes


def test_on_nfs_writepage_is_on_the_stack_once():
    assert recursion("all") == (1, 1)


def test_off_it_comes_back_into_itself():
    assert recursion("all,-32") == (2, 2)


def below_writepage(patches, uid=0):
    """Swap pages and pages of a file out by ->writepage; return every gfp that anybody was asked with below it."""
    with mounted(patches=patches) as ground:
        ground.swapon()
        ground.process()
        ground.mount.create("f")
        file = ground.mount.open("f")
        slub = ground.machine.slub
        seen = []
        depth = []
        alloc, kmalloc = slub.kmem_cache_alloc, slub.kmalloc
        slub.kmem_cache_alloc = lambda cache, gfp: (seen.append((cache.name, gfp)) if depth else None, alloc(cache, gfp))[1]
        slub.kmalloc = lambda size, gfp: (seen.append((f"kmalloc {size}", gfp)) if depth else None, kmalloc(size, gfp))[1]
        writepage = ground.mount.ops.write.nfs_writepage

        def watched(page, wbc):
            depth.append(1)
            try:
                return writepage(page, wbc)
            finally:
                depth.pop()

        ground.mount.ops.write.nfs_writepage = watched
        for vpn in range(3):
            ground.write(vpn, page_bytes(vpn))
        ground.mount.write_buffered(file, 0, page_bytes(0))
        cached = ground.isolate(file.f_mapping.page_tree.lookup(0))

        def reclaimer():
            for page in [ground.isolated(vpn, ground.kernel.init) for vpn in range(3)] + [cached]:
                _, rest = ground.shrink(page)
                ground.machine.reclaim._put_back(rest)

        ground.spawn(reclaimer, uid=uid)
        ground.run_for(SECOND)
        assert ground.stats.writes == 4
        return {(name, gfp) for name, gfp in seen if gfp & (_GFP_IO | _GFP_FS)}


def test_on_nothing_below_writepage_may_start_io_or_enter_a_file_system():
    assert below_writepage("all") == set()


def test_off_the_write_and_its_request_may():
    assert below_writepage("all,-32") == {("nfs_page", GFP_KERNEL), ("nfs_write_data", GFP_NOFS)}


def test_what_the_patch_forgot_a_credential_that_is_not_cached():
    """rpcauth_lookupcred() makes one with GFP_KERNEL. Its callers here reclaim already, so nothing comes back into itself."""
    ((name, gfp),) = below_writepage("all", uid=1000)
    assert name.startswith("kmalloc")
    assert gfp == GFP_KERNEL


@pytest.mark.parametrize(("patches", "written"), [("all", False), ("all,-32", True)], ids=["on", "off"])
@pytest.mark.parametrize("site", ["nfs_page", "nfs_write_data", "commit"])
def test_reclaim_from_these_places(patches, written, site):
    """With the flags of the patch it writes nothing, though a dirty swap page is at hand; with the base's it does."""
    with mounted(patches=patches) as ground:
        ground.swapon()
        ground.process()
        ground.write(0, page_bytes(0))
        swapping = ground.isolated(0)
        shrink = ground.machine.reclaim.shrink_list.shrink_page_list
        assert shrink([swapping], ground.scan_control(GFP_NOIO))[1] == [swapping], "in the swap cache, still dirty"
        ground.mount.create("f")
        file = ground.mount.open("f")
        modules = ground.mount.modules
        wanted = modules.page_cache if site == "nfs_page" else modules.wdata_cache
        slub = ground.machine.slub
        alloc = slub.kmem_cache_alloc
        entered = []

        def reclaiming(cache, gfp):
            if cache is wanted and armed and not entered:
                entered.append(gfp)
                shrink([swapping], ground.scan_control(gfp))
            return alloc(cache, gfp)

        slub.kmem_cache_alloc = reclaiming
        armed = site == "nfs_page"
        ground.mount.write_buffered(file, 0, page_bytes(1))
        armed = armed or site == "nfs_write_data"
        ground.mount.ops.write.wait.nfs_wb_nocommit(file.private_data.nfsi)
        armed = True
        ground.mount.fsync(file)
        assert len(entered) == 1
        assert bool(swapping.flags & PG_writeback or not swapping.flags & PG_dirty) is written
        ground.wait_for_calls()


def test_two_tasks_in_writepage_are_not_depth_two():
    with mounted() as ground:
        ground.mount.create("f")
        file = ground.mount.open("f")
        for index in (0, 2):
            ground.mount.write_buffered(file, index * PAGE, page_bytes(index))
        alloc = ground.mount.modules.writedata_alloc
        inside = []

        def slow():
            inside.append(ground.sched.current.pid)
            ground.sched.usleep(1_000_000)
            return alloc()

        ground.mount.modules.writedata_alloc = slow

        def writer(index):
            page = ground.machine.filemap.find_lock_page(file.f_mapping, index)
            ground.machine.filemap.clear_page_dirty_for_io(page)
            ground.mount.ops.writepage(page, WritebackControl())
            ground.machine.page_alloc.put_page(page)

        for index in (0, 2):
            ground.spawn(lambda index=index: writer(index))
        ground.run_for(500_000)
        assert len(set(inside)) == 2, "both are in it now"
        ground.wait_for_calls()
        assert ground.stats.writepage_depth == 1


@pytest.mark.parametrize("patches", ["all", "all,-32"])
def test_a_failed_allocation_is_handled_alike(patches):
    with mounted(patches=patches) as ground:
        ground.mount.create("f")
        file = ground.mount.open("f")
        ground.mount.write_buffered(file, 0, page_bytes(0))
        cache = ground.mount.modules.wdata_cache
        slub = ground.machine.slub
        alloc = slub.kmem_cache_alloc
        slub.kmem_cache_alloc = lambda asked, gfp: None if asked is cache else alloc(asked, gfp)
        assert ground.mount.fsync(file) == -ENOMEM
        page = file.f_mapping.page_tree.lookup(0)
        assert page.flags & (PG_dirty | PG_writeback) == PG_dirty
        slub.kmem_cache_alloc = alloc
        assert ground.mount.fsync(file) == 0


def buffered_write(patches):
    """Return how long a buffered write of 100 pages and its fsync take."""
    with mounted(patches=patches) as ground:
        ground.mount.create("f")
        file = ground.mount.open("f")
        begin = ground.sched.now
        ground.mount.write_buffered(file, 0, bytes(100 * PAGE))
        assert ground.mount.fsync(file) == 0
        return ground.sched.now - begin


def test_with_free_memory_writing_is_as_fast():
    assert buffered_write("all") == buffered_write("all,-32")


def test_the_depth_of_a_whole_run_is_one():
    with mounted() as ground:
        ground.swapon()
        ground.process()
        for vpn in range(30):
            ground.write(vpn, page_bytes(vpn))
            ground.swap_out(vpn)
        assert ground.stats.writepage_depth == 1
