"""Attributes of real files: what os.stat() says, and when they were made."""

from __future__ import annotations

import os

import pytest

from kemu_lab import statx as module
from kemu_lab.statx import statx


@pytest.fixture
def here(tmp_path):
    (tmp_path / "f").write_bytes(b"12345")
    (tmp_path / "l").symlink_to("f")
    (tmp_path / "d").mkdir()
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("name", [b"f", b"l", b"d", b""])
def test_it_says_what_stat_says(here, name):
    found = statx(here, name)
    known = os.stat(name, dir_fd=here, follow_symlinks=False) if name else os.fstat(here)
    assert (found.mode, found.nlink, found.uid, found.gid) == (known.st_mode, known.st_nlink, known.st_uid, known.st_gid)
    assert (found.ino, found.size, found.used) == (known.st_ino, known.st_size, known.st_blocks * 512)
    assert (found.mtime_ns, found.ctime_ns) == (known.st_mtime_ns, known.st_ctime_ns)
    assert found.dev == os.major(known.st_dev) << 20 | os.minor(known.st_dev)
    assert found.is_dir == (name in (b"d", b""))


def test_a_birth_stays_while_all_else_changes(here):
    before = statx(here, b"f")
    os.utime(b"f", ns=(1, 2), dir_fd=here)
    os.rename(b"f", b"g", src_dir_fd=here, dst_dir_fd=here)
    after = statx(here, b"g")
    assert (after.atime_ns, after.mtime_ns) == (1, 2)
    assert after.generation == before.generation


@pytest.mark.parametrize("libc", [True, False])
def test_what_is_not_there_is_an_error_of_the_system(here, monkeypatch, libc):
    if not libc:
        monkeypatch.setattr(module, "_LIBC", None)
    with pytest.raises(FileNotFoundError):
        statx(here, b"nothing")
    with pytest.raises(NotADirectoryError):
        statx(here, b"f/x")


def test_without_the_library_it_does_without_the_birth(here, monkeypatch):
    with_it = statx(here, b"f")
    monkeypatch.setattr(module, "_LIBC", None)
    without = statx(here, b"f")
    assert without.generation == 0
    assert without[:4] == with_it[:4] and without[5] == with_it[5] and without[7:] == with_it[7:]
