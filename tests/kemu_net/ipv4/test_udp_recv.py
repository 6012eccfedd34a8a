"""UDP: receiving, and errors that ICMP tells."""

from __future__ import annotations

import struct

import pytest

from kemu.kernel.errno import (
    EAGAIN,
    ECONNREFUSED,
    EHOSTUNREACH,
    EMSGSIZE,
    EPROTO,
)
from kemu_net.core.sock import RCV_SHUTDOWN
from kemu_net.core.uapi import (
    IP_PMTUDISC_DONT,
    IP_RECVERR,
    IP_TTL,
    MSG_ERRQUEUE,
    MSG_PEEK,
    MSG_TRUNC,
    SOL_IP,
    SockaddrIn,
)
from net_ground import IP_A, IP_B, MAC_A, MAC_B, ip_packet, two_hosts, udp_frame


@pytest.fixture
def net():
    with two_hosts() as net:
        yield net


def test_what_does_not_fit_is_lost(net):
    sk = net.a.socket(7)
    net.flood(udp_frame(b"0123456789"))
    net.run(1)
    msg = net.a.udp.recvmsg(sk, 4, 0, True)
    assert (msg.data, msg.length, msg.flags) == (b"0123", 4, MSG_TRUNC)
    assert net.a.udp.recvmsg(sk, 4, 0, True) == -EAGAIN


def test_a_peek_leaves_the_datagram(net):
    sk = net.a.socket(7)
    net.flood(udp_frame(b"0123456789"))
    net.run(1)
    msg = net.a.udp.recvmsg(sk, 4, MSG_PEEK | MSG_TRUNC, True)
    assert (msg.data, msg.length) == (b"0123", 10)
    assert net.a.udp.recvmsg(sk, 40, 0, True).data == b"0123456789"
    assert sk.sk_rmem_alloc == 0


def test_a_reader_waits_as_long_as_it_wants(net):
    sk = net.a.socket(7)
    sk.sk_rcvtimeo = 25
    start = net.a.kernel.sched.jiffies
    assert net.a.udp.recvmsg(sk, 10) == -EAGAIN
    assert net.a.kernel.sched.jiffies - start == 25


def test_shutdown_ends_a_reader_that_waits(net):
    sk = net.a.socket(7)
    got = []
    net.a.kernel.sched.spawn("reader", lambda: got.append(net.a.udp.recvmsg(sk, 10)))
    net.run(5)
    sk.sk_shutdown |= RCV_SHUTDOWN
    sk.sk_state_change(sk)
    net.run(5)
    assert got[0].data == b""
    assert net.a.udp.recvmsg(sk, 10, 0, True) == -EAGAIN


def test_control_messages_are_those_asked_for(net):
    sk = net.a.socket(7)
    sk.cmsg_flags = 7
    net.flood(udp_frame())
    net.run(1)
    control = net.a.udp.recvmsg(sk, 10, 0, True).control
    assert [entry[1] for entry in control] == [8, 2, 1]
    assert (SOL_IP, IP_TTL, 64) in control


def broken() -> bytes:
    frame = bytearray(udp_frame(b"broken"))
    frame[42] ^= 1
    return bytes(frame)


def test_a_broken_datagram_is_found_out_by_its_reader():
    with two_hosts(rx_checksum=False) as net:
        sk = net.a.socket(7)
        net.flood(broken())
        net.flood(udp_frame(b"whole"))
        net.run(1)
        assert len(sk.sk_receive_queue) == 2
        assert net.a.udp.recvmsg(sk, 10, MSG_PEEK, True) == -EAGAIN
        assert net.a.udp.recvmsg(sk, 10, 0, True).data == b"whole"
        assert net.a.stats.ignored == {"udp: checksum": 1}
        assert (net.a.udp.mib.in_datagrams, net.a.udp.mib.in_errors) == (2, 1)
        assert sk.sk_rmem_alloc == 0


def test_a_broken_datagram_does_not_make_a_socket_readable():
    with two_hosts(rx_checksum=False) as net:
        sk = net.a.socket(7)
        net.flood(broken())
        net.run(1)
        assert net.a.udp.first_packet_length(sk) == 0
        net.flood(udp_frame(b"whole"))
        net.run(1)
        assert net.a.udp.first_packet_length(sk) == 5


def test_a_filter_of_a_program_sees_no_broken_datagram():
    with two_hosts(rx_checksum=False) as net:
        sk = net.a.socket(7)
        net.a.socks.sk_attach_filter(sk, lambda _skb: pytest.fail("it is broken"))
        net.flood(broken())
        net.run(1)
        assert not sk.sk_receive_queue


