"""No bytes from the wire raise anything, and none of them leaks."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from net_ground import IP_A, IP_B, MAC_A, MAC_B, ip_packet, two_hosts, udp_frame

GROUP = b"\xff" * 6
ETHERNET = st.builds(
    lambda to, kind, rest: to + MAC_B + kind.to_bytes(2, "big") + rest,
    st.sampled_from([MAC_A, GROUP, b"\x01\0\x5e\0\0\1"]),
    st.sampled_from([0x0800, 0x0806, 0x86DD, 0x8100, 0x88B5]),
    st.binary(max_size=200),
)
IP = st.builds(
    lambda proto, body, src, dst, frag: MAC_A + MAC_B + b"\x08\x00" + ip_packet(proto, body, saddr=src, daddr=dst, fragment=frag),
    st.sampled_from([1, 6, 17, 41, 255]),
    st.binary(max_size=120),
    st.sampled_from([0, IP_A, IP_B, 0x7F000001, 0xE0000001, 0xFFFFFFFF]),
    st.sampled_from([IP_A, IP_B, 0x0A0000FF, 0xFFFFFFFF, 0x7F000001]),
    st.sampled_from([0, 0x2000, 0x4000, 7]),
)
ARP = st.builds(
    lambda op, sha, sip, tip, cut: (
        MAC_A + MAC_B + b"\x08\x06" + struct.pack("!HHBBH6sI6sI", 1, 0x800, 6, 4, op, sha, sip, b"\0" * 6, tip)
    )[:cut],
    st.integers(0, 5),
    st.binary(min_size=6, max_size=6),
    st.sampled_from([0, IP_A, IP_B, 0xFFFFFFFF]),
    st.sampled_from([IP_A, IP_B]),
    st.integers(14, 42),
)
FLIPPED = st.builds(
    lambda at, bit: bytes(byte ^ (1 << bit if index == at else 0) for index, byte in enumerate(udp_frame())),
    st.integers(0, 141),
    st.integers(0, 7),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=100), ETHERNET, IP, ARP, FLIPPED), max_size=20), st.booleans(), st.booleans())
def test_no_bytes_raise_and_none_leak(frames, packet_split, hardware):
    with two_hosts(packet_split=packet_split, rx_checksum=hardware, ring=16) as net:
        sk = net.a.socket(7)
        for frame in frames:
            net.flood(frame)
            net.run(1)
        net.run(5000)
        net.a.udp.close(sk)
        assert net.a.skbs.live == len(net.a.nic.rx.buffers) == 16
        net.a.nic.close()
        assert net.a.skbs.live == 0
        net.a.slub.check()
        net.a.page_alloc.check()
