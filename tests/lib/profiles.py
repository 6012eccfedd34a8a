"""Test helper: the Hypothesis profiles, and how long a state machine runs in each.

``ci`` is the default: it draws the same examples in every run, so that it never flickers. ``traced`` draws fewer of them, for runs
with coverage. ``nightly`` and ``dev`` are random. A profile is chosen with HYPOTHESIS_PROFILE or ``--hypothesis-profile``.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

_SLOW_STARTS = [HealthCheck.too_slow, HealthCheck.data_too_large]  # a boot, and 100 steps

# steps of one run of a state machine -> runs: 100 steps in all in dev and traced, 500 in ci, 10,000 in nightly
_RUNS = {20: 5, 50: 10, 100: 100}


def register() -> None:
    """Tell Hypothesis of the profiles."""
    settings.register_profile("dev", max_examples=20, stateful_step_count=20, deadline=None)
    settings.register_profile("traced", max_examples=20, stateful_step_count=20, deadline=None, derandomize=True)
    settings.register_profile("ci", stateful_step_count=50, deadline=None, derandomize=True)
    settings.register_profile("nightly", max_examples=1000, stateful_step_count=100, deadline=None, print_blob=True)


def machine_settings() -> settings:
    """Return the settings of a state machine in the profile that is loaded."""
    return settings(max_examples=_RUNS.get(settings.default.stateful_step_count, 10), suppress_health_check=_SLOW_STARTS)


def bad_input_settings() -> settings:
    """Return the settings of a property that is asked of very many entries: as many examples as fit into half a second."""
    return settings(max_examples=500 if is_nightly() else 30)


def is_nightly() -> bool:
    """Tell whether the profile that is loaded is the long one."""
    return settings.default.stateful_step_count >= 100
