"""Sending IPv4 packets."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import EHOSTUNREACH, EMSGSIZE
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.checksum import csum_ok
from kemu_net.core.skbuff import skb_bytes
from kemu_net.core.uapi import IP_PMTUDISC_WANT
from kemu_net.ipv4.ip_output import dst_confirm
from net_ground import IP_A, IP_B, MAC_A, MAC_B, two_hosts

PROTO = 253


class Sink:
    """A socket, as far as IP looks at it."""

    def __init__(self, daddr: int = IP_B) -> None:
        self.sk_dst = None
        self.tos, self.uc_ttl, self.pmtudisc = 0, -1, IP_PMTUDISC_WANT
        self.saddr, self.daddr, self.sk_protocol = IP_A, daddr, PROTO


@pytest.fixture
def net():
    with two_hosts() as net:
        net.greet()
        yield net


@pytest.fixture
def received(net):
    packets = []

    def rcv(skb):
        packets.append((skb_bytes(skb), skb.saddr, skb.daddr, skb.h - skb.nh))
        net.b.skbs.kfree_skb(skb)

    net.b.inet.inet_add_protocol(PROTO, rcv)
    return packets


def segment(net, payload: bytes):
    skb = net.a.skbs.alloc_skb(len(payload) + 128, GFP_ATOMIC)
    skb.buf, skb.len = payload, len(payload)
    return skb


def test_the_socket_keeps_its_route(net):
    sk = Sink()
    net.a.inet.ip_queue_xmit(segment(net, b"abc"), sk)
    kept = sk.sk_dst
    net.a.inet.ip_queue_xmit(segment(net, b"abc"), sk)
    assert sk.sk_dst is kept


def test_an_obsolete_route_is_looked_up_anew(net, received):
    sk = Sink()
    net.a.inet.ip_queue_xmit(segment(net, b"1"), sk)
    old = sk.sk_dst
    net.a.inet.route.rt_cache_flush()
    net.a.inet.ip_queue_xmit(segment(net, b"2"), sk)
    net.run(1)
    assert sk.sk_dst is not old
    assert len(received) == 2


def test_headers_on_the_wire_are_right(net):
    start = len(net.frames)
    for size in (0, 1, 40, 1480):
        net.a.inet.ip_queue_xmit(segment(net, b"z" * size), Sink())
    net.run(1)
    sent = [frame for _, frame in net.frames[start:] if frame[6:12] == MAC_A]
    assert len(sent) == 4
    for frame in sent:
        assert frame[:14] == MAC_B + MAC_A + b"\x08\x00"
        assert csum_ok(frame[14:34])
        assert len(frame) == max(60, 14 + int.from_bytes(frame[16:18], "big"))


def test_no_route_frees_the_packet(net):
    live = net.a.skbs.live
    assert net.a.inet.ip_queue_xmit(segment(net, b"abc"), Sink(0x08080808)) == -EHOSTUNREACH
    assert net.a.skbs.live == live


def test_a_packet_above_the_mtu_is_refused(net):
    assert net.a.inet.ip_queue_xmit(segment(net, b"z" * 1481), Sink()) == -EMSGSIZE


def test_a_packet_to_oneself_takes_the_backlog(net):
    seen = []
    net.a.inet.inet_add_protocol(PROTO, lambda skb: (seen.append(skb_bytes(skb)), net.a.skbs.kfree_skb(skb)))
    frames = net.a.stats.tx_frames
    assert net.a.inet.ip_queue_xmit(segment(net, b"me"), Sink(IP_A)) == 0
    assert (seen, net.a.stats.tx_frames) == ([b"me"], frames)


def test_dst_confirm_proves_the_neighbour(net):
    sk = Sink()
    net.a.inet.ip_queue_xmit(segment(net, b"abc"), sk)
    net.run(1000)
    dst_confirm(sk, net.a.kernel.sched.jiffies)
    assert sk.sk_dst.neigh.confirmed == net.a.kernel.sched.jiffies


PROTO = 253


def test_a_packet_arrives_without_header_and_padding(net, received):
    assert net.a.inet.ip_queue_xmit(segment(net, b"abc"), Sink()) == 0
    net.run(1)
    assert received == [(b"abc", IP_A, IP_B, 20)]


def test_a_packet_without_a_socket_needs_a_route_too(net):
    live = net.a.skbs.live
    packet = segment(net, b"abc")
    assert net.a.inet.ip_send_skb(packet, IP_A, 0x08080808, PROTO) == -EHOSTUNREACH
    assert net.a.skbs.live == live
    assert net.a.stats.ignored["no route"] == 1


def test_packets_are_numbered(net):
    start = len(net.frames)
    for _ in range(3):
        net.a.inet.ip_queue_xmit(segment(net, b"abc"), Sink())
    first, *rest = [int.from_bytes(frame[18:20], "big") for _, frame in net.frames[start:]]
    assert rest == [first + 1, first + 2]


def test_the_number_of_a_packet_wraps(net):
    net.a.inet.output.ident = 0xFFFF
    start = len(net.frames)
    net.a.inet.ip_queue_xmit(segment(net, b"abc"), Sink())
    (_, frame) = net.frames[start]
    assert frame[18:20] == b"\0\0"
    assert csum_ok(frame[14:34])
