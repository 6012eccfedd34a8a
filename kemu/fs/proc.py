"""/proc and /sys as text: what programs read of a kernel, from the machine's own counters (fs/proc, fs/sysfs).

Interface
    * :class:`Proc`: ``read(path)`` the text of a file; ``write(path, text)`` 0 or -errno; ``paths()``; ``mode(path)``;
      ``add(path, file)`` and ``remove(path)`` for subsystems; ``machine.proc`` is one.

Rules of this file
    * Only what kemu models is shown, in the kernel's order and widths: those of 2.6.24, which is nearest to 2.6.23-mm1. What is not
      modelled is absent, and never a zero. Texts come from proc_meminfo.py, proc_vmstat.py, proc_slab.py and mm/show_mem.py.
    * Reading changes nothing: no memory is allocated, no time passes, no list is sorted.
    * Files come and go with what they show: a slab cache, a sysctl that a subsystem registers. Nothing is kept here.
    * Paths are absolute. A slash too many is no error, as in the kernel; ``.`` and ``..`` are not followed.
    * Mode bits are obeyed as they are for an owner without CAP_DAC_OVERRIDE: a file without the write bit is -EACCES. (The
      kernel's root gets past the bits of /proc, and then -EINVAL or -EIO from files that cannot be written.)
    * Left out: per-process files, ``pagetypeinfo`` (no mobility groups), /proc/net, symbolic links; ``stat``, ``uptime`` and
      ``loadavg``, as kemu does not tell user, system and interrupt time apart: zeros would be believed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import attrs

from kemu.errors import ConfigError
from kemu.fs.proc_meminfo import MemInfo, proc_swaps
from kemu.fs.proc_slab import SlabFiles, slabinfo
from kemu.fs.proc_vmstat import proc_vmstat
from kemu.kernel.errno import EACCES, EINVAL, EISDIR, ENOENT, ENOTDIR
from kemu.mm.show_mem import ShowMem

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.overcommit import Overcommit
    from kemu.mm.page_alloc import PageAllocator
    from kemu.mm.reserve import Reserves
    from kemu.mm.slub import Slub
    from kemu.mm.swap_state import SwapState

_SYSCTL: Final = "/proc/sys/"
_SLAB: Final = "/sys/kernel/slab/"
_WHY: Final = {ENOENT: "does not exist", EISDIR: "is a directory", ENOTDIR: "is no directory, or lies below a file"}


@attrs.frozen
class ProcFile:
    """One file.

    :ivar show: gives its text. :ivar store: takes what is written, 0 or -errno; None: it cannot be written.
    """

    show: Callable[[], str]
    store: Callable[[str | bytes], int] | None = None
    mode: int = 0o444


class Proc:
    """The files of one machine."""

    def __init__(
        self,
        kernel: Kernel,
        page_alloc: PageAllocator,
        slub: Slub,
        reserves: Reserves,
        swap_state: SwapState,
        overcommit: Overcommit,
        buffers: Callable[[], int],
    ) -> None:
        self.patched = kernel.patched
        self.sysctl = kernel.sysctl
        areas = swap_state.areas
        zones = ShowMem(kernel, page_alloc)
        meminfo = MemInfo(page_alloc, swap_state, overcommit, buffers)
        self._slab = SlabFiles(slub)
        self._files = {
            "/proc/meminfo": ProcFile(meminfo.text),
            "/proc/zoneinfo": ProcFile(zones.zoneinfo),
            "/proc/buddyinfo": ProcFile(zones.buddyinfo),
            "/proc/vmstat": ProcFile(lambda: proc_vmstat(page_alloc)),
            "/proc/swaps": ProcFile(lambda: proc_swaps(areas)),
            "/proc/slabinfo": ProcFile(lambda: slabinfo(slub), lambda _text: -EINVAL, 0o644),
        }
        if self.patched.mem_reserve:  # [p11]
            self._files["/proc/reserve_info"] = ProcFile(reserves.reserve_info, None, 0o400)

    def add(self, path: str, file: ProcFile) -> None:
        """Let a subsystem that was loaded show something (create_proc_entry())."""
        self._files[path] = file

    def remove(self, path: str) -> None:
        """Take it away again (remove_proc_entry())."""
        del self._files[path]

    def paths(self) -> list[str]:
        """Give the names of all files, in order."""
        names = list(self._files)
        names += [_SYSCTL + name.replace(".", "/") for name in self.sysctl.names()]
        names += [_SLAB + name for name in self._slab.names()]
        names.sort()
        return names

    def mode(self, path: str) -> int:
        """Give the mode bits of a file."""
        return self._file(path).mode

    def read(self, path: str) -> str:
        """Give the text of a file."""
        return self._file(path).show()

    def write(self, path: str, text: str | bytes) -> int:
        """Put text into a file by one system call: 0 or what went wrong, a negative errno."""
        file = self._find(path)
        if isinstance(file, int):
            return file
        if file.store is None or not file.mode & 0o200:
            return -EACCES
        return file.store(text)

    def _file(self, path: str) -> ProcFile:
        """Find a file, or say in a sentence why there is none."""
        file = self._find(path)
        if isinstance(file, int):
            raise ConfigError(f"{path!r} {_WHY[-file]}; paths() names all files")
        return file

    def _find(self, path: str) -> ProcFile | int:
        """Find a file as open(2) would, or give a negative errno."""
        clean = _clean(path)
        file = self._lookup(clean)
        if file is not None:
            return -ENOTDIR if path.endswith("/") else file
        if any(self._lookup(clean[:end]) for end in range(len(clean)) if clean[end] == "/"):
            return -ENOTDIR
        folder = clean.rstrip("/") + "/"
        return -EISDIR if clean and any(name.startswith(folder) for name in self.paths()) else -ENOENT

    def _lookup(self, path: str) -> ProcFile | None:
        if path.startswith(_SYSCTL):
            return self._sysctl_file(path)
        if path.startswith(_SLAB):
            found = self._slab.find(path[len(_SLAB) :])
            return None if found is None else ProcFile(*found)
        return self._files.get(path)

    def _sysctl_file(self, path: str) -> ProcFile | None:
        name = path[len(_SYSCTL) :].replace("/", ".")
        table = self.sysctl.table(name)
        if table is None or "." in path[len(_SYSCTL) :]:
            return None
        if table.set is None:
            return ProcFile(lambda: self.sysctl.read(name))
        return ProcFile(lambda: self.sysctl.read(name), lambda text: self.sysctl.write(name, text), 0o644)


def _clean(path: str) -> str:
    """Drop slashes that mean nothing; a relative path stays one, and names no file."""
    return ("/" if path.startswith("/") else "") + "/".join(part for part in path.split("/") if part)
