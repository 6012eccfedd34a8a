"""Which runnable task goes next, and whether a preemption point preempts."""

from __future__ import annotations

from kemu.kernel.policy import Explorer, Seeded


def record(kernel, log, name, steps=2):
    def body():
        for _ in range(steps):
            log.append(name)
            kernel.sched.yield_()

    return body


def test_first_in_first_out(kernel):
    log = []
    for name in "abc":
        kernel.sched.spawn(name, record(kernel, log, name))
    kernel.world.run()
    assert log == list("abcabc")


def test_the_seeded_policy_repeats_itself_and_differs_by_seed(kernel):
    def order(seed):
        log = []
        kernel.sched.policy = Seeded(seed)
        for name in "abcdef":
            kernel.sched.spawn(name, record(kernel, log, name, 4))
        kernel.world.run()
        return "".join(log)

    assert order(1) == order(1)
    assert len({order(seed) for seed in range(5)}) > 1


def test_an_explorer_is_asked(kernel):
    log = []
    kernel.sched.policy = Explorer(lambda runnable: len(runnable) - 1)
    for name in "abc":
        kernel.sched.spawn(name, record(kernel, log, name, 1))
    kernel.world.run()
    assert log == list("cba")


def test_preemption_points_do_nothing_unless_the_policy_asks(kernel):
    log = []

    def body(name):
        def run():
            log.append(name + "1")
            kernel.sched.preemption_point("middle")
            log.append(name + "2")

        return run

    for _ in range(2):
        for name in "ab":
            kernel.sched.spawn(name, body(name))
        kernel.world.run()
        kernel.sched.policy = Explorer(lambda _runnable: 0, lambda label, _current: label == "middle")
    assert log == ["a1", "a2", "b1", "b2", "a1", "b1", "a2", "b2"]


def test_a_preemption_point_in_atomic_context_does_nothing(kernel):
    log = []
    kernel.sched.policy = Explorer(lambda _runnable: 0, lambda _label, _current: True)

    def body():
        kernel.sched.preempt_disable()
        kernel.sched.preemption_point("here")
        log.append("a")
        kernel.sched.preempt_enable()

    kernel.sched.spawn("a", body)
    kernel.sched.spawn("b", lambda: log.append("b"))
    kernel.world.run()
    assert log == ["a", "b"]
