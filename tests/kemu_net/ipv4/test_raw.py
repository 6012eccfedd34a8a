"""Raw sockets."""

from __future__ import annotations

import struct

import pytest

from kemu.kernel.errno import (
    EACCES,
    EADDRNOTAVAIL,
    EAFNOSUPPORT,
    EAGAIN,
    EDESTADDRREQ,
    EHOSTUNREACH,
    EINVAL,
    EMSGSIZE,
    ENETUNREACH,
    ENOBUFS,
    ENOPROTOOPT,
    EOPNOTSUPP,
    EPROTO,
)
from kemu_net.core.checksum import csum_fold, csum_ok, csum_partial
from kemu_net.core.uapi import IPPROTO_RAW, MSG_ERRQUEUE, MSG_OOB, MSG_PEEK, MSG_TRUNC, SockaddrIn
from kemu_net.ipv4.raw import Raw
from net_ground import IP_A, IP_B, MAC_A, MAC_B, ip_packet, two_hosts, udp_frame

PROTO = 99


@pytest.fixture
def net():
    with two_hosts() as net:
        for host in (net.a, net.b):
            host.raw = Raw(host.kernel, host.socks, host.skbs, host.inet)
        yield net
        for host in (net.a, net.b):
            for chain in list(host.raw.table.values()):
                for sk in list(chain):
                    host.raw.close(sk)
        net.run(10)
        for host in (net.a, net.b):
            assert host.in_use("RAW") == 0


def frame(proto=PROTO, payload=b"abcd", **fields) -> bytes:
    return (MAC_A + MAC_B + b"\x08\x00" + ip_packet(proto, payload, **fields)).ljust(60, b"\0")


def ping(payload=b"12345678") -> bytes:
    message = struct.pack("!BBHHH", 8, 0, 0, 1, 1) + payload
    return message[:2] + csum_fold(csum_partial(message)).to_bytes(2, "big") + message[4:]


def read(host, sk):
    msg = host.raw.recvmsg(sk, 65536, 0, True)
    return msg if isinstance(msg, int) else msg.data


def test_a_packet_comes_with_its_header(net):
    sk = net.a.raw.sock_create(PROTO)
    net.flood(frame())
    net.run(1)
    assert read(net.a, sk) == ip_packet(PROTO, b"abcd")


def test_every_matching_socket_gets_a_clone(net):
    socks = [net.a.raw.sock_create(PROTO) for _ in range(3)]
    net.flood(frame())
    net.run(1)
    assert len({sk.sk_receive_queue[0].head for sk in socks}) == 1
    assert [read(net.a, sk) for sk in socks] == [ip_packet(PROTO, b"abcd")] * 3


def test_another_protocol_is_not_heard(net):
    sk = net.a.raw.sock_create(PROTO + 1)
    net.flood(frame())
    net.run(1)
    assert not sk.sk_receive_queue


def test_a_bound_socket_hears_its_address_alone(net):
    sk = net.a.raw.sock_create(PROTO)
    assert net.a.raw.bind(sk, 0x7F000001) == 0
    net.flood(frame())
    net.run(1)
    assert not sk.sk_receive_queue


def test_a_connected_socket_hears_its_peer_alone(net):
    sk = net.a.raw.sock_create(PROTO)
    assert net.a.raw.connect(sk, IP_B + 1) == 0
    net.flood(frame())
    net.run(1)
    assert not sk.sk_receive_queue
    net.a.raw.disconnect(sk)
    net.flood(frame())
    net.run(1)
    assert len(sk.sk_receive_queue) == 1


def test_only_own_addresses_can_be_bound(net):
    sk = net.a.raw.sock_create(PROTO)
    assert net.a.raw.bind(sk, IP_B) == -EADDRNOTAVAIL
    net.a.raw.connect(sk, IP_B)
    assert net.a.raw.bind(sk, IP_A) == -EINVAL


def test_a_packet_of_a_known_protocol_goes_to_both(net):
    sk = net.a.raw.sock_create(17)
    udp = net.a.socket(7)
    net.flood(udp_frame(b"both"))
    net.run(1)
    assert read(net.a, sk).endswith(b"both")
    assert net.a.udp.recvfrom(udp, nonblock=True)[0] == b"both"


def test_the_hook_is_there_only_while_there_is_a_socket(net):
    assert net.a.inet.input.raw_local_deliver is None
    sk = net.a.raw.sock_create(PROTO)
    assert net.a.inet.input.raw_local_deliver is not None
    net.a.raw.close(sk)
    assert net.a.inet.input.raw_local_deliver is None


def test_a_taken_protocol_is_not_called_unreachable(net):
    net.greet()
    net.a.raw.sock_create(PROTO)
    before = len(net.frames)
    net.flood(frame())
    net.run(5)
    assert len(net.frames) == before


