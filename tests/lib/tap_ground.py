"""Test helper: whether a TAP device can be made here, in a network namespace of its own."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from pathlib import Path

from kemu_lab import tap

ROOT = Path(__file__).parents[2]


@functools.cache
def why_no_tap() -> str:
    """Say why no TAP device can be made in a namespace of one's own, or nothing."""
    if not Path(tap.TUN_DEVICE).exists():
        return f"there is no {tap.TUN_DEVICE}"
    if shutil.which("unshare") is None:
        return "unshare (util-linux) is not installed"
    make = f"import sys; sys.path[:0] = [{str(ROOT)!r}]; from kemu_lab.tap import open_tap; open_tap('kemu0')"
    done = subprocess.run(["unshare", "-n", sys.executable, "-c", make], check=False, capture_output=True, text=True, timeout=60)
    return "" if done.returncode == 0 else f"no TAP device can be made: {(done.stderr.strip() or '?').splitlines()[-1]}"
