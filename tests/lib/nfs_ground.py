"""Test helper: a client machine that mounts from a server machine over a wire, everything real; and ways to disturb them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kemu.kernel.world import World
from kemu.machine import Machine, MachineConfig
from kemu_net.drivers.wire import Wire
from kemu_net.stack import NetStack
from kemu_nfs.mount import NfsMount
from kemu_nfs.server.nfsd import make_nfsd

MIB = 1 << 20
PAGE = 4096
SECOND = 1_000_000_000
CLIENT_IP, SERVER_IP = 0x0A000001, 0x0A000002


class NfsGround:
    """Two machines, a wire, a server with one export, and a mount (not yet mounted)."""

    def __init__(self, *, patches="all", fixes="all", mem=32 * MIB, cpus=1, seed=0, wire=None, overrides=None, **mount):
        self.world = World(seed)
        self.machine = Machine(
            MachineConfig("client", mem, cpus, patches=patches, fixes=fixes, overrides=overrides or {}), world=self.world
        )
        self.server_machine = Machine(MachineConfig("server", 256 * MIB), world=self.world)
        self.wire = Wire(self.world, **(wire or {}))
        self.stack = self._stack(self.machine, bytes((2, 0, 0, 0, 0, 1)), CLIENT_IP)
        self.server_stack = self._stack(self.server_machine, bytes((2, 0, 0, 0, 0, 2)), SERVER_IP)
        self.nfsd = make_nfsd(self.server_machine.kernel, self.server_stack.tcp, SERVER_IP)
        self.nfsd.start()
        self.mount = NfsMount(self.machine, self.stack, SERVER_IP, **mount)
        self.kernel = self.machine.kernel
        self.sched = self.kernel.sched

    def _stack(self, machine, mac, ip):
        return NetStack(
            machine.kernel, machine.page_alloc, machine.slub, machine.reserves, self.wire, mac=mac, ip=ip, build=machine.build
        )

    @property
    def faults(self):
        return self.nfsd.server.faults

    @property
    def stats(self):
        return self.mount.stats

    def run_for(self, ns: int) -> None:
        self.world.run(for_ns=ns)

    def spawn(self, body, comm="task", uid=0):
        return self.sched.spawn(comm, body, uid=uid)

    def file_bytes(self, path: str) -> bytes:
        """What the server has in a file."""
        inode = self.nfsd.server.tree.lookup_path(f"/export/{path}")
        return inode.read_data(0, inode.size)

    def swap_page(self, entry_slot: int, contents: bytes, sis=None):
        """Make a locked, dirty swap cache page for a slot of the first area, the way add_to_swap() would."""
        machine = self.machine
        page = machine.page_alloc.alloc_page(0xD0)
        page.contents = contents
        return page


@contextmanager
def nfs_ground(**options) -> Iterator[NfsGround]:
    """Make a ground, mount, and shut everything down."""
    ground = NfsGround(**options)
    try:
        yield ground
    finally:
        ground.world.shutdown()


@contextmanager
def mounted(**options) -> Iterator[NfsGround]:
    """Make a ground that is mounted."""
    with nfs_ground(**options) as ground:
        assert ground.mount.mount() == 0
        yield ground
