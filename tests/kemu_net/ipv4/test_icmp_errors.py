"""ICMP errors: when they are sent, and who hears of those that come."""

from __future__ import annotations

import struct

import pytest

from frag_ground import fragment, listen
from kemu_net.core.checksum import csum_fold, csum_partial
from kemu_net.ipv4.route import MIN_PMTU, MTU_EXPIRES
from net_ground import IP_A, IP_B, IP_C, MAC_A, MAC_B, ip_packet, two_hosts, udp_frame


@pytest.fixture
def net():
    with two_hosts() as net:
        net.greet()
        net.errors = listen(net.b, 1)
        net.heard = []
        net.a.inet.protocols_err[17] = lambda *error: net.heard.append(error)
        yield net


def message(kind: int, code: int, rest: bytes) -> bytes:
    bare = bytes((kind, code, 0, 0)) + rest
    return bare[:2] + csum_fold(csum_partial(bare)).to_bytes(2, "big") + rest


def about(packet: bytes, kind=3, code=4, info=0) -> bytes:
    """Make a frame with an error about a packet of a's."""
    return (MAC_A + MAC_B + b"\x08\x00" + ip_packet(1, message(kind, code, struct.pack("!I", info) + packet))).ljust(60, b"\0")


def ours(size=1480, daddr=IP_B, proto=17, saddr=IP_A) -> bytes:
    return ip_packet(proto, bytes(size), saddr=saddr, daddr=daddr)[:28]


def play(net, *frames) -> None:
    for frame in frames:
        net.flood(frame)
        net.run(10)


# what is sent


def test_an_error_quotes_up_to_576_bytes(net):
    play(net, udp_frame(b"x" * 1400))
    (error,) = net.errors
    assert len(error) + 20 == 576
    assert error[:2] == b"\3\3"
    assert error[8:36] == udp_frame(b"x" * 1400)[14:42]


def test_it_has_the_precedence_of_the_network(net):
    net.frames.clear()
    play(net, udp_frame())
    assert [frame[15] for _, frame in net.frames if frame[6:12] == MAC_A] == [0xC0]


@pytest.mark.parametrize(
    "frame",
    [
        (b"\xff" * 6 + udp_frame()[6:]),  # to everybody on the link
        udp_frame(daddr=IP_A | 0xFF),
        fragment(8, b"x" * 8, proto=17),  # not the first fragment
    ],
)
def test_about_these_nothing_is_said(net, frame):
    play(net, frame)
    assert net.errors == []


@pytest.mark.parametrize(("kind", "answered"), [(0, True), (3, False), (5, False), (11, False), (12, False), (99, False)])
def test_nothing_is_said_about_an_error(net, kind, answered):
    del net.a.inet.input.protocols[1]
    play(net, MAC_A + MAC_B + b"\x08\x00" + ip_packet(1, message(kind, 0, bytes(8))).ljust(46, b"\0"))
    assert (net.errors != []) == answered


def test_fragmentation_needed_is_not_limited(net):
    net.a.inet.icmp.ratelimit = 1 << 30
    dst = net.a.inet.ip_route_output(IP_B)
    assert net.a.inet.icmp._xrlim_allow(dst, 3, 4)
    assert net.a.inet.icmp._xrlim_allow(dst, 0, 0)
    dst.rate_tokens = dst.rate_last = 0
    assert not net.a.inet.icmp._xrlim_allow(dst, 3, 3)


def test_the_limit_is_tunable(net):
    assert net.a.kernel.sysctl.write("net.ipv4.icmp_ratelimit", "0") == 0
    for _ in range(5):
        play(net, *[udp_frame()] * 4)
    assert len(net.errors) == 20
    assert net.a.kernel.sysctl.read("net.ipv4.icmp_ratemask") == f"{0x1818}\n"


def test_echo_can_be_turned_off(net):
    assert net.a.kernel.sysctl.write("net.ipv4.icmp_echo_ignore_all", "1") == 0
    play(net, MAC_A + MAC_B + b"\x08\x00" + ip_packet(1, message(8, 0, bytes(4))).ljust(46, b"\0"))
    assert net.errors == []


@pytest.mark.parametrize("ignore", [0, 1])
def test_a_ping_to_all_is_answered_if_wanted(net, ignore):
    assert net.a.kernel.sysctl.write("net.ipv4.icmp_echo_ignore_broadcasts", str(ignore)) == 0
    play(net, b"\xff" * 6 + MAC_B + b"\x08\x00" + ip_packet(1, message(8, 0, bytes(4)), daddr=IP_A | 0xFF).ljust(46, b"\0"))
    assert [error[0] for error in net.errors] == [0] * (1 - ignore)


