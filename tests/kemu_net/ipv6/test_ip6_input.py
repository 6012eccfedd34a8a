"""Receiving IPv6 packets: headers, options, pings."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ip6_ground import DEST, G_A, G_B, HOP, ICMP6, LL_A, LL_B, NONE, ROUTING, answers, icmp6, ip6_frame, ping6, solicitation
from kemu_net.core.checksum import csum_ok
from net_ground import MAC_A, MAC_B, two_hosts


@pytest.fixture
def net():
    with two_hosts() as net:
        yield net


def play(net, *frames) -> None:
    for frame in frames:
        net.flood(frame)
        net.run(10)


def ignored(net, reason: str) -> int:
    return net.a.stats.ignored.get(reason, 0)


@pytest.mark.parametrize(("saddr", "daddr"), [(G_B, G_A), (LL_B, LL_A), (G_B, LL_A)])
def test_a_ping_is_answered(net, saddr, daddr):
    play(net, ip6_frame(ICMP6, ping6(saddr=saddr, daddr=daddr), saddr=saddr, daddr=daddr))
    (answer,) = answers(net)
    assert (answer[0], answer[4:]) == (129, b"\0\1\0\1data")
    assert csum_ok(answer, saddr + daddr + len(answer) + ICMP6)


def test_a_ping_to_all_nodes_is_answered_from_an_own_address(net):
    everybody = 0xFF02 << 112 | 1
    play(net, ip6_frame(ICMP6, ping6(daddr=everybody), daddr=everybody, to=b"\x33\x33\0\0\0\1"))
    frames = [frame for _, frame in net.frames if frame[6:12] == MAC_A and frame[54:55] == b"\x81"]
    assert [frame[22:38] for frame in frames] == [G_A.to_bytes(16, "big")]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (ip6_frame(ICMP6, ping6())[:50], "ipv6: short"),
        (ip6_frame(ICMP6, ping6(), size=999), "ipv6: malformed"),
        (ip6_frame(ICMP6, ping6())[:14] + b"\x45" + ip6_frame(ICMP6, ping6())[15:], "ipv6: malformed"),
        (ip6_frame(ICMP6, ping6(), daddr=G_B), "not for this host"),
        (ip6_frame(ICMP6, ping6(), daddr=0xFF02 << 112 | 5), "not for this host"),
        (ip6_frame(ICMP6, ping6(), daddr=1), "ipv6: martian"),
        (ip6_frame(ICMP6, ping6(), saddr=0xFF02 << 112 | 1), "ipv6: martian"),
        (ip6_frame(ICMP6, b"\x80\0\0\0\0\1\0\1"), "icmpv6: malformed"),
        (ip6_frame(ICMP6, b"\x80"), "icmpv6: malformed"),
        (ip6_frame(NONE, b""), "ipv6: nothing for anybody"),
        (ip6_frame(6, b"x" * 20), "ipv6: nothing for anybody"),
        (ip6_frame(HOP, bytes((ICMP6, 9)) + bytes(6)), "ipv6: malformed"),
        (ip6_frame(DEST, bytes((ICMP6,))), "ipv6: malformed"),
        (ip6_frame(DEST, bytes((ICMP6, 0, 7, 9, 0, 0, 0, 0)) + ping6()), "ipv6: malformed"),
    ],
)
def test_what_is_wrong_is_counted_and_freed(net, frame, reason):
    live = net.a.skbs.live
    net.flood(frame)
    net.run(1)
    assert ignored(net, reason) == 1
    net.run(10_000)
    assert net.a.skbs.live == live


def test_padding_is_cut_off(net):
    play(net, ip6_frame(ICMP6, ping6(b"")).ljust(80, b"\xff"))
    assert answers(net)[0][4:] == b"\0\1\0\1"


def test_options_and_used_up_routes_are_stepped_over(net):
    hop = bytes((DEST, 0, 1, 4, 0, 0, 0, 0))
    dest = bytes((ROUTING, 0, 0x1E, 2, 0, 0, 0, 0))
    route = bytes((ICMP6, 0, 0, 0, 0, 0, 0, 0))
    play(net, ip6_frame(HOP, hop + dest + route + ping6()))
    assert answers(net)[0][0] == 129


@pytest.mark.parametrize(("option", "told"), [(0x5E, 0), (0x9E, 1), (0xDE, 1)])
def test_an_unknown_option_is_refused_as_its_bits_say(net, option, told):
    play(net, ip6_frame(DEST, bytes((ICMP6, 0, option, 4, 0, 0, 0, 0)) + ping6()))
    assert ignored(net, "ipv6: unknown option") == 1
    assert [message[:8] for message in answers(net)] == [b"\4\2" + message[2:4] + b"\0\0\0\x2a" for message in answers(net)]
    assert len(answers(net)) == told


def test_a_source_route_is_refused(net):
    play(net, ip6_frame(ROUTING, bytes((ICMP6, 2, 0, 1)) + bytes(20) + ping6()))
    assert ignored(net, "ipv6: source route") == 1
    assert answers(net)[0][:2] == b"\4\0"


def test_a_protocol_that_nobody_speaks_is_told_where_it_was_named(net):
    play(net, ip6_frame(17, b"x" * 20))
    (answer,) = answers(net)
    assert (answer[:2], answer[4:8]) == (b"\4\1", b"\0\0\0\6")
    assert answer[8:48] == ip6_frame(17, b"x" * 20)[14:54]


def test_no_error_about_an_error(net):
    error = icmp6(1, 0, bytes(4))
    play(net, ip6_frame(DEST, bytes((17, 0, 1, 4, 0, 0, 0, 0)) + error), ip6_frame(ICMP6, error))
    assert all(message[0] == 4 for message in answers(net))
    assert len(answers(net)) == 1  # about the unknown protocol


def test_errors_are_limited(net):
    play(net, solicitation())
    for _ in range(20):
        net.flood(ip6_frame(17, b"x" * 20))
        net.run(1)
    net.run(10)
    assert len(answers(net)) == 6


def test_who_asks_for_an_address_is_answered_and_remembered(net):
    play(net, solicitation())
    assert net.a.inet6.ndisc.table[G_B].ha == MAC_B
    (answer,) = answers(net, 136)
    assert (answer[4], answer[8:24], answer[24:]) == (0x60, G_A.to_bytes(16, "big"), b"\2\1" + MAC_A)


def test_nor_does_memory_fail_here(net):
    net.a.inet6.output.skbs = type("NoSkbs", (), {"alloc_skb": lambda *_: None})()
    play(net, solicitation())
    assert net.a.inet6.output.alloc_failed == 1


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=120), st.sampled_from([HOP, DEST, ROUTING, 44, ICMP6, NONE, 6]), st.booleans())
def test_no_bytes_raise_or_stay(payload, nexthdr, honest):
    with two_hosts() as net:
        live = net.a.skbs.live
        net.flood(ip6_frame(nexthdr, payload, size=None if honest else len(payload) // 2))
        net.run(1)
        net.run(70_000)
        net.a.inet6.check()
        assert net.a.skbs.live == live
        assert net.a.inet6.frags.mem == 0


def test_without_ipv6_its_packets_find_no_handler():
    with two_hosts(ipv6=False) as net:
        net.flood(ip6_frame(ICMP6, ping6()))
        net.run(1)
        assert net.a.stats.ignored == {"no protocol handler": 1}
        assert net.a.inet6 is None
