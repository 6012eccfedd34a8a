"""Patch 29: the request of a swap page is found in the tree, its private word stays the swap entry, and nobody invalidates."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.mm.page import PG_private, PG_swapcache
from kemu_nfs.nfs.nfs3xdr import Nfs3Result
from nfs_ground import mounted, page_bytes


@pytest.fixture
def ground():
    with mounted() as g:
        g.file = g.swapon()
        g.process()
        g.inodes = g.mount.ops.inodes
        yield g


def test_the_private_word_is_the_entry_all_the_time(ground):
    ground.write(0, page_bytes(0))
    page = ground.pageout(0)
    entry = ground.sched.current.mm.ptes[0].entry
    seen = []
    end = ground.machine.filemap.end_page_writeback

    def look(page_):
        seen.append((page_.private, page_.flags & (PG_private | PG_swapcache)))
        end(page_)

    ground.machine.filemap.end_page_writeback = look
    assert page.private == entry
    ground.wait_for_calls()
    assert seen == [(entry, PG_swapcache)]
    assert page.private == entry


def test_the_request_is_found_for_both_kinds_of_page(ground):
    nfsi = ground.file.private_data.nfsi
    ground.wire.cut()
    ground.write(0, page_bytes(0))
    page = ground.pageout(0)
    req = ground.inodes.nfs_page_find_request_locked(nfsi, page)
    assert req.wb_page is page
    assert req is nfsi.nfs_page_tree.lookup(page.private & 0xFFFF)
    ground.mount.ops.pagelist.nfs_release_request(req)
    ground.wire.mend()
    ground.wait_for_calls()
    ground.mount.create("f")
    file = ground.mount.open("f")
    ground.mount.write_buffered(file, 0, b"x")
    ordinary = ground.machine.filemap.find_get_page(file.f_mapping, 0)
    req = ground.inodes.nfs_page_find_request_locked(file.private_data.nfsi, ordinary)
    assert ordinary.private == req.addr
    ground.mount.ops.pagelist.nfs_release_request(req)
    ground.machine.page_alloc.put_page(ordinary)


def test_references_are_one_for_the_tree_and_one_for_who_works(ground):
    nfsi = ground.file.private_data.nfsi
    ground.wire.cut()
    ground.write(0, page_bytes(0))
    page = ground.pageout(0)
    (req,) = nfsi.nfs_page_tree.gang_lookup(0, 5)
    assert (req.wb_count, req.wb_busy) == (2, True)
    assert page.count == 2, "swap cache and request"


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=30))
def test_no_slot_keeps_a_request(vpns):
    with mounted() as ground:
        file = ground.swapon()
        ground.process()
        for generation, vpn in enumerate(vpns):
            ground.write(vpn, page_bytes(vpn, generation))
            ground.swap_out(vpn)
        nfsi = file.private_data.nfsi
        assert nfsi.npages == 0 == len(nfsi.nfs_page_tree)
        assert ground.machine.slub.objects_in_use(ground.mount.modules.page_cache) == 0
        ground.check()


def changed_by_others(ground):
    nfsi = ground.file.private_data.nfsi
    attr = bytearray(nfsi.attr)
    struct.pack_into("!4I", attr, 68, 2_000_000_000, 0, 2_000_000_000, 0)
    result = Nfs3Result(0)
    result.fattr = bytes(attr)
    ground.inodes.nfs_refresh_inode(nfsi, result)
    return nfsi


def test_a_new_mtime_invalidates_nothing_of_a_swap_file(ground):
    nfsi = changed_by_others(ground)
    assert ground.inodes.nfs_revalidate_mapping(nfsi) == 0
    assert ground.stats.invalidations == 0
    assert ground.machine.filemap.find_get_page(ground.file.f_mapping, 0) is not None, "the header is still cached"


def test_after_swapoff_it_does(ground):
    ground.machine.swapfile.swapoff(ground.file)
    ground.inodes.nfs_revalidate_mapping(changed_by_others(ground))
    assert ground.stats.invalidations == 1


def test_off_the_entry_is_overwritten_with_a_pointer_and_that_is_the_end():
    with mounted(patches="all,-29") as ground:
        ground.swapon()
        ground.process()
        ground.write(0, page_bytes(0))
        with pytest.raises(KernelBug):
            ground.swap_out(0)


def test_off_a_new_mtime_invalidates():
    with mounted(patches="all,-29") as ground:
        ground.file = ground.swapon()
        ground.inodes = ground.mount.ops.inodes
        ground.inodes.nfs_revalidate_mapping(changed_by_others(ground))
        assert ground.stats.invalidations == 1


# -- (f) references, one by one


def test_add_takes_one_find_takes_one_remove_leaves_it_to_the_caller(ground):
    pagelist = ground.mount.ops.pagelist
    nfsi = ground.file.private_data.nfsi
    ground.write(0, page_bytes(0))
    ground.wire.cut()
    page = ground.pageout(0)
    (old,) = nfsi.nfs_page_tree.gang_lookup(0, 5)
    ground.wire.mend()
    ground.wait_for_calls()
    assert nfsi.npages == 0
    req = pagelist.nfs_create_request(ground.file.private_data, nfsi, page, 0, 4096)
    assert req is not old
    assert (req.wb_count, page.count) == (1, 2)
    assert ground.inodes.nfs_inode_add_request(nfsi, req) == 0
    assert req.wb_count == 2
    assert ground.inodes.nfs_page_find_request_locked(nfsi, page) is req
    assert req.wb_count == 3
    pagelist.nfs_release_request(req)
    req.wb_busy = True
    ground.inodes.nfs_inode_remove_request(req)
    pagelist.nfs_release_request(req)
    assert (req.wb_count, nfsi.npages) == (1, 0)
    pagelist.nfs_unlock_request(req)
    assert page.count == 1


# -- (a) and (b) at all times


@pytest.mark.parametrize("wsize", [1024, 32768])
def test_wherever_one_looks_the_private_word_is_the_entry(wsize):
    """Look at every page of the swap cache whenever time passes: that is when others could."""
    with mounted() as ground:
        ground.swapon()
        ground.process()
        ground.mount.server.wsize = wsize
        state = ground.machine.swap_state
        spend = ground.sched.spend
        looked = []

        def look(ns):
            for entry, page in state.page_tree.items():
                assert (page.private, page.flags & PG_private) == (entry, 0)
                looked.append(entry)
            spend(ns)

        ground.sched.spend = look
        for generation in range(2):
            for vpn in range(3):
                ground.write(vpn, page_bytes(vpn, generation))
                ground.swap_out(vpn)
        for vpn in range(3):
            assert ground.read(vpn) == page_bytes(vpn, 1)
        assert len(looked) > 20
        del ground.sched.spend
        ground.wait_for_calls()
        ground.check()


# -- ordinary files: as before


@pytest.mark.parametrize("patches", ["all", "all,-29"])
def test_an_ordinary_page_leads_to_its_request_by_its_private_word(patches):
    with mounted(patches=patches) as ground:
        ground.mount.create("f")
        file = ground.mount.open("f")
        ground.mount.write_buffered(file, 0, b"x")
        nfsi = file.private_data.nfsi
        page = ground.machine.filemap.find_get_page(file.f_mapping, 0)
        (req,) = nfsi.nfs_page_tree.gang_lookup(0, 5)
        assert (page.private, page.flags & PG_private) == (req.addr, PG_private)
        ground.mount.fsync(file)
        assert (page.private, page.flags & PG_private, nfsi.npages) == (0, 0, 0)
        ground.machine.page_alloc.put_page(page)


# -- (e): a swap file that somebody else writes to


def test_what_somebody_else_writes_is_not_seen_while_it_is_a_swap_file(ground):
    """Nobody else may write to it: what he writes into a slot comes back as ours, and the machine notices lost data."""
    ground.write(0, page_bytes(0))
    entry = ground.swap_out(0)
    slot = entry & 0xFFFF
    assert ground.mount.write(ground.file, slot * 4096, b"stranger") == 8
    assert ground.stats.invalidations == 0
    assert ground.read(0)[:8] == b"stranger"
    assert ground.kernel.judge.outcome == "data_loss"


# -- off


def test_off_the_private_word_is_a_pointer_while_the_write_is_under_way():
    with mounted(patches="all,-29") as ground:
        file = ground.swapon()
        ground.process()
        ground.write(0, page_bytes(0))
        ground.wire.cut()
        page = ground.pageout(0)
        entry = ground.sched.current.mm.ptes[0].entry
        (req,) = file.private_data.nfsi.nfs_page_tree.gang_lookup(0, 5)
        assert page.private == req.addr != entry
        assert page.flags & PG_private


def test_off_the_slot_of_a_written_page_is_forgotten_and_freeing_it_is_a_bug():
    """When the WRITE is over the word is 0: the swap cache would free slot 0, the header, and keep the page under its entry."""
    with mounted(patches="all,-29") as ground:
        ground.swapon()
        ground.process()
        ground.write(0, page_bytes(0))
        page = ground.pageout(0)
        entry = ground.sched.current.mm.ptes[0].entry
        ground.wait_for_calls()
        assert page.private == 0
        assert ground.machine.swapfile.swap_count(entry) == 2, "the page table's and the cache's"
        with pytest.raises(KernelBug):
            ground.push_out(page)
        assert ground.machine.swapfile.swap_count(entry) >= 1, "nobody gives it back"
