"""Patch 15: what is allocated for a socket asks the socket."""

from __future__ import annotations

import pytest

from kemu.mm.gfp import _GFP_MEMALLOC, _GFP_NOWARN, GFP_ATOMIC, GFP_KERNEL
from kemu.mm.hog import AtomicHog
from kemu_net.core.sock import SOCK_KEEPOPEN
from kemu_net.ipv4.tcp_sock import ICSK_ACK_SCHED, ICSK_ACK_TIMER, TCP_ATO_MIN, TCP_DELACK_MAX
from socket_ground import Pair
from tcp_ground import ACK, FIN, IP_B, MS, MSS_1460, RST, SYN, Peer, accepted, connected, listen_on, one_tcp, segment

BIT = _GFP_MEMALLOC


def _watch(host):
    """Record the gfp flags of every skb that TCP asks for."""
    seen = []
    real = host.skbs.alloc_skb

    def alloc_skb(size, gfp, flags=0):
        if not flags & 2:  # receive buffers are patch 19's
            seen.append(gfp)
        return real(size, gfp, flags)

    host.skbs.alloc_skb = alloc_skb
    return seen


def _data(host, sk):
    host.tcp.sendmsg(sk, b"data")


def _ack(host, sk):
    host.tcp.tcp_send_ack(sk)


def _probe(host, sk):
    host.tcp.tcp_xmit_probe_skb(sk, 0)


def _reset(host, sk):
    host.tcp.tcp_send_active_reset(sk, GFP_KERNEL)


def _fin(host, sk):
    host.tcp.shutdown(sk)


# action, flags before the patch, flags after it for a socket with sk_allocation GFP_ATOMIC
CONVERSIONS = [
    (_data, GFP_ATOMIC, GFP_ATOMIC),
    (_ack, GFP_ATOMIC, GFP_ATOMIC),
    (_probe, GFP_ATOMIC, GFP_ATOMIC),
    (_reset, GFP_KERNEL, GFP_KERNEL),
    (_fin, GFP_KERNEL, GFP_ATOMIC),
]
IDS = [row[0].__name__ for row in CONVERSIONS]


@pytest.mark.parametrize(("action", "before", "after"), CONVERSIONS, ids=IDS)
def test_an_ordinary_socket_keeps_the_bases_flags_but_for_the_fin(action, before, after):
    for patches, expected in (("all", after), ("all,-15", before)):
        with one_tcp(patches=patches) as host:
            sk, _peer = connected(host)
            sk.sk_allocation = GFP_ATOMIC
            seen = _watch(host)
            action(host, sk)
            assert seen == [expected]


@pytest.mark.parametrize(("action", "_before", "after"), CONVERSIONS, ids=IDS)
def test_a_socket_that_carries_swap_is_entitled_everywhere(action, _before, after):
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.sk_allocation = GFP_ATOMIC
        host.socks.sk_set_memalloc(sk)
        seen = _watch(host)
        action(host, sk)
        assert seen == [after | BIT]


@pytest.mark.parametrize(("action", "before", "_after"), CONVERSIONS, ids=IDS)
def test_without_the_patch_only_what_uses_sk_allocation_itself_is(action, before, _after):
    with one_tcp(patches="all,-15") as host:
        sk, _peer = connected(host)
        sk.sk_allocation = GFP_ATOMIC
        host.socks.sk_set_memalloc(sk)
        seen = _watch(host)
        action(host, sk)
        assert seen == [before | (BIT if action is _data else 0)]


@pytest.mark.parametrize(("patches", "expected"), [("all", GFP_ATOMIC | BIT), ("all,-15", GFP_ATOMIC)])
def test_a_listeners_answer(patches, expected):
    with one_tcp(patches=patches) as host:
        listener, _sk, _peer = accepted(host)
        host.socks.sk_set_memalloc(listener)
        seen = _watch(host)
        Peer(host, 77, 2049).send(SYN, options=MSS_1460)
        assert seen == [expected]


