"""Waiting for datagrams and for room."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import EAGAIN, ECONNREFUSED, ENOBUFS, EPIPE
from kemu_net.core.datagram import datagram_poll, skb_recv_datagram, sock_alloc_send_skb
from kemu_net.core.sock import RCV_SHUTDOWN, SEND_SHUTDOWN, SOCK_ASYNC_NOSPACE, SOCK_NOSPACE
from kemu_net.core.uapi import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP, POLLRDNORM, POLLWRBAND, POLLWRNORM
from net_ground import one_host

OUT = POLLOUT | POLLWRNORM | POLLWRBAND


@pytest.fixture
def host():
    with one_host() as host:
        host.sk = host.udp.sock_create()
        yield host
        host.udp.close(host.sk)
        assert host.skbs.live == 0


def queue(host):
    skb = host.skbs.alloc_skb(100, 0x20)
    assert host.socks.sock_queue_rcv_skb(host.sk, skb) == 0
    return skb


def test_packets_come_in_order(host):
    skbs = [queue(host), queue(host)]
    assert [skb_recv_datagram(host.sk, False, True) for _ in range(2)] == skbs
    assert skb_recv_datagram(host.sk, False, True) == -EAGAIN
    for skb in skbs:
        host.skbs.kfree_skb(skb)
    assert host.sk.sk_rmem_alloc == 0


def test_a_peek_holds_the_packet(host):
    skb = queue(host)
    assert skb_recv_datagram(host.sk, True, True) is skb
    assert (skb.users, len(host.sk.sk_receive_queue)) == (2, 1)
    host.skbs.kfree_skb(skb)


def test_an_error_is_told_before_the_packets_once(host):
    queue(host)
    host.sk.sk_err = ECONNREFUSED
    assert skb_recv_datagram(host.sk, False, True) == -ECONNREFUSED
    host.skbs.kfree_skb(skb_recv_datagram(host.sk, False, True))


def wake(host, call, **change):
    """Let a task wait in ``call(sk)``, change the socket, and give what the call gives."""
    got = []
    host.kernel.sched.spawn("waiter", lambda: got.append(call(host.sk)))
    host.kernel.world.run(for_ns=10_000_000)
    assert got == []
    for name, value in change.items():
        setattr(host.sk, name, value)
    host.sk.sk_state_change(host.sk)
    host.kernel.world.run(for_ns=10_000_000)
    return got


def receive(sk):
    return skb_recv_datagram(sk, False, False)


def send(sk):
    return sock_alloc_send_skb(sk, 10, False)


def test_an_error_and_the_end_wake_a_receiver(host):
    assert wake(host, receive, sk_err=111) == [-111]
    assert wake(host, receive, sk_shutdown=RCV_SHUTDOWN) == [0]


def test_an_error_and_the_end_wake_a_sender(host):
    host.sk.sk_wmem_alloc = host.sk.sk_sndbuf
    assert wake(host, send, sk_err=111) == [-111]
    assert wake(host, send, sk_shutdown=SEND_SHUTDOWN) == [-EPIPE]
    host.sk.sk_wmem_alloc = 0


def test_one_packet_may_go_above_the_send_buffer(host):
    host.sk.sk_wmem_alloc = host.sk.sk_sndbuf - 1
    skb = sock_alloc_send_skb(host.sk, 1000, True)
    assert host.sk.sk_wmem_alloc == host.sk.sk_sndbuf - 1 + skb.truesize
    assert sock_alloc_send_skb(host.sk, 1000, True) == -EAGAIN
    assert host.sk.sk_socket_flags & (SOCK_NOSPACE | SOCK_ASYNC_NOSPACE) == SOCK_NOSPACE | SOCK_ASYNC_NOSPACE
    host.skbs.kfree_skb(skb)
    host.sk.sk_wmem_alloc = 0


def test_without_memory(host):
    host.skbs.alloc_skb = lambda *_args: None
    assert sock_alloc_send_skb(host.sk, 10, True) == -ENOBUFS


def test_poll(host):
    sk = host.sk
    assert datagram_poll(sk) == OUT
    skb = queue(host)
    assert datagram_poll(sk) == OUT | POLLIN | POLLRDNORM
    host.skbs.kfree_skb(skb_recv_datagram(sk, False, True))
    assert skb.users == 0
    sk.sk_shutdown = RCV_SHUTDOWN
    assert datagram_poll(sk) == OUT | POLLIN | POLLRDNORM | POLLRDHUP
    sk.sk_shutdown = RCV_SHUTDOWN | SEND_SHUTDOWN
    assert datagram_poll(sk) & POLLHUP
    sk.sk_shutdown, sk.sk_err = 0, 5
    assert datagram_poll(sk) == OUT | POLLERR
    sk.sk_err, sk.sk_wmem_alloc = 0, sk.sk_sndbuf >> 1
    assert datagram_poll(sk) == 0
    assert sk.sk_socket_flags & SOCK_ASYNC_NOSPACE
    sk.sk_wmem_alloc = 0
