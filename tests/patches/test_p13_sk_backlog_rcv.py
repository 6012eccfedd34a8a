"""Patch 13, the seam, and what patch 23 does behind it (with defect b23)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.kernel.task import PF_MEMALLOC
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.uapi import MSG_WAITALL
from tcp_ground import ACK, connected, one_tcp, segment


def _budget(host):
    host.reserves.mem_reserve_kmalloc_set(host.net_reserves.net_skb_reserve, 262144)


def _busy_connection(host, *, emergencies, memalloc=True):
    """Give an owned connection whose backlog holds one segment per entry, and the list of flags its handler will see."""
    _budget(host)
    sk, peer = connected(host)
    if memalloc:
        host.socks.sk_set_memalloc(sk)
    flags = []
    handler = sk.sk_backlog_rcv

    def watch(sk, skb):
        flags.append((skb, host.task.flags & PF_MEMALLOC))
        return handler(sk, skb)

    sk.sk_backlog_rcv = watch
    host.socks.lock_sock(sk)
    for emergency in emergencies:
        peer.send(ACK, b"x" * 10, emergency=emergency)
    return sk, flags


@pytest.mark.parametrize("patches", ["all", "all,-13"])
@settings(max_examples=25, deadline=None)
@given(count=st.integers(0, 12))
def test_every_backlog_packet_is_processed_once_in_order(patches, count):
    with one_tcp(patches=patches) as host:
        sk, flags = _busy_connection(host, emergencies=[False] * count)
        waiting = list(sk.sk_backlog)
        assert len(waiting) == count
        host.socks.release_sock(sk)
        assert [skb for skb, _ in flags] == waiting
        assert not sk.sk_backlog
        assert sk.rcv_nxt - sk.copied_seq == 10 * count


@pytest.mark.parametrize("patches", ["all", "all,-13"])
def test_the_wrapper_is_called_once_per_packet_or_not_at_all(patches):
    with one_tcp(patches=patches) as host:
        calls = []
        real = host.socks.sk_backlog_rcv
        host.socks.sk_backlog_rcv = lambda sk, skb: calls.append(skb) or real(sk, skb)
        sk, _flags = _busy_connection(host, emergencies=[False, True, False])
        host.socks.release_sock(sk)
        assert len(calls) == (3 if patches == "all" else 0)


def test_an_emergency_packet_is_processed_entitled_and_a_normal_one_is_not():
    with one_tcp() as host:
        sk, flags = _busy_connection(host, emergencies=[True, False, True])
        host.socks.release_sock(sk)
        assert [bool(flag) for _, flag in flags] == [True, False, True]


@pytest.mark.parametrize("patches", ["all,-13", "all,-23"])
def test_without_13_or_23_it_is_not_entitled(patches):
    with one_tcp(patches=patches) as host:
        sk, flags = _busy_connection(host, emergencies=[True])
        host.socks.release_sock(sk)
        assert [flag for _, flag in flags] == [0]


@pytest.mark.parametrize("already", [0, PF_MEMALLOC])
def test_flags_are_restored_as_they_were(already):
    with one_tcp() as host:
        sk, _flags = _busy_connection(host, emergencies=[True, True])
        host.task.flags |= already
        before = host.task.flags
        host.socks.release_sock(sk)
        assert host.task.flags == before


def test_an_allocation_of_the_handler_is_entitled():
    with one_tcp() as host:
        sk, _flags = _busy_connection(host, emergencies=[True])
        entitled = []
        handler = sk.sk_backlog_rcv

        def ask(sk, skb):
            entitled.append(host.page_alloc.entitled(GFP_ATOMIC))
            return handler(sk, skb)

        sk.sk_backlog_rcv = ask
        host.socks.release_sock(sk)
        assert entitled == [True]


@pytest.mark.parametrize(("patches", "entitled"), [("all", True), ("all,-13", False), ("all,-23", False)])
def test_rpciod_processes_the_reply_that_came_while_it_owned_the_socket(patches, entitled):
    """D.2 row 13: what counts is the flag of the task that lets the lock go, long after the packet's softirq."""
    with one_tcp(patches=patches) as host:
        _budget(host)
        sk, peer = connected(host)
        host.socks.sk_set_memalloc(sk)
        sched, seen = host.kernel.sched, []
        handler = sk.sk_backlog_rcv

        def watch(sk, skb):
            seen.append((sched.current.comm, bool(sched.current.flags & PF_MEMALLOC)))
            return handler(sk, skb)

        def rpciod():
            host.socks.lock_sock(sk)
            sched.msleep(20)  # it waits in sendmsg()
            host.socks.release_sock(sk)
            seen.append(("after", bool(sched.current.flags & PF_MEMALLOC)))

        sk.sk_backlog_rcv = watch
        sched.spawn("rpciod", rpciod)
        host.run(1)
        peer.send(ACK, b"reply", emergency=True)
        assert (len(sk.sk_backlog), seen) == (1, [])
        host.run(100)
        assert seen == [("rpciod", entitled), ("after", False)]
        assert host.tcp.recvmsg(sk, 10) == b"reply"


