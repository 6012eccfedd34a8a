"""Patch 31: the server is restarted while a process swaps and memory is at the floor; the patch whole, and each half missing.

A client of 16 MiB whose process writes 17 MB. A driver takes every object that GFP_ATOMIC can get, foreign datagrams fill sockets
that nobody reads until the NIC's ring holds nothing but emergency skbs, and the server closes its connections. The new connection
needs a socket, an inode, a bind bucket, a route and a SYN, and its SYN|ACK arrives in the reserve's memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kemu.mm.gfp import _GFP_NOWARN, GFP_ATOMIC
from kemu.mm.hog import AtomicHog
from kemu_net.core.sock import SOCK_MEMALLOC
from kemu_net.drivers.generator import FrameGenerator
from nfs_ground import CLIENT_IP, MIB, SECOND, NfsGround, mounted, page_bytes

PAGES = 4300
SLEEPERS = 24


class Outage(NfsGround):
    """A machine that swaps, and its server's outage."""

    def __init__(self, **options) -> None:
        super().__init__(mem=16 * MIB, **options)
        assert self.mount.mount() == 0
        self.before = self.counters()
        self.file = self.swapon(2 * PAGES)
        self.connector = self.mount.xprt.connector
        self.wrong: list[int] = []
        self.finished = False

    def counters(self):
        net = self.stack.net_reserves
        return net.memalloc_socks, self.machine.reserves.root.pages, self.machine.page_alloc.var_free_kbytes

    def _process(self) -> None:
        task, memory = self.sched.current, self.machine.memory
        for vpn in range(PAGES):
            assert not memory.write_page(task, vpn, page_bytes(vpn))
        self.wrong += [vpn for vpn in range(0, PAGES, 16) if memory.read_page(task, vpn) != page_bytes(vpn)]
        memory.exit_mmap(task)
        self.finished = True

    def begin(self) -> None:
        """Swap for a while, bring memory to its floor, and end the service."""
        self.machine.memory.mm_alloc(self.sched.spawn("writer", self._process)).total_vm = PAGES
        self.world.run(until=lambda: self.stats.writes - self.stats.writes_outstanding > 300, for_ns=10 * SECOND)
        for port in range(5000, 5000 + SLEEPERS):
            assert self.stack.udp.bind(self.stack.udp.sock_create(), 0, port) == 0
        self.hog = AtomicHog(self.machine.slub)
        self.hog.hog()
        self.taken = [(cache, addr) for cache in self.machine.slub.caches.values() for addr in self._take(cache)]
        self.kernel.judge.hold("the server is away")
        self.nfsd.stop()
        targets = [(CLIENT_IP, port) for port in range(5000, 5000 + SLEEPERS)]
        flood = FrameGenerator(
            self.world, self.wire, bytes((2, 0, 0, 0, 0, 9)), 0x0A000009, bytes((2, 0, 0, 0, 0, 1)), targets, rate=3000
        )
        flood.start(self.sched.now)
        self.run_for(4 * SECOND)

    def _take(self, cache) -> Iterator[int]:
        while (addr := self.machine.slub.kmem_cache_alloc(cache, GFP_ATOMIC | _GFP_NOWARN)) is not None:
            yield addr

    def end(self) -> None:
        """Bring the server back, and wait for the process."""
        self.nfsd.start()
        self.world.run(until=lambda: self.finished, for_ns=60 * SECOND)


@contextmanager
def outage(half: str = "", **options) -> Iterator[Outage]:
    ground = Outage(**options)
    try:
        if half:
            setattr(ground.connector, half, False)
        yield ground
    finally:
        ground.world.shutdown()


