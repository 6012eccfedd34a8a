"""Debugging of slab objects: every kind of damage is found, named, and repaired as SLUB repairs it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import ConfigError, KernelBug
from kemu.machine import Machine, MachineConfig
from kemu.mm.geometry_2_6_23 import Geometry2623
from kemu.mm.geometry_6_1 import Geometry61
from kemu.mm.geometry_6_18 import Geometry618
from kemu.mm.gfp import GFP_ATOMIC, GFP_KERNEL
from kemu.mm.slub_debug import setup_slub_debug
from kemu.mm.slub_geometry import DEBUG_FLAGS, SLAB_DEBUG_FREE, SLAB_POISON, SLAB_RED_ZONE, SLAB_STORE_USER, SLAB_TRACE
from kemu.mm.slub_poison import POISON_END, POISON_FREE, SLUB_RED_ACTIVE, SLUB_RED_INACTIVE
from slab_ground import slab_ground


@pytest.fixture
def sg():
    with slab_ground(slub_debug="FZPU") as machine:
        yield machine
        machine.slub.check()  # also after each refused operation
        machine.pa.check()


def two(sg, size=64):
    """Return two objects of a kmalloc cache; the first one's slab stays as it is."""
    return sg.slub.kmalloc(size, GFP_KERNEL), sg.slub.kmalloc(size, GFP_KERNEL)


# the boot word


@pytest.mark.parametrize(
    ("word", "flags", "names"),
    [
        ("", 0, ()),
        ("-", 0, ()),
        ("FZPU", DEBUG_FLAGS, ()),
        ("fz", SLAB_DEBUG_FREE | SLAB_RED_ZONE, ()),
        (",dentry", DEBUG_FLAGS, ("dentry",)),
        ("PT,kmalloc,skb", SLAB_POISON | SLAB_TRACE, ("kmalloc", "skb")),
    ],
)
def test_the_boot_word_says_what_and_for_whom(word, flags, names):
    assert setup_slub_debug(word) == (flags, names)


def test_an_unknown_letter_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="'Q' is unknown; there are F, Z, P, U and T"):
        setup_slub_debug("FQ")


def test_only_the_caches_that_are_named_are_debugged():
    with slab_ground(slub_debug="Z,kmalloc-6") as sg:
        assert [name for name, cache in sg.slub.caches.items() if cache.flags & SLAB_RED_ZONE] == ["kmalloc-64"]
        cache = sg.slub.kmem_cache_create("kmalloc-6-of-mine", 100)
        assert cache.flags & SLAB_RED_ZONE


def test_without_the_word_no_object_has_bytes():
    with slab_ground() as sg:
        address = sg.slub.kmalloc(64, GFP_KERNEL)
        with pytest.raises(ConfigError, match="objects of kmalloc-64 have no bytes"):
            sg.slub.write(address, 0, b"x")
        with pytest.raises(ConfigError, match="lies in no slab"):
            sg.slub.read(0, 0, 1)


def test_bytes_beyond_the_slab_are_not_to_be_had(sg):
    first, _ = two(sg)
    with pytest.raises(ConfigError, match="do not lie in the slab"):
        sg.slub.write(first, 4096, b"x")
    with pytest.raises(ConfigError, match="do not lie in the slab"):
        sg.slub.read(first, -5000, 1)


# bytes


def test_objects_are_poison_until_they_are_written(sg):
    first, _ = two(sg)
    assert sg.slub.read(first, 0, 64) == bytes([POISON_FREE]) * 63 + bytes([POISON_END])
    sg.slub.write(first, 3, b"mine")
    assert sg.slub.read(first, 2, 6) == b"kminek"


def test_the_red_zone_tells_free_from_used(sg):
    first, second = two(sg)
    assert sg.slub.read(first, 64, 8) == bytes([SLUB_RED_ACTIVE]) * 8
    sg.slub.kfree(first)
    assert sg.slub.read(first, 64, 8) == bytes([SLUB_RED_INACTIVE]) * 8
    sg.slub.kfree(second)


def test_kzalloc_gives_zeros_and_nothing_beyond_them(sg):
    address = sg.slub.kzalloc(60, GFP_KERNEL)
    assert sg.slub.read(address, 0, 64) == bytes(64)
    assert sg.slub.read(address, 64, 1) == bytes([SLUB_RED_ACTIVE])


def test_what_is_freed_is_poisoned_again(sg):
    first, second = two(sg)
    sg.slub.write(first, 0, b"secret")
    sg.slub.kfree(first)
    assert sg.slub.read(first, 0, 6) == b"kkkkkk"
    sg.slub.kfree(second)


