"""The Python of scripts: a white list, evaluated here."""

from __future__ import annotations

import pytest

from kemu_net.testing.pd_asserts import CodeBroken, CodeFalse, CodeUnsupported, Evaluator, Space


def _evaluator():
    names = {"tcpi_rtt": 5, "drops": {"socket": 2}, "skb": Space(emergency=lambda: 3)}
    return Evaluator(names.__getitem__)


@pytest.mark.parametrize(
    "code",
    [
        "assert tcpi_rtt == 5",
        "assert 1 < tcpi_rtt <= 5, 'slow'",
        "assert drops['socket'] == 2 and not skb.emergency == 4",
        "assert tcpi_rtt in (4, 5)",
        "assert abs(-3) == max(1, 3) == len([1, 2, 3])",
        "x = tcpi_rtt * 2\nassert x == 10",
        "assert (1 if tcpi_rtt else 0) and 7 // 2 == 3 and 7 % 4 == 3 and 1 << 4 == 16",
        "if tcpi_rtt > 4:\n  y = 1\nelse:\n  assert False\nassert y",
        "pass",
        "",
        "assert f'{tcpi_rtt} ms' == '5 ms'",
    ],
)
def test_what_holds(code):
    _evaluator().run(code)


def test_what_does_not_hold_says_what_it_found():
    with pytest.raises(CodeFalse, match=r"tcpi_rtt > 6: tcpi_rtt is 5 \(too fast\)"):
        _evaluator().run("assert tcpi_rtt > 6, 'too fast'")


def test_variables_live_from_block_to_block():
    evaluator = _evaluator()
    evaluator.run("x = 3")
    evaluator.run("assert x == 3")


def test_print_is_kept():
    evaluator = _evaluator()
    evaluator.run("print('rtt', tcpi_rtt)")
    assert evaluator.printed == ["rtt 5"]


@pytest.mark.parametrize(
    "code",
    [
        "import os",
        "open('/etc/passwd')",
        "assert skb.names",
        "assert skb.__class__",
        "assert ().__class__",
        "assert unknown",
        "def f(): pass",
        "lambda: 0",
        "[x for x in (1,)]",
        "'a' * 1000000",
        "[1] * 1000000",
        "2 ** 1000",
        "1 << 100000",
        "x.y = 1",
        "while True: pass",
        "assert len(key=1)",
        "skb.emergency = 0",
        "a, b = 1, 2",
        "'%s' % 'a' * 5",
        "drops['socket':]",
    ],
)
def test_what_is_not_on_the_list_is_refused(code):
    with pytest.raises(CodeUnsupported):
        _evaluator().run(code)


@pytest.mark.parametrize("code", ["assert", "1 / 0", "1 + 'a'", "drops['nic']", "(" * 500, "\0", "int('x')"])
def test_what_python_refuses_is_an_error_of_the_script(code):
    with pytest.raises(CodeBroken):
        _evaluator().run(code)
