"""The floor as a whole, its costs and error numbers."""

from __future__ import annotations

import pytest

from kemu.errors import ConfigError, KernelBug
from kemu.kernel import costs, errno
from kemu.kernel.core import Kernel
from kemu.kernel.world import QUANTUM, World


def test_no_charge_is_above_the_quantum():
    charges = {name: value for name, value in vars(costs).items() if name.isupper()}
    assert charges
    assert all(0 < value <= QUANTUM for value in charges.values())


def test_errors_have_names():
    assert errno.errname(-12) == "ENOMEM"
    assert errno.errname(errno.EAGAIN) == "EAGAIN"
    assert errno.errname(-9999) == "9999"


@pytest.mark.parametrize("ncpus", [0, 9])
def test_an_impossible_number_of_cpus_is_refused(ncpus):
    with pytest.raises(ConfigError, match="choose 1 to 8"):
        Kernel(ncpus=ncpus)


def test_randomness_comes_from_seed_and_name():
    def draw(seed, name):
        with World(seed) as world:
            return Kernel(name, world).rng.random()

    assert draw(1, "a") == draw(1, "a")
    assert len({draw(1, "a"), draw(1, "b"), draw(2, "a")}) == 3


def test_everything_is_patched_unless_told():
    with World() as world:
        kernel = Kernel(world=world)
        assert kernel.patched.softirq_memalloc
        assert kernel.fixed.b17


def test_a_machine_that_boots_later_starts_at_the_worlds_time():
    with World() as world:
        Kernel("a", world)
        world.run(for_ns=1_000_000_000)
        late = Kernel("b", world)
        assert late.sched.now == 1_000_000_000
        late.sched.msleep(1)


def test_check_finds_a_sleeper_on_a_run_queue(kernel):
    task = kernel.sched.spawn("t", int)
    kernel.check()
    kernel.cpus[0].queue.append(task)
    with pytest.raises(KernelBug, match="queued twice"):
        kernel.check()
    kernel.cpus[0].queue.pop()


def test_names_for_people():
    with Kernel("client", ncpus=2).world as world:
        kernel = world.machines[0]
        assert repr(kernel) == "<kernel client, 2 CPU>"
        assert repr(kernel.init) == "<init:1 R>"
        assert "preempt_count=0x00000000" in repr(kernel.cpus[1])
