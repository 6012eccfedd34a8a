"""Fixtures of the kernel's tests: machines on both vehicles, and nothing left behind."""

from __future__ import annotations

import pytest

from kemu.kernel.core import Kernel
from kemu.kernel.world import World

VEHICLES = ["greenlet", "threads"]


@pytest.fixture(params=VEHICLES)
def vehicle(request):
    return request.param


@pytest.fixture
def machine(vehicle):
    """One machine with one CPU, on each vehicle in turn."""
    with World(vehicle=vehicle) as world:
        yield Kernel(world=world)


@pytest.fixture
def kernel():
    """One machine with one CPU on the usual vehicle."""
    with World() as world:
        yield Kernel(world=world)


@pytest.fixture
def smp():
    """One machine with two CPUs."""
    with World() as world:
        yield Kernel(world=world, ncpus=2)


@pytest.fixture
def pair():
    """Two machines of one world."""
    with World() as world:
        yield Kernel("a", world), Kernel("b", world)