def test_the_time_of_day_is_told(net):
    play(net, MAC_A + MAC_B + b"\x08\x00" + ip_packet(1, message(13, 0, b"\0\1\0\2\0\0\0\7" + bytes(8))))
    (answer,) = net.errors
    assert (answer[0], answer[4:12]) == (14, b"\0\1\0\2\0\0\0\7")
    assert 0 < int.from_bytes(answer[12:16], "big") < 1000


def test_a_large_ping_is_answered_in_fragments(net):
    data = bytes(range(256)) * 20
    whole = message(8, 0, b"\0\1\0\1" + data)
    play(net, *(fragment(at, whole[at : at + 1480], more=at + 1480 < len(whole), proto=1) for at in range(0, len(whole), 1480)))
    assert net.errors[0][8:] == data


def test_a_host_that_does_not_answer_is_told_to_this_host_itself(net):
    sk = net.a.socket(5000)
    net.a.udp.sendto(sk, b"x", IP_C, 7)
    net.run(5_000)
    (inner, kind, code, _info) = net.heard[0]
    assert (kind, code, inner.daddr, inner.sender) == (3, 1, IP_C, IP_A)
    net.a.udp.close(sk)


# what is heard


@pytest.mark.parametrize(("kind", "code"), [(3, 0), (3, 1), (3, 3), (11, 0), (12, 0), (4, 0)])
def test_the_protocol_hears_of_errors(net, kind, code):
    play(net, about(ours(), kind, code, 20 << 24))
    (inner, *rest) = net.heard[0]
    assert rest == [kind, code, 20 if kind == 12 else 0]
    assert (inner.saddr, inner.daddr, inner.protocol, len(inner.transport), inner.sender) == (IP_A, IP_B, 17, 8, IP_B)


def test_raw_sockets_hear_too(net):
    raw = []
    net.a.inet.icmp.raw_err = lambda *error: raw.append(error)
    play(net, about(ours(), 3, 1))
    assert len(raw) == len(net.heard) == 1


@pytest.mark.parametrize(
    "frame",
    [
        about(ours()[:27], 3, 1),  # too little of the transport header
        about(ours(saddr=IP_C), 3, 1),  # no packet of ours
        about(b"\x44" + ours()[1:], 3, 1),
        about(b"", 3, 1),
        about(ours(), 3, 5),  # a source route that failed
        about(ours(), 5, 0),  # a redirect
        about(ours(), 9, 0),
        about(ours(proto=99), 3, 1),
    ],
)
def test_these_nobody_hears(net, frame):
    play(net, frame)
    assert net.heard == []


# path MTU


def mtu(net) -> int:
    return net.a.inet.ip_route_output(IP_B).mtu


def test_a_router_that_names_its_mtu_is_believed(net):
    play(net, about(ours(), info=1000))
    assert mtu(net) == 1000
    assert net.heard[0][1:] == (3, 4, 1000)


@pytest.mark.parametrize(("size", "guess"), [(1480, 576), (1472, 576), (500, MIN_PMTU)])
def test_of_one_that_does_not_the_next_plateau_is_guessed(net, size, guess):
    """A packet as long as the MTU is counted without its header, as 4.2BSD does: 1480, and the plateau below that is 576."""
    play(net, about(ours(size), info=0))
    assert mtu(net) == guess


def test_below_552_dont_fragment_is_given_up(net):
    play(net, about(ours(), info=300))
    dst = net.a.inet.ip_route_output(IP_B)
    assert (dst.mtu, dst.df) == (MIN_PMTU, 0)
    net.frames.clear()
    sk = net.a.socket(5000)
    net.a.udp.sendto(sk, b"x", IP_B, 7)
    net.run(1)
    assert net.frames[0][1][20:22] == b"\0\0"
    net.a.udp.close(sk)


def test_a_wider_path_is_not_learnt(net):
    play(net, about(ours(), info=1000), about(ours(), info=1400))
    assert mtu(net) == 1000


def test_an_unknown_path_is_not_learnt(net):
    play(net, about(ours(daddr=IP_C), info=1000))
    assert IP_C not in [dst.daddr for dst in net.a.inet.route.entries.values()]


def test_what_was_learnt_is_forgotten_after_ten_minutes(net):
    play(net, about(ours(), info=1000))
    dst = net.a.inet.ip_route_output(IP_B)
    assert dst.expires - net.a.kernel.sched.jiffies in range(MTU_EXPIRES - 10, MTU_EXPIRES + 1)
    dst.refcnt += 1
    for _ in range(14):
        net.run(50_000)
        assert dst.obsolete or mtu(net) == 1000
    assert dst.obsolete
    assert mtu(net) == 1500
    dst.refcnt -= 1


def test_a_datagram_is_cut_for_the_narrow_path(net):
    seen = listen(net.b, 17)
    play(net, about(ours(), info=600))
    sk = net.a.socket(5000)
    assert net.a.udp.sendto(sk, b"x" * 1200, IP_B, 7) == 1200
    net.run(5)
    assert [len(segment) for segment in seen] == [1208]
    net.a.udp.close(sk)