@pytest.mark.parametrize("patches", ["all", "all,-13", "all,-23"])
@pytest.mark.parametrize("emergency", [False, True])
def test_the_wrapper_answers_what_the_handler_answers(patches, emergency):
    with one_tcp(patches=patches) as host:
        _budget(host)
        sk, _peer = connected(host)
        host.socks.sk_set_memalloc(sk)
        sk.sk_backlog_rcv = lambda _sk, _skb: 42
        skb = host.make_skb(b"", 0, 0, emergency=emergency)
        assert host.socks.sk_backlog_rcv(sk, skb) == 42
        host.skbs.kfree_skb(skb)


def test_what_the_handler_did_to_other_flags_stays():
    with one_tcp() as host:
        _budget(host)
        sk, _peer = connected(host)
        host.socks.sk_set_memalloc(sk)
        skb = host.make_skb(b"", 0, 0, emergency=True)

        def handler(_sk, _skb):
            host.task.flags |= 0x40

        sk.sk_backlog_rcv = handler
        host.socks.sk_backlog_rcv(sk, skb)
        assert host.task.flags & (0x40 | PF_MEMALLOC) == 0x40
        host.task.flags &= ~0x40
        host.skbs.kfree_skb(skb)


@pytest.mark.parametrize(("patches", "kept"), [("all", True), ("all,-13", False), ("all,-23", False)])
def test_collapsing_a_full_buffer_needs_entitlement(patches, kept):
    """D.2 row 13: at the floor an unentitled tcp_collapse() gets no memory, and the out-of-order queue is purged."""
    with one_tcp(patches=patches, mem=16 << 20) as host:
        _budget(host)
        sk, peer = connected(host)
        host.socks.sk_set_memalloc(sk)
        base = peer.seq
        for n in range(20, 0, -1):
            peer.send(ACK, b"y" * 10, seq=base + 10 * n)
        assert len(sk.out_of_order_queue) == 20
        sk.sk_userlocks = 2  # SOCK_RCVBUF_LOCK
        sk.sk_rcvbuf = sk.sk_rmem_alloc - 1
        host.socks.lock_sock(sk)
        raw = segment(peer.sport, peer.dport, base, peer.ack, ACK, b"y" * 10)
        skb = host.make_skb(raw, 0x0A000002, 0x0A000001, emergency=True)
        _floor(host)
        host.kernel.softirq.local_bh_disable()
        host.inet.rcv(skb)
        host.kernel.softirq.local_bh_enable()
        assert len(sk.sk_backlog) == 1
        host.socks.release_sock(sk)
        assert (sk.rcv_nxt - base & 0xFFFFFFFF == 210) is kept
        assert not sk.out_of_order_queue  # taken, or purged


def _floor(host):
    """Take everything that an unentitled GFP_ATOMIC request can get."""
    for size in (4096, 2048, 1024, 512, 256, 192, 128, 96, 64, 32, 16, 8):
        while host.slub.kmalloc(size, GFP_ATOMIC | 0x200) is not None:
            pass
    for cache in (host.skbs.skbuff_head_cache, host.skbs.skbuff_fclone_cache):
        while host.slub.kmem_cache_alloc(cache, GFP_ATOMIC | 0x200) is not None:
            pass


# b23: the flag is cleared while an emergency packet waits


@pytest.mark.keeps_skbs("the test holds skbs in its hands")
def test_b23_as_posted_is_a_bug():
    with one_tcp(fixes="all,-b23") as host:
        sk, _flags = _busy_connection(host, emergencies=[True])
        host.socks.sk_clear_memalloc(sk)
        with pytest.raises(KernelBug, match="__sk_backlog_rcv"):
            host.socks.release_sock(sk)


def test_b23_mended_drops_and_uncharges():
    with one_tcp() as host:
        sk, flags = _busy_connection(host, emergencies=[False, True, False])
        usage = host.net_reserves.net_skb_reserve
        assert usage.usage > 0
        host.socks.sk_clear_memalloc(sk)
        host.socks.release_sock(sk)
        assert usage.usage == 0
        assert len(flags) == 2
        assert host.stats.drops["socket"] == 1


@pytest.mark.keeps_skbs("the test holds skbs in its hands")
def test_b23_as_posted_is_a_bug_in_the_prequeue_too():
    with one_tcp(fixes="all,-b23") as host:
        sk, _peer, _flags = _prequeue(host, emergencies=[True])
        host.socks.sk_clear_memalloc(sk)
        with pytest.raises(KernelBug, match="__sk_backlog_rcv"):
            host.tcp.tcp_prequeue_flush(sk)


