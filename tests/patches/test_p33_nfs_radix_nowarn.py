"""Patch 33: the tree of requests fills its stock before it inserts below a lock (b33)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.errno import ENOMEM
from kemu.lib.radix_nodes import MAX_PATH
from kemu.mm.gfp import _GFP_NOWARN, GFP_ATOMIC, GFP_NOIO
from kemu.mm.hog import AtomicHog
from kemu.mm.page import PG_dirty
from nfs_ground import PAGE, mounted, page_bytes


@pytest.fixture
def ground():
    with mounted() as g:
        g.mount.create("f")
        g.file = g.mount.open("f")
        yield g


def refuse_nodes(ground, script):
    """Let the slab of tree nodes answer by ``script(gfp)``: True refuses. Return the flags that were asked for."""
    nodes = ground.machine.radix_nodes
    alloc = nodes._node_alloc
    seen = []

    def maybe(gfp):
        seen.append(gfp)
        return None if script(gfp) else alloc(gfp)

    nodes._node_alloc = maybe
    return seen


def page_at(ground, index):
    return ground.machine.filemap.find_or_create_page(ground.file.f_mapping, index)


def release(ground, page):
    ground.machine.filemap.unlock_page(page)
    ground.machine.page_alloc.put_page(page)


def update(ground, page):
    return ground.mount.ops.write.nfs_update_request(ground.file.private_data, page, 0, PAGE)


@pytest.mark.parametrize(("patches", "gfp"), [("all", GFP_ATOMIC | _GFP_NOWARN), ("all,-33", GFP_ATOMIC)])
def test_the_trees_own_flags(patches, gfp):
    with mounted(patches=patches) as ground:
        assert ground.mount.root.nfs_page_tree.gfp == gfp


def test_on_an_insert_that_the_slab_refuses_takes_the_stock(ground):
    page = page_at(ground, 5000)
    ground.machine.radix_nodes.drain()
    seen = refuse_nodes(ground, lambda gfp: gfp & GFP_ATOMIC)
    req = update(ground, page)
    assert req.wb_index == 5000
    assert GFP_NOIO in seen
    assert GFP_ATOMIC | _GFP_NOWARN in seen
    assert ground.sched.cpu.preempt_count == 0
    ground.mount.ops.pagelist.nfs_unlock_request(req)
    release(ground, page)


def test_off_it_fails():
    with mounted(patches="all,-33") as off:
        off.mount.create("f")
        off.file = off.mount.open("f")
        page = page_at(off, 5000)
        off.machine.radix_nodes.drain()
        seen = refuse_nodes(off, lambda gfp: gfp & GFP_ATOMIC)
        assert update(off, page) == -ENOMEM
        assert seen == [GFP_ATOMIC], "and nobody keeps the warning quiet"
        assert off.machine.slub.objects_in_use(off.mount.modules.page_cache) == 0
        release(off, page)


def test_off_a_swap_page_that_meets_this_is_lost_or_kept_dirty():
    with mounted(patches="all,-33") as ground:
        ground.swapon(5000)
        ground.process()
        ground.write(0, page_bytes(0))
        ground.machine.swapfile.areas[0].map.cluster_next = 4000
        ground.machine.swapfile.areas[0].map.cluster_nr = 10
        inserts = ground.mount.ops.inodes.nfs_inode_add_request
        ground.mount.ops.inodes.nfs_inode_add_request = lambda _nfsi, _req: -ENOMEM
        ground.pageout(0)
        assert ground.stats.writes == 0
        ground.mount.ops.inodes.nfs_inode_add_request = inserts
        assert ground.read(0) == page_bytes(0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), max_size=40), st.integers(0, 1 << 20))
def test_preempt_count_is_zero_after_every_way_out_and_the_stock_never_overflows(refusals, index):
    with mounted() as ground:
        ground.mount.create("f")
        ground.file = ground.mount.open("f")
        page = page_at(ground, 3)
        page.word_d = index  # as if it were there: only the requests' tree is of interest
        answers = list(refusals)
        refuse_nodes(ground, lambda _: answers.pop() if answers else False)
        req = update(ground, page)
        assert ground.sched.cpu.preempt_count == 0
        assert all(len(stock) <= MAX_PATH for stock in ground.machine.radix_nodes.stock)
        in_use = ground.machine.slub.objects_in_use(ground.mount.modules.page_cache)
        if isinstance(req, int):
            assert (req, in_use) == (-ENOMEM, 0)
        else:
            assert (len(ground.file.private_data.nfsi.nfs_page_tree), in_use) == (1, 1)
        page.word_d = 3


def test_after_the_stock_is_full_the_insert_never_fails(ground):
    refuse_nodes(ground, lambda gfp: gfp & GFP_ATOMIC)
    for index in (0, 63, 64, 4096, 1 << 18, 1 << 20):
        page = page_at(ground, 1)
        page.word_d = index
        req = update(ground, page)
        assert not isinstance(req, int)
        ground.mount.ops.inodes.nfs_inode_remove_request(req)
        ground.mount.ops.pagelist.nfs_release_request(req)
        ground.mount.ops.pagelist.nfs_unlock_request(req)
        page.word_d = 1
        release(ground, page)


def test_a_page_that_has_a_request_needs_no_new_one(ground):
    page = page_at(ground, 1)
    first = update(ground, page)
    ground.mount.ops.pagelist.nfs_unlock_request(first)
    again = update(ground, page)
    assert again is first
    assert ground.machine.slub.objects_in_use(ground.mount.modules.page_cache) == 1
    ground.mount.ops.pagelist.nfs_unlock_request(again)
    release(ground, page)


def second_lap_fails(ground):
    """Let the stock be empty again when the request has been made, and refuse to fill it."""
    page = page_at(ground, 1)
    count = page.count
    pagelist = ground.mount.ops.pagelist
    create = pagelist.nfs_create_request
    nodes = ground.machine.radix_nodes

    def create_and_starve(*args):
        req = create(*args)
        nodes.drain()
        refuse_nodes(ground, lambda _: True)
        return req

    pagelist.nfs_create_request = create_and_starve
    assert update(ground, page) == -ENOMEM
    assert ground.sched.cpu.preempt_count == 0
    return page.count - count, ground.machine.slub.objects_in_use(ground.mount.modules.page_cache)


def test_b33_a_request_and_a_page_reference_leak():
    with mounted(fixes="all,-b33") as ground:
        ground.mount.create("f")
        ground.file = ground.mount.open("f")
        assert second_lap_fails(ground) == (1, 1)


def test_b33_mended_nothing_does(ground):
    assert second_lap_fails(ground) == (0, 0)


def test_no_warning_is_logged_for_tree_nodes(ground):
    refuse_nodes(ground, lambda gfp: gfp & GFP_ATOMIC)
    page = page_at(ground, 700)
    ground.mount.ops.pagelist.nfs_unlock_request(update(ground, page))
    release(ground, page)
    assert not any("allocation failure" in text for _, _, text in ground.kernel.printk.buffer)


# -- at the floor


def write_at_the_floor(patches):
    """Let an ordinary program write to a file whose page needs a new tree node, when GFP_ATOMIC gets nothing any more.

    There is clean page cache: who may reclaim, gets memory. Return what write(2) said and the warnings about allocations.
    """
    with mounted(patches=patches) as ground:
        ground.mount.create("f")
        file = ground.mount.open("f")
        machine = ground.machine
        ground.mount.write(file, 0, bytes(600 * PAGE))
        for start in range(0, 600, 100):
            assert machine.memory.file_io.read(file, start * PAGE, 100 * PAGE)
        page = machine.filemap.find_or_create_page(file.f_mapping, 1000)
        machine.filemap.unlock_page(page)
        for stock in machine.radix_nodes.stock:
            stock.clear()  # an earlier preload's nodes would hide what is to be seen
        hog = AtomicHog(machine.slub)
        hog.hog()
        nodes = []
        node_alloc = machine.radix_nodes._node_alloc
        while (address := node_alloc(GFP_ATOMIC | _GFP_NOWARN)) is not None:
            nodes.append(address)  # the rest of a slab would serve the insert
        before = len(ground.kernel.printk.buffer)
        result = machine.memory.file_io.write(file, 1000 * PAGE, page_bytes(1000))
        warnings = [text for _, _, text in list(ground.kernel.printk.buffer)[before:] if "allocation failure" in text]
        for address in nodes:
            machine.radix_nodes.node_free(address)
        hog.release()
        assert ground.sched.cpu.preempt_count == 0
        machine.page_alloc.put_page(page)
        if result == PAGE:
            assert ground.mount.fsync(file) == 0
        ground.wait_for_calls()
        ground.check()
        return result, warnings


def test_on_an_ordinary_write_at_the_floor_reclaims_and_is_silent():
    assert write_at_the_floor("all") == (PAGE, [])


def test_off_it_fails_and_says_so():
    result, warnings = write_at_the_floor("all,-33")
    assert result == -ENOMEM
    assert len(warnings) == 1
    assert "order:" in warnings[0]


# -- the new request


def alive(ground):
    """Count the new requests that one nfs_update_request() has and has not given away, at their most."""
    pagelist = ground.mount.ops.pagelist
    create, free = pagelist.nfs_create_request, pagelist.nfs_release_request
    now, most = [], [0]

    def noted(*args):
        req = create(*args)
        now.append(req)
        most[0] = max(most[0], len(now))
        return req

    def released(req):
        if req in now and req.wb_count == 1:
            now.remove(req)
        free(req)

    pagelist.nfs_create_request, pagelist.nfs_release_request = noted, released
    return now, most


def test_at_most_one_new_request_is_alive_in_a_call(ground):
    """Others make and remove a request of the page while ours is being made: laps, and still one."""
    page = page_at(ground, 1)
    now, most = alive(ground)
    pagelist = ground.mount.ops.pagelist
    nodes = ground.machine.radix_nodes
    preload = nodes.preload
    laps = []

    def somebody_else(gfp):
        laps.append(gfp)
        if len(laps) == 2:
            other = pagelist.nfs_create_request(ground.file.private_data, ground.file.private_data.nfsi, page, 0, PAGE)
            now.remove(other)
            most[0] = 1
            assert ground.mount.ops.inodes.nfs_inode_add_request(ground.file.private_data.nfsi, other) == 0
        return preload(gfp)

    nodes.preload = somebody_else
    req = update(ground, page)
    assert len(laps) == 2
    assert now == [], "ours was released: the other's is taken"
    assert most == [1]
    assert ground.sched.cpu.preempt_count == 0
    pagelist.nfs_release_request(req)  # as its maker would
    pagelist.nfs_unlock_request(req)
    release(ground, page)


def test_on_preemption_is_off_below_the_lock_alone(ground):
    page = page_at(ground, 1)
    inodes = ground.mount.ops.inodes
    seen = []
    find, add, create = (
        inodes.nfs_page_find_request_locked,
        inodes.nfs_inode_add_request,
        ground.mount.ops.pagelist.nfs_create_request,
    )

    def noted(name, call):
        def wrapped(*args):
            seen.append((name, ground.sched.cpu.preempt_count))
            return call(*args)

        return wrapped

    inodes.nfs_page_find_request_locked = noted("find", find)
    inodes.nfs_inode_add_request = noted("add", add)
    ground.mount.ops.pagelist.nfs_create_request = noted("create", create)
    req = update(ground, page)
    assert seen == [("find", 1), ("create", 0), ("find", 1), ("add", 1)]
    ground.mount.ops.pagelist.nfs_unlock_request(req)
    release(ground, page)


def test_on_who_waits_for_a_busy_request_may_be_preempted(ground):
    page = page_at(ground, 1)
    busy = update(ground, page)
    counts = []
    wait = ground.mount.ops.pagelist.nfs_wait_on_request

    def noted(req):
        counts.append(ground.sched.cpu.preempt_count)
        ground.mount.ops.pagelist.nfs_unlock_request(busy)
        return wait(req)

    ground.mount.ops.pagelist.nfs_wait_on_request = noted
    req = update(ground, page)
    assert req is busy
    assert counts == [0]
    assert ground.sched.cpu.preempt_count == 0
    ground.mount.ops.pagelist.nfs_unlock_request(req)
    release(ground, page)


# -- b33, seen from reclaim


@pytest.mark.parametrize(("fixes", "stays"), [("all", False), ("all,-b33", True)])
def test_b33_a_swap_page_with_a_leaked_request_is_never_reclaimed(fixes, stays):
    with mounted(fixes=fixes) as ground:
        ground.swapon()
        ground.process()
        ground.write(0, page_bytes(0))
        nodes = ground.machine.radix_nodes
        preload = nodes.preload
        create = ground.mount.ops.pagelist.nfs_create_request

        def create_and_starve(*args):
            req = create(*args)
            nodes.preload = lambda _: -ENOMEM
            return req

        ground.mount.ops.pagelist.nfs_create_request = create_and_starve
        page = ground.pageout(0)
        nodes.preload = preload
        ground.mount.ops.pagelist.nfs_create_request = create
        assert page.flags & PG_dirty, "b30c is mended here: the page is not lost"
        assert page.count == (2 if stays else 1)
        if stays:
            with pytest.raises(AssertionError, match="stays"):
                ground.push_out(page)
        else:
            ground.push_out(page)
        assert ground.read(0) == page_bytes(0)
