"""FixSet and its cards."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemu.errors import ConfigError
from kemu.fixes import FIXES, FixSet

BUILT = [fix.id for fix in FIXES if fix.built]


def test_every_row_of_the_list_of_defects_has_a_card():
    wanted = "b01 b03a b03b b08 b09 b11 b13 b16 b17 b18a b18b b19a b19b b21 b23 b30a b30b b30c b30d b30e b31a b31b b31c b33"
    assert [fix.id for fix in FIXES] == wanted.split()


def test_a_card_names_its_patch_and_what_it_does_to_a_run():
    for fix in FIXES:
        assert int(fix.id[1:3]) == fix.patch
        assert fix.expect
        assert fix.mended_in


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("all", BUILT),
        ("none", []),
        ("b16,b21", ["b16", "b21"]),
        ("all,-b16", [i for i in BUILT if i != "b16"]),
        ("-B16", [i for i in BUILT if i != "b16"]),
    ],
)
def test_the_grammar(text, ids):
    assert list(FixSet.parse(text).ids) == ids


@given(st.text(max_size=20))
def test_no_text_raises_anything_else(text):
    try:
        FixSet.parse(text)
    except ConfigError:
        pass


@given(st.sets(st.sampled_from(BUILT)))
def test_its_text_parses_to_itself(ids):
    fixes = FixSet(ids)

    assert FixSet.parse(str(fixes)) == fixes
    assert all(getattr(fixes, fix.id) == (fix.id in ids) for fix in FIXES)


def test_it_is_frozen():
    with pytest.raises(AttributeError, match="frozen"):
        FixSet.all().b16 = False
