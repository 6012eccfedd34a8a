"""Test helper, a program: one case of the TAP link's tests, for a network namespace of its own.

Run it as ``unshare -n python tap_link_child.py CASE DIRECTORY``. It prints one JSON object.
"""

from __future__ import annotations

import io
import json
import os
import socket
import sys
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import real_ground
from ganesha_child import loopback_up
from kemu.kernel.world import World
from kemu_lab.cli import main as kemu
from kemu_lab.tap import configure, open_tap
from kemu_lab.tap_link import TapLink
from kemu_net.drivers.wire import Wire

NETWORK, PREFIX = 0x0A000001, 16
NOBODY = 65534


def open_files() -> int:
    """Count this process's descriptors."""
    return len(list(Path("/proc/self/fd").iterdir()))


def run(url: str) -> dict:
    """Run the main job over TAP, as a person would."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = kemu(["run", "--mem", "16M", "--server", url, "--via", "tap"])
    return {"status": status, "out": out.getvalue(), "err": err.getvalue(), "open": open_files()}


def all_addresses(directory: Path) -> dict:
    """Swap to a server that listens on the device's address too."""
    with real_ground.serving(directory, "--address", "0.0.0.0", "--allow-remote") as (url, _):
        return real_ground.story(url.replace("0.0.0.0", "127.0.0.1"), "tap", directory)


def loopback_only(directory: Path) -> dict:
    """Try a server that listens on the loopback address only."""
    with real_ground.serving(directory) as (url, _):
        before = open_files()
        return run(url) | {"before": before}


def in_use(_directory: Path) -> dict:
    """Try it where the network is somebody else's."""
    other = open_tap("other0")
    configure("other0", "10.0.5.1", 24)
    before = open_files()
    result = run("nfs://127.0.0.1:1/export?mountport=1") | {"before": before}
    os.close(other)
    return result


def not_root(_directory: Path) -> dict:
    """Try it without a privilege."""
    run("nfs://127.0.0.1:1/export?mountport=1")  # all modules are loaded now: nobody need be able to read them
    os.setuid(NOBODY)
    before = open_files()
    return run("nfs://127.0.0.1:1/export?mountport=1") | {"before": before}


def not_there(_directory: Path) -> dict:
    """Try a server that does not run."""
    before = open_files()
    return run("nfs://127.0.0.1:1/export?mountport=1") | {"before": before}


def flood(_directory: Path) -> dict:
    """Let frames come faster than anybody can read them, and compare the clocks."""
    with World() as world:
        wire = Wire(world)
        link = TapLink(world, wire, "kemu0", NETWORK, PREFIX)
        over = threading.Event()

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                while not over.is_set():
                    for _ in range(8):
                        sock.sendto(b"x" * 1000, ("10.0.255.255", 9))
                    time.sleep(0.0001)

        thread = threading.Thread(target=send, daemon=True)
        seen: list[int] = []
        take = link.port.take

        def counted() -> int:
            seen.append(take())
            return seen[-1]

        link.port.take = counted  # type: ignore[method-assign]  # to count
        thread.start()
        began, since = time.monotonic(), world.now
        lead = 0.0

        def look(_: object) -> None:
            nonlocal lead
            lead = max(lead, (world.now - since) / 1e9 - (time.monotonic() - began))
            world.post(world.now + 1_000_000, look)

        world.post(world.now, look)
        world.run(until=lambda: time.monotonic() - began > 0.7)
        result = {"real": time.monotonic() - began, "virtual": (world.now - since) / 1e9, "lead": lead, "frames": sum(seen)}
        over.set()
        thread.join(5)
    link.close()
    return result


CASES = {each.__name__: each for each in (all_addresses, loopback_only, in_use, not_root, not_there, flood)}


if __name__ == "__main__":
    loopback_up()
    sys.stdout.write(json.dumps(CASES[sys.argv[1]](Path(sys.argv[2]))))