@pytest.mark.parametrize("call", ["tcp_prequeue_process", "tcp_prequeue_flush"])
def test_b23_mended_drops_what_waits_in_the_prequeue(call):
    with one_tcp() as host:
        sk, peer, flags = _prequeue(host, emergencies=[False, True])
        host.socks.sk_clear_memalloc(sk)
        getattr(host.tcp, call)(sk)
        assert flags == [(False, False)]
        assert (host.net_reserves.net_skb_reserve.usage, host.stats.drops["socket"]) == (0, 1)
        peer.send(ACK, b"x" * 10, seq=peer.seq - 10)  # sent again, it is taken
        host.run(1)
        assert sk.rcv_nxt == peer.seq


# b13: the prequeue overflows


def _prequeue(host, *, emergencies):
    """Let a reader sleep on a socket that carries swap, and segments wait in its prequeue; give (socket, peer, flags seen)."""
    _budget(host)
    sk, peer = connected(host)
    host.socks.sk_set_memalloc(sk)
    host.kernel.sched.spawn("reader", lambda: host.tcp.recvmsg(sk, 10_000, flags=MSG_WAITALL))
    host.run(1)
    flags = []
    handler = sk.sk_backlog_rcv

    def watch(sk, skb):
        flags.append((bool(skb.emergency), bool(host.task.flags & PF_MEMALLOC)))
        return handler(sk, skb)

    sk.sk_backlog_rcv = watch
    for emergency in emergencies:
        peer.send(ACK, b"x" * 10, emergency=emergency)
    return sk, peer, flags


@pytest.mark.parametrize(
    ("patches", "fixes", "entitled"),
    [("all", "all", True), ("all", "all,-b13", False), ("all,-13", "all", False), ("all,-23", "all", False)],
)
def test_b13_an_emergency_segment_when_an_ordinary_one_overflows_the_prequeue(patches, fixes, entitled):
    with one_tcp(patches=patches, fixes=fixes) as host:
        sk, peer, flags = _prequeue(host, emergencies=[True])
        assert len(sk.prequeue) == 1
        sk.sk_rcvbuf = sk.prequeue_memory
        peer.send(ACK, b"y" * 10)
        assert flags == [(True, entitled), (False, False)]
        assert not sk.prequeue
        host.tcp.check()


@pytest.mark.parametrize("fixes", ["all", "all,-b13"])
@pytest.mark.parametrize(("patches", "entitled"), [("all", True), ("all,-13", False)])
def test_the_reader_and_the_timer_call_the_wrapper_with_and_without_b13(fixes, patches, entitled):
    for call in ("tcp_prequeue_process", "tcp_prequeue_flush"):
        with one_tcp(patches=patches, fixes=fixes) as host:
            sk, _peer, flags = _prequeue(host, emergencies=[True, False])
            getattr(host.tcp, call)(sk)
            assert flags == [(True, entitled), (False, False)]
            assert host.net_reserves.net_skb_reserve.usage == 0 or sk.sk_receive_queue


def test_no_emergency_segment_waits_for_a_reader_without_swap():
    """Patch 20 comes before the prequeue."""
    with one_tcp() as host:
        _budget(host)
        sk, peer = connected(host)
        host.kernel.sched.spawn("reader", lambda: host.tcp.recvmsg(sk, 100))
        host.run(1)
        peer.send(ACK, b"x", emergency=True)
        assert not sk.prequeue
        assert host.net_reserves.net_skb_reserve.usage == 0


def test_a_prequeue_that_overflows_keeps_the_order():
    for fixes in ("all", "all,-b13"):
        with one_tcp(fixes=fixes) as host:
            sk, peer, flags = _prequeue(host, emergencies=[False, True, False, True])
            sk.sk_rcvbuf = sk.prequeue_memory
            peer.send(ACK, b"y" * 10)
            assert [emergency for emergency, _ in flags] == [False, True, False, True, False]
            assert sk.rcv_nxt - sk.copied_seq == 50


@pytest.mark.parametrize("patches", ["all", "all,-13", "all,-23"])
def test_what_arrives_while_the_backlog_is_worked_off_is_processed_once(patches):
    with one_tcp(patches=patches) as host:
        sk, flags = _busy_connection(host, emergencies=[False])
        handler = sk.sk_backlog_rcv
        more = [b"b" * 10, b"c" * 10]

        def rcv(sk, skb):
            if more:
                raw = segment(2049, sk.sport, skb.end_seq, sk.snd_nxt, ACK, more.pop(0))
                host.receive(raw)
            return handler(sk, skb)

        sk.sk_backlog_rcv = rcv
        host.socks.release_sock(sk)
        assert len(flags) == 3
        assert sk.rcv_nxt - sk.copied_seq == 30
