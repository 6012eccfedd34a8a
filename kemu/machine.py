"""Boot one machine from one frozen configuration (2.6.23 init/main.c: start_kernel(), as far as memory goes).

Interface
    * :class:`MachineConfig`: what to boot. :class:`Machine`: the booted one, a facade: its attributes are the subsystems.
    * ``machine.check()`` asserts every invariant; ``machine.shutdown()`` ends its world; ``with Machine(config) as machine:``.

Rules of this file
    * Every part is built from what lies below it. The neighbours above that a part calls back are handed over in one place,
      :meth:`Machine._hand_over`: the allocator its reclaim, reclaim its OOM killer, the swap cache its I/O. Network and NFS hand
      over theirs in kemu_net/stack.py and kemu_nfs/mount.py.
    * Nothing below holds the Machine. A world whose tasks sleep is never collected, so the facade has a finalizer.
    * A patch of one's own is a mixin: ``MachineConfig(overrides={Slub: MyMixin})``. The subclass is built here, for this machine
      only.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import attrs

from kemu.block.bio import Bios
from kemu.block.disk import BANDWIDTH, LATENCY_NS, Disk
from kemu.errors import ConfigError
from kemu.fixes import FixSet
from kemu.fs.fs_writeback import FsWriteback
from kemu.fs.proc import Proc
from kemu.kernel.core import MAX_CPUS, Kernel
from kemu.kernel.world import World
from kemu.lib.radix_nodes import NODE_SIZE, RadixNodes, radix_tree_node_ctor
from kemu.mm.backing_dev import BackingDev, Congestion
from kemu.mm.dirty_balance import DirtyBalance
from kemu.mm.filemap import Filemap
from kemu.mm.gfp import PAGE_SHIFT
from kemu.mm.lru import Lru
from kemu.mm.memory import Memory
from kemu.mm.memory_hotplug import MemoryHotplug
from kemu.mm.nodes import MAX_NUMNODES, topology
from kemu.mm.numa import NumaPageAllocator
from kemu.mm.oom_kill import OomKiller
from kemu.mm.page_alloc import PageAllocator
from kemu.mm.page_io import SWAP_OPS, PageIo
from kemu.mm.pdflush import Pdflush
from kemu.mm.policies import check_policy, make_geometry, marks_of
from kemu.mm.process import Processes
from kemu.mm.reserve import Reserves
from kemu.mm.shadow import Shadow
from kemu.mm.slub import SLAB_PANIC, Slub
from kemu.mm.slub_debug import setup_slub_debug
from kemu.mm.swap_state import SwapState
from kemu.mm.swapfile import Swapfile
from kemu.mm.vmscan import Reclaim
from kemu.patches import PatchSet
from kemu.security.selinux import Selinux

T = TypeVar("T")

MIN_MEM = 1 << 20
MAX_MEM = 1 << 40

_KINDS: dict[str, type[Any]] = {
    **dict.fromkeys(("name", "arch", "slub_debug", "geometry", "swap_ops"), str),
    **dict.fromkeys(("mem", "cpus", "seed", "nodes", "constant_pages"), int),
    **dict.fromkeys(("slub_merge", "selinux"), bool),
    "patches": PatchSet,
    "fixes": FixSet,
    "overrides": Mapping,
}


def _patches(value: PatchSet | str) -> PatchSet:
    return PatchSet.parse(value) if isinstance(value, str) else value


def _fixes(value: FixSet | str) -> FixSet:
    return FixSet.parse(value) if isinstance(value, str) else value


@attrs.frozen
class MachineConfig:
    """What to boot.

    :param mem: bytes of memory, a multiple of the page size.
    :param patches: a PatchSet, or the text of one ("all,-20").
    :param fixes: a FixSet, or the text of one ("none").
    :param arch: the zone layout, x86_64 or i386.
    :param nodes: memory is split evenly over so many nodes, and CPUs in contiguous blocks.
    :param constant_pages: the emergency pool that is set by hand where patch 11, which would size it, is off.
    :param slub_debug: the boot word slub_debug=: "FZPU", perhaps with names of caches, ",kmalloc-64" (mm/slub_debug.py).
    :param slub_merge: let slab caches of like size be one, as a kernel without slub_nomerge does.
    :param geometry: whose slab geometry and marks: 2.6.23, 6.1 or 6.18 (mm/policies.py).
    :param selinux: boot with SELinux, which then judges every packet that a socket gets.
    :param swap_ops: the methods that carry pages to a swap file: "writepage" (v14), or "swapout" (what the review asked for).
    :param overrides: subsystem class -> a mixin that stands before it, for one's own patch.
    """

    name: str = "linux"
    mem: int = 32 << 20
    cpus: int = 1
    patches: PatchSet = attrs.field(factory=PatchSet.all, converter=_patches)
    fixes: FixSet = attrs.field(factory=FixSet.all, converter=_fixes)
    seed: int = 0
    arch: str = "x86_64"
    nodes: int = 1
    vehicle: str | None = None
    constant_pages: int = 0
    slub_debug: str = ""
    slub_merge: bool = False
    geometry: str = "2.6.23"
    selinux: bool = False
    swap_ops: str = "writepage"
    overrides: Mapping[type[Any], type[Any]] = attrs.Factory(dict)

    def __attrs_post_init__(self) -> None:
        """Refuse what no machine could be: one sentence."""
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise ConfigError(f"{name} {value!r} cannot be used; it is of type {kind.__name__}")
        if not MIN_MEM <= self.mem <= MAX_MEM or self.mem % 4096:
            raise ConfigError(f"mem {self.mem} cannot be used; it is a multiple of 4096 from {MIN_MEM} to {MAX_MEM} bytes")
        if not 1 <= self.cpus <= MAX_CPUS:
            raise ConfigError(f"cpus {self.cpus} cannot be used; it goes from 1 to {MAX_CPUS}")
        if not 1 <= self.nodes <= MAX_NUMNODES or self.mem // self.nodes < MIN_MEM:
            raise ConfigError(
                f"nodes {self.nodes} cannot be used; it goes from 1 to {MAX_NUMNODES}, with at least {MIN_MEM} bytes of mem each"
            )
        if not 0 <= self.constant_pages <= self.mem >> PAGE_SHIFT:
            raise ConfigError(
                f"constant_pages {self.constant_pages} cannot be used; it goes from 0 to all {self.mem >> PAGE_SHIFT}"
            )
        setup_slub_debug(self.slub_debug)
        check_policy(self.geometry)
        if self.swap_ops not in SWAP_OPS:
            raise ConfigError(f"swap_ops {self.swap_ops!r} is unknown; there are {' and '.join(SWAP_OPS)}")
        if self.arch not in ("x86_64", "i386"):
            raise ConfigError(f"arch {self.arch!r} is unknown; there are x86_64 and i386")


class Machine:
    """One booted machine.

    :param config: what to boot.
    :param world: the world that it shares a clock with; its own if none is given.
    """

    def __init__(self, config: MachineConfig | None = None, world: World | None = None) -> None:
        self.config = config = config or MachineConfig()
        own_world = world is None
        self.world = world = World(config.seed, config.vehicle) if world is None else world
        self.kernel = kernel = Kernel(config.name, world, config.cpus, config.patches, config.fixes)
        build = self.build
        # memory, from the ground
        allocator = NumaPageAllocator if config.nodes > 1 else PageAllocator
        self.page_alloc = build(
            allocator,
            kernel,
            config.mem,
            arch=config.arch,
            topo=topology(config.nodes, config.cpus),
            marks=marks_of(config.geometry),
        )
        self.vmstat = self.page_alloc.vmstat
        self.memory_hotplug = build(MemoryHotplug, self.page_alloc)
        word = 4 if config.arch == "i386" else 8
        self.slub = build(
            Slub,
            kernel,
            self.page_alloc,
            slub_debug=config.slub_debug,
            geometry=make_geometry(config.geometry, config.cpus, word),
            merge=config.slub_merge,
        )
        node_cache = self.slub.kmem_cache_create("radix_tree_node", NODE_SIZE, flags=SLAB_PANIC, ctor=radix_tree_node_ctor)
        self.radix_nodes = build(
            RadixNodes,
            kernel,
            lambda gfp, slub=self.slub: slub.kmem_cache_alloc(node_cache, gfp),
            lambda address, slub=self.slub: slub.kmem_cache_free(node_cache, address),
        )
        self.reserves = build(Reserves, kernel, self.page_alloc, self.slub, config.constant_pages)
        self.selinux: Selinux | None = build(Selinux, kernel, self.slub) if config.selinux else None
        # pages that can be reclaimed
        self.congestion = build(Congestion, kernel)
        self.lru = build(Lru, self.page_alloc)
        self.filemap = build(Filemap, kernel, self.lru, self.radix_nodes)
        self.swapfile = build(Swapfile, kernel, self.filemap)
        self.swap_state = build(SwapState, kernel, self.filemap, self.swapfile, self.congestion)
        self.page_io = build(PageIo, kernel, self.swapfile, self.filemap, self.swap_state, config.swap_ops)
        # disks
        self.bios = build(Bios, kernel, self.slub)
        self.disks: dict[str, Disk] = {}
        # processes
        self.shadow = build(Shadow, kernel, self.vmstat)
        self.memory = build(Memory, kernel, self.swap_state, self.swapfile, self.shadow)
        self.overcommit = self.memory.overcommit
        self.processes = build(Processes, kernel, self.memory)
        # reclaim: closes the circle; from here on an allocation that fails may write pages out
        self.reclaim = build(Reclaim, kernel, self.swap_state, self.congestion)
        self.oom = build(OomKiller, kernel, self.reclaim)
        # dirty pages of files
        self.pdflush = build(Pdflush, kernel)
        self.dirty_balance = build(DirtyBalance, kernel, self.reclaim.writeout, self.pdflush, self.congestion)
        write_pages = self.memory.file_io.write_pages
        self.fs_writeback = build(FsWriteback, kernel, self.filemap, write_pages, self.dirty_balance)
        self._hand_over()
        disks = self.disks
        self.proc = build(
            Proc,
            kernel,
            self.page_alloc,
            self.slub,
            self.reserves,
            self.swap_state,
            self.overcommit,
            lambda: sum(disk.mapping.nrpages for disk in disks.values()),
        )
        self.pdflush.start()
        self.reclaim.start()
        if own_world:
            world.shutdown_with(self)

    def build(self, cls: type[T], *args: Any, **kwargs: Any) -> T:
        """Make a subsystem of this machine: of its class, or of the class with the configured mixin before it."""
        overrides = self.config.overrides
        mixin = next((overrides[base] for base in cls.__mro__ if base in overrides), None)
        made = cls if mixin is None else type(f"{mixin.__name__}{cls.__name__}", (mixin, cls), {})
        part: T = made(*args, **kwargs)
        return part

    def _hand_over(self) -> None:
        """Close the circle: an allocation that fails enters reclaim, and reclaim writes pages out."""
        self.page_alloc.reclaim = self.reclaim
        self.reclaim.wakeup_pdflush = self.dirty_balance.wakeup_pdflush
        self.filemap.mark_inode_dirty = self.fs_writeback.mark_inode_dirty
        self.dirty_balance.writeback_inodes = self.fs_writeback.writeback_inodes
        self.dirty_balance.some_inode_is_dirty = self.fs_writeback.some_inode_is_dirty
        self.memory.file_fault.balance = self.memory.file_io.balance = self.dirty_balance
        self.fs_writeback.shrink_slab = self.reclaim.shrink_slab
        self.swap_state.swapper_space.a_ops = self.page_io
        self.swap_state.swap_readpage = self.page_io.swap_readpage
        self.page_io.bios = self.bios
        self.filemap.writeback_owner = self.bios.page_owner

    def add_disk(self, name: str, size: int, *, latency_ns: int = LATENCY_NS, bandwidth: int = BANDWIDTH) -> Disk:
        """Plug a disk in.

        :param name: as in /dev: "sda".
        :param size: bytes, whole pages.
        :param latency_ns: seek and rotation. ``bandwidth``: bytes per second.
        """
        if name in self.disks:
            raise ConfigError(f"there is a disk {name} already")
        backing = BackingDev(self.congestion, name)
        disk = self.build(Disk, self.bios, self.filemap, backing, size=size, latency_ns=latency_ns, bandwidth=bandwidth)
        self.disks[name] = disk
        return disk

    def remove_disk(self, disk: Disk) -> None:
        """Pull a disk that nobody uses any more; it may take until the last write is done."""
        disk.remove()
        del self.disks[disk.name]

    def check(self) -> None:
        """Assert the invariants of every subsystem."""
        for part in vars(self).values():
            check = getattr(part, "check", None)
            if check is not None:
                check()

    def shutdown(self) -> None:
        """End the machine's world, with every machine in it; a second call does nothing."""
        self.world.shutdown()

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Shut down, also after an error."""
        self.shutdown()
