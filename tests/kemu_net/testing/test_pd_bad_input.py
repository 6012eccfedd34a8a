"""No text is more than an error with file and line: not to the parser, and not to a run."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from kemu_net.testing.packetdrill import OK, Result, ScriptError, parse_script, play_script
from kemu_net.testing.pd_asserts import CodeBroken, CodeFalse, CodeUnsupported, Evaluator
from kemu_net.testing.pd_commands import Commands, CommandUnsupported
from kemu_net.testing.pd_wire import Seen, read_options

SCRIPTS = [path.read_text() for path in sorted((Path(__file__).parents[2] / "packets").glob("*.pkt"))]
PIECES = [
    *"<>(){}[]|~*+-.,:;=%`\"'\\/#\n \t\0",
    *(
        "...",
        "0",
        "1:1(0)",
        "ack",
        "win 1",
        "TS val 1 ecr",
        "sack 1:",
        "read(3, ",
        "%{",
        "}%",
        "/*",
        "--x=",
        "0x",
        "4294967296",
        "é",
    ),
]


def _check(text):
    try:
        parse_script(text, "x")
    except ScriptError as error:
        assert error.where.startswith("x:") and int(error.where[2:]) >= 1
        assert "\n" not in error.reason


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=300))
def test_any_text(text):
    _check(text)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
def test_any_row_of_pieces_of_the_language(text):
    _check(text)


@st.composite
def _mutated(draw):
    text = draw(st.sampled_from(SCRIPTS))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(PIECES)) + text[at + draw(st.integers(0, 8)) :]
    return text


@settings(max_examples=50, deadline=None)
@given(_mutated())
def test_a_script_with_changed_places_is_read_or_refused(text):
    _check(text)


@settings(max_examples=25, deadline=None)
@given(_mutated(), st.booleans())
def test_a_script_with_changed_places_ends_in_a_result(text, stimulus):
    result = play_script(text, "x", stimulus=stimulus)
    assert isinstance(result, Result)
    assert result.status == OK or result.where.startswith("x:")


@settings(max_examples=50, deadline=None)
@given(
    st.one_of(
        st.text(max_size=200),
        st.lists(st.sampled_from(["a", "1", "9**9", "<<", "999999", "'x'", "*", "assert ", "[", "]", "(", ")"])).map("".join),
    )
)
def test_any_code(text):
    def lookup(name):
        raise KeyError(name)

    try:
        Evaluator(lookup).run(text)
    except (CodeFalse, CodeBroken, CodeUnsupported):
        pass


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=200))
def test_any_command(text):
    class Sysctl:
        def names(self):
            return ["net.ipv4.x"]

        def write(self, name, value):
            return 0

    try:
        Commands(Sysctl(), lambda _text: None).run(text)
    except CommandUnsupported:
        pass


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=120))
def test_any_frame_of_the_machine(raw):
    Seen.read(0, bytes(12) + b"\x08\x00\x45" + raw)
    read_options(raw)
