"""The full series survives on other seeds too."""

import pytest

from profiles import is_nightly


@pytest.mark.xdist_group("other-seeds")
@pytest.mark.parametrize("seed", [2, 3, 4, 5] if is_nightly() else [2, 3])
def test_the_full_series_survives(main_run, seed):
    result = main_run(seed=seed)

    assert (result.outcome, result.also) == ("survived", [])
    assert result.pages.swapped_out >= 4000
    assert result.pages.lost == result.reserve.left_bytes == result.reserve.leaked_pages == result.reserve.trespassers == 0
    assert result.pages.verified > 16384


@pytest.mark.xdist_group("other-seeds")
def test_two_seeds_have_two_histories(main_run):
    assert len({main_run("all,-19", seed=seed).history for seed in (2, 3)}) == 2
