"""The options of the acceptance test, and the words that repeat them."""

import pytest

from kemu.errors import ConfigError
from kemu_lab.acceptance_options import FULL_MEM, AcceptanceOptions, parse_scale, scale_of

MINUTE = 60 * 10**9


@pytest.mark.parametrize(
    ("text", "ns"),
    [("15m", 15 * MINUTE), ("90s", 90 * 10**9), ("1h", 60 * MINUTE), ("1.5m", 90 * 10**9), ("0", 0), ("0s", 0), ("forever", None)],
)
def test_an_outage_is_a_time(text, ns):
    assert AcceptanceOptions.parse(outage=text).outage_ns == ns


def test_the_author_waited_a_quarter_of_an_hour():
    options = AcceptanceOptions.parse()

    assert (options.outage_ns, options.outage_how, options.traffic) == (15 * MINUTE, "stop", "mixed")
    assert (options.uid, options.proto) == (0, "tcp")


def test_a_server_that_never_returns_is_an_outage_for_ever():
    assert AcceptanceOptions.parse(never_returns=True) == AcceptanceOptions.parse(outage="forever")


@pytest.mark.parametrize(
    "words",
    [
        {"outage": "15"},
        {"outage": "-1m"},
        {"outage": "25h"},
        {"outage": "soon"},
        {"outage": "15m", "never_returns": True},
        {"outage_how": "crash"},
        {"traffic": "tcp"},
        {"uid": "-1"},
        {"uid": "root"},
        {"uid": "4294967295"},
        {"proto": "sctp"},
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(words):
    with pytest.raises(ConfigError) as error:
        AcceptanceOptions.parse(**words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"outage": "20m", "outage_how": "silent"},
        {"outage": "0"},
        {"outage": "forever"},
        {"traffic": "none", "uid": "1000", "proto": "udp"},
    ],
)
def test_words_repeat_the_options(words):
    options = AcceptanceOptions.parse(**words)
    given = options.words()
    again = {name.removeprefix("--").replace("-", "_"): value for name, value in zip(given[::2], given[1::2], strict=True)}

    assert again == words
    assert AcceptanceOptions.parse(**again) == options


@pytest.mark.parametrize(
    ("text", "mem"), [("1", FULL_MEM), ("1/4", 32 << 20), ("0.5", 64 << 20), ("3/4", 96 << 20), ("2", 256 << 20)]
)
def test_a_scale_is_a_size_of_memory(text, mem):
    assert parse_scale(text) == mem
    assert parse_scale(scale_of(mem)) == mem


@pytest.mark.parametrize("text", ["1/5", "0", "-1", "1/0", "x", "", "9", "1/4/2", "0.3", "nan", "inf", "1e99999999", "1" * 30])
def test_a_scale_that_is_no_picture_is_refused(text):
    with pytest.raises(ConfigError) as error:
        parse_scale(text)
    assert "\n" not in str(error.value)
