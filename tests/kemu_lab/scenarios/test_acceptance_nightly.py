"""The acceptance test in all its forms; a run at a quarter of its size takes most of a minute, so only the profile nightly asks."""

import functools
import itertools
import json
import subprocess
import sys

import pytest

from kemu.fixes import FixSet
from kemu_lab.acceptance_options import AcceptanceOptions
from kemu_lab.run import run_scenario
from kemu_lab.run_config import RunConfig
from profiles import is_nightly

pytestmark = pytest.mark.skipif(not is_nightly(), reason="takes minutes; HYPOTHESIS_PROFILE=nightly runs it")

SECOND = 10**9
MINUTE = 60 * SECOND


@functools.cache
def quarter(seed=1, fixes="all", swap_ops="writepage", **options):
    options, fixes = AcceptanceOptions(**options), FixSet.parse(fixes)
    config = RunConfig(scenario="acceptance", mem=32 << 20, seed=seed, fixes=fixes, swap_ops=swap_ops, acceptance=options)
    return run_scenario(config)


def survived(run, *, as_posted=False):
    assert run.outcome == "survived", run.reason
    assert run.also == []
    assert run.pages.lost == 0
    assert (run.reserve.left_bytes, run.reserve.leaked_pages) == (0, 0)
    assert bool(run.reserve.trespassers) == as_posted  # b03a, b03b: normal packets in the reserve
    assert (run.nfs.cred_references > run.pages.swapped_out // 2) == as_posted  # b30a: a reference stays behind each page
    assert run.reclaim.oom_kills == 0
    assert run.acceptance.file_pages_compared == 2 * run.acceptance.process_pages


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("proto", ["tcp", "udp"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_machine_goes_on(seed, proto, uid):
    survived(quarter(seed, uid=uid, proto=proto))


@pytest.mark.parametrize("traffic", ["udp-flood", "fragments", "none"])
def test_it_goes_on_whatever_the_others_send(traffic):
    survived(quarter(traffic=traffic))


def test_it_goes_on_with_the_methods_that_the_review_asked_for():
    survived(quarter(swap_ops="swapout", uid=1000))


@pytest.mark.parametrize(("minutes", "asks_at"), [(14, 981), (15, 981), (20, 1281)])
def test_a_client_that_is_refused_finds_the_server_when_it_asks_next(minutes, asks_at):
    run = quarter(outage_ns=minutes * MINUTE)
    told = run.acceptance

    survived(run)
    assert run.nfs.reconnects == 1
    assert (told.first_page_ns - told.away_ns) / SECOND == pytest.approx(asks_at, abs=1.5)
    assert [(at - told.away_ns) / SECOND for at in told.connects_ns[-2:]] == pytest.approx([asks_at - 300, asks_at], abs=1.5)


@pytest.mark.parametrize("minutes", [12, 13])
def test_after_a_silence_the_old_connection_goes_on(minutes):
    """TCP sends again 811.7 s after the last segment; so the way back is as long as it takes until then."""
    run = quarter(outage_ns=minutes * MINUTE, outage_how="silent", traffic="none")
    told = run.acceptance

    survived(run)
    assert run.nfs.reconnects == 0
    assert told.connects_ns == []
    assert (told.first_page_ns - told.away_ns) / SECOND == pytest.approx(811.7, abs=10)


@pytest.mark.parametrize("minutes", [14, 15])
def test_after_a_longer_silence_tcp_gives_up_and_finds_the_server_at_once(minutes):
    """The last segment that could have been answered left 120 s before TCP gives up, when the server was still away."""
    run = quarter(outage_ns=minutes * MINUTE, outage_how="silent", traffic="none")
    told = run.acceptance

    survived(run)
    assert run.nfs.reconnects == 1
    assert [(at - told.away_ns) / SECOND for at in told.connects_ns] == pytest.approx([931.7], abs=10)
    assert told.first_page_ns - told.connects_ns[0] < SECOND


def test_a_client_that_hears_nothing_asks_again_and_again():
    """Each try waits 3 s for an answer to its ARP requests, and then twice as long as the one before: 6, 12, 24 ... s."""
    run = quarter(outage_ns=20 * MINUTE, outage_how="silent", traffic="none")
    told = run.acceptance
    tries = [at / SECOND for at in told.connects_ns]

    survived(run)
    assert run.nfs.reconnects == 1
    assert tries[0] - told.away_ns / SECOND == pytest.approx(931.7, abs=10)
    assert [b - a for a, b in itertools.pairwise(tries)] == pytest.approx([9, 15, 27, 51, 99, 195], abs=0.1)
    assert told.first_page_ns - told.connects_ns[-1] < SECOND


# ---- v14 as it was posted: what kills it, and that nothing else does


def test_as_posted_root_outlives_it_over_udp():
    survived(quarter(fixes="none", proto="udp"), as_posted=True)


@pytest.mark.parametrize("how", ["stop", "silent"])
def test_with_b31c_mended_root_outlives_it_over_tcp(how):
    """ARP entry and route have expired; the connect worker is entitled to new ones, and rpciod finds them when it sends."""
    survived(quarter(fixes="b31c", outage_how=how), as_posted=True)


def test_with_b30b_mended_too_another_user_outlives_it():
    survived(quarter(fixes="b30b,b31c", uid=1000), as_posted=True)


# ---- other endings


def test_without_an_outage_there_is_one_phase():
    run = quarter(outage_ns=0)

    survived(run)
    assert [phase.name for phase in run.phases] == ["steady"]
    assert run.acceptance.away_ns is None
    assert run.acceptance.messages == []


def test_a_server_that_never_returns_is_waited_for():
    run = quarter(outage_ns=None)

    assert run.outcome == "waiting"
    assert run.phases[1].virtual_ns == 3600 * SECOND
    assert run.reclaim.oom_kills == 0


def test_the_full_size_needs_less_than_a_gigabyte():
    measure = "import resource; peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss"
    script = f"import sys; from kemu_lab.cli import main; status = main(sys.argv[1:]); {measure}; print(peak, file=sys.stderr)"
    words = [sys.executable, "-c", f"{script}; sys.exit(status)", "run", "acceptance", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    run = json.loads(done.stdout)

    assert done.returncode == 0, run["reason"]
    assert run["pages"]["lost"] == 0
    assert run["acceptance"]["process_pages"] == 16384
    assert int(done.stderr) < 1 << 20  # KiB