def test_control_replies_are_not_covered():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.socks.sk_set_memalloc(sk)
        other, _peer = connected(host, port=3)
        host.socks.sk_set_memalloc(other)
        host.socks.sk_clear_memalloc(sk)
        host.tcp.close(sk)
        peer.saw(host.sent()[0])
        peer.send(ACK)
        seen = _watch(host)
        peer.send(FIN | ACK)  # acknowledged by the minisocket
        Peer(host, 1, 2).send(ACK)  # reset
        assert seen == [GFP_ATOMIC, GFP_ATOMIC]


@pytest.mark.parametrize("gfp", [0, GFP_ATOMIC, GFP_KERNEL, GFP_KERNEL | 0x200, BIT])
def test_the_helper_never_removes_flags(gfp):
    with one_tcp() as host:
        sk, _peer = connected(host)
        assert host.socks.sk_allocation(sk, gfp) == gfp
        host.socks.sk_set_memalloc(sk)
        assert host.socks.sk_allocation(sk, gfp) == gfp | BIT


@pytest.mark.parametrize("patches", ["all", "all,-15", "none"])
def test_failure_of_an_ack_arms_the_delack_timer(patches):
    with one_tcp(patches=patches) as host:
        sk, _peer = connected(host)
        sk.ack_ato = 0
        host.skbs.alloc_skb = lambda *_args: None
        host.tcp.tcp_send_ack(sk)
        assert sk.ack_pending & (ICSK_ACK_SCHED | ICSK_ACK_TIMER) == ICSK_ACK_SCHED | ICSK_ACK_TIMER
        assert sk.ack_ato == TCP_ATO_MIN
        assert sk.delack_timer.pending
        assert sk.ack_timeout == host.jiffies + TCP_DELACK_MAX


def test_fin_of_an_rpc_socket_does_not_reclaim_under_the_socket_lock():
    for patches, may_wait in (("all", False), ("all,-15", True)):
        with one_tcp(patches=patches) as host:
            sk, peer = connected(host)
            sk.sk_allocation = GFP_ATOMIC
            peer.send(RST, seq=peer.seq + 70_000)
            seen = _watch(host)
            host.tcp.close(sk)
            assert bool(seen[-1] & 0x10) is may_wait


def test_fin_loops_until_there_is_memory():
    with one_tcp() as host:
        sk, _peer = connected(host)
        real = host.skbs.alloc_skb
        failures = [None] * 5
        host.skbs.alloc_skb = lambda *args: failures.pop() if failures else real(*args)
        host.tcp.close(sk)
        assert failures == []
        assert host.sent()[-1].flags & FIN


@pytest.mark.parametrize(("patches", "answered"), [("all", True), ("all,-15", False)])
def test_at_the_floor_the_swap_sockets_ack_leaves(patches, answered):
    """D.2 row 15, as one segment: it arrived in a buffer from before, and all slabs are empty."""
    with one_tcp(patches=patches, mem=16 << 20) as host:
        sk, peer = connected(host)
        host.reserves.mem_reserve_kmalloc_set(host.net_reserves.net_skb_reserve, 262144)
        sk.sk_allocation = GFP_ATOMIC
        host.socks.sk_set_memalloc(sk)
        sk.ack_quick = 5
        sk.ack_pingpong = 0
        skb = host.make_skb(segment(peer.sport, peer.dport, peer.seq, peer.ack, ACK, b"x" * 1460), 0x0A000002, 0x0A000001)
        for size in (4096, 2048, 1024, 512, 256, 192, 128, 96, 64, 32, 16, 8):
            while host.slub.kmalloc(size, GFP_ATOMIC | 0x200) is not None:
                pass
        while host.slub.kmem_cache_alloc(host.skbs.skbuff_head_cache, GFP_ATOMIC | 0x200) is not None:
            pass
        host.kernel.softirq.local_bh_disable()
        host.inet.rcv(skb)
        host.kernel.softirq.local_bh_enable()
        assert bool(host.sent()) is answered


