"""Swap to nfs-ganesha, a real NFSv3 server: its disk holds the pages."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from real_ground import assert_whole

CHILD = Path(__file__).parents[1] / "lib" / "ganesha_child.py"
SECONDS = 120


@functools.cache
def why_not() -> str:
    """Say why ganesha cannot be run in namespaces of its own, or nothing."""
    if shutil.which("ganesha.nfsd") is None:
        return "nfs-ganesha is not installed"
    if shutil.which("unshare") is None:
        return "unshare (util-linux) is not installed"
    done = subprocess.run(
        ["unshare", "-m", "-n", "mount", "-t", "tmpfs", "none", "/run"], check=False, capture_output=True, text=True, timeout=30
    )
    return "" if done.returncode == 0 else f"no namespace can be made: {(done.stderr.strip() or '?').splitlines()[-1]}"


@pytest.mark.parametrize("way", ["gateway", "tap"])
def test_pages_swapped_to_ganesha_lie_on_its_disk_and_come_back(way, tmp_path):
    if why_not():
        pytest.skip(why_not())
    if way == "tap" and not Path("/dev/net/tun").exists():
        pytest.skip("there is no /dev/net/tun")
    words = ["unshare", "-m", "-n", sys.executable, str(CHILD), way, str(tmp_path)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert_whole(result)
    assert result["reconnects"] == 0
