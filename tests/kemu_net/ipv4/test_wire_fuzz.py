"""No bytes from the wire raise anything, and none of them leaks.

A case is one frame. With the profile ci (the default) some 1,700 are sent, with ``nightly`` 100,000.
"""

from __future__ import annotations

from itertools import count, cycle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bad_frames
from fuzz_ground import under_fire
from net_ground import two_hosts
from profiles import is_nightly

CASES = 25  # per example, at most; a little under half of them on average
ESTABLISHED = 3  # of the aims: after the listener, a half-open and a connecting one
#: Examples of each of the six properties below.
EXAMPLES = 1400 if is_nightly() else 28

fire = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
NICS = [pytest.param(False, id="linear"), pytest.param(True, id="packet-split")]


def _bombard(cases, *, at=None, then=None, **options) -> None:
    """Send every case at the next of the connections, or all at one of them, and go on with what is to be done then."""
    with under_fire(**options) as host:
        for case, aim in zip(cases, cycle(host.aims if at is None else [host.aims[at]]), strict=False):
            host.fire(case, aim)
            if then is not None:
                then(host)
        host.run(20)


@pytest.mark.parametrize("packet_split", NICS)
@fire
@given(st.lists(bad_frames.cases, min_size=8, max_size=CASES), st.booleans())
def test_no_frame_raises_and_none_leaks(packet_split, cases, rx_checksum):
    _bombard(cases, packet_split=packet_split, rx_checksum=rx_checksum)


@pytest.mark.parametrize("packet_split", NICS)
@fire
@given(st.lists(bad_frames.cases, min_size=8, max_size=CASES))
def test_nor_when_memory_is_at_the_floor(packet_split, cases):
    _bombard(cases, packet_split=packet_split, floor=True)


@fire
@given(
    st.lists(bad_frames.cases, min_size=8, max_size=CASES),
    st.booleans(),
    st.sampled_from([{}, {"rx_buffers": "fixed"}, {"recycle": True}, {"mtu": 9000, "packet_split": True}]),
)
def test_nor_when_others_hear_too(cases, floor, options):
    """Raw and packet sockets, a queue to user space that nobody reads, a reader that waits; other ways to get receive buffers."""
    _bombard(cases, floor=floor, audience=True, **options)


@fire
@given(
    st.lists(st.one_of(*[bad_frames.overlaps] * 6, bad_frames.segments, bad_frames.icmp_errors), min_size=8, max_size=CASES),
    st.sampled_from(["all", "none"]),
)
def test_nor_spliced_into_a_conversation(cases, patches):
    """All are for one established connection, whose peer goes on between them now and then as if nothing had happened."""
    rounds = count()

    def then(host) -> None:
        if next(rounds) % 4 == 3:
            host.segment(host.aims[ESTABLISHED], 16, b"and on")

    _bombard(cases, at=ESTABLISHED, then=then, patches=patches)


@settings(max_examples=EXAMPLES // 4, deadline=None)
@given(st.lists(st.binary(max_size=2000), min_size=8, max_size=CASES), st.booleans())
def test_no_string_of_bytes_raises_and_none_leaks(frames, packet_split):
    with two_hosts(packet_split=packet_split, ring=16) as net:
        for frame in frames:
            net.flood(frame)
        net.run(5)
        assert net.a.skbs.live == len(net.a.nic.rx.buffers) == 16
        net.a.nic.close()
        assert net.a.skbs.live == 0


@pytest.mark.parametrize("size", [0, 1, 13, 14, 15, 33, 34, 59, 60, 1514, 1515, 1536, 1537, 2000])
@pytest.mark.parametrize("packet_split", NICS)
def test_a_frame_of_any_size_is_taken_or_lost(packet_split, size):
    with two_hosts(packet_split=packet_split, ring=16) as net:
        for first in (b"\x02\0\0\0\0\1", b"\xff" * 6):
            net.flood((first + b"\x02\0\0\0\0\2\x08\0" + b"\x45" * 2000)[:size])
        net.run(5)
        assert net.a.skbs.live == 16


EVERY_FLAG = [pytest.param(flags, id=f"{flags:#04x}") for flags in range(0, 256, 16)]


@pytest.mark.parametrize("high", EVERY_FLAG)
def test_every_mix_of_flags_meets_every_state(high):
    """Sixteen mixes a test; each to every connection, the listener and a port without a socket, in and beside the window."""
    with under_fire() as host:
        for flags in range(high, high + 16):
            for aim in [*host.aims, bad_frames.Aim(1, 81, 0, 0)]:
                for delta in (0, 1 << 20):
                    raw = bad_frames.tcp(aim, flags, delta, 0, 65535, b"", b"x", 0, 0, True, ())
                    host.fire(lambda _aim, raw=raw: bad_frames.ether(bad_frames.ipv4(6, raw)), aim)