# damage


def test_an_overrun_is_found_when_the_object_is_freed(sg):
    first, _ = two(sg)
    sg.slub.write(first, 60, b"12345")
    with pytest.raises(KernelBug, match=f"BUG kmalloc-64: Redzone overwritten: object {first:#x}") as caught:
        sg.slub.kfree(first)
    text = str(caught.value)
    assert f"INFO: {first + 64:#x}-{first + 64:#x}. First byte 0x35 instead of 0xcc" in text
    assert f"INFO: Slab {first & -4096:#x} used=2" in text
    assert f"INFO: Object {first:#x} @offset={first & 4095}" in text


def test_the_report_says_who_took_the_object_when_and_where(sg):
    first, _ = two(sg)
    sg.kernel.sched.msleep(40)
    sg.slub.write(first, 64, b"x")
    with pytest.raises(KernelBug) as caught:
        sg.slub.kfree(first)
    task, age = sg.task, sg.kernel.sched.jiffies
    assert f"INFO: Allocated in {task.comm} age={age} cpu=0 pid={task.pid}" in str(caught.value)
    assert "INFO: Freed" not in str(caught.value)


def test_the_report_is_in_the_log_with_what_was_repaired(sg):
    first, _ = two(sg)
    sg.slub.write(first, 64, b"x")
    with pytest.raises(KernelBug):
        sg.slub.kfree(first)
    log = "\n".join(sg.kernel.printk.lines())
    assert "BUG kmalloc-64: Redzone overwritten" in log
    assert f"FIX kmalloc-64: Restoring {first + 64:#x}-{first + 64:#x}=0xcc" in log


def test_after_an_overrun_the_object_is_still_allocated_and_can_be_freed(sg):
    first, second = two(sg)
    sg.slub.write(first, 64, b"x")
    with pytest.raises(KernelBug):
        sg.slub.kfree(first)
    assert sg.slub.objects_in_use(sg.cache(64)) == 2
    sg.slub.kfree(first)
    sg.slub.kfree(second)
    assert sg.slub.objects_in_use(sg.cache(64)) == 0


def test_a_write_after_free_is_found_at_the_next_allocation(sg):
    first, second = two(sg)
    sg.slub.kfree(first)
    sg.slub.write(first, 10, b"\x00")
    with pytest.raises(KernelBug, match="BUG kmalloc-64: Poison overwritten") as caught:
        sg.slub.kmalloc(64, GFP_KERNEL)
    assert "First byte 0x0 instead of 0x6b" in str(caught.value) and "INFO: Freed in" in str(caught.value)
    # all objects of the slab are marked used, so the next one comes from another
    assert sg.slub.virt_to_page(sg.slub.kmalloc(64, GFP_KERNEL)) is not sg.slub.virt_to_page(second)
    sg.slub.kfree(second)


def test_the_last_byte_of_a_free_object_has_its_own_poison(sg):
    first, _ = two(sg)
    sg.slub.kfree(first)
    sg.slub.write(first, 63, bytes([POISON_FREE]))
    with pytest.raises(KernelBug, match="First byte 0x6b instead of 0xa5"):
        sg.slub.validate_slab_cache(sg.cache(64))


def test_validate_finds_what_nobody_has_come_by(sg):
    first, _ = two(sg)
    sg.slub.write(first, 65, b"z")
    with pytest.raises(KernelBug, match="Redzone overwritten"):
        sg.slub.validate_slab_cache(sg.cache(64))
    assert sg.slub.validate_slab_cache(sg.cache(64)) == 1


def test_check_validates(sg):
    first, _ = two(sg)
    sg.slub.write(first, 64, b"z")
    with pytest.raises(KernelBug, match="Redzone overwritten"):
        sg.slub.check()


def test_padding_between_objects_is_checked():
    with slab_ground(slub_debug="FZP") as sg:
        cache = sg.slub.kmem_cache_create("aligned", 60, align=32)
        address = sg.slub.kmem_cache_alloc(cache, GFP_ATOMIC)
        sg.slub.write(address, cache.size - 1, b"!")
        with pytest.raises(KernelBug, match="BUG aligned: Object padding overwritten"):
            sg.slub.kmem_cache_free(cache, address)
        sg.slub.check()


def test_padding_behind_the_last_object_is_checked(sg):
    cache = sg.slub.kmem_cache_create("odd", 900)
    address = sg.slub.kmem_cache_alloc(cache, GFP_ATOMIC)
    page = sg.slub.virt_to_head_page(address)
    sg.slub.write(page.address, cache.objects * cache.size, b"!")
    with pytest.raises(KernelBug, match="BUG odd: Padding overwritten"):
        sg.slub.kmem_cache_free(cache, address)
    sg.slub.kmem_cache_free(cache, address)