def test_nobody_is_told_of_a_broken_datagram_to_nobody():
    with two_hosts(rx_checksum=False) as net:
        net.greet()
        before = len(net.frames)
        net.flood(broken())
        net.run(2)
        assert len(net.frames) == before
        assert (net.a.udp.mib.no_ports, net.a.udp.mib.in_errors) == (0, 1)


@pytest.mark.parametrize("packet_split", [False, True])
def test_padding_is_cut_off(packet_split):
    with two_hosts(packet_split=packet_split) as net:
        sk = net.a.socket(7)
        segment = struct.pack("!HHHH", 9, 7, 8 + 300, 0) + b"d" * 300 + b"p" * 500
        net.flood(MAC_A + MAC_B + b"\x08\x00" + ip_packet(17, segment))
        net.run(1)
        assert net.a.udp.recvfrom(sk, nonblock=True)[0] == b"d" * 300


# errors


def test_a_connected_sender_hears_that_nobody_listens(net):
    net.greet()
    sk = net.a.socket(7)
    net.a.udp.connect(sk, IP_B, 12345)
    net.a.udp.sendmsg(sk, b"anybody?", None, 0, True)
    net.run(5)
    assert sk.sk_err == ECONNREFUSED
    assert net.a.udp.recvmsg(sk, 10, 0, True) == -ECONNREFUSED
    assert net.a.udp.recvmsg(sk, 10, 0, True) == -EAGAIN


def test_an_unconnected_sender_hears_nothing(net):
    net.greet()
    sk = net.a.socket(7)
    net.a.udp.sendto(sk, b"anybody?", IP_B, 12345)
    net.run(5)
    assert sk.sk_err == 0


def test_who_asks_for_errors_gets_what_it_sent_back(net):
    net.greet()
    sk = net.a.socket(7)
    sk.recverr = 1
    net.a.udp.sendto(sk, b"anybody?", IP_B, 12345)
    net.run(5)
    assert sk.sk_err == ECONNREFUSED
    msg = net.a.udp.recvmsg(sk, 100, MSG_ERRQUEUE, True)
    assert (msg.data, msg.name) == (b"anybody?", SockaddrIn(IP_B, 12345))
    ((level, kind, err),) = msg.control
    assert (level, kind) == (SOL_IP, IP_RECVERR)
    assert (err.errno, err.origin, err.type, err.code, err.offender) == (ECONNREFUSED, 2, 3, 3, IP_B)
    assert sk.sk_err == 0
    assert net.a.udp.recvmsg(sk, 100, MSG_ERRQUEUE, True) == -EAGAIN
    assert sk.sk_rmem_alloc == 0


def test_errors_that_nobody_reads_go_with_the_socket(net):
    net.greet()
    sk = net.a.socket(7)
    sk.recverr = 1
    net.a.udp.sendto(sk, b"anybody?", IP_B, 12345)
    net.run(5)
    assert sk.sk_rmem_alloc > 0
    net.a.udp.close(sk)
    assert net.a.in_use("UDP") == 0


def test_a_datagram_too_long_is_an_error_of_this_host(net):
    sk = net.a.socket(7)
    sk.recverr = 1
    assert net.a.udp.sendto(sk, bytes(65508), IP_B, 9) == -EMSGSIZE
    msg = net.a.udp.recvmsg(sk, 100, MSG_ERRQUEUE, True)
    assert (msg.control[0][2].errno, msg.control[0][2].origin, msg.control[0][2].info) == (EMSGSIZE, 1, 1500)


class Inner:
    """What ICMP quotes of a datagram from port 7 of a to port 9 of b."""

    saddr, daddr, protocol, sender = IP_A, IP_B, 17, IP_B
    transport = struct.pack("!HHHH", 7, 9, 9, 0) + b"x"


@pytest.mark.parametrize(
    ("kind", "code", "connected", "pmtudisc", "errno"),
    [
        (3, 0, True, 1, 0),  # network unreachable: not fatal
        (3, 1, True, 1, 0),
        (3, 3, True, 1, ECONNREFUSED),
        (3, 3, False, 1, 0),
        (3, 4, True, 1, EMSGSIZE),
        (3, 4, True, IP_PMTUDISC_DONT, 0),
        (3, 10, True, 1, EHOSTUNREACH),
        (4, 0, True, 1, 0),  # source quench
        (11, 0, True, 1, 0),
        (12, 0, True, 1, EPROTO),
    ],
)
def test_which_icmp_errors_a_socket_is_told(net, kind, code, connected, pmtudisc, errno):
    sk = net.a.socket(7)
    sk.pmtudisc = pmtudisc
    if connected:
        net.a.udp.connect(sk, IP_B, 9)
    net.a.udp.udp_err(Inner, kind, code, 0)
    assert sk.sk_err == errno
