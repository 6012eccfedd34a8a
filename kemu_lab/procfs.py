"""A machine's /proc and /sys as files in a directory, for programs that read the real ones.

Interface
    * :func:`prepare_directory` refuses a directory that cannot be used, in one sentence; :func:`write_tree` writes into it.

Rules of this file
    * ``DIR/proc/meminfo`` is the machine's /proc/meminfo, ``DIR/sys/kernel/slab/...`` its /sys. Mode bits are the kernel's.
    * What stands in a directory that kemu did not make is never touched: only one that is empty, does not exist, or carries the
      mark of an earlier run is used. Of the latter ``proc`` and ``sys`` are replaced.
    * psutil reads it with ``psutil.PROCFS_PATH = "DIR/proc"``. procps has /proc built in: bind the files over it, in a mount
      namespace of its own.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from kemu.errors import ConfigError
from kemu.fs.proc import Proc

MARK = ".kemu-proc"
TREES = ("proc", "sys")


def prepare_directory(name: str) -> str:
    """Make the directory or find that it may be used, and mark it; return its name."""
    directory = Path(name)
    try:
        if directory.is_dir() and not (directory / MARK).is_file() and any(directory.iterdir()):
            raise ConfigError(f"--proc {name!r} cannot be used; it is not empty, and kemu did not make it")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MARK).write_text("made by kemu run --proc\n")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"--proc {name!r} cannot be used: {why}") from None
    return name


def write_tree(proc: Proc, name: str) -> None:
    """Write all files of a machine below a prepared directory, in place of those of an earlier run."""
    try:
        _write(proc, Path(name))
    except OSError as error:
        raise ConfigError(f"--proc {name!r} could not be written: {error.strerror}") from None


def _write(proc: Proc, directory: Path) -> None:
    for tree in TREES:
        if (directory / tree).exists():
            shutil.rmtree(directory / tree)
    for path in proc.paths():
        file = directory / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(proc.read(path), encoding="ascii")
        file.chmod(proc.mode(path))
