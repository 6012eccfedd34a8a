"""UDP: sockets, ports, peers."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.errno import (
    EACCES,
    EADDRINUSE,
    EADDRNOTAVAIL,
    EAGAIN,
    EDESTADDRREQ,
    EINVAL,
    EMSGSIZE,
    ENOBUFS,
    EOPNOTSUPP,
)
from kemu_net.core.sock import SOCK_BROADCAST
from kemu_net.core.uapi import (
    IP_PMTUDISC_DO,
    MSG_OOB,
    SockaddrIn,
)
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


def test_a_datagram_above_the_mtu_is_cut_and_made_whole(net):
    net.greet()
    sk = net.b.socket(7)
    data = bytes(range(256)) * 30
    before = len(net.frames)
    assert net.a.udp.sendto(net.a.socket(7), data, IP_B, 7) == len(data)
    net.run(5)
    assert len(net.frames) - before == -(-(len(data) + 8) // 1480)
    assert net.b.udp.recvfrom(sk, nonblock=True)[0] == data


def test_a_reassembled_datagram_is_charged_with_all_its_fragments(net):
    net.greet()
    sk = net.b.socket(7)
    net.a.udp.sendto(net.a.socket(7), bytes(4000), IP_B, 7)
    net.run(5)
    assert sk.sk_rmem_alloc == 3 * 1832


def test_the_longest_datagram_crosses_and_a_longer_one_is_refused(net):
    net.greet()
    sk = net.b.socket(7)
    out = net.a.socket(7)
    assert net.a.udp.sendto(out, b"x" * 65507, IP_B, 7) == 65507
    net.run(20)
    assert len(net.b.udp.recvfrom(sk, nonblock=True)[0]) == 65507
    assert net.a.udp.sendto(out, b"x" * 65508, IP_B, 7) == -EMSGSIZE
    assert net.a.udp.sendto(out, b"x" * 65536, IP_B, 7) == -EMSGSIZE


def test_who_forbids_fragments_is_refused(net):
    sk = net.a.socket(7)
    sk.pmtudisc = IP_PMTUDISC_DO
    assert net.a.udp.sendto(sk, b"x" * 1473, IP_B, 7) == -EMSGSIZE
    assert net.a.udp.sendto(sk, b"x" * 1472, IP_B, 7) == 1472


def test_without_memory_nothing_is_sent(net):
    sk = net.a.socket(7)
    sk.sk_allocation = 0x20
    net.a.hog()
    assert net.a.udp.sendto(sk, b"x", IP_B, 7) == -ENOBUFS
    assert net.a.udp.mib.sndbuf_errors == 1


def test_an_unread_socket_takes_rcvbuf_by_truesize(net):
    sk = net.a.socket(7)
    net.flood(udp_frame(), 200)
    net.run(5)
    assert len(sk.sk_receive_queue) == (sk.sk_rcvbuf - 1) // 1832 == 68
    assert net.a.stats.drops["rmem"] == 200 - 68
    mib = net.a.udp.mib
    assert (mib.in_datagrams, mib.rcvbuf_errors, mib.in_errors) == (68, 200 - 68, 200 - 68)


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
    udp.ports.update({port: [taken] for port in range(1, 65536)})
    sk = udp.sock_create()
    assert udp.bind(sk, 0, 0) == -EADDRINUSE
    assert udp.sendto(sk, b"x", IP_B, 7) == -EAGAIN
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


# ports


def test_a_free_port_is_looked_for_where_the_last_search_ended(net):
    first, second, third = (net.a.udp.sock_create() for _ in range(3))
    net.a.udp.bind(first, 0, 0)
    net.a.udp.bind(second, 0, 0)
    assert (first.sport, second.sport) == (32768, 32769)
    net.a.udp.close(first)
    net.a.udp.bind(third, 0, 0)
    assert third.sport == 32770


def test_one_port_on_two_addresses(net):
    mine, loop = net.a.udp.sock_create(), net.a.udp.sock_create()
    assert net.a.udp.bind(mine, IP_A, 7) == 0
    assert net.a.udp.bind(loop, 0x7F000001, 7) == 0
    assert net.a.udp.bind(net.a.udp.sock_create(), 0, 7) == -EADDRINUSE


def test_a_socket_is_bound_once(net):
    assert net.a.udp.bind(net.a.socket(7), 0, 8) == -EINVAL


@pytest.mark.parametrize(("first", "second", "result"), [(True, True, 0), (True, False, -EADDRINUSE), (False, True, -EADDRINUSE)])
def test_a_port_is_shared_when_both_agree(net, first, second, result):
    one, two = net.a.udp.sock_create(), net.a.udp.sock_create()
    one.sk_reuse, two.sk_reuse = first, second
    assert net.a.udp.bind(one, 0, 7) == 0
    assert net.a.udp.bind(two, 0, 7) == result


def test_the_most_particular_socket_gets_the_datagram(net):
    udp = net.a.udp
    socks = {}
    for name in ("any", "address", "connected", "stranger"):
        sk = socks[name] = udp.sock_create()
        sk.sk_reuse = True
        assert udp.bind(sk, 0 if name == "any" else IP_A, 7) == 0
    udp.connect(socks["connected"], IP_B, 9)
    udp.connect(socks["stranger"], IP_B, 10)
    got = []
    for name in ("connected", "address", "any"):
        net.flood(udp_frame())
        net.run(1)
        got.append([name for name, sk in socks.items() if sk.sk_receive_queue])
        udp.close(socks.pop(name))
    assert got == [["connected"], ["address"], ["any"]]


def test_of_two_equal_sockets_the_newer_gets_it(net):
    old, new = net.a.udp.sock_create(), net.a.udp.sock_create()
    for sk in (old, new):
        sk.sk_reuse = True
        net.a.udp.bind(sk, 0, 7)
    net.flood(udp_frame())
    net.run(1)
    assert (len(old.sk_receive_queue), len(new.sk_receive_queue)) == (0, 1)


def test_a_broadcast_goes_to_all(net):
    socks = []
    for _ in range(3):
        sk = net.b.udp.sock_create()
        sk.sk_reuse = True
        net.b.udp.bind(sk, 0, 7)
        socks.append(sk)
    out = net.a.socket(8)
    out.sk_flags |= SOCK_BROADCAST
    assert net.a.udp.sendto(out, b"all", IP_A | 0xFF, 7) == 3
    net.run(2)
    assert [net.b.udp.recvfrom(sk, nonblock=True)[0] for sk in socks] == [b"all"] * 3


def test_a_broadcast_needs_permission(net):
    sk = net.a.socket(8)
    for address in (IP_A | 0xFF, 0xFFFFFFFF):
        assert net.a.udp.sendto(sk, b"all", address, 7) == -EACCES
        assert net.a.udp.connect(sk, address, 7) == -EACCES


# a peer


def test_a_connected_socket_hears_its_peer_alone(net):
    sk = net.a.socket(7)
    assert net.a.udp.connect(sk, IP_B, 9) == 0
    net.flood(udp_frame(b"peer", sport=9))
    net.flood(udp_frame(b"port", sport=10))
    net.flood(udp_frame(b"host", saddr=IP_B + 1))
    net.run(1)
    assert net.a.udp.recvfrom(sk, nonblock=True)[0] == b"peer"
    assert not sk.sk_receive_queue
    assert net.a.udp.mib.no_ports == 2


def test_connecting_chooses_address_and_port(net):
    sk = net.a.udp.sock_create()
    net.a.udp.connect(sk, IP_B, 9)
    assert (sk.saddr, sk.sport) == (IP_A, 32768)
    net.a.udp.disconnect(sk)
    assert (sk.saddr, sk.sport, sk.daddr, sk.dport) == (0, 0, 0, 0)


def test_disconnecting_keeps_what_bind_chose(net):
    sk = net.a.udp.sock_create()
    net.a.udp.bind(sk, IP_A, 7)
    net.a.udp.connect(sk, IP_B, 9)
    net.a.udp.disconnect(sk)
    assert (sk.saddr, sk.sport) == (IP_A, 7)
    net.flood(udp_frame(sport=10))
    net.run(1)
    assert len(sk.sk_receive_queue) == 1


def test_a_send_without_a_peer_needs_an_address(net):
    sk = net.a.socket(7)
    assert net.a.udp.sendmsg(sk, b"x", None, 0, True) == -EDESTADDRREQ
    assert net.a.udp.sendmsg(sk, b"x", SockaddrIn(IP_B, 0), 0, True) == -EINVAL
    assert net.a.udp.sendmsg(sk, b"x", SockaddrIn(IP_B, 9), MSG_OOB, True) == -EOPNOTSUPP
    net.a.udp.connect(sk, IP_B, 9)
    assert net.a.udp.sendmsg(sk, b"x", None, 0, True) == 1
