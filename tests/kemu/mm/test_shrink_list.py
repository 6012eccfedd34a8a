"""What reclaim does with one page (mm/shrink_list.py, mm/rmap.py)."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.kernel.errno import EIO
from kemu.kernel.task import PF_SWAPWRITE
from kemu.mm.address_space import AOP_WRITEPAGE_ACTIVATE, AS_EIO, AddressSpace, Inode
from kemu.mm.backing_dev import BackingDev
from kemu.mm.gfp import GFP_KERNEL, GFP_NOFS, GFP_NOIO
from kemu.mm.page import PG_active, PG_dirty, PG_locked, PG_private, PG_reclaim, PG_referenced, PG_swapcache, PG_writeback
from kemu.mm.pte import PTE_BITS, PTE_dirty, PTE_write, PTE_young, SwapPte
from kemu.mm.shrink_list import PAGE_ACTIVATE, PAGE_CLEAN, PAGE_KEEP, PAGE_SUCCESS, ScanControl
from swap_ground import FakeNet, page_bytes, swap_ground


@pytest.fixture
def ground():
    with swap_ground(kswapd=False) as g:
        g.area, g.disk = g.disk_area(200)
        g.swapfile.swapon(g.area)
        g.filemap.truncate_inode_pages(g.area.f_mapping)  # the header's page is on the LRU too
        g.process(64)
        g.shrink = g.reclaim.shrink_list
        yield g


def anon(ground, vpn=0):
    """Return an isolated page of the caller that was not used lately."""
    ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
    page = ground.task.mm.ptes[vpn]
    ground.isolate(page)
    page.flags &= ~(PTE_young | PG_referenced)
    return page


def cached(ground, dirty=False):
    """Return an isolated page of a network file's cache, and the file system."""
    net = FakeNet(ground)
    inode = Inode(ino=9, size=1 << 20)
    mapping = AddressSpace(inode, net, BackingDev(ground.congestion, "net"))
    page = ground.filemap.find_or_create_page(mapping, 0)
    page.contents = page_bytes(0)
    ground.filemap.unlock_page(page)
    if dirty:
        ground.filemap.set_page_dirty(page)
        net.calls.clear()
    ground.lru.del_page_from_lru(page)
    return page, net


def shrink(ground, page, gfp=GFP_KERNEL, **kwargs):
    return ground.shrink.shrink_page_list([page], ScanControl(gfp, **kwargs))


# -- anonymous pages


def test_an_anonymous_page_takes_two_looks_to_go(ground):
    page = anon(ground)
    assert shrink(ground, page) == (0, [page])
    assert page.flags & PG_writeback and page.flags & PG_reclaim and not page.flags & PG_locked
    assert isinstance(ground.task.mm.ptes[0], SwapPte)
    ground.filemap.wait_on_page_writeback(page)
    assert shrink(ground, page) == (1, [])
    assert page.count == 0 and page.mapping is None
    assert ground.memory.read_page(ground.task, 0) == page_bytes(0)
    ground.check()


def test_a_write_that_is_over_at_once_frees_the_page_in_one_look(ground):
    ground.disk.submit_bio = lambda bio: ground.bios.bio_endio(bio, 0)
    assert shrink(ground, anon(ground)) == (1, [])


def test_a_used_page_is_activated(ground):
    page = anon(ground)
    page.flags |= PTE_young
    assert shrink(ground, page) == (0, [page])
    assert page.flags & PG_active and not page.flags & PTE_young
    assert ground.vmstat.pgactivate == 1
    assert ground.task.mm.ptes[0] is page


def test_a_page_without_a_slot_to_go_to_is_activated(ground):
    while ground.swapfile.get_swap_page():
        pass
    page = anon(ground)
    assert shrink(ground, page) == (0, [page])
    assert page.flags & PG_active


def test_a_locked_page_is_kept(ground):
    page = anon(ground)
    page.flags |= PG_locked
    assert shrink(ground, page) == (0, [page])
    assert page.flags & PG_locked and not page.flags & PG_swapcache


def test_a_page_under_writeback_is_kept_but_waited_for_on_request(ground):
    page = anon(ground)
    shrink(ground, page)
    assert shrink(ground, page) == (0, [page])
    freed, rest = ground.shrink.shrink_page_list([page], ScanControl(GFP_KERNEL, order=4), sync=True)
    assert (freed, rest) == (1, [])


