"""Test helper: swap to a real NFS server, and hold what its disk has against the shadow copies."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]

from kemu_lab.contents import Pattern  # noqa: E402  # the path comes first
from kemu_lab.hosts import Pair  # noqa: E402
from kemu_lab.programs import FillThenRead  # noqa: E402
from kemu_lab.run_config import RunConfig  # noqa: E402
from kemu_lab.server_url import parse_server  # noqa: E402
from kemu_lab.swap_home import SWAP_FILE, swap_home  # noqa: E402

PAGE = 4096
MEM = 16 << 20
PAGES, READS = 3400, 200
SECONDS = 60


@contextmanager
def serving(directory: Path, *words: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Let ``kemu serve`` serve a directory in another process; give its address as --server takes it, and the process."""
    command = [sys.executable, "-m", "kemu_lab.cli", "serve", str(directory), "--port", "0", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield next(word for word in line.split() if word.startswith("nfs://")), process
        finally:
            process.terminate()
            process.wait(SECONDS)


def story(url: str, way: str, directory: Path, *, between=None, pages: int = PAGES) -> dict:
    """Swap to the server until twice what fits has been written, and compare.

    :param between: called with the pair in the middle of the work.
    """
    config = RunConfig(mem=MEM, server=parse_server(url), via=way)
    with Pair(config) as pair:
        world, client = pair.world, pair.client
        home = swap_home(config, pair)
        area = home.swap_on()
        assert not isinstance(area, str), area
        program = FillThenRead(pages, READS, Pattern(1), 1)
        worker = client.processes.spawn("worker", program)
        if between is not None:
            world.run(until=lambda: program.position > pages * 9 // 10)
            between(pair)
        world.run(until=lambda: program.done or worker.exit_code is not None)
        assert worker.exit_code is None, worker
        compared: list[int] = []

        def on_disk(_: object, slot: int) -> bytes:
            compared.append(slot)
            with (directory / SWAP_FILE).open("rb") as file:
                file.seek(slot * PAGE)
                return file.read(PAGE)

        _, lost = client.memory.audit(on_disk)
        same = all(pair.server_bytes(SWAP_FILE, slot) == on_disk(None, slot) for slot in compared[:20])
        stats = pair.mount.stats
        result = {
            "outcome": world.judge.outcome,
            "on_disk": len(compared),
            "lost": lost,
            "same_by_nfs": same,
            "out": client.vmstat.pswpout,
            "in": client.vmstat.pswpin,
            "reconnects": stats.reconnects,
        }
        client.kernel.sched.wake_up_process(worker)
        world.run(until=lambda: worker.exit_code is not None)
        result["swapoff"] = client.swapfile.swapoff(area)
        home.leave()
        world.run(for_ns=1_000_000_000)
        client.check()
        pair.client_net.check()
        result["left"] = pair.client_net.net_reserves.net_skb_reserve.usage
        result["files"] = sorted(path.name for path in directory.iterdir())
        return result


def assert_whole(result: dict) -> None:
    """Assert that every page came back and nothing stayed."""
    assert result["outcome"] is None
    assert result["lost"] == 0
    assert result["on_disk"] > 200
    assert result["same_by_nfs"]
    assert result["out"] > 300
    assert result["in"] > 100
    assert (result["swapoff"], result["left"], result["files"]) == (0, 0, [])
