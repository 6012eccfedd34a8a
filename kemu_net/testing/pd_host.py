"""The machine that a script tests: booted for it, with the script as its neighbour on the wire.

Interface: :class:`Host`: ``start(fn)`` lets a task of the machine make a call, ``busy``, ``result``, ``run(until, deadline)``,
``finish()``.

Rules of this file
    * One task makes all system calls, one at a time, so that they may block; the script itself is outside of the machine.
    * The wire is fast (10 Gbit/s, 1 us): what a script measures is the machine.
    * finish() closes all descriptors, resets what connections are left, waits until the machine is at rest, checks every invariant
      and compares slab caches and reserves with what they were after boot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from kemu.errors import KernelBug
from kemu.kernel.wait import WaitQueue
from kemu.kernel.world import World
from kemu.machine import Machine, MachineConfig
from kemu.mm.hog import AtomicHog
from kemu_net.core.neighbour import NUD_NOARP
from kemu_net.drivers.wire import Wire
from kemu_net.ipv4.tcp_sock import TcpSock
from kemu_net.ipv4.tcp_states import TCP_CLOSE
from kemu_net.stack import NetStack
from kemu_net.testing.pd_peer import Peer

if TYPE_CHECKING:
    from kemu.fixes import FixSet
    from kemu.patches import PatchSet
    from kemu_net.testing.pd_config import Config

MAC: Final = bytes.fromhex("020000000001")
PEER_MAC: Final = bytes.fromhex("020000000002")
SECOND: Final = 1_000_000_000
_FAIR_SLAB: Final = ("b03a", "b03b")  # without these patch 03 lets ordinary packets into the reserve
_TAKE_IN_NS: Final = 2_000_000
_REST_NS: Final = 200 * SECOND  # longer than TIME_WAIT, the reassembly timer and every neighbour's state


class Host:
    """A machine with one card and one task.

    :ivar result: of the last call that ended; ``ended`` is when.
    """

    def __init__(self, config: Config, patches: PatchSet | str, fixes: FixSet | str) -> None:
        self.config = config
        self.world = world = World()
        self.wire = Wire(world, latency_ns=1_000, bandwidth_bps=10_000_000_000, queue=100_000)
        self.machine = machine = Machine(
            MachineConfig(name="kemu", mem=config.mem, cpus=config.cpus, patches=patches, fixes=fixes), world
        )
        self.kernel = machine.kernel
        self.stack = NetStack(
            machine.kernel,
            machine.page_alloc,
            machine.slub,
            machine.reserves,
            self.wire,
            mac=MAC,
            ip=config.local_ip,
            mtu=config.mtu,
            ring=config.ring,
            packet_split=config.packet_split,
            itr_ns=1_000,
            prefix=config.prefix,
            gateway=config.gateway_ip,
            security=machine.selinux,
            build=machine.build,
        )
        self.peer = Peer(world, self.wire, PEER_MAC, MAC, (config.gateway_ip, config.remote_ip))
        for address in (config.gateway_ip, config.remote_ip):  # scripts are written for a TUN device, which has no ARP
            neigh = self.stack.arp.neigh_lookup_create(address)
            assert neigh is not None
            self.stack.arp.neigh_update(neigh, PEER_MAC, NUD_NOARP)
        self.sockets = self.stack.sockets()
        self.hog = AtomicHog(machine.slub)
        self.result: Any = None
        self.ended = 0
        self._call: Callable[[], Any] | None = None
        self._queue = WaitQueue("script")
        self._closing = False
        world.judge.hold("script")  # a script that lets nothing happen is not a dead machine
        self._task = self.kernel.sched.spawn("script", self._make_calls)
        self._before = self._in_use()

    @property
    def now(self) -> int:
        """The time of the world, in ns."""
        return self.world.now

    @property
    def busy(self) -> bool:
        """A call is being made."""
        return self._call is not None

    def _make_calls(self) -> None:
        """Make the calls that the script asks for, until it ends."""
        sched = self.kernel.sched
        while True:
            sched.wait_event(self._queue, lambda: self._call is not None or self._closing, ("sleep", None))
            if self._call is None:
                return
            result = self._call()
            self.result, self.ended = result, sched.now
            self._call = None

    def start(self, call: Callable[[], Any]) -> None:
        """Let the task make a call; :meth:`run` lets it happen."""
        assert self._call is None
        self._call = call
        self.kernel.sched.wake_up_all(self._queue)

    def run(self, until: Callable[[], bool] | None, deadline: int) -> None:
        """Let time pass until ``until()`` or the deadline; an oops of the machine is raised."""
        left = deadline - self.world.now
        if left > 0 and not (until is not None and until()):
            self.world.run(until, for_ns=left)
        self.raise_failure()

    def raise_failure(self) -> None:
        """Raise what ended the machine, if something did."""
        failure = self.world.failure
        if failure is not None:
            raise failure
        if self.world.judge.stopped:
            raise KernelBug(f"the machine is dead: {self.world.judge.outcome}: {self.world.judge.reason}")

    def take_in(self) -> None:
        """Let the machine look at what is on its cable, as a write to a TUN device would."""
        nic = self.stack.nic
        rx = nic.rx
        self.run(lambda: not rx.incoming and not rx.done and not nic.irq_masked, self.now + _TAKE_IN_NS)

    # the end

    def _in_use(self) -> dict[str, int]:
        """Count what is allocated, by slab cache."""
        slub = self.machine.slub
        return {name: slub.objects_in_use(cache) for name, cache in slub.caches.items()}

    def finish(self, descriptors: list[int]) -> str | None:
        """Close everything and say what is left behind, None if nothing is."""
        self.hog.release()
        self._flush_ring()

        def close_all() -> None:
            for sk in list(self.stack.socks.live):
                self.stack.socks.sk_clear_memalloc(sk)  # here, where it may sleep
            for fd in descriptors:
                self.sockets.close(fd)
            tcp = self.stack.tcp
            for sk in list(self.stack.socks.live):
                if isinstance(sk, TcpSock) and sk.sk_state != TCP_CLOSE:
                    tcp.abort(sk)

        self.start(close_all)
        self.run(lambda: not self.busy, self.now + SECOND)
        if self.busy:
            return "close() of what the script left open does not return"
        self.run(None, self.now + _REST_NS)
        stack = self.stack
        stack.check()
        booted = self.machine.config
        if 3 in booted.patches and all(getattr(booted.fixes, name) for name in _FAIR_SLAB):
            stack.check_reserve_use()
        self.machine.check()
        usage = stack.net_reserves.net_skb_reserve.usage
        if usage:
            return f"{usage} bytes are still charged to the reserve"
        stack.inet.close()
        left = {name: count - self._before.get(name, 0) for name, count in self._in_use().items()}
        kept = {name: count for name, count in left.items() if count > 0}
        return f"objects are left: {', '.join(f'{count} of {name}' for name, count in kept.items())}" if kept else None

    def _flush_ring(self) -> None:
        """Let buffers of the reserve that rest in the card's ring be used up: frames that nobody wants."""
        if self.stack.net_reserves.net_skb_reserve.usage:
            for _ in range(2 * self.config.ring):
                self.peer.send(bytes(20))
                self.take_in()

    def close(self) -> None:
        """End the world."""
        self.world.shutdown()
