"""The errors: one root, one sentence, and the state where there is one."""

import pytest

from kemu import errors


@pytest.mark.parametrize("name", ["ConfigError", "KernelBug", "KernelPanic", "Deadlock"])
def test_all_have_one_root(name):
    assert issubclass(getattr(errors, name), errors.KemuError)


def test_a_bug_shows_the_state():
    assert str(errors.KernelBug("zone is broken", {"free": -1})) == "zone is broken\n  state: {'free': -1}"
    assert str(errors.KernelBug("zone is broken")) == "zone is broken"


def test_a_panic_is_a_bug_and_a_deadlock_is_not():
    assert issubclass(errors.KernelPanic, errors.KernelBug)
    assert not issubclass(errors.Deadlock, errors.KernelBug)
