"""Slab geometry against tables that real kernels showed in /sys/kernel/slab."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import ConfigError
from kemu.mm.geometry import BootWords
from kemu_lab.slab_table import compare, read_slab_table

TRUTH = Path(__file__).parents[1] / "truth"
TABLES = sorted(TRUTH.glob("slab*.json"))


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_row_of_the_table_comes_out_equal(path):
    table = read_slab_table(path.read_text(encoding="utf-8"), path.name)
    assert [str(difference) for difference in compare(table)] == []


def test_the_tables_cover_both_newer_policies_and_both_word_sizes():
    tables = [read_slab_table(path.read_text(encoding="utf-8"), path.name) for path in TABLES]
    assert {table.policy for table in tables} == {"6.1", "6.18"}
    assert {table.word for table in tables} == {4, 8}
    assert sum(len(table.caches) for table in tables) > 1000


@pytest.mark.parametrize("field", ["order", "objs_per_slab", "min_partial", "cpu_partial", "slab_size"])
def test_a_wrong_row_is_named(field):
    data = json.loads((TRUTH / "slab-m128-c2.json").read_text(encoding="utf-8"))
    data["slab"]["dentry"][field] += 16
    found = compare(read_slab_table(json.dumps(data), "table"))
    assert {difference.cache for difference in found} == {"dentry"}
    assert any(field in str(difference) for difference in found)


def table(**row):
    """Return a table of one cache, in words."""
    row = {"object_size": 64, "slab_size": 64, "align": 8, "order": 0, "objs_per_slab": 64, "min_partial": 5, **row}
    return {"release": "6.1.0", "arch": "x86_64", "present_cpus": 1, "boot_args": "", "slab": {"thing": row}}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"policy": "6.18"}, []),
        ({"policy": "2.6.23"}, ["min_partial"]),
        ({"cpus": 64, "boot": None}, []),
        ({"boot": BootWords(slub_min_order=1)}, ["order", "objs_per_slab"]),
    ],
)
def test_what_is_given_goes_before_the_table(change, expected):
    found = compare(read_slab_table(json.dumps(table()), "table", **change))
    assert [difference.field for difference in found] == expected


@pytest.mark.parametrize(
    ("boot_args", "partial"),
    [
        ("", 120),
        ("slub_debug=F", 0),
        ("quiet slab_debug=f,thing", 0),
        ("slub_debug=F,other", 120),
        ("slub_debug=F,thi*;P,other", 0),
    ],
)
def test_sanity_checks_come_from_the_boot_words(boot_args, partial):
    data = table(cpu_partial=partial, red_zone=0, poison=0, store_user=0)
    data["boot_args"] = boot_args
    assert compare(read_slab_table(json.dumps(data), "table")) == []


def test_a_cache_that_took_no_debug_flags_has_partial_slabs():
    data = table(cpu_partial=120, red_zone=0, poison=0, store_user=0)
    data["boot_args"] = "slub_debug=FZP"
    assert compare(read_slab_table(json.dumps(data), "table")) == []


def test_an_impossible_size_is_a_difference():
    found = compare(read_slab_table(json.dumps(table(slab_size=1 << 30)), "table"))
    assert str(found[0]) == f"thing: slab_size is {1 << 30} in the table, and too large for any slab by the formula"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "no table of slab caches"),
        ('{"slab": []}', "no table of slab caches"),
        ('{"slab": {"a": 3}, "present_cpus": 1, "release": "6.1"}', "cache 'a' is no object"),
        ('{"slab": {"a": {}}, "present_cpus": 1, "release": "6.1"}', "has no slab_size"),
        ('{"slab": {"a": {"slab_size": -1}}, "present_cpus": 1, "release": "6.1"}', "slab_size is no whole number"),
        ('{"slab": {"a": {"slab_size": 1.5}}, "present_cpus": 1, "release": "6.1"}', "slab_size is no whole number"),
        ('{"slab": {"a": {"slab_size": ' + "9" * 5000 + "}}}", "no JSON"),
        ('{"slab": {}, "release": "6.1"}', "present_cpus"),
        ('{"slab": {}, "present_cpus": 0, "release": "6.1"}', "present_cpus 0 cannot be"),
        ('{"slab": {}, "present_cpus": 1}', "release is missing"),
        ('{"slab": {}, "present_cpus": 1, "release": 6.1}', "release is missing or no text"),
        ('{"slab": {}, "present_cpus": 1, "release": "3.2", "boot_args": 1}', "boot_args"),
    ],
)
def test_what_is_no_table_is_refused_in_a_sentence(text, why):
    with pytest.raises(ConfigError, match=why):
        read_slab_table(text, "FILE")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["slab_size", "order", "align", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from(["slab", "release", "arch", "present_cpus", "boot_args"]), json_values))
def test_no_json_raises_anything_but_the_documented_error(data):
    data = {"release": "6.1", "present_cpus": 2} | data
    try:
        compare(read_slab_table(json.dumps(data), "FILE"))
    except ConfigError:
        pass


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_but_the_documented_error(data):
    with pytest.raises(ConfigError):
        read_slab_table(data, "FILE")


@pytest.mark.parametrize(("letters", "partial"), [("FZPUO", 0), ("ZPUO", 6), ("FZPU", 6)])
def test_the_letter_o_takes_metadata_and_leaves_checks(letters, partial):
    """kmalloc-4k would need two pages: with O it keeps one, and of its debugging F alone."""
    row = {"object_size": 4096, "slab_size": 4096, "align": 4096, "cpu_partial": partial, "red_zone": 0, "poison": 0}
    table = {"release": "6.1.0", "present_cpus": 2, "boot_args": f"slub_debug={letters}", "slab": {"kmalloc-4k": row}}
    assert compare(read_slab_table(json.dumps(table), "table")) == []
