"""A machine's /proc in a directory, and the programs that read the real one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from kemu.errors import ConfigError
from kemu.machine import Machine, MachineConfig
from kemu.mm.gfp import GFP_KERNEL
from kemu.mm.swap_header import mkswap_header
from kemu_lab.cli import main
from kemu_lab.procfs import MARK, prepare_directory, write_tree

SWAP = 32 << 20

# Bind each file of the tree over the real one, in a namespace of our own, and run a program there.
BINDING = """
cd "$0" || exit 77
for file in $(find . -type f); do
    [ -e "/proc/$file" ] || continue
    mount --bind "$file" "/proc/$file" || exit 77
done
exec "$@"
"""


@pytest.fixture
def machine():
    with Machine(MachineConfig(mem=64 << 20, cpus=2)) as machine:
        disk = machine.add_disk("sda", SWAP)
        disk.blocks[0] = mkswap_header(SWAP // 4096)
        assert machine.swapfile.swapon(disk.open()) == 0
        for _ in range(7):
            machine.swapfile.get_swap_page()
        for size in (64, 64, 200, 1000):
            machine.slub.kmalloc(size, GFP_KERNEL)
        machine.vmstat.pswpin, machine.vmstat.pswpout = 11, 22
        yield machine


@pytest.fixture
def tree(machine, tmp_path):
    write_tree(machine.proc, prepare_directory(str(tmp_path / "out")))
    return tmp_path / "out" / "proc"


@pytest.fixture
def procps(tree):
    """Run a program of procps with the machine's files over /proc."""

    def run(*words):
        if shutil.which("unshare") is None or shutil.which(words[0]) is None:
            pytest.skip(f"{words[0]} or unshare is not installed")
        command = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", BINDING, str(tree), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 77 or "unshare" in done.stderr:
            pytest.skip(f"no mounts over /proc here: {done.stderr.strip()[:100]}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def kib(pages):
    return pages << 2


# ---- the directory


def test_every_file_is_there_with_its_text_and_mode(machine, tree):
    for path in machine.proc.paths():
        file = tree.parent / path.lstrip("/")
        assert file.read_text() == machine.proc.read(path)
        assert file.stat().st_mode & 0o777 == machine.proc.mode(path)


def test_a_directory_of_an_earlier_run_is_written_again(machine, tree):
    out = str(tree.parent)
    (tree / "stale").write_text("")
    machine.slub.kmalloc(64, GFP_KERNEL)
    write_tree(machine.proc, prepare_directory(out))
    assert not (tree / "stale").exists()
    assert (tree / "slabinfo").read_text() == machine.proc.read("/proc/slabinfo")


def test_what_kemu_did_not_make_is_not_touched(tmp_path):
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(ConfigError, match="not empty, and kemu did not make it"):
        prepare_directory(str(tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["letter"]


def test_an_empty_directory_and_a_new_one_are_used(tmp_path):
    for name in (tmp_path, tmp_path / "a" / "b"):
        prepare_directory(str(name))
        assert (name / MARK).is_file()


@pytest.mark.parametrize("name", ["file", "file/below", "nul\0", ""])
def test_what_cannot_be_a_directory_is_refused_in_a_sentence(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    if not name:
        Path("x").write_text("")
    with pytest.raises(ConfigError, match="--proc"):
        prepare_directory(name)


def test_a_directory_that_goes_away_is_one_sentence(machine, tmp_path):
    name = prepare_directory(str(tmp_path / "out"))
    shutil.rmtree(name)
    Path(name).write_text("")
    with pytest.raises(ConfigError, match="could not be written"):
        write_tree(machine.proc, name)


def test_the_command_line_refuses_before_anything_runs(tmp_path, capsys):
    (tmp_path / "letter").write_text("dear")
    assert main(["run", "--proc", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "kemu did not make it" in err


def test_a_run_leaves_the_clients_files_whatever_its_end(tmp_path, capsys):
    assert main(["run", "--patches", "none", "--mem", "8M", "--quiet", "--proc", str(tmp_path)]) == 1
    capsys.readouterr()
    assert "MemTotal:         8192 kB\n" in (tmp_path / "proc" / "meminfo").read_text()
    assert (tmp_path / "sys" / "kernel" / "slab" / "kmalloc-64" / "order").read_text() == "0\n"


# ---- psutil


def ask_psutil(tree, question):
    """Ask in a process of its own: psutil keeps what it once found out."""
    program = f"import psutil; psutil.PROCFS_PATH = {str(tree)!r}; print({question})"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_psutil_reads_the_memory(machine, tree):
    pytest.importorskip("psutil")
    total, free, active, cached = map(
        int, ask_psutil(tree, "*(lambda m: (m.total, m.free, m.active, m.cached))(psutil.virtual_memory())")
    )
    vmstat = machine.vmstat
    assert total == machine.config.mem
    assert free == machine.page_alloc.nr_free_pages() << 12
    assert active == vmstat.nr_active << 12
    assert cached == vmstat.nr_slab_reclaimable << 12  # the disk's header page is a buffer


def test_psutil_guesses_what_is_available_from_zoneinfo(machine, tree):
    pytest.importorskip("psutil")
    (available,) = map(int, ask_psutil(tree, "psutil.virtual_memory().available"))
    assert 0 < available <= machine.config.mem


def test_psutil_reads_the_swap(machine, tree):
    psutil = pytest.importorskip("psutil")
    path, psutil.PROCFS_PATH = psutil.PROCFS_PATH, str(tree)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            swap = psutil.swap_memory()
    finally:
        psutil.PROCFS_PATH = path
    assert (swap.total, swap.used) == (machine.swapfile.total_swap_pages << 12, 7 << 12)
    assert (swap.sin, swap.sout) == (11 << 12, 22 << 12)


# ---- procps


def test_free_shows_memory_and_swap(machine, procps):
    memory, swap = procps("free").splitlines()[1:3]
    assert memory.split()[:2] == ["Mem:", str(kib(machine.page_alloc.total_pages))]
    assert memory.split()[3] == str(kib(machine.page_alloc.nr_free_pages()))
    size = machine.swapfile.total_swap_pages
    assert swap.split() == ["Swap:", str(kib(size)), str(kib(7)), str(kib(size - 7))]


def test_slabtop_shows_the_caches(machine, procps):
    text = procps("slabtop", "-o", "-s", "n")
    rows = {words[-1]: words for line in text.splitlines() if len(words := line.split()) == 8 and words[2].endswith("%")}
    cache = machine.slub.caches["kmalloc-256"]
    objs, active, _use, _size, slabs, per_slab = rows["kmalloc-256"][:6]
    assert (int(objs), int(active), int(slabs), int(per_slab)) == (16, 16, len(cache.slabs), cache.objects)
    assert f"Active / Total Slabs (% used)      : {sum(len(c.slabs) for c in machine.slub.caches.values())}" in text


def test_vmstat_shows_free_memory_buffers_and_swap(machine, procps):
    columns, values = procps("vmstat").splitlines()[1:3]
    found = dict(zip(columns.split(), map(int, values.split()), strict=False))
    assert found["swpd"] == kib(7)
    assert found["free"] == kib(machine.page_alloc.nr_free_pages())
    assert found["buff"] == 4


def test_vmstat_s_shows_pages_swapped(machine, procps):
    text = procps("vmstat", "-s")
    assert re.search(r"(?m)^ +11 pages swapped in$", text) and re.search(r"(?m)^ +22 pages swapped out$", text)
    assert re.search(rf"(?m)^ +{kib(machine.swapfile.total_swap_pages)} K total swap$", text)


def test_vmstat_m_shows_the_caches(machine, procps):
    rows = {line.split()[0]: line.split()[1:] for line in procps("vmstat", "-m").splitlines()[1:]}
    assert rows["kmalloc-64"] == ["64", "64", "64", "64"]
    assert set(rows) == set(machine.slub.caches)


def test_sysctl_reads_variables(machine, procps):
    assert procps("sysctl", "-n", "vm.min_free_kbytes") == f"{machine.page_alloc.min_free_kbytes}\n"


def test_swapon_lists_the_areas(machine, procps):
    words = procps("swapon", "--show=NAME,TYPE,SIZE,USED,PRIO", "--noheadings", "--bytes").split()
    assert words == ["/dev/sda", "partition", str(machine.swapfile.total_swap_pages << 12), str(7 << 12), "-1"]