def test_without_the_right_to_swap_mapped_pages_stay(ground):
    page = anon(ground)
    assert shrink(ground, page, may_swap=False) == (0, [page])
    assert not page.flags & PG_swapcache


def test_mapped_and_swap_cache_pages_count_double(ground):
    sc = ScanControl(GFP_KERNEL)
    ground.shrink.shrink_page_list([anon(ground)], sc)
    assert sc.nr_scanned == 2
    page, _ = cached(ground)
    ground.shrink.shrink_page_list([page], sc)
    assert sc.nr_scanned == 3


def test_a_fresh_page_is_not_written_by_nofs_the_first_time_but_the_second(ground):
    page = anon(ground)
    assert shrink(ground, page, GFP_NOFS) == (0, [page])
    assert page.flags & PG_swapcache and not page.flags & PG_writeback
    shrink(ground, page, GFP_NOFS)
    assert page.flags & PG_writeback


def test_noio_never_writes(ground):
    page = anon(ground)
    for _ in range(3):
        assert shrink(ground, page, GFP_NOIO) == (0, [page])
    assert page.flags & PG_dirty and not page.flags & PG_writeback
    assert ground.vmstat.pswpout == 0


def test_without_may_writepage_dirty_pages_stay(ground):
    page = anon(ground)
    shrink(ground, page, may_writepage=False)
    assert not page.flags & PG_writeback


def test_the_dirty_bit_of_the_entry_reaches_the_page(ground):
    page = anon(ground)
    shrink(ground, page)
    ground.filemap.wait_on_page_writeback(page)
    ground.reclaim._put_back([page])
    ground.memory.read_page(ground.task, 0)  # minor fault: the page is still cached
    assert not page.flags & PG_dirty
    ground.memory.write_page(ground.task, 0, page_bytes(0, 1))
    assert page.flags & PTE_dirty and not page.flags & PG_dirty
    entry = page.private
    assert ground.swap_out(0) == entry, "the page keeps its slot"
    assert ground.disk.blocks[entry] == page_bytes(0, 1)


def test_a_page_whose_process_has_gone_is_dropped_not_written(ground):
    page = anon(ground)
    ground.memory.exit_mmap(ground.task)
    shrink(ground, page)
    assert ground.vmstat.pswpout == 0
    ground.reclaim._put_back([page])
    assert page.count == 0
    assert ground.swapfile.nr_swap_pages == ground.swapfile.total_swap_pages
    ground.check()


def test_unmapping_a_page_that_was_used_just_now_fails(ground):
    page = anon(ground)
    ground.filemap.lock_page(page)
    ground.swap_state.add_to_swap(page)
    page.flags |= PTE_young
    assert not ground.shrink.try_to_unmap(page)
    assert ground.shrink.try_to_unmap(page)
    assert not page.flags & PTE_BITS and page.mapcount == 0


def test_unmapping_what_is_not_mapped_there_is_an_oops(ground):
    page = anon(ground)
    with pytest.raises(KernelBug, match="has no slot"):
        ground.shrink.try_to_unmap(page)


def test_a_page_that_the_wire_still_holds_is_not_freed(ground):
    page = anon(ground)
    shrink(ground, page)
    ground.filemap.wait_on_page_writeback(page)
    page.count += 1
    assert shrink(ground, page) == (0, [page])
    page.count -= 1
    assert shrink(ground, page) == (1, [])


# -- pages of files, and what pageout() answers


def test_a_clean_page_of_a_file_goes_at_once(ground):
    page, _ = cached(ground)
    assert shrink(ground, page) == (1, [])
    assert ground.vmstat.nr_file_pages == 0


def test_a_dirty_page_of_a_file_is_written_by_fs_only(ground):
    page, net = cached(ground, dirty=True)
    assert shrink(ground, page, GFP_NOFS) == (0, [page])
    assert net.calls == []
    assert shrink(ground, page) == (0, [page])
    assert net.calls == [("write", 9, 0, PG_locked)]
    assert ground.vmstat.nr_dirty == 0


def test_private_data_keep_a_page(ground):
    page, _ = cached(ground)
    page.flags |= PG_private
    assert shrink(ground, page) == (0, [page])
    assert page.flags & PG_active


