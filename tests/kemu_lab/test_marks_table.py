"""Tables of watermarks."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import ConfigError
from kemu_lab.marks_table import compare_marks, read_marks


def zone(name="DMA32", managed=10000, **numbers):
    """Return a zone as JSON has it."""
    return {"zone": name, "managed": managed, **numbers}


def differences(*points, policy=None):
    """Return the fields that differ."""
    return [each.field for each in compare_marks(read_marks(json.dumps(list(points)), "FILE", policy=policy))]


def test_boost_is_taken_off():
    marks = {"min": 256 + 5, "low": 320 + 5, "high": 384 + 5}
    assert differences({"min_free_kbytes": 1024, "zones": [zone(boost=5, **marks)]}) == []
    assert differences({"min_free_kbytes": 1024, "zones": [zone(**marks)]}) == ["min low high"]


def test_highmem_has_marks_of_its_own():
    low = zone("Normal", 10000, min=256, low=320, high=384)
    high = zone("HighMem", 50000, min=48, low=48 + 320, high=48 + 640)
    assert differences({"min_free_kbytes": 1024, "scale": 10, "zones": [low, high]}) == []


@pytest.mark.parametrize(("policy", "highmem", "marks"), [("6.1", 0, 0), ("6.1", 4096, 32), ("6.18", 0, 32)])
def test_movable_is_highmem_where_its_pages_are_or_since_6_18(policy, highmem, marks):
    zones = [zone("Normal", 10000), zone("HighMem", highmem), zone("Movable", 0, min=marks, low=marks, high=marks)]
    assert differences({"min_free_kbytes": 1024, "zones": zones}, policy=policy) == []


def test_protection_is_of_one_node():
    zones = [zone(node=0, protection=[0, 10]), zone("Normal", 320, node=0, protection=[0, 0]), zone(node=1, protection=[0])]
    assert differences({"lowmem_reserve_ratio": [32, 32], "zones": zones}) == []
    assert differences({"lowmem_reserve_ratio": [16, 32], "zones": zones}) == ["protection"]


def test_a_zone_without_managed_counts_what_is_present():
    point = {"min_free_kbytes": 1024, "zones": [{"zone": "Normal", "present": 10000, "min": 256, "low": 320, "high": 384}]}
    assert differences(point, policy="2.6.23") == []


def test_no_lowmem_is_no_crash():
    assert differences({"min_free_kbytes": 1024, "zones": [zone("Normal", 0, min=0, low=0, high=0)]}) == []


def test_the_policy_is_the_releases():
    assert read_marks('{"release": "6.18.1", "min_free_kbytes": 1, "zones": []}', "FILE").policy == "6.18"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"\xff", "no JSON"),
        ("[]", "is empty"),
        ("[1]", "point 1: this is no point"),
        ("{}", "no list 'zones'"),
        ('[{"zones": []}]', "neither min_free_kbytes nor"),
        ('[{"zones": [3], "min_free_kbytes": 3}]', "no object with a name"),
        ('[{"zones": [{"zone": "DMA"}], "min_free_kbytes": 3}]', "zone 'DMA' has no managed"),
        ('[{"zones": [], "min_free_kbytes": -3}]', "min_free_kbytes is no whole number"),
        ('[{"zones": [], "min_free_kbytes": 1e400}]', "min_free_kbytes is no whole number"),
        ('[{"zones": [], "lowmem_reserve_ratio": 3}]', "no list of numbers"),
        ('[{"zones": [], "lowmem_reserve_ratio": ["a"]}]', "no whole number"),
        ('[{"zones": [], "sysctl": 1}]', "sysctl is no object"),
        ('{"release": "1.0", "zones": []}', "formulas are not known"),
    ],
)
def test_what_is_no_table_is_refused_in_a_sentence(text, why):
    with pytest.raises(ConfigError, match=why):
        read_marks(text, "FILE")


KEYS = ["zone", "managed", "present", "min", "low", "high", "boost", "node", "protection", "zones", "min_free_kbytes", "scale"]
values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 1 << 41) | st.floats() | st.sampled_from(["DMA", "HighMem", "Movable", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*KEYS, "lowmem_reserve_ratio", "sysctl"]), inner),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(values)
def test_no_json_raises_anything_but_the_documented_error(data):
    try:
        compare_marks(read_marks(json.dumps(data), "FILE"))
    except ConfigError:
        pass


@settings(max_examples=100, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "zones": st.lists(
                st.fixed_dictionaries({"zone": st.just("DMA"), "managed": values}, optional=dict.fromkeys(KEYS[3:9], values))
            )
        },
        optional={"min_free_kbytes": values, "scale": values, "lowmem_reserve_ratio": values},
    )
)
def test_no_near_miss_raises_anything_but_the_documented_error(point):
    try:
        compare_marks(read_marks(json.dumps([point]), "FILE"))
    except ConfigError:
        pass
