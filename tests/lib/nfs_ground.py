"""Test helper: a client machine that mounts from a server machine over a wire, everything real; and ways to disturb them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kemu.kernel.world import World
from kemu.machine import Machine, MachineConfig
from kemu.mm.shrink_list import ScanControl
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

    def __init__(
        self,
        *,
        patches="all",
        fixes="all",
        mem=32 * MIB,
        cpus=1,
        seed=0,
        wire=None,
        overrides=None,
        server=None,
        swap_ops="writepage",
        **mount,
    ):
        self.world = World(seed)
        self.machine = Machine(
            MachineConfig("client", mem, cpus, patches=patches, fixes=fixes, overrides=overrides or {}, swap_ops=swap_ops),
            world=self.world,
        )
        self.server_machine = Machine(MachineConfig("server", 256 * MIB), world=self.world)
        self.wire = Wire(self.world, **(wire or {}))
        self.stack = self._stack(self.machine, bytes((2, 0, 0, 0, 0, 1)), CLIENT_IP)
        self.server_stack = self._stack(self.server_machine, bytes((2, 0, 0, 0, 0, 2)), SERVER_IP)
        udp = self.server_stack.udp if mount.get("proto") == "udp" else None
        self.nfsd = make_nfsd(self.server_machine.kernel, self.server_stack.tcp, SERVER_IP, udp=udp, **(server or {}))
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

    def swapon(self, pages: int = 200, path: str = "swap"):
        """Make a swap file on the mount and use it; return its File."""
        file = self.mount.make_swapfile(path, pages)
        assert not isinstance(file, int), file
        assert self.machine.swapfile.swapon(file) == 0
        return file

    def process(self, pages: int = 64, task=None):
        """Make a task a process that may touch ``pages`` pages; return its mm."""
        mm = self.machine.memory.mm_alloc(task or self.sched.current)
        mm.total_vm = pages
        return mm

    def write(self, vpn: int, data: bytes) -> None:
        assert not self.machine.memory.write_page(self.sched.current, vpn, data)

    def read(self, vpn: int) -> bytes:
        return self.machine.memory.read_page(self.sched.current, vpn)

    def isolated(self, vpn: int, task=None):
        """Take one page of a process off its list, as reclaim's isolator does, and return it."""
        return self.isolate((task or self.sched.current).mm.ptes[vpn])

    def isolate(self, page):
        self.machine.lru.del_page_from_lru(page)
        page.count += 1
        page.flags &= ~(1 << 32 | 1 << 2)
        return page

    @staticmethod
    def scan_control(gfp=0xD0) -> ScanControl:
        return ScanControl(gfp)

    def shrink(self, page):
        """Give one isolated page to reclaim once; return (pages freed, pages kept)."""
        return self.machine.reclaim.shrink_list.shrink_page_list([page], self.scan_control())

    def pageout(self, vpn: int):
        """Begin to swap a page out: unmapped, its WRITE under way (if there is one). Return the page."""
        page = self.isolated(vpn)
        _, rest = self.shrink(page)
        self.machine.reclaim._put_back(rest)
        return page

    def swap_out(self, vpn: int) -> int:
        """Push one page out to swap until its frame is free; return its entry."""
        self.push_out(self.sched.current.mm.ptes[vpn])
        return self.sched.current.mm.ptes[vpn].entry

    def push_out(self, page) -> None:
        """Give a page to reclaim until its frame is free."""
        self.isolate(page)
        for _ in range(4):
            freed, rest = self.shrink(page)
            if freed:
                break
            for kept in rest:
                self.machine.filemap.wait_on_page_writeback(kept)
        else:
            self.machine.reclaim._put_back(rest)
            raise AssertionError(f"{page} stays")

    def wait_for_calls(self) -> None:
        """Let the world go until no RPC is under way."""
        rpc = self.mount.modules.rpc
        self.world.run(until=lambda: not rpc.live, for_ns=3000 * SECOND)
        assert not rpc.live

    def check(self) -> None:
        """Assert every invariant of both machines."""
        self.mount.check()
        self.machine.check()
        self.stack.check()


def page_bytes(vpn: int, generation: int = 0) -> bytes:
    """Return a page's worth of bytes that tell which page and which write it is."""
    return (b"%08d%08d" % (vpn, generation)).ljust(64, b".") * (PAGE // 64)


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
