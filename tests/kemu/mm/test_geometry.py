"""What every policy of slab geometry keeps to, and what boot words do; the tables are in tests/kemu_lab/test_slab_table.py."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.mm.geometry import BootWords
from kemu.mm.policies import POLICIES, make_geometry
from kemu.mm.slub_geometry import (
    SLAB_DEBUG_FREE,
    SLAB_DESTROY_BY_RCU,
    SLAB_HWCACHE_ALIGN,
    SLAB_KMALLOC,
    SLAB_POISON,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
)


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 7, 8, 64, 255, 1024])
def test_more_cpus_want_more_objects(cpus):
    assert make_geometry("6.1", cpus).wanted_objects() == 4 * (cpus.bit_length() + 1)


@pytest.mark.parametrize(
    ("name", "boot", "size", "order"),
    [
        ("6.1", BootWords(slub_max_order=0), 2048, 0),
        ("6.1", BootWords(slub_max_order=0), 8192, 1),
        ("6.1", BootWords(slub_min_objects=1), 8192, 1),
        ("6.1", BootWords(slub_min_order=2), 64, 2),
        ("6.1", BootWords(slub_min_order=4), 64, 4),  # above the limit order: the last resort takes it
        ("6.1", BootWords(slub_min_order=10), 8, 5),  # no slab has more than 32767 objects
        ("6.18", BootWords(slub_min_order=4), 64, 4),
        ("6.18", BootWords(slub_min_order=4, slub_max_order=2), 64, 2),
        ("6.18", BootWords(slub_max_order=0), 8192, 1),
        ("6.18", BootWords(slub_min_order=10), 8, 5),
        ("6.1", BootWords(slub_max_order=99), 5000, 4),
    ],
)
def test_boot_words_move_the_order(name, boot, size, order):
    assert make_geometry(name, 2, boot=boot).order(size) == order


@pytest.mark.parametrize(("size", "align"), [(8, 8), (16, 16), (17, 32), (32, 32), (33, 64), (200, 64)])
def test_6_1_aligns_small_objects_to_a_part_of_the_line(size, align):
    assert make_geometry("6.1").alignment(SLAB_HWCACHE_ALIGN, 0, size) == align


def test_6_18_moves_the_pointer_out_of_a_tracked_kmalloc_with_a_red_zone():
    flags = SLAB_RED_ZONE | SLAB_STORE_USER | SLAB_KMALLOC
    old, new = (make_geometry(name).slab_size(64, 8, flags, has_ctor=False) for name in ("6.1", "6.18"))
    assert new == old + 8


@pytest.mark.parametrize("flag", [SLAB_DEBUG_FREE, SLAB_RED_ZONE, SLAB_POISON, SLAB_STORE_USER])
def test_a_debugged_cache_has_no_cpu_partial_slabs(flag):
    assert make_geometry("6.1").cpu_partial(64, flag) == 0
    assert make_geometry("6.1").cpu_partial(64, 0) == 120


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(POLICIES),
    st.integers(1, 4096),
    st.sampled_from([4, 8]),
    st.builds(BootWords, *[st.none() | st.integers(0, 12)] * 2, st.none() | st.integers(0, 200)),
    st.integers(1, 1 << 22),
    st.integers(0, 4096),
    st.integers(0, 0xFFFFF),
    st.booleans(),
)
def test_whatever_is_asked_a_slab_holds_what_it_says(name, cpus, word, boot, objsize, align, flags, has_ctor):
    geometry = make_geometry(name, cpus, word, boot)
    try:
        size, order, objects = geometry.calculate_sizes(objsize, align, flags, has_ctor=has_ctor)
    except KernelBug:
        assert objsize > 1 << 20 or (boot.slub_min_order or 0) > geometry.max_page_order  # nothing else fits nowhere
        return
    assert size >= objsize
    assert size % geometry.alignment(flags, align, objsize) == 0
    assert 1 <= objects <= geometry.max_objects
    assert objects * size <= 4096 << order
    extra = size - objsize
    assert extra <= 6 * max(word, geometry.alignment(flags, align, objsize)) + 2 * 32 + (0 if flags & SLAB_DESTROY_BY_RCU else 8)