@pytest.mark.parametrize(("mask", "heard"), [(0, 1), (1 << 8, 0), (1 << 0, 1)])
def test_an_icmp_filter_is_a_mask_of_types(net, mask, heard):
    net.greet()
    sk = net.a.raw.sock_create(1)
    sk.filter = mask
    net.flood(frame(1, ping()))
    net.run(1)
    assert len(sk.sk_receive_queue) == heard


def test_a_ping_and_its_answer(net):
    sk = net.a.raw.sock_create(1)
    assert net.a.raw.sendmsg(sk, ping(), SockaddrIn(IP_B, 0), 0, True) == 16
    net.run(5)
    answer = read(net.a, sk)
    assert answer[20] == 0 and csum_ok(answer[20:]) and answer[28:] == b"12345678"


def test_a_filter_of_a_program_refuses_and_cuts(net):
    sk = net.a.raw.sock_create(PROTO)
    assert net.a.socks.sk_attach_filter(sk, lambda skb: 22 if skb.len == 24 else 0) == 0
    net.flood(frame())
    net.flood(frame(payload=b"abcde"))
    net.run(1)
    assert read(net.a, sk) == ip_packet(PROTO, b"abcd")[:22]
    assert net.a.stats.ignored == {"socket filter": 1}


def test_rcvbuf_bounds_what_waits(net):
    sk = net.a.raw.sock_create(PROTO)
    net.flood(frame(), 200)
    net.run(5)
    assert len(sk.sk_receive_queue) == (sk.sk_rcvbuf - 1) // 1832
    assert net.a.stats.drops["rmem"] == 200 - len(sk.sk_receive_queue)


def test_a_peek_leaves_the_packet_and_trunc_tells_its_length(net):
    sk = net.a.raw.sock_create(PROTO)
    net.flood(frame())
    net.run(1)
    msg = net.a.raw.recvmsg(sk, 5, MSG_PEEK | MSG_TRUNC, True)
    assert (len(msg.data), msg.length, msg.flags) == (5, 24, MSG_TRUNC)
    assert read(net.a, sk) == ip_packet(PROTO, b"abcd")


def test_a_send_needs_an_address(net):
    sk = net.a.raw.sock_create(PROTO)
    assert net.a.raw.sendmsg(sk, b"x", None, 0, True) == -EDESTADDRREQ
    assert net.a.raw.connect(sk, IP_B) == 0
    other = net.b.raw.sock_create(PROTO)
    assert net.a.raw.sendmsg(sk, b"x", None, 0, True) == 1
    net.run(5)
    assert read(net.b, other)[20:] == b"x"


def test_a_long_packet_is_cut_and_made_whole(net):
    net.greet()
    sk = net.a.raw.sock_create(PROTO)
    other = net.b.raw.sock_create(PROTO)
    sent = bytes(range(256)) * 20
    assert net.a.raw.sendmsg(sk, sent, SockaddrIn(IP_B, 0), 0, True) == len(sent)
    net.run(5)
    assert read(net.b, other)[20:] == sent


def test_with_hdrincl_the_program_writes_the_header(net):
    sk = net.a.raw.sock_create(IPPROTO_RAW)
    other = net.b.raw.sock_create(PROTO)
    header = struct.pack("!BBHHHBBHII", 0x45, 0x10, 0, 0, 0, 3, PROTO, 0, 0, IP_B)
    assert net.a.raw.sendmsg(sk, header + b"mine", SockaddrIn(IP_B, 0), 0, True) == 24
    net.run(5)
    got = read(net.b, other)
    assert csum_ok(got[:20]) and got[20:] == b"mine"
    assert (got[1], got[8], int.from_bytes(got[2:4], "big"), int.from_bytes(got[12:16], "big")) == (0x10, 3, 24, IP_A)


@pytest.mark.parametrize(
    ("packet", "error"), [(b"", EINVAL), (b"\x45" * 19, EINVAL), (b"\x4f" * 30, EINVAL), (b"E" * 1501, EMSGSIZE)]
)
def test_a_bad_header_is_refused(net, packet, error):
    sk = net.a.raw.sock_create(IPPROTO_RAW)
    assert net.a.raw.sendmsg(sk, packet, SockaddrIn(IP_B, 0), 0, True) == -error


def test_without_memory_nothing_is_sent_and_nothing_is_heard(net):
    net.greet()
    sk = net.a.raw.sock_create(PROTO)
    net.flood(frame())
    net.run(1)
    sk.sk_allocation = 0x20
    net.a.hog()
    assert net.a.raw.sendmsg(sk, b"x", SockaddrIn(IP_B, 0), 0, True) == -ENOBUFS
    net.a.unhog()


@pytest.mark.parametrize("cache", ["RAW", "sock_inode_cache"])
def test_without_memory_there_is_no_socket(net, cache):
    slub = net.a.slub
    real = slub.kmem_cache_alloc
    slub.kmem_cache_alloc = lambda wanted, gfp: None if wanted is slub.caches[cache] else real(wanted, gfp)
    assert net.a.raw.sock_create(PROTO) is None
    slub.kmem_cache_alloc = real
    assert not net.a.raw.table