def test_the_connection_comes_back_and_every_page_is_right():
    with outage() as ground:
        socks = []
        adjust = ground.stack.net_reserves.sk_adjust_memalloc
        ground.stack.net_reserves.sk_adjust_memalloc = lambda *args: (
            adjust(*args),
            socks.append(ground.stack.net_reserves.memalloc_socks),
        )[0]
        ground.begin()
        assert not ground.mount.xprt.connected
        ground.end()
        assert ground.finished
        assert ground.wrong == []
        assert ground.mount.xprt.established == 2
        assert ground.stack.stats.drops["socket"] > 100, "the flood was filtered"
        assert min(socks) >= 1
        assert ground.stats.write_errors == ground.stats.read_errors == 0
        ground.check()
        # and everything is given back
        ground.hog.release()
        for cache, addr in ground.taken:
            ground.machine.slub.kmem_cache_free(cache, addr)
        assert ground.machine.swapfile.swapoff(ground.file) == 0
        assert ground.counters() == ground.before


def test_half_without_pf_memalloc_rpciod_sticks_below_its_own_connect_worker():
    with outage("worker_memalloc") as ground:
        ground.begin()
        ground.end()
        rpc = ground.mount.modules.rpc
        assert not ground.finished
        assert rpc.rpciod.running is ground.connector.connect_worker, "the server has been up for a minute"
        assert rpc.rpciod.task.pid in ground.machine.reclaim.writeout.sleepers
        assert ground.machine.vmstat.nr_writeback == ground.stats.writes_outstanding, "and nobody else can end these"


def test_half_without_early_memalloc_the_syn_ack_is_filtered():
    with outage("early_memalloc") as ground:
        ground.begin()
        before = ground.stack.stats.drops["socket"]
        ground.end()
        assert not ground.finished
        assert ground.mount.modules.rpc.rpciod.running is None, "nothing is stuck: it is never heard"
        assert not ground.mount.xprt.inet.sk_flags & SOCK_MEMALLOC
        assert ground.stack.stats.drops["socket"] > before


@pytest.mark.parametrize("half", ["worker_memalloc", "early_memalloc"])
def test_neither_half_is_missed_while_there_is_memory(half):
    with outage(half) as ground:
        ground.nfsd.stop()
        ground.run_for(SECOND)
        ground.nfsd.start()
        ground.process()
        ground.write(0, page_bytes(0))
        ground.swap_out(0)
        assert ground.read(0) == page_bytes(0)
        assert ground.mount.xprt.established == 2


# b31c: a UDP transport that nobody used for five minutes closes its socket, and makes one for the next call


@pytest.mark.parametrize(("fixes", "outcome"), [("all,-b31c", "oops"), ("all", None)])
def test_b31c_swap_over_udp_after_a_quiet_time(fixes, outcome):
    with mounted(proto="udp", fixes=fixes) as ground:
        ground.swapon()
        ground.run_for(310 * SECOND)
        assert ground.mount.xprt.inet is None
        ground.spawn(ground.mount.client.rpc_ping)
        ground.run_for(SECOND)
        assert ground.kernel.judge.outcome == outcome
        if outcome:
            assert "sleeping function called from invalid context" in ground.kernel.judge.reason
        else:
            assert ground.mount.xprt.inet.sk_flags & SOCK_MEMALLOC
            assert ground.stack.net_reserves.memalloc_socks == 2


@pytest.mark.parametrize(("fixes", "outcome"), [("all,-b31c", "oops"), ("all", None)])
def test_b31c_a_udp_socket_whose_last_datagram_is_still_in_the_nic_when_it_is_closed(fixes, outcome):
    with mounted(proto="udp", fixes=fixes) as ground:
        ground.swapon()
        xprt = ground.mount.xprt

        def send_and_close():
            for _ in range(4):
                ground.stack.udp.sendto(xprt.inet, bytes(20000), ground.mount.server_ip, 9)
            xprt.close()

        ground.spawn(send_and_close)
        ground.run_for(SECOND)
        assert ground.kernel.judge.outcome == outcome
        assert outcome or ground.stack.net_reserves.memalloc_socks == 1
