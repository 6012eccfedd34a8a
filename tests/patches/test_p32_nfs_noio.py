"""Patch 32: what the write path allocates does not start I/O, so it does not come back into itself."""

from __future__ import annotations

import pytest

from kemu.mm.address_space import WritebackControl
from kemu.mm.gfp import GFP_KERNEL, GFP_NOFS, GFP_NOIO
from nfs_ground import mounted, page_bytes


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


def test_the_depth_of_a_whole_run_is_one():
    with mounted() as ground:
        ground.swapon()
        ground.process()
        for vpn in range(30):
            ground.write(vpn, page_bytes(vpn))
            ground.swap_out(vpn)
        assert ground.stats.writepage_depth == 1
