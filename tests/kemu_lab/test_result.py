"""The object that a run tells."""

import json

import pytest

from kemu_lab.result import RunResult

PLAIN = {"scenario": "main", "seed": 1, "patches": [], "dropped": [], "fixes": [], "command": "kemu run"}


@pytest.mark.parametrize(("outcome", "lived"), [("survived", True), ("waiting", False), ("deadlock", False), ("oom_kill", False)])
def test_only_a_survivor_lived(outcome, lived):
    assert RunResult(**PLAIN, outcome=outcome).lived == lived


def test_times_are_exact_and_readable():
    body = RunResult(**PLAIN, virtual_ns=1_500_000_001).as_json()

    assert body["schema"] == 1
    assert body["virtual_ns"] == 1_500_000_001
    assert body["virtual_seconds"] == pytest.approx(1.500000001)
    assert json.loads(json.dumps(body)) == body
