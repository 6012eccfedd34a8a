"""What a machine and a stack must have to mount NFS.

Interface: :class:`MachineParts`, :class:`StackParts`; ``make_modules(machine)`` loads nfs and sunrpc; ``quad(addr)``.

Rule of this file: kemu.machine.Machine and kemu_net.stack.NetStack have these parts, but nothing here imports them; so the parts
can be given one by one in a test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from kemu_nfs.nfs.nfs_client import NfsModule

if TYPE_CHECKING:
    from kemu.fs.fs_writeback import FsWriteback
    from kemu.kernel.core import Kernel
    from kemu.lib.radix_tree import RadixNodes
    from kemu.mm.backing_dev import Congestion
    from kemu.mm.filemap import Filemap
    from kemu.mm.memory import Memory
    from kemu.mm.page_alloc import PageAllocator
    from kemu.mm.slub import Slub
    from kemu.mm.swapfile import Swapfile


class MachineParts(Protocol):
    """What NFS needs of a machine."""

    kernel: Kernel
    page_alloc: PageAllocator
    slub: Slub
    radix_nodes: RadixNodes
    filemap: Filemap
    swapfile: Swapfile
    congestion: Congestion
    memory: Memory
    fs_writeback: FsWriteback


class StackParts(Protocol):
    """What NFS needs of a network stack."""

    tcp: Any
    udp: Any
    socks: Any
    nic: Any


def quad(addr: int) -> str:
    """Write an IPv4 address."""
    return f"{addr >> 24}.{addr >> 16 & 255}.{addr >> 8 & 255}.{addr & 255}"


def make_modules(machine: MachineParts) -> NfsModule:
    """Load nfs and sunrpc into a machine."""
    build: Callable[..., Any] | None = getattr(machine, "build", None)
    parts = (
        machine.kernel,
        machine.page_alloc,
        machine.slub,
        machine.radix_nodes,
        machine.filemap,
        machine.swapfile,
        machine.memory.file_io,
        machine.fs_writeback,
    )
    if build is None:
        return NfsModule(*parts, congestion=machine.congestion)
    module: NfsModule = build(NfsModule, *parts, congestion=machine.congestion)
    return module
