"""The phases side by side, and the outage in words."""

import attrs
import pytest
from rich.console import Console

from kemu_lab.phase_report import acceptance_rows, folded, phase_table
from kemu_lab.phases import Phase
from kemu_lab.report import print_report
from kemu_lab.result import Acceptance, RunResult

SECOND = 10**9
PHASES = [
    Phase("steady", 0, 9 * SECOND, 18309, 7944, 7537, 8254, 9941, drops={"nic": 0, "socket": 539}, free_low=1339, free_high=7756),
    Phase("outage", 9 * SECOND, 900 * SECOND, longest_stall_ns=899 * SECOND, drops={"nic": 0}),
    Phase("recovery", 909 * SECOND, 102 * SECOND, reconnects=1, retransmissions=16),
]
TOLD = Acceptance("1/4", 4096, outage_ns=900 * SECOND, away_ns=9 * SECOND, back_ns=909 * SECOND, first_page_ns=990 * SECOND)


def lines(capsys, thing):
    Console(width=80).print(thing)
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_each_phase_is_a_column(capsys):
    text = lines(capsys, phase_table(PHASES))

    assert text[0] == ["phase", "steady", "outage", "recovery"]
    assert ["time", "9.000", "s", "900.000", "s", "102.000", "s"] in text
    assert ["swapped", "out,", "in", "7944,", "7537", "0,", "0", "0,", "0"] in text
    assert ["reconnects", "0", "0", "1"] in text
    assert ["free", "pages", "1339", "to", "7756", "0", "to", "0", "0", "to", "0"] in text
    assert ["dropped", "socket", "539", "none", "none"] in text
    assert ["longest", "stall", "0.000", "s", "899.000", "s", "0.000", "s"] in text


def test_a_run_without_an_outage_has_one_column(capsys):
    assert lines(capsys, phase_table(PHASES[:1]))[0] == ["phase", "steady"]


def test_a_run_that_did_not_begin_has_none(capsys):
    assert lines(capsys, phase_table([])) == [["phase"]]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "the server was away for 15m (stop); the first page moved 81.000 s after its return"),
        ({"first_page_ns": None}, "the server was away for 15m (stop); no page moved after it"),
        ({"back_ns": None, "outage_how": "silent"}, "the server went at 9.000 s (silent), and did not come back"),
        ({"away_ns": None}, "none"),
    ],
)
def test_the_outage_in_words(changes, sentence):
    assert dict(acceptance_rows(attrs.evolve(TOLD, **changes)))["outage"] == sentence


def test_connects_are_told_from_the_outage_on():
    told = Acceptance(away_ns=100 * SECOND, connects_ns=[100 * SECOND, 103 * SECOND, 481 * SECOND])

    assert dict(acceptance_rows(told))["connects"] == "0, 3, 381 s after the server went"


def test_the_report_has_table_share_and_messages(capsys):
    result = RunResult("acceptance", 1, [1], [], [], "kemu run acceptance --scale 1/4 --seed 1", mem_pages=8192, phases=PHASES)
    result.reserve.pages_emerg = 1356
    messages = ["[  258.280002] nfs: server 10.0.0.1 not responding, still trying"]
    result.acceptance = attrs.evolve(TOLD, messages=messages)
    print_report(result, quiet=False)
    text = capsys.readouterr().out

    assert "1356 pages, 17 % of memory" in text
    assert "outage" in text
    assert "[  258.280002] nfs: server 10.0.0.1 not responding, still trying" in text
    assert max(map(len, text.splitlines())) <= 80


def test_what_every_task_says_is_told_once():
    messages = ["[  189.280007] nfs: gone", "[  189.280012] nfs: gone", "[  990.3] nfs: OK", "[  991.0] nfs: gone"]

    assert folded(messages) == ["[  189.280007] nfs: gone (2 times)", "[  990.3] nfs: OK", "[  991.0] nfs: gone"]
    assert folded([]) == []
