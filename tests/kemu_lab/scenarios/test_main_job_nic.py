"""The full series survives with a NIC that receives into pages, and without patch 14 it does not."""

import pytest


@pytest.mark.xdist_group("main-run-nic")
def test_the_full_series_survives(main_run):
    result = main_run(nic="split")

    assert (result.outcome, result.also) == ("survived", [])
    assert result.pages.swapped_out >= 4000
    assert result.pages.lost == result.reserve.left_bytes == result.reserve.leaked_pages == result.reserve.trespassers == 0


@pytest.mark.xdist_group("main-run-nic")
def test_a_packet_split_card_needs_patch_14(main_run):
    result = main_run("all,-14", nic="split")

    assert result.outcome == "deadlock"
    assert "ring 0 of 256" in result.reason
