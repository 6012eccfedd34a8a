"""Wait queues and completions as data."""

from __future__ import annotations

from kemu.kernel.wait import Completion


def test_completions_count(kernel):
    done, log = Completion(kernel.sched, "done"), []

    def body(n):
        def run():
            done.wait()
            log.append(n)

        return run

    done.complete()
    done.wait()
    for n in range(3):
        kernel.sched.spawn("t", body(n))
    kernel.world.run()
    assert done.wait_timeout(2) == 0
    done.complete()
    kernel.world.run()
    assert log == [0]
    done.complete_all()
    kernel.world.run()
    assert log == [0, 1, 2]
    assert done.wait_timeout(5) == 5