READAHEAD = 8 * 4096 + 128  # eight pages behind an RPC header: 23 segments, more than a server's first window


@pytest.mark.parametrize(("patches", "at_once"), [("all", True), ("all,-15", False), ("all,-16", False), ("all,-10", False)])
def test_a_readahead_of_eight_pages_beside_a_leaky_driver(patches, at_once):
    """D.2 row 15: the ring is full of normal buffers; without an ACK the server stops after its first window of three segments.

    The driver takes what is free again with every frame, for 100 ms. Then the timer of delayed ACKs, 200 ms after the failed one,
    or the server's RTO goes on.
    """
    pair = Pair(patches=patches)
    try:
        pair.run(10)  # a SYN at jiffy 0 has the timestamp 0, and is answered without any
        client, server, hog = pair.sa, pair.sb, AtomicHog(pair.sa.slub)
        listener = listen_on(server)
        sk = client.tcp.sock_create()
        sk.sk_allocation = GFP_ATOMIC
        assert client.tcp.connect(sk, IP_B, 2049) == 0
        client.socks.sk_set_memalloc(sk)
        arrived = []
        sk.sk_data_ready = lambda sk: client.tcp.read_sock(
            sk, lambda data: arrived.append((pair.world.now, len(data))) or len(data)
        )
        conn = server.tcp.accept(listener)

        def leak(skb):
            """Be the driver's interrupt, which comes with every frame."""
            take_all(client, hog)
            client.skbs.kfree_skb(skb)

        take_all(client, hog)
        assert not any(skb.emergency for skb, _pages in client.nic.rx.buffers)
        client.dev.ptype_all.append(leak)
        began = pair.world.now
        server.kernel.sched.spawn("nfsd", lambda: server.tcp.sendmsg(conn, bytes(READAHEAD)))
        pair.run(100)
        assert sum(size for _, size in arrived) == (READAHEAD if at_once else 3 * 1448)
        client.dev.ptype_all.clear()
        hog.release()
        pair.run(5000)
        assert sum(size for _, size in arrived) == READAHEAD
        assert (arrived[-1][0] - began < 10 * MS) is at_once
        assert (arrived[-1][0] - began >= 200 * MS) is not at_once
    finally:
        pair.world.shutdown()


def take_all(stack, hog):
    """Let a driver take what GFP_ATOMIC can get, and leave no free object in the caches of skb heads either."""
    hog.hog()
    for cache in (stack.skbs.skbuff_head_cache, stack.skbs.skbuff_fclone_cache):
        while stack.slub.kmem_cache_alloc(cache, GFP_ATOMIC | _GFP_NOWARN) is not None:
            pass


@pytest.mark.parametrize(("patches", "expected"), [("all", GFP_ATOMIC | BIT), ("all,-15", GFP_ATOMIC)])
def test_a_piece_that_is_cut_off_for_sending_again_asks_the_socket(patches, expected):
    with one_tcp(patches=patches) as host:
        sk, _peer = connected(host)
        sk.sk_allocation = GFP_ATOMIC
        host.tcp.sendmsg(sk, bytes(1460))
        host.sent()
        host.socks.sk_set_memalloc(sk)
        seen = _watch(host)
        host.tcp.tcp_sync_mss(sk, 1000)
        host.tcp.tcp_simple_retransmit(sk)
        assert len(host.sent()) == 2
        assert seen == [expected]


@pytest.mark.parametrize(("patches", "expected"), [("all", GFP_ATOMIC | BIT), ("all,-15", GFP_ATOMIC)])
def test_a_keepalive_probe_is_a_window_probe(patches, expected):
    with one_tcp(patches=patches) as host:
        sk, _peer = connected(host)
        host.socks.sk_set_memalloc(sk)
        host.tcp.tcp_set_keepalive(sk, True)
        sk.sk_flags |= SOCK_KEEPOPEN
        seen = _watch(host)
        host.run(7_201_000)
        assert seen == [expected]
