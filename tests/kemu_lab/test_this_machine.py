"""What a running kernel says of itself, from files that a test wrote."""

from __future__ import annotations

import json

import pytest

from kemu.errors import ConfigError
from kemu_lab import this_machine

ZONEINFO = """\
Node 0, zone      DMA
  per-node stats
      nr_inactive_anon 2537
  pages free     2816
        boost    7
        min      45
        low      56
        high     67
        spanned  4095
        present  3998
        managed  3840
        protection: (0, 3019, 5579)
      nr_free_pages 2816
  pagesets
    cpu: 0
              high:  3
              high_min: 28
Node 0, zone   Normal
  pages free     0
        min      0
        low      0
        high     0
        managed  0
        protection: (0, 0, 0)
"""


@pytest.fixture
def linux(tmp_path, monkeypatch):
    """Return a root directory that this_machine reads instead of the real one."""
    for name, place in (("SLAB", "slab"), ("PROC", "proc"), ("CPUS", "cpu")):
        (tmp_path / place).mkdir()
        monkeypatch.setattr(this_machine, name, tmp_path / place)
    (tmp_path / "proc/sys/vm").mkdir(parents=True)
    (tmp_path / "proc/cmdline").write_text("quiet slub_max_order=1\n")
    (tmp_path / "proc/zoneinfo").write_text(ZONEINFO)
    (tmp_path / "proc/sys/vm/min_free_kbytes").write_text("1024\n")
    (tmp_path / "proc/sys/vm/lowmem_reserve_ratio").write_text("256\t256\t32\n")
    (tmp_path / "cpu/present").write_text("0-2,5\n")
    (tmp_path / "cpu/possible").write_text("0-7\n")
    cache = tmp_path / "slab/dentry"
    cache.mkdir()
    for name, value in {"slab_size": "192\n", "order": "0\n", "objs_per_slab": "21\n", "ctor": "init+0x1/0x2\n"}.items():
        (cache / name).write_text(value)
    (tmp_path / "slab/alias").symlink_to(cache)
    return tmp_path


@pytest.mark.usefixtures("linux")
def test_caches_cpus_and_boot_words_are_read():
    data = json.loads(this_machine.slab_table_text())
    assert data["slab"] == {"dentry": {"slab_size": 192, "order": 0, "objs_per_slab": 21}}
    assert data["present_cpus"] == 4
    assert "slub_max_order=1" in data["boot_args"]


def test_one_present_cpu_counts_as_the_possible_ones(linux):
    (linux / "cpu/present").write_text("0\n")
    assert json.loads(this_machine.slab_table_text())["present_cpus"] == 8


@pytest.mark.usefixtures("linux")
def test_zones_are_read_once_each():
    data = json.loads(this_machine.marks_text())
    dma, normal = data["zones"]
    assert dma == {
        "node": 0,
        "zone": "DMA",
        "boost": 7,
        "min": 45,
        "low": 56,
        "high": 67,
        "spanned": 4095,
        "present": 3998,
        "managed": 3840,
        "protection": [0, 3019, 5579],
    }
    assert normal["zone"] == "Normal"
    assert data["sysctl"] == {"vm/min_free_kbytes": [1024], "vm/lowmem_reserve_ratio": [256, 256, 32]}


def test_a_kernel_without_slub_is_refused(linux, monkeypatch):
    monkeypatch.setattr(this_machine, "SLAB", linux / "nothing")
    with pytest.raises(ConfigError, match="it takes a Linux kernel with SLUB"):
        this_machine.slab_table_text()


def test_no_proc_is_refused(linux, monkeypatch):
    monkeypatch.setattr(this_machine, "PROC", linux / "nothing")
    with pytest.raises(ConfigError, match="it takes a Linux kernel"):
        this_machine.marks_text()


def test_a_file_that_may_not_be_read_is_said(linux, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(linux), "read_text", refuse)
    with pytest.raises(ConfigError, match="may not be read; only root may"):
        this_machine.slab_table_text()


def test_a_file_that_breaks_is_said(linux):
    (linux / "cpu/present").unlink()
    with pytest.raises(ConfigError, match="No such file"):
        this_machine.slab_table_text()
