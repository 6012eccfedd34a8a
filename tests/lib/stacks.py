"""Test helper: the network stacks that a test made, and whether they gave everything back.

``tests/conftest.py`` asks this of every test: after the NIC, the queues and the sockets are closed, no skb lives, no emergency
buffer lives, and nothing is charged to the SKB data reserve. Which tests make stacks need not be known: the constructors tell.

With KEMU_PCAP=DIR in the environment every test also writes what its wires carried, as DIR/TEST-N.pcapng.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace

from kemu.kernel.world import World
from kemu_lab.capture import Capture
from kemu_net.core.skb_free import SkbFree
from kemu_net.core.sock import Socks
from kemu_net.drivers.nic import Nic
from kemu_net.ipv4.inet import Inet
from kemu_net.ipv6.inet6 import Inet6


class Stacks:
    """What the constructors have told, and what was found at the end of each world.

    :ivar left: what was not given back.
    :ivar capture_as: directory and first part of the names of captures, if captures are wanted.
    """

    def __init__(self) -> None:
        self.skbs: list[SkbFree] = []
        self.nics: list[Nic] = []
        self.socks: list[Socks] = []
        self.inets: list[Inet | Inet6] = []
        self.captures: list[Capture] = []
        self.left: list[str] = []
        self.capture_as: str | None = None

    def begin(self, capture_as: str | None = None) -> None:
        """Forget all; a test begins."""
        for told in (self.skbs, self.nics, self.socks, self.inets, self.captures, self.left):
            told.clear()
        self.capture_as = capture_as

    def opened(self, nic: Nic) -> None:
        """Capture what the wire of a NIC carries, if captures are wanted."""
        capture = nic.wire.watcher
        if self.capture_as is None or (capture is not None and capture not in self.captures):
            return
        if capture is None:
            capture = Capture(f"{self.capture_as}-{len(self.captures)}.pcapng", nic.wire)
            self.captures.append(capture)
        capture.add(nic.kernel.name, SimpleNamespace(kernel=nic.kernel, nic=nic, net_reserves=nic.skbs.net_reserves))

    def ended(self, world: World | None) -> None:
        """Close the stacks of a world, or of all, without letting time pass, and note what they keep."""
        for nic in self.nics:
            if world is None or nic.kernel.world is world:
                close_nic(nic, self.captures)
        for inet in self.inets:
            if world is None or inet.dev.kernel.world is world:
                inet.close()
        for socks in self.socks:
            if world is None or socks.kernel.world is world:
                for sk in list(socks.live):
                    close_sock(socks, sk)
        for skbs in self.skbs:
            kernel = skbs.slub.kernel
            # after an oops nothing can be relied on
            if (world is None or kernel.world is world) and not kernel.world.judge.wrecked:
                self.left += leftovers(skbs)
        if world is not None:  # a property makes hundreds of worlds
            self.nics[:] = [nic for nic in self.nics if nic.kernel.world is not world]
            self.inets[:] = [inet for inet in self.inets if inet.dev.kernel.world is not world]
            self.socks[:] = [socks for socks in self.socks if socks.kernel.world is not world]
            self.skbs[:] = [skbs for skbs in self.skbs if skbs.slub.kernel.world is not world]


def close_nic(nic: Nic, captures: list[Capture]) -> None:
    """End a NIC's capture, its rings and what waits behind it."""
    capture = nic.wire.watcher
    if capture in captures:
        capture.finish()
    if nic.is_open:
        nic.close()
    for softnet in nic.dev.softnet:
        purge(nic.skbs, softnet.input_pkt_queue)


#: Where skbs rest in sockets of all kinds; a kind that has no such queue has no such name.
SOCK_QUEUES = (
    "sk_receive_queue",
    "sk_backlog",
    "sk_error_queue",
    "sk_write_queue",
    "sk_rtx_queue",
    "out_of_order_queue",
    "prequeue",
)


def close_sock(socks: Socks, sk) -> None:
    """Free what rests in a socket's queues; the socket itself may stay."""
    for name in SOCK_QUEUES:
        queue = getattr(sk, name, None)
        if queue:
            purge(socks.skbs, queue)


def purge(skbs: SkbFree, queue) -> None:
    """Free the skbs of a queue; what the owners were charged with is not looked at."""
    while queue:
        skb = queue.pop()
        skbs.kfree_skb(skb)


def leftovers(skbs: SkbFree) -> list[str]:
    """Say what of a stack was not given back."""
    name = skbs.slub.kernel.name
    lines = []
    if skbs.live:
        lines.append(f"{name}: {skbs.live} skbs live")
    if skbs.emergency_live:
        lines.append(f"{name}: {skbs.emergency_live} emergency buffers live")
    usage = skbs.net_reserves.net_skb_reserve.usage
    if usage:
        lines.append(f"{name}: {usage} bytes are charged to the SKB data reserve")
    overdrawn = skbs.net_reserves.net_skb_reserve.overdrawn
    if overdrawn:
        lines.append(f"{name}: {overdrawn} bytes were given back to the SKB data reserve that nobody had charged")
    return lines


def _told(cls: type, tell) -> None:
    """Let the constructor of a class tell of every object."""
    plain = cls.__init__

    @functools.wraps(plain)
    def init(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        tell(self)

    cls.__init__ = init


def _after(cls: type, name: str, tell) -> None:
    """Let a method tell when it has been called."""
    plain = getattr(cls, name)

    @functools.wraps(plain)
    def method(self):
        plain(self)
        tell(self)

    setattr(cls, name, method)


stacks = Stacks()
_told(SkbFree, stacks.skbs.append)
_told(Nic, stacks.nics.append)
_told(Inet, stacks.inets.append)
_told(Inet6, stacks.inets.append)
_told(Socks, stacks.socks.append)
_after(Nic, "open", stacks.opened)
_after(World, "shutdown", stacks.ended)
