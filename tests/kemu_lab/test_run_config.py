"""The options of a run, and the line that repeats it."""

import shlex

import pytest

from kemu.errors import ConfigError
from kemu_lab.run_config import RunConfig

PLAIN = {"mem": "32M", "patches": "all", "fixes": "all", "loss": "0", "latency": "50us", "fill": None, "trace": None}


def parsed(**words):
    cpus, seed = int(words.pop("cpus", 1)), int(words.pop("seed", 1))
    return RunConfig.parse(words.pop("scenario", "main"), cpus=cpus, seed=seed, **{**PLAIN, **words})


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"mem": "16M"},
        {"mem": "1G", "cpus": "2"},
        {"loss": "0.25", "latency": "1ms"},
        {"swap": "disk"},
        {"mtu": "9000", "nic": "split,recycle"},
        {"patches": "1-8,-3", "fixes": "-b16"},
        {"seed": "7", "patches": "-25"},
        {"fill": "/some where/file", "trace": "a trace"},
    ],
)
def test_the_command_repeats_the_run(words):
    config = parsed(**words)
    given = shlex.split(config.command)[2:]
    again = {name.removeprefix("--"): value for name, value in zip(given[::2], given[1::2], strict=True)}

    assert parsed(**again) == config


@pytest.mark.parametrize(
    "words",
    [
        {"mem": "1M"},
        {"mem": "x"},
        {"loss": "1.5"},
        {"latency": "2h"},
        {"latency": "1ns"},
        {"patches": "99"},
        {"fixes": "b99"},
        {"swap": "tape"},
        {"mtu": "500"},
        {"mtu": "9001"},
        {"nic": "token-ring"},
        {"nic": "split,,fixed"},
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(words):
    with pytest.raises(ConfigError) as error:
        parsed(**words)
    assert "\n" not in str(error.value)
