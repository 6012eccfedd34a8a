"""Bios and their pools (2.6.23 fs/bio.c)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from block_ground import MIB, block_ground
from kemu.block.bio import BIO_MAX_PAGES, BIO_POOL_SIZE, BVEC_SIZES
from kemu.errors import KernelBug
from kemu.kernel.errno import EIO
from kemu.kernel.task import PF_MEMALLOC
from kemu.machine import Machine, MachineConfig
from kemu.mm.backing_dev import WRITE
from kemu.mm.gfp import _GFP_NOWARN, GFP_ATOMIC, GFP_NOIO
from kemu.mm.hog import AtomicHog


@pytest.fixture
def ground():
    with block_ground() as g:
        yield g


def drained(ground):
    """Take all of memory and then all bios; return the bios."""
    AtomicHog(ground.slub).hog()
    taken = []
    while (bio := ground.bios.bio_alloc(GFP_ATOMIC | _GFP_NOWARN, 1)) is not None:
        taken.append(bio)
    return taken


def test_the_shared_set_keeps_two_bios_and_two_vectors_of_each_size(ground):
    pools = ground.bios.fs_bio_set.pools
    assert [pool.name for pool in pools] == ["bio", *(f"biovec-{size}" for size in (1, 4, 16, 64, 128, 256))]
    assert [pool.curr_nr for pool in pools] == [2] * 7


def test_objects_have_the_sizes_of_x86_64(ground):
    sizes = {name: ground.slub.caches[name].objsize for name in ("bio", "biovec-1", "biovec-256", "blkdev_requests")}
    assert sizes == {"bio": 104, "biovec-1": 16, "biovec-256": 4096, "blkdev_requests": 288}


def test_a_machine_without_disks_pays_nothing():
    with Machine(MachineConfig(mem=8 * MIB)) as machine:
        assert "bio" not in machine.slub.caches


def test_the_last_disk_takes_the_pools_with_it():
    with Machine(MachineConfig(mem=8 * MIB)) as machine:
        before = machine.page_alloc.allocated_pages()
        disks = [machine.add_disk(name, MIB) for name in ("sda", "sdb")]
        machine.remove_disk(disks[0])
        assert "bio" in machine.slub.caches
        machine.remove_disk(disks[1])
        assert "bio" not in machine.slub.caches
        assert machine.page_alloc.allocated_pages() - before <= 2, "kblockd's own"
        machine.check()


def test_a_bio_that_leaked_is_noticed_with_the_last_disk():
    with Machine(MachineConfig(mem=8 * MIB)) as machine:
        disk = machine.add_disk("sda", MIB)
        machine.bios.bio_alloc(GFP_NOIO, 1)
        with pytest.raises(KernelBug, match="objects of bio are in use"):
            machine.remove_disk(disk)


@given(st.integers(1, BIO_MAX_PAGES))
@settings(max_examples=25, deadline=None)
def test_a_vector_is_of_the_smallest_size_that_fits(nr_vecs):
    with block_ground() as ground:
        bio = ground.bios.bio_alloc(GFP_NOIO, nr_vecs)
        assert bio.bi_max_vecs == min(size for size in BVEC_SIZES if size >= nr_vecs)
        ground.bios.bio_put(bio)
        assert ground.bios.in_flight == 0


def test_there_is_no_bio_of_more_than_256_pages(ground):
    assert ground.bios.bio_alloc(GFP_NOIO, BIO_MAX_PAGES + 1) is None
    assert ground.bios.fs_bio_set.bio_pool.curr_nr == BIO_POOL_SIZE


def test_a_bio_without_pages_needs_no_vector(ground):
    bio = ground.bios.bio_alloc(GFP_NOIO, 0)
    assert bio.bi_max_vecs == 0 and bio.add_page(ground.page()) == 0
    ground.bios.bio_put(bio)


def test_a_full_bio_takes_no_more_pages(ground):
    bio = ground.bio(0)
    assert bio.add_page(ground.page()) == 0 and bio.bi_size == 4096 and bio.sectors == 8
    ground.bios.bio_put(bio)


def test_who_holds_a_reference_may_look_after_the_end(ground):
    bio = ground.bio(0)
    bio.bio_get()
    ground.bios.submit_bio(WRITE, bio)
    ground.settle()
    assert ground.ended == [(0, 0)] and ground.bios.in_flight == 1
    ground.bios.bio_put(bio)
    assert ground.bios.in_flight == 0


def test_one_put_too_many_is_an_oops(ground):
    bio = ground.bio(0)
    ground.bios.bio_put(bio)
    with pytest.raises(KernelBug, match="bio_put"):
        ground.bios.bio_put(bio)


def test_a_bio_without_pages_cannot_be_submitted(ground):
    bio = ground.bios.bio_alloc(GFP_NOIO, 1)
    bio.bi_bdev = ground.disk
    with pytest.raises(KernelBug, match="without pages"):
        ground.bios.submit_bio(WRITE, bio)
    ground.bios.bio_put(bio)


def test_an_error_sticks_to_a_bio(ground):
    bio = ground.bio(8)
    bio.bio_get()
    ground.bios.bio_endio(bio, -EIO)
    ground.bios.bio_endio(bio, 0)
    assert ground.ended == [(8, -EIO), (8, -EIO)]


def test_at_the_floor_the_pool_is_what_is_left(ground):
    taken = drained(ground)
    assert ground.bios.fs_bio_set.bio_pool.curr_nr == 0
    last_two = [bio.address for bio in taken[-2:]]
    for bio in taken[-2:]:
        ground.bios.bio_put(bio)
    assert sorted(ground.bios.fs_bio_set.bio_pool.elements) == sorted(last_two)
    for bio in taken[:-2]:
        ground.bios.bio_put(bio)


def test_without_a_vector_the_bio_goes_back(ground):
    taken = drained(ground)
    ground.bios.bio_put(taken.pop())
    pool = ground.bios.fs_bio_set.bvec_pools[5]
    kept, pool.elements = pool.elements, []
    assert ground.bios.bio_alloc(GFP_ATOMIC | _GFP_NOWARN, 256) is None
    assert ground.bios.fs_bio_set.bio_pool.curr_nr == 1
    pool.elements = kept
    for bio in taken:
        ground.bios.bio_put(bio)


@pytest.mark.parametrize(("patches", "sleeps"), [("all", 0), ("all,-4", 2), ("all,-1", 2), ("none", 2)])
def test_a_reclaimer_sleeps_for_a_bio_unless_patch_04_opens_the_reserve(patches, sleeps):
    """D.2, row 04: 5 s slices, until the late disk gives a bio back after 7 s."""
    with block_ground(patches=patches) as ground:
        taken = drained(ground)

        def late():
            ground.sched.msleep(7000)
            ground.bios.bio_put(taken.pop())

        ground.sched.spawn("late", late)
        ground.sched.current.flags |= PF_MEMALLOC
        bio = ground.bios.bio_alloc(GFP_NOIO, 1)
        ground.sched.current.flags &= ~PF_MEMALLOC
        assert ground.machine.vmstat.mempool_sleeps == sleeps
        assert (ground.sched.now >= 7 * 10**9) == bool(sleeps)
        ground.settle(8000)
        for each in [bio, *taken]:
            ground.bios.bio_put(each)


def test_a_bio_set_of_ones_own_does_not_touch_the_shared_one(ground):
    own = ground.bios.bioset_create(4, 4)
    bio = ground.bios.bio_alloc_bioset(GFP_NOIO, 1, own)
    assert bio.bio_set is own and [pool.curr_nr for pool in own.pools] == [4] * 7
    ground.bios.bio_put(bio)
    ground.bios.bioset_free(own)


def test_a_bio_set_that_cannot_be_filled_is_none_and_leaves_nothing(ground, monkeypatch):
    monkeypatch.setattr(ground.slub, "kmem_cache_alloc", lambda cache, _gfp: None if "64" in cache.name else 4096)
    freed = []
    monkeypatch.setattr(ground.slub, "kmem_cache_free", lambda cache, _address: freed.append(cache.name))
    assert ground.bios.bioset_create(1, 1) is None
    assert freed == ["bio", "biovec-1", "biovec-4", "biovec-16"]
