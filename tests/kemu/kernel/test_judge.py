"""The judge: its clock, its verdicts, their precedence, and the chain of who waits for what."""

from __future__ import annotations

import pytest

from kemu.errors import ConfigError
from kemu.kernel.judge import PRECEDENCE
from kemu.kernel.wait import WaitQueue

SEC = 1_000_000_000


@pytest.fixture
def judge(kernel):
    """A judge whose machine has one stuck task, and a timer for ever so that the world goes on."""
    kernel.sched.spawn("stuck", lambda: kernel.sched.wait_event(WaitQueue("never"), lambda: False, ("writeback", 0x1A3)))
    keep_alive(kernel)
    return kernel.judge


def keep_alive(kernel):
    def beat(_arg):
        kernel.world.post(kernel.world.now + SEC // 3, beat)

    kernel.world.post(0, beat)


def warnings(kernel):
    return [text for _, _, text in kernel.printk.buffer if "blocked for more than" in text]


# ---- the clock


def test_120_seconds_without_progress_are_warned_about_once_in_khungtaskds_words(kernel, judge):
    kernel.world.run(for_ns=119 * SEC)
    assert warnings(kernel) == []
    kernel.world.run(for_ns=200 * SEC)
    assert warnings(kernel) == ["INFO: task stuck:3 blocked for more than 120 seconds."]
    assert judge.outcome is None


def test_720_seconds_without_progress_are_a_hung_task(kernel, judge):
    kernel.world.run()
    assert judge.outcome == "hung_task"
    assert 720 * SEC <= kernel.world.now <= 722 * SEC
    assert judge.chain() == ["stuck:3 on linux waits for writeback 0x1a3"]


def test_progress_starts_the_clock_anew(kernel, judge):
    for _ in range(10):
        kernel.world.run(for_ns=100 * SEC)
        judge.progress()
    assert warnings(kernel) == []
    assert judge.quiet_ns() == 0


def test_after_progress_a_new_silence_is_warned_about_again(kernel, judge):
    for _ in range(2):
        kernel.world.run(for_ns=130 * SEC)
        judge.progress()
    assert len(warnings(kernel)) == 2


def test_the_clock_stands_while_the_scenario_holds_something(kernel, judge):
    judge.hold("server stopped")
    judge.hold("wire cut")
    kernel.world.run(for_ns=1000 * SEC)
    judge.release("wire cut")
    assert judge.held == ["server stopped"]
    kernel.world.run(for_ns=1000 * SEC)
    assert judge.outcome is None
    assert warnings(kernel) == []
    assert judge.quiet_ns() == 0
    released = kernel.world.now
    judge.release("server stopped")
    kernel.world.run()
    assert judge.outcome == "hung_task"
    assert 720 * SEC <= kernel.world.now - released <= 722 * SEC


def test_one_reason_may_hold_twice(judge):
    judge.hold("outage")
    judge.hold("outage")
    judge.release("outage")
    assert judge.held == ["outage"]
    judge.release("outage")
    assert judge.held == []


@pytest.mark.parametrize("why", [None, ("sleep", None), ("server", "nfsd"), ("socket", 1)])
def test_who_waits_for_time_or_clients_is_not_stuck(kernel, why):
    kernel.sched.spawn("patient", lambda: kernel.sched.wait_event(WaitQueue("never"), lambda: False, why))
    keep_alive(kernel)
    kernel.world.run(for_ns=1000 * SEC)
    assert kernel.judge.outcome is None
    assert warnings(kernel) == []


def test_a_task_that_runs_and_gets_nowhere_is_stuck(kernel):
    def body():
        while True:
            for _ in range(50):
                kernel.sched.spend(9_000)
            kernel.sched.usleep(SEC, ("congestion", None))

    kernel.sched.spawn("loop", body)
    kernel.world.run()
    assert kernel.judge.outcome == "hung_task"


def test_the_judge_keeps_nothing_alive(kernel):
    kernel.sched.spawn("stuck", lambda: kernel.sched.wait_event(WaitQueue("never"), lambda: False, ("slot", 1)))
    kernel.world.run()
    assert kernel.world.idle
    assert kernel.world.now < SEC


# ---- the closed wait graph


def test_the_wait_graph_is_closed_when_all_probes_say_so_for_five_seconds(kernel, judge):
    judge.closed_probes.append(lambda: "free memory is at the floor")
    judge.closed_probes.append(lambda: "the ring is empty")
    kernel.world.run()
    assert judge.outcome == "deadlock"
    assert judge.reason == "free memory is at the floor; the ring is empty"
    assert 5 * SEC <= kernel.world.now <= 8 * SEC


def test_one_open_probe_means_that_something_can_still_happen(kernel, judge):
    judge.closed_probes.append(lambda: "free memory is at the floor")
    judge.closed_probes.append(lambda: None)
    kernel.world.run(for_ns=100 * SEC)
    assert judge.outcome is None


def test_a_probe_that_opens_now_and_then_starts_the_five_seconds_anew(kernel, judge):
    judge.closed_probes.append(lambda: None if kernel.world.now // SEC % 5 == 0 else "closed")
    kernel.world.run(for_ns=100 * SEC)
    assert judge.outcome is None


def test_progress_starts_the_five_seconds_anew(kernel, judge):
    judge.closed_probes.append(lambda: "closed")
    for _ in range(10):
        kernel.world.run(for_ns=4 * SEC)
        judge.progress()
    assert judge.outcome is None


def test_without_a_stuck_task_nothing_is_dead(kernel):
    kernel.judge.closed_probes.append(lambda: "closed")
    keep_alive(kernel)
    kernel.world.run(for_ns=100 * SEC)
    assert kernel.judge.outcome is None


def test_no_deadlock_while_something_is_held(kernel, judge):
    judge.closed_probes.append(lambda: "closed")
    judge.hold("server stopped")
    kernel.world.run(for_ns=100 * SEC)
    assert judge.outcome is None


# ---- outcomes


def test_the_outcome_is_the_first_of_the_precedence_whatever_came_first(kernel):
    judge = kernel.judge
    for outcome in reversed(PRECEDENCE):
        judge.report(outcome, f"because of {outcome}")
        assert judge.outcome == outcome
        assert judge.reason == f"because of {outcome}"
    assert judge.also == list(PRECEDENCE[1:])


def test_the_first_reason_of_an_outcome_stays(kernel):
    kernel.judge.report("leak", "49 pages")
    kernel.judge.report("leak", "1 socket")
    assert kernel.judge.reports == {"leak": "49 pages"}


@pytest.mark.parametrize(
    ("outcome", "ends"),
    [(outcome, outcome in {"oops", "panic", "data_loss", "deadlock", "hung_task"}) for outcome in PRECEDENCE],
)
def test_some_outcomes_end_the_run(kernel, outcome, ends):
    kernel.judge.report(outcome, "")
    assert kernel.judge.stopped is ends


def test_an_unknown_outcome_is_refused(kernel):
    with pytest.raises(ConfigError, match="oops, panic, data_loss"):
        kernel.judge.report("bored", "")


def test_outcomes_enter_the_history_once(kernel):
    before = kernel.history.hexdigest()
    kernel.judge.report("leak", "1")
    after = kernel.history.hexdigest()
    kernel.judge.report("leak", "2")
    assert before != after == kernel.history.hexdigest()


# ---- the chain


def test_the_chain_follows_explainers_and_tasks(kernel):
    judge, sched = kernel.judge, kernel.sched
    judge.explainers["writeback"] = lambda pfn: (f"writeback of page {pfn:#x}", ("rpc", 7))
    judge.explainers["rpc"] = lambda number: (f"rpc {number}", ("task", worker))
    worker = sched.spawn("rpciod", lambda: sched.wait_event(WaitQueue(), lambda: False, ("memory", None)))
    kswapd = sched.spawn("kswapd0", lambda: sched.wait_event(WaitQueue(), lambda: False, ("writeback", 0x1A3)))
    kernel.world.run()
    assert judge.chain() == [
        "rpciod:3 on linux waits for memory",
        "kswapd0:4 on linux waits for writeback of page 0x1a3 <- rpc 7 <- task rpciod:3 on linux <- memory",
    ]
    assert judge.explain(kswapd) == judge.chain()[1]


def test_a_circle_is_told_once(kernel):
    sched = kernel.sched
    tasks = []
    for n in range(2):
        tasks.append(sched.spawn(f"t{n}", lambda n=n: sched.wait_event(WaitQueue(), lambda: False, ("task", tasks[1 - n]))))
    kernel.world.run()
    line = kernel.judge.explain(tasks[0])
    assert line == "t0:3 on linux waits for task t1:4 on linux <- task t0:3 on linux <- (a circle)"


def test_a_chain_names_no_addresses(kernel):
    kernel.sched.spawn("t", lambda: kernel.sched.wait_event(WaitQueue(), lambda: False, ("slot", object())))
    kernel.world.run()
    assert kernel.judge.chain() == ["t:3 on linux waits for slot"]


def test_the_chain_of_a_verdict_is_that_of_its_moment(kernel, judge):
    kernel.world.run(for_ns=SEC)
    judge.report("data_loss", "page 7")
    task = kernel.sched.tasks[3]
    kernel.sched.wake_up_process(task)
    assert judge.chain() == ["stuck:3 on linux waits for writeback 0x1a3"]