def test_a_free_pointer_that_leads_out_of_the_slab_is_found(sg):
    first, _ = two(sg)
    layout = sg.cache(64).layout
    sg.slub.kfree(first)
    sg.slub.write(first, layout.offset, (0xFFFF810000000001).to_bytes(8, "little"))
    with pytest.raises(KernelBug, match="Freepointer corrupt"):
        sg.slub.validate_slab_cache(sg.cache(64))
    sg.slub.validate_slab_cache(sg.cache(64))


def test_damage_in_an_empty_slab_is_found_when_it_goes(sg):
    cache = sg.slub.kmem_cache_create("thing", 100)
    address = sg.slub.kmem_cache_alloc(cache, GFP_ATOMIC)
    sg.slub.kmem_cache_free(cache, address)
    sg.slub.write(address, 5, b"late")
    with pytest.raises(KernelBug, match="BUG thing: Poison overwritten"):
        sg.slub.kmem_cache_shrink(cache)
    assert not cache.slabs and not cache.images and not cache.tracks


# wrong frees


def test_a_double_free_names_object_cache_and_page(sg):
    first, second = two(sg)
    sg.slub.kfree(first)
    with pytest.raises(KernelBug, match=f"BUG kmalloc-64: Object already free: object {first:#x}") as caught:
        sg.slub.kfree(first)
    assert caught.value.state is sg.slub.virt_to_page(first)
    assert "INFO: Freed in" in str(caught.value)
    assert f"FIX kmalloc-64: Object at {first:#x} not freed" in "\n".join(sg.kernel.printk.lines())
    sg.slub.kfree(second)


def test_a_free_inside_of_an_object_is_found(sg):
    first, _ = two(sg)
    with pytest.raises(KernelBug, match=f"BUG kmalloc-64: Invalid object pointer {first + 8:#x}"):
        sg.slub.kfree(first + 8)


def test_a_free_to_the_wrong_cache_names_the_right_one_and_who_has_the_object(sg):
    first, _ = two(sg)
    with pytest.raises(KernelBug, match=f"BUG kmalloc-128: {first:#x} belongs to cache kmalloc-64") as caught:
        sg.slub.kmem_cache_free(sg.cache(128), first)
    assert "INFO: Allocated in" in str(caught.value)
    assert sg.slub.objects_in_use(sg.cache(64)) == 2


def test_a_free_of_a_page_that_is_no_slab_is_found(sg):
    page = sg.pa.alloc_page(GFP_ATOMIC)
    with pytest.raises(KernelBug, match="outside of slab"):
        sg.slub.kmem_cache_free(sg.cache(64), page.address)
    sg.pa.put_page(page)


@pytest.mark.parametrize("address", [0, 1, 0xDEAD0000])
def test_a_free_of_no_memory_is_found(sg, address):
    with pytest.raises(KernelBug, match=f"{address:#x} is no address of memory"):
        sg.slub.kmem_cache_free(sg.cache(64), address)


def test_an_object_in_use_is_not_handed_out_again(sg):
    first, _ = two(sg)
    page = sg.slub.virt_to_page(first)
    with pytest.raises(KernelBug, match="Object already allocated"):
        sg.slub.debug.alloc_debug_processing(sg.cache(64), page, first)


def test_a_wrong_count_is_found_and_adjusted(sg):
    first, second = two(sg)
    page = sg.slub.virt_to_page(first)
    page.mapcount += 1
    with pytest.raises(KernelBug, match=r"Wrong object count\. Counter is 3 but counted were 2"):
        sg.slub.kfree(first)
    sg.slub.kfree(first)
    sg.slub.kfree(second)


# what debugging costs


def test_without_store_user_nobody_is_noted():
    with slab_ground(slub_debug="FZP") as sg:
        first, _ = two(sg)
        assert not sg.cache(64).tracks
        sg.slub.write(first, 64, b"x")
        with pytest.raises(KernelBug) as caught:
            sg.slub.kfree(first)
        assert "INFO: Allocated" not in str(caught.value)


def test_debugged_slabs_never_take_the_fast_path(sg):
    first, _ = two(sg)
    c = sg.cache(64).cpu_slab[0]
    assert not c.freelist and c.fast_pfn < 0 and c.node == -1
    sg.slub.kfree(first)
    assert not c.freelist


