"""The bytes of a slab that is debugged."""

from __future__ import annotations

import pytest

from kemu.mm.slub_geometry import SLAB_DESTROY_BY_RCU, SLAB_POISON, SLAB_RED_ZONE, SLAB_STORE_USER
from kemu.mm.slub_poison import (
    Fault,
    check_object,
    check_padding,
    get_freepointer,
    init_object,
    make_image,
    make_layout,
    restore,
    set_freepointer,
)

ZPU = SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER


@pytest.mark.parametrize(
    ("objsize", "flags", "has_ctor", "inuse", "offset", "pad"),
    [
        (64, 0, False, 64, 0, 64),
        (60, 0, False, 64, 0, 64),
        (64, SLAB_RED_ZONE, False, 72, 0, 72),  # a word more, or there would be no room
        (60, SLAB_RED_ZONE, False, 64, 0, 64),
        (64, SLAB_POISON, False, 64, 64, 72),
        (64, 0, True, 64, 64, 72),
        (64, SLAB_DESTROY_BY_RCU, False, 64, 64, 72),
        (64, ZPU, False, 72, 72, 128),  # two tracks of 24 bytes
    ],
)
def test_the_layout_is_that_of_calculate_sizes(objsize, flags, has_ctor, inuse, offset, pad):
    layout = make_layout(objsize, 200, flags, 8, has_ctor=has_ctor)
    assert (layout.inuse, layout.offset, layout.pad) == (inuse, offset, pad)


@pytest.mark.parametrize(
    ("flags", "has_ctor", "poisons"), [(ZPU, False, True), (ZPU, True, False), (ZPU | SLAB_DESTROY_BY_RCU, False, False)]
)
def test_objects_that_must_keep_their_contents_are_not_poisoned(flags, has_ctor, poisons):
    assert make_layout(64, 200, flags, 8, has_ctor=has_ctor).poisons_object is poisons


def image_of(flags=ZPU, objsize=64, size=136, objects=3, nbytes=512):
    layout = make_layout(objsize, size, flags, 8, has_ctor=False)
    return make_image(nbytes, objects, layout), layout


def test_a_fresh_slab_is_free_from_end_to_end():
    image, layout = image_of()
    assert all(check_object(image, layout, at, active=False) is None for at in (0, 136, 272))
    assert check_padding(image, layout, 3) is None


def test_an_object_is_either_free_or_in_use():
    image, layout = image_of()
    assert check_object(image, layout, 0, active=True).what == "Redzone"
    init_object(image, layout, 0, active=True)
    assert check_object(image, layout, 0, active=True) is None
    assert check_object(image, layout, 0, active=False).what == "Redzone"


def test_a_fault_says_from_where_to_where_and_what():
    image, layout = image_of()
    image[3], image[7] = 1, 2
    assert check_object(image, layout, 0, active=False) == Fault("Poison", 3, 8, 1, 0x6B)


def test_restoring_makes_it_as_it_was():
    image, layout = image_of()
    before = bytes(image)
    image[450:460] = b"0123456789"
    restore(image, check_padding(image, layout, 3))
    assert bytes(image) == before


def test_without_poison_only_the_red_zone_is_looked_at():
    image, layout = image_of(SLAB_RED_ZONE)
    image[0] = image[100] = image[500] = 9
    assert check_object(image, layout, 0, active=False) is None and check_padding(image, layout, 3) is None
    image[64] = 9
    assert check_object(image, layout, 0, active=False).what == "Redzone"


def test_without_a_red_zone_the_padding_up_to_the_word_is_looked_at():
    image, layout = image_of(SLAB_POISON, objsize=60)
    image[62] = 1
    assert check_object(image, layout, 0, active=True).what == "Alignment padding"


@pytest.mark.parametrize("flags", [0, SLAB_POISON])
def test_the_free_pointer_is_in_the_object_or_behind_it(flags):
    image, layout = image_of(flags)
    set_freepointer(image, layout, 136, 0xFFFF810000001000)
    assert get_freepointer(image, layout, 136) == 0xFFFF810000001000
    at = 136 + (64 if flags else 0)
    assert image[at : at + 8] == (0xFFFF810000001000).to_bytes(8, "little")
