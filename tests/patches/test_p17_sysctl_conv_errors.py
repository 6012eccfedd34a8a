"""Patch 17: what a conv callback says about a value reaches the one who wrote it."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.fixes import FixSet
from kemu.kernel.core import Kernel
from kemu.kernel.errno import EINVAL, ENOMEM
from kemu.kernel.sysctl import minmax_conv
from kemu.kernel.world import World
from kemu.mm.fault_inject import FailPageAlloc
from kemu.patches import PatchSet
from net_ground import one_host

BASE, V14, MENDED = ("all,-17", "all"), ("all", "none"), ("all", "all")
#: Base before the patch, v14 as posted, v14 with its defect mended.
THREE = pytest.mark.parametrize("variant", [BASE, V14, MENDED], ids=["base", "v14", "mended"])


class Vector:
    """A vector of three integers whose setter refuses what a test tells it to."""

    def __init__(self, variant, count=3):
        self.world = World()
        kernel = Kernel(world=self.world, patched=PatchSet.parse(variant[0]), fixed=FixSet.parse(variant[1]))
        self.sysctl = kernel.sysctl
        self.values = [10, 20, 30][:count]
        self.refusals = {}
        self.handled = 0
        self.sysctl.register(
            "v", lambda: self.values, self.set, count=3, handler=self.handle
        ) if count == 3 else self.sysctl.register(
            "v", lambda: self.values[0], lambda value: self.set(value, 0), handler=self.handle
        )

    def set(self, value, index):
        if index in self.refusals:
            return self.refusals[index]
        self.values[index] = value
        return 0

    def handle(self):
        self.handled += 1

    def write(self, text):
        return self.sysctl.write("v", text)


@pytest.fixture
def make():
    vectors = []

    def make(variant, count=3):
        vectors.append(Vector(variant, count))
        return vectors[-1]

    yield make
    for vector in vectors:
        vector.world.shutdown()


@pytest.mark.parametrize(("variant", "result"), [(BASE, -EINVAL), (V14, -ENOMEM), (MENDED, -ENOMEM)])
@pytest.mark.parametrize("count", [1, 3])
def test_a_refusal_of_the_first_value(make, variant, result, count):
    vector = make(variant, count)
    vector.refusals[0] = -ENOMEM
    assert vector.write("1") == result
    assert vector.values[0] == 10
    assert vector.handled == 0


@pytest.mark.parametrize(("variant", "result"), [(BASE, 0), (V14, -ENOMEM), (MENDED, -ENOMEM)])
def test_a_refusal_of_a_later_value_keeps_the_earlier_ones(make, variant, result):
    vector = make(variant)
    vector.refusals[1] = -ENOMEM
    assert vector.write("1 2 3") == result
    assert vector.values == [1, 20, 30]


@pytest.mark.parametrize(("variant", "result"), [(BASE, -EINVAL), (V14, 0), (MENDED, -EINVAL)])
@pytest.mark.parametrize("text", ["abc", "", " \n", "-"])
def test_text_that_holds_no_number(make, variant, result, text):
    vector = make(variant)
    assert vector.write(text) == result
    assert vector.values == [10, 20, 30]


@pytest.mark.parametrize(("variant", "result"), [(BASE, -EINVAL), (V14, 1), (MENDED, 1)])
def test_a_positive_conv_result_looks_like_a_byte_count(make, variant, result):
    vector = make(variant, 1)
    vector.refusals[0] = 1
    assert vector.write("1") == result


@THREE
def test_good_values_are_taken_whatever_the_variant(make, variant):
    vector = make(variant)
    assert vector.write("1 -2 3") == 0
    assert vector.values == [1, -2, 3]
    assert vector.handled == 1


@THREE
def test_fewer_values_than_there_are_is_no_error(make, variant):
    vector = make(variant)
    assert vector.write("1") == 0
    assert vector.values == [1, 20, 30]


@THREE
def test_reading_is_unaffected(make, variant):
    vector = make(variant)
    vector.refusals = {0: -ENOMEM, 1: -ENOMEM, 2: -ENOMEM}
    assert vector.sysctl.read("v") == "10\t20\t30\n"


@pytest.mark.parametrize(("variant", "result"), [(BASE, 4), (V14, -ENOMEM), (MENDED, -ENOMEM)])
def test_before_the_patch_a_refusal_of_a_later_value_looked_like_a_short_write(make, variant, result):
    vector = make(variant)
    vector.refusals[1] = -ENOMEM
    assert vector.sysctl.sys_write("v", "1 2 3") == result


@pytest.mark.parametrize(("variant", "result"), [(BASE, -EINVAL), (V14, 0), (MENDED, -EINVAL)])
def test_v14_takes_nothing_of_what_is_no_number_and_calls_it_success(make, variant, result):
    vector = make(variant)
    assert vector.sysctl.sys_write("v", "abc") == result


@THREE
@pytest.mark.parametrize(
    ("text", "taken", "values"),
    [
        ("1 2 3", 5, [1, 2, 3]),
        ("  1\t2\n", 6, [1, 2, 30]),
        ("1 x 3", 2, [1, 20, 30]),
        ("1 2 3  4 5", 7, [1, 2, 3]),
        ("0x10 010 -1\n", 12, [16, 8, -1]),
        (b"1\0 2", 1, [1, 20, 30]),
        ("1" * 25, 25, [-1246989881, 11111, 30]),
    ],
)
def test_a_write_goes_as_far_as_it_is_understood(make, variant, text, taken, values):
    """25 ones are a value of 20 digits, modulo 2**32, and one of five."""
    vector = make(variant)
    assert vector.sysctl.sys_write("v", text) == taken
    assert vector.values == values


@THREE
@pytest.mark.parametrize("text", ["0", "101", "-1", "4294967396"])
def test_a_conv_that_knows_its_limits_says_so_itself(make, variant, text):
    """minmax_conv() refuses with -EINVAL in each variant; 4294967396 is 100 once it is an int."""
    vector = make(variant, 1)
    box = [50]
    vector.sysctl.register("m", lambda: box[0], lambda value: box.__setitem__(0, value), conv=minmax_conv(1, 100))
    taken = text == "4294967396"
    assert vector.sysctl.write("m", text) == (0 if taken else -EINVAL)
    assert box == [100 if taken else 50]


@settings(max_examples=40, deadline=None)
@given(
    words=st.lists(st.one_of(st.integers(-999, 999).map(str), st.sampled_from(["x", "1x", "-"])), max_size=4),
    refused=st.dictionaries(st.integers(0, 2), st.sampled_from([-ENOMEM, -EINVAL])),
    variant=st.sampled_from([BASE, V14, MENDED]),
)
def test_what_is_stored_is_the_same_in_every_variant_and_the_result_follows_the_table(words, refused, variant):
    vector = Vector(variant)
    vector.refusals = refused
    stored, error = [10, 20, 30], 0
    done = 0
    for index, word in enumerate(words[:3]):
        if not word.lstrip("-").isdigit():
            break
        error = refused.get(index, 0)
        if error:
            break
        stored[index] = int(word)
        done += 1
    result = vector.write(" ".join(words))
    vector.world.shutdown()
    assert vector.values == stored
    if variant == BASE:
        assert result == (0 if done else -EINVAL)
    elif variant == V14:
        assert result == error
    else:
        assert result == (error or (0 if done else -EINVAL))


# row 17: the reserve of patch 18 cannot grow


MAX_SIZE, HIGH_THRESH = "net.ipv4.route.max_size", "net.ipv4.ipfrag_high_thresh"


@contextmanager
def without_a_page(patches):
    """Boot a host that swaps over the network; then no page can be had, as fail_page_alloc says. Freeing works."""
    with one_host(patches=patches) as host:
        host.swap_over_network()
        host.page_alloc.fail_page_alloc = FailPageAlloc(host.kernel, ignore_gfp_wait=False, min_order=0, probability=100, times=-1)
        yield host
        host.page_alloc.fail_page_alloc = None


@pytest.mark.parametrize(("patches", "result"), [("all", -ENOMEM), ("all,-17", -EINVAL)])
@pytest.mark.parametrize("name", [MAX_SIZE, HIGH_THRESH])
def test_a_reserve_that_cannot_grow_says_why(name, patches, result):
    """D.2 row 17: the probe for a page (patch 08) fails, and the errno is conv's, or hides it."""
    with without_a_page(patches) as host:
        sysctl = host.kernel.sysctl
        before = sysctl.read(name), host.reserves.root.pages, host.page_alloc.var_free_kbytes
        assert sysctl.sys_write(name, "999999\n") == result
        assert host.page_alloc.fail_page_alloc.failed > 0
        assert before == (sysctl.read(name), host.reserves.root.pages, host.page_alloc.var_free_kbytes)
        host.reserves.check()


