"""Where a scenario's swap area lives: a file on the server, or a disk of the client's own. All else of a story is the same.

Interface: :func:`swap_home`; :class:`SwapHome` with ``swap_on()``, ``read_slot(area, slot)``, ``leave()``.
"""

from __future__ import annotations

from errno import errorcode
from typing import Protocol

from kemu.block.disk import Disk
from kemu.errors import KernelBug
from kemu.mm.address_space import File
from kemu.mm.swap_header import mkswap_header
from kemu.mm.swap_info import SwapInfo
from kemu_lab.hosts import Pair
from kemu_lab.run_config import RunConfig

PAGE_SIZE = 4096
SWAP_FACTOR = 3  # swap in multiples of memory
SWAP_FILE = "swapfile"


class SwapHome(Protocol):
    """A place for pages."""

    @property
    def disk(self) -> Disk | None:
        """The client's own disk, if the place is one."""
        ...

    def swap_on(self) -> File | str:
        """Make an area and use it; return its file, or in words why the kernel would not have it."""
        ...

    def read_slot(self, area: SwapInfo, slot: int) -> bytes | None:
        """Find what the place holds for a slot."""
        ...

    def leave(self) -> None:
        """Give the place up, after swapoff."""
        ...


class NfsHome:
    """A file on the server, as dd and mkswap would make it."""

    disk: Disk | None = None

    def __init__(self, pair: Pair, pages: int) -> None:
        self.pair = pair
        self.pages = pages

    def swap_on(self) -> File | str:
        """Mount the export, make the file, swapon; the kernel's refusal is part of the story."""
        self.pair.far.check_name(SWAP_FILE)
        error = self.pair.mount.mount()
        if error:
            raise KernelBug(f"mount failed: {errorcode[-error]}")
        file = self.pair.mount.make_swapfile(SWAP_FILE, self.pages)
        if isinstance(file, int):
            raise KernelBug(f"the swap file could not be made: {errorcode[-file]}")
        error = self.pair.client.swapfile.swapon(file)
        return f"swapon on NFS was refused: {errorcode[-error]}" if error else file

    def read_slot(self, area: SwapInfo, slot: int) -> bytes | None:
        """Read the server's file."""
        return self.pair.server_bytes(SWAP_FILE, slot)

    def leave(self) -> None:
        """Unmount; on a real server nothing stays."""
        self.pair.mount.umount()
        self.pair.far.tidy(SWAP_FILE)


class DiskHome:
    """A whole disk, as mkswap /dev/sda would make it."""

    def __init__(self, pair: Pair, pages: int) -> None:
        self.pair = pair
        self.disk: Disk = pair.client.add_disk("sda", pages * PAGE_SIZE)
        self.disk.blocks[0] = mkswap_header(pages)

    def swap_on(self) -> File | str:
        """Swapon; from now on a machine whose disk works is not dead."""
        self.pair.world.judge.closed_probes.append(self.disk.idle_probe)
        file = self.disk.open()
        error = self.pair.client.swapfile.swapon(file)
        return f"swapon on {self.disk.name} was refused: {errorcode[-error]}" if error else file

    def read_slot(self, area: SwapInfo, slot: int) -> bytes | None:
        """Read the disk's surface."""
        return self.disk.blocks.get(area.map_swap_page(slot))

    def leave(self) -> None:
        """Pull the disk."""
        self.pair.client.remove_disk(self.disk)


def swap_home(config: RunConfig, pair: Pair) -> SwapHome:
    """Return the place that the options name."""
    pages = SWAP_FACTOR * config.mem // PAGE_SIZE
    return DiskHome(pair, pages) if config.swap == "disk" else NfsHome(pair, pages)
