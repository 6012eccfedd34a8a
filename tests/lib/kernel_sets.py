"""Test helper: Hypothesis strategies for what a machine is booted with: any PatchSet with its needs met, any FixSet."""

from __future__ import annotations

from hypothesis import strategies as st

from kemu.fixes import FIXES, FixSet
from kemu.patches import PATCHES, PatchSet

_NUMBERS = [patch.number for patch in PATCHES if patch.built]
_FIXES = [fix.id for fix in FIXES if fix.built]


def _without(numbers: list[int]) -> PatchSet:
    """Leave patches out, and what needs them."""
    return PatchSet.parse(",".join(["all", *(f"-{number}" for number in numbers)]))


def patch_sets() -> st.SearchStrategy[PatchSet]:
    """Give the whole series, none of it, its beginnings, and the series with any few left out."""
    return st.one_of(
        st.just(PatchSet.all()),
        st.lists(st.sampled_from(_NUMBERS), max_size=5, unique=True).map(_without),
        st.sampled_from(_NUMBERS).map(lambda last: PatchSet.parse(f"series:{last}")),
        st.just(PatchSet.none()),
    )


def fix_sets() -> st.SearchStrategy[FixSet]:
    """Give any defects mended: all, none, or some."""
    return st.one_of(st.just(FixSet.all()), st.sets(st.sampled_from(_FIXES)).map(FixSet), st.just(FixSet.none()))