@pytest.mark.parametrize(("patches", "result"), [("all", -ENOMEM), ("all,-17", 14)])
def test_a_vector_that_took_half_of_what_it_was_given(patches, result):
    """Row 17, false success: the first shrinks and is stored, the second cannot grow; before, all 14 bytes were "written"."""
    with without_a_page(patches) as host:
        write = host.kernel.sysctl.write
        names = [MAX_SIZE, HIGH_THRESH]
        host.kernel.sysctl.register("both", lambda: [0, 0], lambda value, index: write(names[index], str(value)), count=2)
        assert host.kernel.sysctl.sys_write("both", "001000 999999\n") == result
        assert host.kernel.sysctl.read(MAX_SIZE) == "512\n"
        assert host.kernel.sysctl.read(HIGH_THRESH) == "262144\n"


@pytest.mark.parametrize("name", [MAX_SIZE, HIGH_THRESH])
def test_to_reserve_less_needs_no_page(name):
    with without_a_page("all") as host:
        before = host.page_alloc.var_free_kbytes
        assert host.kernel.sysctl.write(name, "1000") == 0
        assert host.page_alloc.var_free_kbytes < before
        assert host.page_alloc.fail_page_alloc.failed == 0


@pytest.mark.parametrize("patches", ["all", "all,-17"])
def test_once_pages_can_be_had_the_same_write_is_taken(patches):
    with without_a_page(patches) as host:
        assert host.kernel.sysctl.write(MAX_SIZE, "9000") < 0
        host.page_alloc.fail_page_alloc = None
        assert host.kernel.sysctl.write(MAX_SIZE, "9000") == 0
        assert host.inet.route.max_size == 9000
