"""The acceptance test at a quarter of its size, once, and its endings on something smaller.

All the rest is in test_acceptance_nightly.py. The smaller machine (16 MiB) is too small for floods of UDP: its sockets
alone would take what the reserve leaves.
"""

import functools
import json
from pathlib import Path

import jsonschema
import pytest

import kemu_lab
from kemu.fixes import FixSet
from kemu_lab.acceptance_options import AcceptanceOptions
from kemu_lab.cli import main
from kemu_lab.progress import Watch
from kemu_lab.run import run_scenario
from kemu_lab.run_config import RunConfig
from kemu_lab.scenarios import acceptance
from kemu_lab.scenarios.acceptance import AcceptanceTest

SECOND = 10**9
SCHEMA = json.loads((Path(kemu_lab.__file__).parent / "data" / "run.schema.json").read_text())
RECONNECTS = [3, 9, 21, 45, 93, 189, 381, 681, 981]  # seconds after the server went: 3, 6, 12 ... 300 s after one another

quarter = pytest.mark.xdist_group("acceptance")


@functools.cache
def quarter_run():
    options = AcceptanceOptions(uid=1000)
    return run_scenario(RunConfig(scenario="acceptance", mem=32 << 20, acceptance=options))


@pytest.fixture
def small():
    """Run something smaller."""

    def run(fixes="all", seed=1, **options):
        options = AcceptanceOptions(**{"traffic": "none", "outage_ns": 60 * SECOND, **options})
        config = RunConfig(scenario="acceptance", mem=16 << 20, seed=seed, fixes=FixSet.parse(fixes), acceptance=options)
        return run_scenario(config)

    return run


# ---- the quarter, as another user than root


@quarter
def test_the_machine_goes_on_and_every_page_is_right():
    run = quarter_run()

    assert run.outcome == "survived", run.reason
    assert run.also == []
    assert run.pages.lost == 0
    assert run.pages.verified >= 20_000
    assert run.acceptance.file_pages_compared == 2 * run.acceptance.process_pages == 8192


@quarter
def test_every_reserve_is_back_at_zero():
    reserve = quarter_run().reserve

    assert (reserve.left_bytes, reserve.leaked_pages, reserve.trespassers) == (0, 0, 0)
    assert 0 < reserve.peak_bytes <= reserve.limit_bytes


@quarter
def test_the_load_went_through_memory_in_every_phase_but_the_outage():
    steady, outage, recovery = quarter_run().phases

    assert [steady.name, outage.name, recovery.name] == ["steady", "outage", "recovery"]
    assert steady.pages_out > 4096
    assert recovery.pages_out > 4096
    assert recovery.pages_in > 4096
    assert steady.touches + outage.touches + recovery.touches == pytest.approx(8 * 4096, rel=0.01)
    assert outage.touches < 100


@quarter
def test_an_outage_is_waiting_and_not_death():
    run = quarter_run()
    outage = run.phases[1]

    assert outage.virtual_ns == 900 * SECOND
    assert outage.longest_stall_ns >= 890 * SECOND
    assert run.reclaim.oom_kills == 0
    assert outage.free_low >= run.reserve.pages_emerg * 9 // 10


@quarter
def test_the_client_asks_again_and_again_and_is_refused():
    told = quarter_run().acceptance
    tries = [(at - told.away_ns) / SECOND for at in told.connects_ns]

    assert [at for at in tries if at > 1] == [pytest.approx(at, abs=1.5) for at in RECONNECTS]
    assert quarter_run().nfs.reconnects == 1


@quarter
def test_the_first_page_moves_when_the_client_asks_next():
    told = quarter_run().acceptance

    assert told.back_ns - told.away_ns == 900 * SECOND
    assert (told.first_page_ns - told.back_ns) / SECOND == pytest.approx(981 - 900, abs=1.5)


@quarter
def test_the_client_says_that_the_server_does_not_respond_and_then_that_it_does():
    messages = quarter_run().acceptance.messages

    assert "not responding, still trying" in messages[0]
    assert messages[-1].endswith("nfs: server 10.0.0.1 OK")


@quarter
def test_floods_used_the_reserve_and_were_dropped_at_the_gates():
    run = quarter_run()

    assert run.acceptance.foreign_frames > 6 * 10_000
    assert run.net.emergency_skbs > 0
    assert run.net.drops["socket"] > 0
    assert run.net.drops["nic"] == run.net.drops["charge"] == 0


@quarter
def test_the_result_is_as_the_schema_says():
    jsonschema.validate(json.loads(json.dumps(quarter_run().as_json())), SCHEMA)


@quarter
def test_the_command_says_what_was_asked_for():
    assert quarter_run().command == "kemu run acceptance --scale 1/4 --uid 1000 --seed 1 --patches all --fixes all"


# ---- v14 as it was posted


def test_as_posted_another_user_loses_pages(capsys):
    """B30b: reclaim in a task of uid 1000 looks for its own open context of root's swap file, finds none, and the page is gone.

    That shows when the page is wanted again, in the second cycle. With an outage b31c ends the machine before.
    """
    assert main(["run", "acceptance", "--scale", "1/4", "--uid", "1000", "--outage", "0", "--fixes", "none", "--json"]) == 1
    run = json.loads(capsys.readouterr().out)

    jsonschema.validate(run, SCHEMA)
    assert run["outcome"] == "data_loss"
    assert "should hold what was written, but holds zeros" in run["reason"]
    assert [phase["name"] for phase in run["phases"]] == ["steady"]


def test_as_posted_the_old_connection_ends_in_a_softirq_that_takes_a_mutex(small):
    """B31c: the server hangs up, the client answers with its FIN, and the ACK of it frees the socket, and with it the reserve."""
    run = small("none")

    assert run.outcome == "oops"
    assert "sleeping function called from invalid context" in run.reason
    assert run.phases[-1].name == "outage"
    assert run.virtual_ns - run.acceptance.away_ns < SECOND


# ---- smaller: other endings


def test_a_server_that_never_returns_is_waited_for(small, monkeypatch):
    monkeypatch.setattr(acceptance, "NEVER_NS", 200 * SECOND)
    run = small(outage_ns=None)

    assert run.outcome == "waiting"
    assert not run.lived
    assert [phase.name for phase in run.phases] == ["steady", "outage"]
    assert run.acceptance.back_ns is None
    assert run.reclaim.oom_kills == 0
    assert any("anon0" in line for line in run.chain)
    jsonschema.validate(json.loads(json.dumps(run.as_json())), SCHEMA)


def test_a_mount_by_udp_outlives_the_server_too(small):
    run = small(proto="udp")

    assert run.outcome == "survived", run.reason
    assert run.pages.lost == 0
    assert run.reserve.left_bytes == run.reserve.leaked_pages == 0
    assert run.phases[1].retransmissions > 0


@pytest.mark.parametrize(("code", "outcome"), [(128 + 9, "oom_kill"), (128 + 7, "data_loss"), (12, "oom_kill")])
def test_a_process_that_dies_is_an_outcome(code, outcome):
    job = AcceptanceTest(RunConfig(scenario="acceptance", mem=16 << 20), Watch())
    with job.pair:
        job.swap_on()
        job.start_processes()
        job.workers[0].exit_code = code
        job.say_who_died()
        assert job.pair.world.judge.outcome == outcome