def test_tracing_says_a_line_for_each():
    with slab_ground(slub_debug="T,kmalloc-64") as sg:
        address = sg.slub.kmalloc(64, GFP_KERNEL)
        sg.slub.kfree(address)
        lines = [line for line in sg.kernel.printk.lines() if "TRACE" in line]
        assert len(lines) == 2
        assert f"TRACE kmalloc-64 alloc {address:#x} inuse=0" in lines[0] and f"free {address:#x} inuse=1" in lines[1]


def test_krealloc_takes_the_bytes_along(sg):
    address = sg.slub.kmalloc(16, GFP_KERNEL)
    sg.slub.write(address, 0, b"sixteen bytes ok")
    moved = sg.slub.krealloc(address, 100, GFP_KERNEL)
    assert moved != address and sg.slub.read(moved, 0, 16) == b"sixteen bytes ok"


@pytest.mark.parametrize("flags", [SLAB_DEBUG_FREE, SLAB_RED_ZONE, SLAB_POISON, SLAB_STORE_USER, DEBUG_FLAGS])
@pytest.mark.parametrize("ctor", [None, lambda _address: None])
def test_no_combination_finds_damage_where_there_is_none(flags, ctor):
    with slab_ground() as sg:
        cache = sg.slub.kmem_cache_create("thing", 52, flags=flags, ctor=ctor)
        held = [sg.slub.kmem_cache_alloc(cache, GFP_ATOMIC) for _ in range(cache.objects + 3)]
        for address in held:
            sg.slub.write(address, 0, b"\xff" * 52)
        sg.slub.check()
        for address in held:
            sg.slub.kmem_cache_free(cache, address)
        sg.slub.check()
        assert sg.slub.kmem_cache_destroy(cache) == 0
        sg.pa.check()


@pytest.mark.parametrize("geometry", [Geometry2623(1, 4), Geometry61(4), Geometry618(4)])
@pytest.mark.parametrize("flags", ["F", "Z", "P", "U", "FZPU"])
@pytest.mark.parametrize("size", [3, 4, 8, 50, 512])
def test_any_geometry_has_room_for_what_is_checked(geometry, flags, size):
    with slab_ground(slub_debug=flags, geometry=geometry) as sg:
        cache = sg.slub.kmem_cache_create("thing", size)
        held = [sg.slub.kmem_cache_alloc(cache, GFP_ATOMIC) for _ in range(cache.objects + 2)]
        for address in held:
            sg.slub.write(address, 0, b"\xff" * size)
        sg.slub.check()
        for address in held:
            sg.slub.kmem_cache_free(cache, address)
        sg.slub.check()
        assert sg.slub.kmem_cache_destroy(cache) == 0


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([8, 60, 64, 200]), st.data())
def test_every_byte_that_is_not_ones_own_is_guarded(size, data):
    """Any write behind an object in use is found, up to the free pointer; so is any write into a free one."""
    with slab_ground(slub_debug="FZP") as sg:
        cache = sg.slub.kmem_cache_create("thing", size)
        keep, address = (sg.slub.kmem_cache_alloc(cache, GFP_ATOMIC) for _ in range(2))
        free = data.draw(st.booleans())
        if free:
            sg.slub.kmem_cache_free(cache, address)
        place = data.draw(st.integers(0 if free else size, cache.layout.inuse - 1))
        old = sg.slub.read(address, place, 1)[0]
        sg.slub.write(address, place, bytes([data.draw(st.integers(0, 255).filter(lambda value: value != old))]))
        with pytest.raises(KernelBug, match="overwritten"):
            sg.slub.check()
        sg.slub.check()
        sg.slub.kmem_cache_free(cache, keep)


# a machine


def test_a_machine_boots_with_the_word_and_refuses_a_wrong_one():
    with Machine(MachineConfig(slub_debug="FZPU", cpus=2, nodes=2)) as machine:
        assert all(cache.flags & SLAB_POISON for cache in machine.slub.caches.values())
        address = machine.slub.kmalloc(100, GFP_KERNEL)
        machine.slub.write(address, 126, b"over")
        with pytest.raises(KernelBug, match="BUG kmalloc-128: Redzone overwritten") as caught:
            machine.check()
        assert f"object {address:#x}" in str(caught.value)
        machine.check()
    with pytest.raises(ConfigError, match="slub_debug option 'X'"):
        MachineConfig(slub_debug="X")


def test_a_machine_merges_caches_only_if_it_is_told():
    with Machine(MachineConfig(slub_merge=True)) as machine:
        assert machine.slub.kmem_cache_create("mine", 64) is machine.slub.caches["kmalloc-64"]
        machine.check()
    with Machine() as machine:
        assert machine.slub.kmem_cache_create("mine", 64) is not machine.slub.caches["kmalloc-64"]
