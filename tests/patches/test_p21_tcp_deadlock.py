"""Patch 21: the reply to a swap-in passes the global limit of TCP memory (with defect b21)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu_net.core.sock import SOCK_RCVBUF_LOCK, SOCK_SNDBUF_LOCK
from tcp_ground import ACK, connected, one_tcp

pytestmark = pytest.mark.keeps_skbs("the tests hold skbs in their hands")


def _emergency(host):
    host.reserves.mem_reserve_kmalloc_set(host.net_reserves.net_skb_reserve, 1 << 20)
    return host.make_skb(b"", 0, 0, emergency=True)


def _crowd(host, *, sockets=1000, mem=(24, 32, 48), pages=60):
    """Let other sockets hold more than tcp_mem[2]."""
    prot = host.tcp.prot
    prot.sysctl_mem[:] = mem
    prot.sockets_allocated = sockets
    prot.memory_allocated = pages


def _schedule(host, sk, skb):
    return host.tcp.streams.sk_stream_mem_schedule(sk, skb.truesize, 1, skb)


def test_above_the_hard_limit_an_emergency_skb_is_accepted_by_a_lightly_loaded_socket():
    for patches, accepted in (("all", True), ("all,-21", False)):
        with one_tcp(patches=patches) as host:
            sk, _peer = connected(host)
            skb = _emergency(host)
            _crowd(host)
            sk.sk_rmem_alloc = 4095
            assert _schedule(host, sk, skb) is accepted
            assert host.tcp.prot.memory_pressure == 1


@settings(max_examples=40, deadline=None)
@given(
    pages=st.integers(0, 100),
    sockets=st.integers(1, 100),
    rmem=st.integers(0, 200_000),
    wmem=st.integers(0, 20_000),
    kind=st.integers(0, 1),
    fixes=st.sampled_from(("all", "none")),
)
def test_normal_skbs_and_sends_get_the_bases_answer(pages, sockets, rmem, wmem, kind, fixes):
    answers = []
    for patches in ("all", "all,-21"):
        with one_tcp(patches=patches, fixes=fixes) as host:
            sk, _peer = connected(host)
            skb = host.skbs.netdev_alloc_skb(None, 1536) if kind else None
            _crowd(host, pages=pages, sockets=sockets)
            sk.sk_rmem_alloc, sk.sk_wmem_queued = rmem, wmem
            answer = host.tcp.streams.sk_stream_mem_schedule(sk, 1832, kind, skb)
            answers.append(
                (answer, sk.sk_forward_alloc, host.tcp.prot.memory_allocated, host.tcp.prot.memory_pressure, sk.sk_sndbuf)
            )
    assert answers[0] == answers[1]


@settings(max_examples=40, deadline=None)
@given(
    pages=st.integers(49, 100),
    sockets=st.integers(1, 100),
    rmem=st.integers(0, 200_000),
    patches=st.sampled_from(("all", "all,-21")),
)
def test_a_refusal_leaves_the_charges_as_they_were_and_pressure_on(pages, sockets, rmem, patches):
    with one_tcp(patches=patches) as host:
        sk, _peer = connected(host)
        skb = _emergency(host)
        _crowd(host, pages=pages, sockets=sockets)
        sk.sk_rmem_alloc = rmem
        before = (sk.sk_forward_alloc, host.tcp.prot.memory_allocated)
        accepted = _schedule(host, sk, skb)
        assert host.tcp.prot.memory_pressure == 1
        if accepted:
            assert patches == "all"
        else:
            assert (sk.sk_forward_alloc, host.tcp.prot.memory_allocated) == before


def test_falling_through_is_no_promise():
    """F.10: with many sockets and a long queue of its own, even the swap socket is refused."""
    with one_tcp() as host:
        sk, _peer = connected(host)
        skb = _emergency(host)
        _crowd(host, sockets=1000, mem=(6144, 8192, 12288), pages=12300)
        sk.sk_rmem_alloc = 11 * 4096  # 1000 * 11 pages are below 12288
        assert _schedule(host, sk, skb)
        sk.sk_rmem_alloc = 13 * 4096
        assert not _schedule(host, sk, skb)


@pytest.mark.parametrize(("fixes", "taken"), [("all", True), ("all,-b21", False)])
def test_b21_the_caller_takes_any_emergency_skb(fixes, taken):
    with one_tcp(fixes=fixes) as host:
        sk, _peer = connected(host)
        skb = _emergency(host)
        _crowd(host)
        sk.sk_rmem_alloc = 13 * 4096
        assert host.tcp.streams.sk_stream_rmem_schedule(sk, skb) is taken
        normal = host.skbs.netdev_alloc_skb(None, 1536)
        assert not host.tcp.streams.sk_stream_rmem_schedule(sk, normal)


def _idle_readers(host, count=25):
    """Open connections whose readers never read, and let each hold three segments; their timers run once."""
    readers = [connected(host, port=100 + n, isn=1000 * n + 7) for n in range(count)]
    for _sk, peer in readers:
        for _ in range(3):
            peer.send(ACK, b"x" * 1000)
    host.run(500)
    host.sent()
    return readers


@pytest.mark.parametrize(
    ("patches", "fixes", "length"),
    [("all", "all", 6), ("all", "all,-b21", 4), ("all,-21", "all", 0)],
)
def test_a_swap_in_behind_idle_readers(patches, fixes, length):
    """D.2 row 21: tcp_mem is full of data for readers that wait for swap; the reply is an emergency skb."""
    with one_tcp(patches=patches, fixes=fixes) as host:
        _emergency(host)
        swap, peer = connected(host, port=2049)
        host.socks.sk_set_memalloc(swap)
        host.tcp.prot.sysctl_mem[:] = [24, 32, 48]
        _idle_readers(host)
        assert host.tcp.prot.memory_allocated >= 48
        host.tcp.streams.sk_stream_mem_reclaim(swap)
        got = 0
        for _ in range(6):
            before = swap.rcv_nxt
            peer.send(ACK, b"r" * 1460, emergency=True, advance=False)
            if swap.rcv_nxt != before:
                peer.seq += 1460
                got += 1
        assert got == length
        if not length:
            assert host.stats.drops["rmem"] > 0
        host.tcp.check()


@pytest.mark.parametrize(("patches", "answered"), [("all", True), ("all,-21", False)])
def test_the_server_sends_it_again_and_again(patches, answered):
    """Row 21, "for ever": nothing shrinks what the readers hold, since they wait for this reply."""
    with one_tcp(patches=patches) as host:
        host.skbs.kfree_skb(_emergency(host))
        swap, peer = connected(host, port=2049)
        host.socks.sk_set_memalloc(swap)
        host.tcp.prot.sysctl_mem[:] = [24, 32, 48]
        readers = _idle_readers(host)
        host.tcp.streams.sk_stream_mem_reclaim(swap)
        before = swap.rcv_nxt
        for attempt in range(10):
            peer.send(ACK, b"r" * 1460, emergency=True, advance=False)
            host.run(min(200 << attempt, 120_000))
        assert (swap.rcv_nxt != before) is answered
        assert host.tcp.prot.memory_allocated >= 48
        if not answered:  # only their end ends it: what they read stays with their sockets (sk_forward_alloc)
            for sk, _peer in readers:
                host.tcp.close(sk)
            peer.send(ACK, b"r" * 1460, emergency=True)
            assert swap.rcv_nxt != before
        assert host.tcp.recvmsg(swap, 10_000) == b"r" * 1460
        assert host.net_reserves.net_skb_reserve.usage == 0


def test_the_receive_buffer_of_the_socket_still_counts():
    with one_tcp() as host:
        _emergency(host)
        swap, peer = connected(host)
        host.socks.sk_set_memalloc(swap)
        swap.sk_userlocks = SOCK_RCVBUF_LOCK
        swap.sk_rcvbuf = 1000
        taken = 0
        for _ in range(5):
            before = swap.rcv_nxt
            peer.send(ACK, b"x" * 900, emergency=True)
            taken += swap.rcv_nxt != before
        assert taken == 1
        assert host.stats.drops["rmem"] > 0


def test_the_exemption_is_the_packets_and_not_the_sockets():
    """The title says sockets, the code tests packets: an ordinary skb of the swap socket is refused above the limit."""
    with one_tcp() as host:
        sk, _peer = connected(host)
        host.socks.sk_set_memalloc(sk)
        normal = host.skbs.netdev_alloc_skb(None, 1536)
        emergency = _emergency(host)
        _crowd(host)
        assert not _schedule(host, sk, normal)
        assert _schedule(host, sk, emergency)


def test_the_charge_may_pass_the_limit_by_exemptions():
    with one_tcp() as host:
        sk, _peer = connected(host)
        skb = _emergency(host)
        _crowd(host, pages=48)
        assert _schedule(host, sk, skb)
        assert host.tcp.prot.memory_allocated > host.tcp.prot.sysctl_mem[2]


@pytest.mark.parametrize("patches", ["all", "all,-21"])
def test_a_send_never_profits(patches):
    """rmem passes its skb, wmem passes none: invariant (b)."""
    with one_tcp(patches=patches) as host:
        sk, _peer = connected(host)
        _crowd(host)
        sk.sk_wmem_queued = 5000
        sk.sk_sndbuf = 1 << 20
        sk.sk_userlocks = SOCK_SNDBUF_LOCK  # else it shrinks, and the write fails softly
        assert not host.tcp.streams.sk_stream_wmem_schedule(sk, 4096)
        assert host.tcp.prot.memory_pressure == 1


def test_b21_what_was_taken_by_force_is_paid_back():
    """Mended, an emergency skb may leave sk_forward_alloc below 0; when it is read everything is as before."""
    with one_tcp() as host:
        host.skbs.kfree_skb(_emergency(host))
        swap, peer = connected(host, port=2049)
        host.socks.sk_set_memalloc(swap)
        host.tcp.prot.sysctl_mem[:] = [24, 32, 48]
        _idle_readers(host)
        host.tcp.streams.sk_stream_mem_reclaim(swap)
        for _ in range(5):
            peer.send(ACK, b"r" * 1460, emergency=True)
        assert swap.sk_forward_alloc < 0
        host.tcp.check()
        assert len(host.tcp.recvmsg(swap, 10_000)) == 5 * 1460
        assert swap.sk_rmem_alloc == 0
        assert swap.sk_forward_alloc >= 0
        host.tcp.check()
        assert host.net_reserves.net_skb_reserve.usage == 0


@pytest.mark.parametrize(("patches", "fixes"), [("all", "all"), ("all", "all,-b21"), ("all,-21", "all")])
def test_an_early_emergency_segment_is_asked_for_the_same_way(patches, fixes):
    """The out-of-order queue takes the same way: accepted by 21 on a lightly loaded socket, refused without it."""
    with one_tcp(patches=patches, fixes=fixes) as host:
        _emergency(host)
        swap, peer = connected(host, port=2049)
        host.socks.sk_set_memalloc(swap)
        host.tcp.prot.sysctl_mem[:] = [24, 32, 48]
        _idle_readers(host)
        host.tcp.streams.sk_stream_mem_reclaim(swap)
        peer.send(ACK, b"late", seq=peer.seq + 1000, emergency=True)
        assert len(swap.out_of_order_queue) == (1 if patches == "all" else 0)
        host.tcp.check()


def test_the_fast_path_asks_no_less():
    """A predicted segment that fits no charged page goes the slow way, and is refused there."""
    with one_tcp(patches="all,-21") as host:
        _emergency(host)
        swap, peer = connected(host, port=2049)
        host.socks.sk_set_memalloc(swap)
        host.tcp.prot.sysctl_mem[:] = [24, 32, 48]
        _idle_readers(host)
        host.tcp.streams.sk_stream_mem_reclaim(swap)
        assert swap.pred_flags
        peer.send(ACK, b"r" * 1460, emergency=True)
        assert host.stats.drops["rmem"] > 0
        assert not swap.sk_receive_queue
