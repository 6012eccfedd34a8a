"""UDP and the bit of ICMP that goes with it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.errno import EADDRINUSE, EADDRNOTAVAIL, EAGAIN, EMSGSIZE, ENOBUFS
from net_ground import IP_A, IP_B, MAC_A, MAC_B, ip_packet, two_hosts, udp_frame


@pytest.fixture
def net():
    with two_hosts() as net:
        yield net


def test_a_datagram_crosses(net):
    sk = net.b.socket(7)
    out = net.a.socket(8)
    assert net.a.udp.sendto(out, b"hello", IP_B, 7) == 5
    assert net.b.udp.recvfrom(sk) == (b"hello", IP_A, 8)


def test_a_reader_can_refuse_to_wait(net):
    assert net.a.udp.recvfrom(net.a.socket(7), nonblock=True) == -EAGAIN


def test_a_sender_without_a_port_gets_one(net):
    sk = net.a.udp.sock_create()
    net.a.udp.sendto(sk, b"x", IP_B, 7)
    assert sk.sport >= 32768


def test_a_port_is_owned_once(net):
    net.a.socket(7)
    assert net.a.udp.bind(net.a.udp.sock_create(), 0, 7) == -EADDRINUSE


def test_a_foreign_address_cannot_be_bound(net):
    assert net.a.udp.bind(net.a.udp.sock_create(), IP_B, 7) == -EADDRNOTAVAIL


def test_a_datagram_above_the_mtu_is_refused(net):
    sk = net.a.socket(7)
    assert net.a.udp.sendto(sk, b"x" * 1472, IP_B, 7) == 1472
    assert net.a.udp.sendto(sk, b"x" * 1473, IP_B, 7) == -EMSGSIZE


def test_without_memory_nothing_is_sent(net):
    sk = net.a.socket(7)
    sk.sk_allocation = 0x20
    net.a.hog()
    assert net.a.udp.sendto(sk, b"x", IP_B, 7) == -ENOBUFS


def test_an_unread_socket_takes_rcvbuf_by_truesize(net):
    sk = net.a.socket(7)
    net.flood(udp_frame(), 200)
    net.run(5)
    assert len(sk.sk_receive_queue) == (sk.sk_rcvbuf - 1) // 1832 == 68
    assert net.a.stats.drops["rmem"] == 200 - 68


def test_closing_frees_what_is_unread(net):
    live = net.a.skbs.live
    sk = net.a.socket(7)
    net.flood(udp_frame(), 20)
    net.run(5)
    net.a.udp.close(sk)
    assert (net.a.skbs.live, net.a.in_use("UDP")) == (live, 0)


@pytest.mark.parametrize("length", [0, 7, 200])
def test_a_wrong_length_is_counted(net, length):
    net.a.socket(7)
    segment = struct.pack("!HHHH", 9, 7, length, 0) + b"x" * 20
    net.flood((MAC_A + MAC_B + b"\x08\x00" + ip_packet(17, segment)).ljust(60, b"\0"))
    net.run(1)
    assert net.a.stats.ignored == {"udp: malformed": 1}


def test_a_datagram_without_a_checksum_is_taken(net):
    sk = net.a.socket(7)
    segment = struct.pack("!HHHH", 9, 7, 13, 0) + b"plain"
    net.flood((MAC_A + MAC_B + b"\x08\x00" + ip_packet(17, segment)).ljust(60, b"\0"))
    net.run(1)
    assert net.a.udp.recvfrom(sk, nonblock=True) == (b"plain", IP_B, 9)


def test_loopback(net):
    sk = net.a.socket(7)
    assert net.a.udp.sendto(net.a.socket(8), b"me", IP_A, 7) == 2
    assert net.a.udp.recvfrom(sk, nonblock=True) == (b"me", IP_A, 8)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=1472), max_size=12), st.integers(0, 1000))
def test_over_a_bad_wire_only_what_was_sent_arrives(payloads, seed):
    options = {"loss": 0.1, "corrupt": 0.1, "duplicate": 0.1, "reorder": 0.1, "seed": seed}
    with two_hosts(wire=options) as net:
        sk = net.b.socket(7)
        out = net.a.socket(8)
        for payload in payloads:
            net.a.udp.sendto(out, payload, IP_B, 7)
        net.run(5000)
        got = []
        while isinstance(answer := net.b.udp.recvfrom(sk, nonblock=True), tuple):
            got.append(answer[0])
        assert all(payload in payloads for payload in got)
        net.run(10)
        for host in (net.a, net.b):
            assert host.skbs.live == len(host.nic.rx.buffers)


@pytest.mark.parametrize("cache", ["UDP", "sock_inode_cache"])
def test_without_memory_there_is_no_socket(net, cache):
    slub = net.a.slub
    real = slub.kmem_cache_alloc
    slub.kmem_cache_alloc = lambda wanted, gfp: None if wanted is slub.caches[cache] else real(wanted, gfp)
    assert net.a.udp.sock_create() is None
    assert net.a.in_use("UDP") == 0
    assert not net.a.socks.live


def test_when_all_ports_are_taken_nothing_is_sent(net):
    udp = net.a.udp
    taken = udp.sock_create()
    udp.ports.update(dict.fromkeys(range(1, 65536), taken))
    sk = udp.sock_create()
    assert udp.bind(sk, 0, 0) == -EADDRINUSE
    assert udp.sendto(sk, b"x", IP_B, 7) == -EADDRINUSE
    del udp.ports[40000]
    assert udp.bind(sk, 0, 0) == 0
    assert sk.sport == 40000


def test_a_socket_of_one_address_takes_no_other(net):
    sk = net.a.udp.sock_create()
    net.a.udp.bind(sk, 0x7F000001, 7)
    net.flood(udp_frame())
    net.run(1)
    assert not sk.sk_receive_queue
    assert net.a.stats.ignored == {"udp: no socket": 1}


def test_a_packet_too_short_for_a_header_is_counted(net):
    net.flood((MAC_A + MAC_B + b"\x08\x00" + ip_packet(17, b"1234567")).ljust(60, b"\0"))
    net.run(1)
    assert net.a.stats.ignored == {"udp: short": 1}


def test_a_waiting_reader_is_woken_and_can_be_explained(net):
    sk = net.a.socket(7)
    got = []
    net.a.kernel.sched.spawn("reader", lambda: got.append(net.a.udp.recvfrom(sk)))
    net.run(5)
    assert got == []
    assert net.a.udp.explain(sk) == ("a datagram to port 7", None)
    net.flood(udp_frame(b"wake up"))
    net.run(5)
    assert got == [(b"wake up", IP_B, 9)]
