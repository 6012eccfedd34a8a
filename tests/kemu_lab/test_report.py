"""A run's result as text."""

from kemu_lab.report import print_report
from kemu_lab.result import Disk, Reclaim, Reserve, RunResult

DEAD = {
    "scenario": "main",
    "seed": 3,
    "patches": [1, 2, 3, 7],
    "dropped": [30, 31],
    "fixes": [],
    "command": "kemu run --seed 3",
    "mem_pages": 8192,
    "outcome": "deadlock",
    "also": ["oom_kill"],
    "reason": "the [ring] is dry",
    "chain": ["kswapd0:3 waits for [a page]"],
    "history": "sha256:00",
    "reserve": Reserve(pages_emerg=2048),
}


def test_everything_a_reader_needs_is_there(capsys):
    print_report(RunResult(**DEAD), quiet=False)
    text = capsys.readouterr().out

    assert "4 patches (1-3,7); fixes none (v14 as posted)" in text
    assert "32M, 8192 pages" in text
    assert "2048 pages, 25 % of memory" in text
    assert "deadlock (also: oom_kill): the [ring] is dry" in text
    assert "kswapd0:3 waits for [a page]" in text
    assert "left out with them: patches 30, 31" in text
    assert "repeat: kemu run --seed 3" in text


def test_a_disk_and_its_pools_stand_where_nfs_would(capsys):
    result = RunResult(**DEAD, swap="disk", disk=Disk(7, 8, 9), reclaim=Reclaim(mempool_sleeps=6))
    print_report(result, quiet=False)
    text = capsys.readouterr().out

    assert "7 writes, 8 reads, 9 bios joined one of them" in text
    assert "6 sleeps for an element" in text
    assert "WRITE," not in text


def test_quiet_leaves_the_table_and_the_chain_out(capsys):
    print_report(RunResult(**DEAD), quiet=True)
    lines = capsys.readouterr().out.splitlines()

    assert lines[0].startswith("deadlock")
    assert not any("kswapd0" in line or "memory" in line for line in lines)
    assert lines[-1] == "repeat: kemu run --seed 3"


def test_no_colour_reaches_a_pipe(capsys):
    print_report(RunResult(**DEAD), quiet=False)

    assert "\x1b" not in capsys.readouterr().out
