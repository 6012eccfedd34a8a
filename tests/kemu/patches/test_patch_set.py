"""PatchSet: the grammar, the needs, and that it is frozen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemu.errors import ConfigError
from kemu.patches import BY_NAME, PATCHES, PatchSet

BUILT = [patch.number for patch in PATCHES if patch.built]


def test_the_series_has_33_patches():
    assert [patch.number for patch in PATCHES] == list(range(1, 34))


@pytest.mark.parametrize(("first", "last", "part"), [(1, 12, 1), (13, 15, 2), (16, 23, 3), (24, 26, 4), (27, 33, 5)])
def test_parts_are_those_of_the_cover_letter(first, last, part):
    assert {patch.part for patch in PATCHES if first <= patch.number <= last} == {part}


def test_needs_and_wants_name_cards_and_needs_point_back():
    for patch in PATCHES:
        assert all(name in BY_NAME for name in (*patch.needs, *patch.wants))
        assert all(BY_NAME[name].number < patch.number for name in patch.needs)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("all", BUILT),
        ("none", []),
        ("series:8", list(range(1, 9))),
        ("3", [3]),
        ("1-3,19", [1, 2, 3, 19]),
        ("slub_reserve", [3]),
        ("all,-20", [n for n in BUILT if n != 20]),
        ("-20", [n for n in BUILT if n != 20]),
        ("all,-sk_filter_emergency", [n for n in BUILT if n != 20]),
        ("+3,+5", [3, 5]),
        ("1-8,-2-4", [1, 5, 6, 7, 8]),
        (" all , -20 ", [n for n in BUILT if n != 20]),
    ],
)
def test_the_grammar(text, numbers):
    assert list(PatchSet.parse(text).numbers) == numbers


def test_leaving_one_out_drops_what_truly_needs_it():
    patches = PatchSet.parse("all,-25")

    assert patches.dropped == (30, 31)
    assert 30 not in patches
    assert not patches.nfs_enable_swap


def test_a_list_that_breaks_a_need_is_refused():
    with pytest.raises(ConfigError, match="patch 31 needs patch 25"):
        PatchSet.parse("1-24,31")


def test_what_is_not_built_is_refused_by_name_and_skipped_in_ranges():
    unbuilt = [patch for patch in PATCHES if not patch.built]
    for patch in unbuilt:
        for text in (str(patch.number), patch.name, f"all,-{patch.number}"):
            with pytest.raises(ConfigError, match="not built yet"):
                PatchSet.parse(text)
        assert patch.number not in PatchSet.all()


@pytest.mark.parametrize("text", ["", " ", ",", "all,", "99", "0", "nosuch", "5-3", "series:", "series:x", "1-", "--3", "²", "1.5"])
def test_what_cannot_be_read_is_one_sentence(text):
    with pytest.raises(ConfigError) as error:
        PatchSet.parse(text)
    assert "\n" not in str(error.value)


@given(st.text(max_size=30))
def test_no_text_raises_anything_else(text):
    try:
        PatchSet.parse(text)
    except ConfigError:
        pass


@given(st.sets(st.sampled_from(BUILT)))
def test_its_text_parses_to_itself(numbers):
    if numbers & {30, 31}:
        numbers.add(25)
    patches = PatchSet(numbers)

    assert PatchSet.parse(str(patches)) == patches
    assert all(getattr(patches, patch.name) == (patch.number in numbers) for patch in PATCHES)


def test_it_is_frozen():
    with pytest.raises(AttributeError, match="frozen"):
        PatchSet.all().slub_reserve = False


def test_equal_sets_hash_alike():
    assert len({PatchSet.parse("1-3"), PatchSet.parse("3,2,1")}) == 1
