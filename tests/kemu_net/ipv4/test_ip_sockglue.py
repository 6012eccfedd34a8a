"""The error queue of a socket, and its control messages."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import EAGAIN, ECONNREFUSED, EHOSTUNREACH, EMSGSIZE
from kemu_net.core.uapi import MSG_ERRQUEUE, MSG_TRUNC, SockaddrIn
from kemu_net.ipv4.ip_sockglue import ExtendedErr, icmp_error_of, ip_cmsg_recv, ip_icmp_error, ip_local_error, ip_recv_error
from net_ground import IP_B, one_host, two_hosts, udp_frame

B9 = SockaddrIn(IP_B, 9)
REFUSED = ExtendedErr(ECONNREFUSED, 2, 3, 3, 0, IP_B)


@pytest.fixture
def host():
    with one_host() as host:
        host.sk = host.udp.sock_create()
        yield host
        host.udp.close(host.sk)
        assert host.skbs.live == 0


def test_nothing_is_queued_unless_it_is_asked_for(host):
    ip_icmp_error(host.skbs, host.sk, REFUSED, B9, b"data")
    ip_local_error(host.skbs, host.sk, EMSGSIZE, B9, 1500)
    assert host.sk.sk_error_queue is None
    assert ip_recv_error(host.skbs, host.sk, 10) == -EAGAIN


def test_errors_come_in_order_and_the_next_is_the_sockets_error(host):
    host.sk.recverr = 1
    ip_icmp_error(host.skbs, host.sk, REFUSED, B9, b"0123456789")
    ip_local_error(host.skbs, host.sk, EMSGSIZE, B9, 1500)
    first = ip_recv_error(host.skbs, host.sk, 4)
    assert (first.data, first.flags, first.control[0][2]) == (b"0123", MSG_ERRQUEUE | MSG_TRUNC, REFUSED)
    assert host.sk.sk_err == EMSGSIZE
    second = ip_recv_error(host.skbs, host.sk, 4)
    assert (second.data, second.control[0][2].info) == (b"", 1500)
    assert host.sk.sk_err == 0


def test_the_receive_buffer_bounds_errors(host):
    host.sk.recverr = 1
    host.sk.sk_rcvbuf = 2000
    for _ in range(20):
        ip_icmp_error(host.skbs, host.sk, REFUSED, B9, bytes(500))
    assert len(host.sk.sk_error_queue) == 2
    assert host.sk.sk_rmem_alloc < 2000
    assert host.stats.ignored == {"error queue full": 18}


def test_without_memory_an_error_is_only_a_number(host):
    host.sk.recverr = 1
    host.skbs.alloc_skb = lambda *_args: None
    ip_icmp_error(host.skbs, host.sk, REFUSED, B9, b"data")
    ip_local_error(host.skbs, host.sk, EMSGSIZE, B9, 1500)
    assert not host.sk.sk_error_queue


def test_who_waits_is_woken(host):
    host.sk.recverr = 1
    woken = []
    host.sk.sk_data_ready = woken.append
    ip_icmp_error(host.skbs, host.sk, REFUSED, B9, b"data")
    assert woken == [host.sk]


@pytest.mark.parametrize(
    ("kind", "code", "error"),
    [
        (3, 3, (ECONNREFUSED, True)),
        (3, 16, (EHOSTUNREACH, False)),
        (11, 0, (EHOSTUNREACH, False)),
        (4, 0, None),
        (5, 0, (EHOSTUNREACH, False)),
    ],
)
def test_errors_of_icmp(kind, code, error):
    assert icmp_error_of(kind, code) == error


def test_control_messages_are_single():
    with two_hosts() as net:
        sk = net.a.socket(7)
        net.flood(udp_frame())
        net.run(1)
        skb = sk.sk_receive_queue[0]
        for flags, names in ((0, []), (1, [8]), (2, [2]), (4, [1]), (5, [8, 1])):
            sk.cmsg_flags = flags
            assert [entry[1] for entry in ip_cmsg_recv(sk, skb)] == names
        net.a.udp.close(sk)
