"""Test helper: two whole stacks on a wire, with a process on each that makes socket calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kemu.fixes import FixSet
from kemu.kernel.core import Kernel
from kemu.kernel.world import World
from kemu.mm.page_alloc import PageAllocator
from kemu.mm.reserve import Reserves
from kemu.mm.slub import Slub
from kemu.patches import PatchSet
from kemu_net.core.uapi import AF_INET, F_SETFL, O_NONBLOCK, SOCK_DGRAM, SOCK_STREAM, SockaddrIn
from kemu_net.drivers.wire import Wire
from kemu_net.stack import NetStack
from net_ground import IP_A, IP_B, MAC_A, MAC_B, MIB

MS = 1_000_000


def boot(world, wire, name, mac, ip, *, patches="all", fixes="all", mem=32 * MIB, **options) -> NetStack:
    """Boot a machine that is nothing but a network."""
    kernel = Kernel(name, world, 1, PatchSet.parse(patches), FixSet.parse(fixes))
    page_alloc = PageAllocator(kernel, mem)
    slub = Slub(kernel, page_alloc)
    return NetStack(kernel, page_alloc, slub, Reserves(kernel, page_alloc, slub), wire, mac=mac, ip=ip, **options)


class Pair:
    """Two stacks: ``a`` and ``b`` are their processes' socket calls, ``sa`` and ``sb`` the stacks."""

    def __init__(self, **options) -> None:
        self.world = World()
        self.wire = Wire(self.world)
        self.sa = boot(self.world, self.wire, "a", MAC_A, IP_A, **options)
        self.sb = boot(self.world, self.wire, "b", MAC_B, IP_B)
        self.a = self.sa.sockets()
        self.b = self.sb.sockets()

    def run(self, ms: float) -> None:
        self.world.run(for_ns=int(ms * MS))

    def listen(self, port=80, backlog=5) -> int:
        """Listen on b."""
        fd = self.b.socket(AF_INET, SOCK_STREAM)
        assert self.b.bind(fd, SockaddrIn(0, port)) == 0
        assert self.b.listen(fd, backlog) == 0
        return fd

    def stream(self, port=80, *, nonblock=True) -> tuple[int, int, int]:
        """Connect a to b; give a's end, b's end and the listener."""
        listener = self.listen(port)
        fd = self.a.socket(AF_INET, SOCK_STREAM)
        assert self.a.connect(fd, SockaddrIn(IP_B, port)) == 0
        self.run(5)
        peer, _name = self.b.accept(listener)
        assert peer >= 3
        if nonblock:
            self.a.fcntl(fd, F_SETFL, O_NONBLOCK)
            self.b.fcntl(peer, F_SETFL, O_NONBLOCK)
        return fd, peer, listener

    def dgram(self, port=7) -> tuple[int, int]:
        """Give a socket of a without a port, and one of b on a port; both do not wait."""
        fd, peer = self.a.socket(AF_INET, SOCK_DGRAM), self.b.socket(AF_INET, SOCK_DGRAM)
        assert self.b.bind(peer, SockaddrIn(0, port)) == 0
        self.a.fcntl(fd, F_SETFL, O_NONBLOCK)
        self.b.fcntl(peer, F_SETFL, O_NONBLOCK)
        return fd, peer

    def check(self) -> None:
        """Close everything and assert that it went back."""
        self.wire.mend()
        self.a.close_all()
        self.b.close_all()
        self.run(200_000)
        for stack in (self.sa, self.sb):
            stack.check()
            stack.socks.check()
            assert not stack.socks.live


@contextmanager
def two_processes(**options) -> Iterator[Pair]:
    """Boot two machines; what the test leaves open is closed and must be gone two minutes later."""
    pair = Pair(**options)
    try:
        yield pair
        pair.check()
    finally:
        pair.world.shutdown()
