"""UDP: sending, and what it waits for."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import (
    EAGAIN,
    EMSGSIZE,
    EPIPE,
)
from kemu_net.core.sock import SEND_SHUTDOWN
from kemu_net.core.uapi import (
    MSG_MORE,
    SockaddrIn,
)
from net_ground import IP_B, two_hosts


@pytest.fixture
def net():
    with two_hosts() as net:
        yield net


def test_a_sender_waits_for_room(net):
    sk = net.a.socket(8)
    sk.sk_sndbuf = 1  # room for one packet at a time
    sk.sk_wmem_alloc = 1
    done = []
    net.a.kernel.sched.spawn("sender", lambda: done.append(net.a.udp.sendmsg(sk, b"x", SockaddrIn(IP_B, 7), 0, False)))
    net.run(5)
    assert done == []
    assert net.a.udp.sendmsg(sk, b"x", SockaddrIn(IP_B, 7), 0, True) == -EAGAIN
    assert net.a.udp.mib.sndbuf_errors == 1
    sk.sk_wmem_alloc = 0
    sk.sk_write_space(sk)
    net.run(5)
    assert done == [1]


def test_a_sender_may_not_want_to_wait_long(net):
    sk = net.a.socket(8)
    sk.sk_sndbuf = sk.sk_wmem_alloc = 1
    sk.sk_sndtimeo = 10
    start = net.a.kernel.sched.jiffies
    assert net.a.udp.sendmsg(sk, b"x", SockaddrIn(IP_B, 7), 0, False) == -EAGAIN
    assert net.a.kernel.sched.jiffies - start == 10
    sk.sk_wmem_alloc = 0


def test_what_is_sent_is_charged_until_it_is_out(net):
    net.greet()
    sk = net.a.socket(8)
    net.a.udp.sendto(sk, b"x" * 1000, IP_B, 7)
    assert sk.sk_wmem_alloc > 1000
    net.run(20)
    assert sk.sk_wmem_alloc == 0


def test_after_shutdown_nothing_is_sent(net):
    sk = net.a.socket(8)
    sk.sk_shutdown |= SEND_SHUTDOWN
    assert net.a.udp.sendto(sk, b"x", IP_B, 7) == -EPIPE


def test_a_corked_socket_gathers_one_datagram(net):
    net.greet()
    sk = net.b.socket(7)
    out = net.a.socket(8)
    before = len(net.frames)
    assert net.a.udp.sendmsg(out, b"one ", SockaddrIn(IP_B, 7), MSG_MORE, True) == 4
    out.corkflag = True
    assert net.a.udp.sendmsg(out, b"two ", None, 0, True) == 4
    net.run(5)
    assert len(net.frames) == before
    out.corkflag = False
    assert net.a.udp.sendmsg(out, b"three", None, 0, True) == 5
    net.run(5)
    assert net.b.udp.recvfrom(sk, nonblock=True)[0] == b"one two three"


def test_too_much_for_one_datagram_is_forgotten(net):
    out = net.a.socket(8)
    assert net.a.udp.sendmsg(out, bytes(60000), SockaddrIn(IP_B, 7), MSG_MORE, True) == 60000
    assert net.a.udp.sendmsg(out, bytes(6000), None, MSG_MORE, True) == -EMSGSIZE
    assert net.a.udp.push_pending(out) == 0
    assert net.a.udp.mib.out_datagrams == 0


def test_without_a_checksum_none_is_made(net):
    net.greet()
    out = net.a.socket(8)
    out.sk_no_check = 1
    net.a.udp.sendto(out, b"plain", IP_B, 7)
    net.run(5)
    assert net.frames[-2 if net.frames[-1][1][23] == 1 else -1][1][40:42] == b"\0\0"


def test_type_of_service_and_time_to_live_are_the_sockets(net):
    net.greet()
    sk = net.b.socket(7)
    out = net.a.socket(8)
    out.tos, out.uc_ttl = 0x10, 3
    net.a.udp.sendto(out, b"x", IP_B, 7)
    net.run(5)
    skb = sk.sk_receive_queue[0]
    assert (skb.buf[skb.nh + 1], skb.buf[skb.nh + 8]) == (0x10, 3)
    net.b.udp.recvfrom(sk)
