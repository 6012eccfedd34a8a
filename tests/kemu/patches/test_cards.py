"""The cards: found, not listed; each tells its story."""

import re

import pytest

from kemu.patches import PATCHES
from kemu.patches.discover import discover, story


def test_cards_are_discovered_in_order():
    assert discover() == PATCHES


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: f"{patch.number:02d}")
def test_a_card_tells_problem_change_and_what_to_watch(patch):
    text = story(patch)

    assert len(text.split()) > 120
    assert re.search(r"Problem.*Change.*What to watch", text, re.DOTALL)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: f"{patch.number:02d}")
def test_a_card_says_what_became_of_it(patch):
    assert patch.fate


def test_message_ids_have_the_form_of_the_archive():
    for patch in PATCHES:
        assert patch.message_id is None or re.fullmatch(r"200710301609\d\d\.\d{9}@chello\.nl", patch.message_id)
