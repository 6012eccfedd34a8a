"""The geometry of marks and reserves, against the tables of 2.6.23."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.mm import watermark as w


@pytest.mark.parametrize(
    ("mib", "kbytes", "marks", "atomic"),
    [
        (16, 512, (128, 160, 192), 48),
        (64, 1024, (256, 320, 384), 96),
        (128, 1448, (362, 452, 543), 136),
        (256, 2048, (512, 640, 768), 192),
        (512, 2896, (724, 905, 1086), 272),
        (1024, 4096, (1024, 1280, 1536), 384),
    ],
)
def test_the_table_of_boot_marks(mib, kbytes, marks, atomic):
    pages = mib << 8
    assert w.boot_min_free_kbytes(pages * 4) == kbytes
    assert w.zone_marks(pages, pages, kbytes) == marks
    halved = marks[0] - marks[0] // 2
    assert halved - halved // 4 == atomic


@pytest.mark.parametrize(("gib", "kbytes"), [(4, 8192), (16, 16384), (1024, 65536)])
def test_large_machines(gib, kbytes):
    assert w.boot_min_free_kbytes(gib << 20) == kbytes


def test_a_tiny_machine_keeps_128_kilobytes():
    assert w.boot_min_free_kbytes(256) == 128


def test_highmem_keeps_its_distance_for_reclaim():
    assert w.zone_marks(131072, 225280, 3776, highmem=True) == (128, 128 + 137, 128 + 274)
    assert w.zone_marks(1024, 225280, 3776, highmem=True).pages_min == 32


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 1 << 20), min_size=1, max_size=4).filter(any), st.integers(0, 65536))
def test_the_zones_together_never_keep_more_than_was_asked(present, kbytes):
    lowmem = sum(present)
    shares = [w.zone_emerg(pages, lowmem, kbytes) for pages in present]
    populated = sum(1 for pages in present if pages)
    assert kbytes // 4 - (populated - 1) <= sum(shares) <= kbytes // 4


def test_a_pool_of_one_page_on_two_zones_is_nothing():
    assert [w.zone_emerg(4096, 8192, 4), w.zone_emerg(4096, 8192, 4)] == [0, 0]


@pytest.mark.parametrize(("mib", "batch"), [(0, 0), (16, 0), (24, 0), (32, 1), (112, 7), (256, 15), (512, 31), (4096, 31)])
def test_batches_of_the_per_cpu_lists(mib, batch):
    assert w.zone_batchsize(mib << 8) == batch
