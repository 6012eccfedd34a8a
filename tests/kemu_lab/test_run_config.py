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


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"scale": "1/4"},
        {"scale": "1/2", "outage": "20m", "outage-how": "silent", "traffic": "fragments", "uid": "1000", "proto": "udp"},
        {"outage": "forever", "seed": "3", "fixes": "none"},
        {"outage": "0", "latency": "1ms"},
    ],
)
def test_the_command_repeats_an_acceptance_test(words):
    words = {name.replace("-", "_"): value for name, value in words.items()}
    config = parsed(scenario="acceptance", mem=None, **words)
    given = shlex.split(config.command)
    again = {name.removeprefix("--").replace("-", "_"): value for name, value in zip(given[3::2], given[4::2], strict=True)}

    assert given[:3] == ["kemu", "run", "acceptance"]
    assert parsed(scenario="acceptance", mem=None, **again) == config


def test_the_scale_is_the_memory():
    assert parsed(scenario="acceptance", mem=None).mem == 128 << 20
    assert parsed(scenario="acceptance", mem=None, scale="1/4").mem == 32 << 20


@pytest.mark.parametrize(
    "words",
    [
        {"scenario": "acceptance", "mem": "64M"},
        {"scenario": "acceptance", "mem": None, "swap": "disk"},
        {"scenario": "acceptance", "mem": None, "trace": "t"},
        {"scenario": "acceptance", "mem": None, "scale": "1/8"},
        {"scenario": "main", "scale": "1/4"},
        {"scenario": "main", "outage": "15m"},
        {"scenario": "late-disk", "uid": "0"},
        {"scenario": "main", "never_returns": True},
    ],
)
def test_each_scenario_has_its_own_options(words):
    with pytest.raises(ConfigError) as error:
        parsed(**words)
    assert "\n" not in str(error.value)