# errors and refusals


class Inner:
    """What ICMP quotes of a packet of this host's to b."""

    saddr, daddr, protocol, sender = IP_A, IP_B, PROTO, IP_B
    transport = b"abcdefgh"


@pytest.mark.parametrize(
    ("kind", "code", "connected", "pmtudisc", "errno"),
    [
        (3, 2, True, 1, ENOPROTOOPT),
        (3, 2, False, 1, 0),
        (3, 1, True, 1, 0),
        (3, 4, True, 1, EMSGSIZE),
        (3, 4, True, 0, 0),
        (4, 0, True, 1, 0),
        (12, 0, True, 1, EPROTO),
    ],
)
def test_which_icmp_errors_a_socket_is_told(net, kind, code, connected, pmtudisc, errno):
    sk = net.a.raw.sock_create(PROTO)
    sk.pmtudisc = pmtudisc
    if connected:
        net.a.raw.connect(sk, IP_B)
    net.a.raw.raw_err(Inner, kind, code, 0)
    assert sk.sk_err == errno


def test_an_error_goes_to_the_sockets_of_the_protocol_alone(net):
    sk, other = net.a.raw.sock_create(PROTO), net.a.raw.sock_create(PROTO + 1)
    for one in (sk, other):
        one.recverr = 1
    net.a.raw.raw_err(Inner, 3, 1, 0)
    assert (sk.sk_err, other.sk_err) == (EHOSTUNREACH, 0)
    msg = net.a.raw.recvmsg(sk, 100, MSG_ERRQUEUE, True)
    assert (msg.data, msg.name) == (b"abcdefgh", SockaddrIn(IP_B, 0))
    assert net.a.raw.recvmsg(sk, 100, MSG_ERRQUEUE, True) == -EAGAIN


def test_a_protocol_that_nobody_knows_there(net):
    net.greet()
    sk = net.a.raw.sock_create(PROTO)
    net.a.raw.connect(sk, IP_B)
    net.a.raw.sendmsg(sk, b"anybody?", None, 0, True)
    net.run(5)
    assert net.a.raw.recvmsg(sk, 10, 0, True) == -ENOPROTOOPT


def test_what_cannot_be_sent_or_read(net):
    sk = net.a.raw.sock_create(PROTO)
    raw, b = net.a.raw, SockaddrIn(IP_B, 0)
    assert raw.sendmsg(sk, bytes(65536), b, 0, True) == -EMSGSIZE
    assert raw.sendmsg(sk, b"x", b, MSG_OOB, True) == -EOPNOTSUPP
    assert raw.sendmsg(sk, b"x", b"10.0.0.2", 0, True) == -EINVAL
    assert raw.sendmsg(sk, b"x", SockaddrIn(IP_B, 0, 10), 0, True) == -EAFNOSUPPORT
    assert raw.sendmsg(sk, b"x", SockaddrIn(0x08080808, 0), 0, True) == -ENETUNREACH
    assert raw.connect(sk, 0x08080808) == -ENETUNREACH
    assert raw.sendmsg(sk, b"x", SockaddrIn(IP_A | 0xFF, 0), 0, True) == -EACCES
    assert raw.connect(sk, IP_A | 0xFF) == -EACCES
    assert raw.recvmsg(sk, 10, MSG_OOB, True) == -EOPNOTSUPP
    assert raw.recvmsg(sk, 10, 0, True) == -EAGAIN


def test_control_messages(net):
    sk = net.a.raw.sock_create(PROTO)
    sk.cmsg_flags = 2
    net.flood(frame(ttl=9))
    net.run(1)
    assert net.a.raw.recvmsg(sk, 100, 0, True).control == [(0, 2, 9)]


def test_a_written_address_and_identity_stay(net):
    sk = net.a.raw.sock_create(IPPROTO_RAW)
    other = net.b.raw.sock_create(PROTO)
    header = struct.pack("!BBHHHBBHII", 0x45, 0, 0, 77, 0, 3, PROTO, 0, IP_A + 5, IP_B)
    assert net.a.raw.sendmsg(sk, header + b"mine", SockaddrIn(IP_B, 0), 0, True) == 24
    net.run(10)
    got = read(net.b, other)
    assert (int.from_bytes(got[4:6], "big"), int.from_bytes(got[12:16], "big")) == (77, IP_A + 5)


def test_a_packet_may_be_empty(net):
    net.greet()
    sk = net.a.raw.sock_create(PROTO)
    other = net.b.raw.sock_create(PROTO)
    assert net.a.raw.sendmsg(sk, b"", SockaddrIn(IP_B, 0), 0, True) == 0
    net.run(5)
    assert len(read(net.b, other)) == 20
