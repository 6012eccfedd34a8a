"""The prequeue: who processes a segment, and data that comes directly."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu_net.core.sock import SOCK_RCVBUF_LOCK
from kemu_net.core.uapi import MSG_PEEK, MSG_TRUNC, MSG_WAITALL
from tcp_ground import ACK, FIN, connected, one_tcp
from tcp_options_ground import opened, ts


def reading(host, sk, *args, **options):
    """Let a task sleep in recvmsg(); give (its results, the tasks that process segments)."""
    results: list = []
    host.kernel.sched.spawn("reader", lambda: results.append(host.tcp.recvmsg(sk, *args, **options)))
    who: list = []
    handler = sk.sk_backlog_rcv

    def watch(sk, skb):
        who.append(host.task.name if not host.kernel.sched.in_softirq() else "softirq")
        return handler(sk, skb)

    sk.sk_backlog_rcv = watch
    host.run(1)
    return results, who


@pytest.mark.parametrize("tsval", [None, 10])
def test_the_reader_processes_its_segment(tsval):
    with one_tcp() as host:
        sk, peer = opened(host, tsval=tsval)
        results, who = reading(host, sk, 100)
        peer.send(ACK, b"abc", options=b"" if tsval is None else ts(tsval))
        assert len(sk.prequeue) == 1
        assert results == []
        host.run(1)
        assert results == [b"abc"]
        assert len(who) == 1
        assert sk.ucopy_task is None
        assert not sk.prequeue


def test_data_comes_directly():
    with one_tcp() as host:
        sk, peer = connected(host)
        results, _who = reading(host, sk, 100)
        queued = []
        sk.sk_data_ready = queued.append
        peer.send(ACK, b"abc")
        host.run(1)
        assert results == [b"abc"]
        assert queued == []
        assert sk.sk_rmem_alloc == 0
        assert sk.copied_seq == sk.rcv_nxt


def test_what_is_too_much_is_queued():
    with one_tcp() as host:
        sk, peer = connected(host)
        results, _who = reading(host, sk, 2)
        peer.send(ACK, b"abc")
        host.run(1)
        assert results == [b"ab"]
        assert host.tcp.recvmsg(sk, 10) == b"c"
        host.check()


def test_a_fin_with_data_ends_the_read():
    with one_tcp() as host:
        sk, peer = connected(host)
        results, _who = reading(host, sk, 100, flags=MSG_WAITALL)
        peer.send(ACK | FIN, b"abc")
        host.run(1)
        assert results == [b"abc"]
        assert host.tcp.recvmsg(sk, 10) == b""


def test_several_segments_wait_together():
    with one_tcp() as host:
        sk, peer = connected(host)
        results, _who = reading(host, sk, 100)
        for n in range(5):
            peer.send(ACK, bytes([65 + n]))
        assert len(sk.prequeue) == 5
        host.run(1)
        assert results[0] == b"ABCDE"[: len(results[0])]
        host.check()


def test_an_early_segment_waits_behind_its_gap():
    with one_tcp() as host:
        sk, peer = connected(host)
        results, _who = reading(host, sk, 6, flags=MSG_WAITALL)
        peer.send(ACK, b"def", seq=peer.seq + 3)
        host.run(1)
        assert results == []
        assert len(sk.out_of_order_queue) == 1
        peer.send(ACK, b"abc")
        host.run(1)
        assert results == [b"abcdef"]
        host.check()


@pytest.mark.parametrize("options", [{"flags": MSG_PEEK}, {"flags": MSG_TRUNC}, {"prequeue": False}])
def test_who_takes_no_prequeue(options):
    with one_tcp() as host:
        sk, peer = connected(host)
        results, _who = reading(host, sk, 100, **options)
        peer.send(ACK, b"abc")
        assert not sk.prequeue
        assert len(sk.sk_receive_queue) == 1
        host.run(1)
        assert len(results[0]) == 3


def test_low_latency_switches_it_off():
    with one_tcp() as host:
        host.tcp.sysctl_tcp_low_latency = 1
        sk, peer = connected(host)
        results, _who = reading(host, sk, 100)
        peer.send(ACK, b"abc")
        assert not sk.prequeue
        host.run(1)
        assert results == [b"abc"]


def test_without_a_reader_there_is_no_prequeue():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK, b"abc")
        assert not sk.prequeue
        assert len(sk.sk_receive_queue) == 1


def test_an_overflow_is_processed_at_once():
    with one_tcp() as host:
        sk, peer = connected(host)
        results, who = reading(host, sk, 10_000, flags=MSG_WAITALL)
        sk.sk_rcvbuf = 5000
        for _ in range(3):
            peer.send(ACK, b"x" * 1000)
        assert len(who) == 3
        assert not sk.prequeue
        assert sk.prequeue_memory == 0
        assert results == []
        host.check()


def test_the_timer_helps_a_reader_that_does_not_come():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.ack_quick = 0
        reading(host, sk, 100, flags=MSG_WAITALL)
        sk.ucopy_task = object()  # somebody who never runs
        host.kernel.sched.wake_up = lambda *_args: None
        peer.send(ACK, b"abc")
        assert len(sk.prequeue) == 1
        host.run(140)
        assert len(sk.prequeue) == 1
        host.run(15)  # 3/4 of the least RTO
        assert not sk.prequeue
        assert len(sk.sk_receive_queue) == 1
        (ack,) = host.sent()
        assert ack.ack == peer.seq


def test_backlog_data_comes_directly_too():
    with one_tcp() as host:
        sk, peer = connected(host)
        results = []

        def read():
            host.socks.lock_sock(sk)
            host.kernel.sched.msleep(5)
            host.socks.release_sock(sk)

        host.kernel.sched.spawn("owner", read)
        host.run(1)
        host.kernel.sched.spawn("reader", lambda: results.append(host.tcp.recvmsg(sk, 100)))
        host.run(1)
        peer.send(ACK, b"abc")
        assert len(sk.sk_backlog) == 1
        host.run(20)
        assert results == [b"abc"]
        host.check()


def test_a_connection_read_this_way_leaves_nothing():
    with one_tcp() as host:
        sk, peer = connected(host)
        results, _who = reading(host, sk, 5000, flags=MSG_WAITALL)
        for n in (3, 0, 2, 1, 4):
            peer.send(ACK, bytes([n]) * 1000, seq=1001 + 1000 * n)
            host.run(0.1)
        host.run(5)
        assert results == [b"".join(bytes([n]) * 1000 for n in range(5))]
        host.tcp.abort(sk)
        host.assert_nothing_left()


@settings(max_examples=40, deadline=None)
@given(
    order=st.permutations(range(12)),
    again=st.lists(st.integers(0, 11), max_size=5),
    sizes=st.lists(st.integers(1, 400), min_size=12, max_size=12),
    pauses=st.lists(st.booleans(), min_size=17, max_size=17),
    low_latency=st.booleans(),
    rcvbuf=st.sampled_from((3000, 87_380)),
    tsval=st.sampled_from((None, 10)),
)
def test_a_reader_gets_the_stream_whatever_way_segments_take(order, again, sizes, pauses, low_latency, rcvbuf, tsval):
    """Softirq, prequeue, overflow or backlog; a full buffer drops, and the peer sends again until all is there."""
    starts = [sum(sizes[:n]) for n in range(12)]
    text = bytes(n % 251 for n in range(sum(sizes)))
    with one_tcp() as host:
        host.tcp.sysctl_tcp_low_latency = int(low_latency)
        sk, peer = opened(host, tsval=tsval)
        base = peer.seq
        results, _who = reading(host, sk, len(text), flags=MSG_WAITALL)
        sk.sk_rcvbuf = rcvbuf
        sk.sk_userlocks |= SOCK_RCVBUF_LOCK

        def put(n):
            data = text[starts[n] : starts[n] + sizes[n]]
            peer.send(ACK, data, seq=base + starts[n], options=b"" if tsval is None else ts(tsval))

        for n, pause in zip([*order, *again], pauses, strict=False):
            put(n)
            if pause:
                host.run(0.1)
            host.tcp._check_sock(sk)
        for n in range(12):
            host.run(1)
            if not results:
                put(n)
        host.run(1)
        assert results == [text]
        assert sk.ucopy_task is None
        assert not sk.prequeue
        host.tcp.abort(sk)
        host.assert_nothing_left()