def test_a_congested_queue_is_for_swap_writers_only(ground):
    page, net = cached(ground, dirty=True)
    page.mapping.backing_dev_info.set_congested()
    page.flags |= PG_locked
    assert ground.shrink.pageout(page, page.mapping) == PAGE_KEEP
    ground.task.flags |= PF_SWAPWRITE
    assert ground.shrink.pageout(page, page.mapping) == PAGE_SUCCESS
    ground.task.flags &= ~PF_SWAPWRITE
    assert len(net.calls) == 1


def test_a_page_with_another_user_is_not_written(ground):
    page, net = cached(ground, dirty=True)
    page.count += 1
    page.flags |= PG_locked
    assert ground.shrink.pageout(page, page.mapping) == PAGE_KEEP
    assert net.calls == []


def test_a_clean_page_has_nothing_to_write(ground):
    page, _ = cached(ground)
    page.flags |= PG_locked
    assert ground.shrink.pageout(page, page.mapping) == PAGE_CLEAN


def test_writepage_may_ask_for_another_turn(ground):
    page, net = cached(ground, dirty=True)
    net.writepage = lambda _page, _wbc: AOP_WRITEPAGE_ACTIVATE
    page.flags |= PG_locked
    assert ground.shrink.pageout(page, page.mapping) == PAGE_ACTIVATE
    assert not page.flags & PG_reclaim
    page.flags &= ~PG_locked
    ground.filemap.set_page_dirty(page)
    assert shrink(ground, page) == (0, [page])
    assert page.flags & PG_active and not page.flags & PG_locked


def test_a_failed_writepage_only_leaves_a_note_and_the_page_is_freed(ground):
    page, net = cached(ground, dirty=True)
    mapping = page.mapping
    net.write_error = -EIO
    assert shrink(ground, page) == (1, []), "the kernel takes a clean page for a written one"
    assert mapping.flags == AS_EIO


def test_a_failed_swap_writepage_loses_the_page_and_the_shadow_sees_it():
    with swap_ground(kswapd=False) as ground:
        area, net = ground.net_area(50)
        ground.swapfile.swapon(area)
        ground.process(8)
        ground.memory.write_page(ground.task, 0, page_bytes(0))
        net.write_error = -EIO
        ground.swap_out(0)
        assert ground.vmstat.pswpout == 0
        ground.memory.read_page(ground.task, 0)
        assert ground.vmstat.lost_pages == 1
        assert ground.judge.outcome == "data_loss"


def test_every_write_is_traced(ground):
    ground.kernel.trace.enable("vmscan:*")
    page = anon(ground)
    shrink(ground, page)
    assert [name for name, _ in ground.kernel.trace.events()] == ["vmscan:mm_vmscan_writepage"]


def test_remove_mapping_of_a_page_on_a_list_is_an_oops(ground):
    page, _ = cached(ground)
    ground.lru.lru_cache_add(page)
    with pytest.raises(KernelBug, match="on a list"):
        ground.shrink.remove_mapping(page.mapping, page)


def test_may_go_knows_what_reclaim_could_still_do(ground):
    page = anon(ground)
    assert ground.shrink.may_go(page)
    shrink(ground, page)
    assert not ground.shrink.may_go(page)
    page, _ = cached(ground)
    page.count -= 1
    assert ground.shrink.may_go(page)


# -- rmap


def test_an_anonymous_mapping_taken_for_an_address_space_is_an_oops(ground):
    mapping = anon(ground).mapping
    for field in ("host", "a_ops", "backing_dev_info"):
        with pytest.raises(KernelBug, match=f"mapping->{field} of an anonymous page"):
            getattr(mapping, field)


def test_a_page_is_mapped_once(ground):
    from kemu.mm.rmap import page_add_anon_rmap

    with pytest.raises(KernelBug, match="mapped twice"):
        page_add_anon_rmap(anon(ground), ground.task.mm, 5)


def test_names_for_people(ground):
    assert repr(SwapPte(0x12)) == "<SwapPte 0x12>"
    assert "init" in repr(ground.task.mm)
    assert PTE_write & PTE_BITS


def test_an_oops_names_the_process_of_an_anonymous_mapping(ground):
    assert repr(anon(ground).mapping) == f"<AnonVma of {ground.task.mm!r}>"
