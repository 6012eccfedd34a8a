"""The NIC: its rings, its interrupts, and how it gets out of a drought."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemu.errors import ConfigError
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.checksum import csum_ok
from kemu_net.drivers.nic import WATCHDOG_JIFFIES, Nic, fill_checksum
from net_ground import IP_A, one_host, two_hosts, udp_frame, with_page


@pytest.fixture
def net():
    with two_hosts() as net:
        net.greet()
        yield net


def test_an_open_nic_has_a_full_ring(net):
    assert len(net.a.nic.rx.buffers) == 256


def test_short_frames_are_padded(net):
    net.b.udp.sendto(net.b.udp.sock_create(), b"x", IP_A, 7)
    assert len(net.frames[-1][1]) == 60


def test_a_burst_makes_one_interrupt(net):
    polls = []
    original = net.a.nic.poll
    net.a.nic.poll = lambda quota: polls.append(quota) or original(quota)
    net.flood(udp_frame(), 10)
    net.run(1)
    assert net.a.stats.ignored["udp: no socket"] == 10
    assert len(polls) <= 2


def test_a_dry_ring_loses_frames_and_is_refilled_by_the_watchdog():
    with two_hosts(patches="none", ring=32, b={}) as net:
        net.greet()
        frame = udp_frame()
        sinks = [net.a.socket(port) for port in (7, 8)]
        net.a.hog()
        net.flood(frame, 60)
        net.run(10)
        rx = net.a.nic.rx
        assert not rx.buffers
        assert net.a.stats.drops["nic"] >= 60 - 32
        assert net.a.nic.dry_probe() == "eth0: ring 0 of 32, no memory for a receive buffer"
        net.a.unhog()
        assert net.a.nic.dry_probe() is not None  # nobody has told the driver
        net.run(WATCHDOG_JIFFIES * 4 + 50)
        assert len(rx.buffers) == 32
        assert net.a.nic.dry_probe() is None
        assert len(sinks) == 2


def test_a_dry_ring_asks_for_its_memory_every_two_seconds():
    with two_hosts(patches="none", ring=32, b={}) as net:
        net.greet()
        net.a.socket(7)
        net.a.hog()
        net.flood(udp_frame(), 60)
        net.run(10)
        failed = net.a.nic.rx.alloc_failed
        net.run(6100)
        assert net.a.nic.rx.alloc_failed - failed == 3


def test_an_idle_nic_with_a_full_ring_has_no_timer(net):
    net.run(5000)
    assert not net.a.nic.watchdog.pending


def test_the_hardware_finishes_a_checksum():
    frame = udp_frame(b"some payload")
    unfinished = frame[:40] + b"\0\0" + frame[42:54]
    assert fill_checksum(unfinished, 34) == frame[:54]
    assert csum_ok(frame[14:34])


def test_closing_frees_the_ring(net):
    net.a.nic.close()
    assert net.a.skbs.live == 0


def test_explains_a_reply_that_cannot_come(net):
    text, following = net.a.nic.explain_reply()
    assert text == "its reply needs an skb <- ring 256 of 256"
    assert following == ("memory", net.a.page_alloc)


@pytest.mark.parametrize("bad", [{"mtu": 20}, {"mtu": 10000}, {"ring": 4}])
def test_impossible_cards_are_refused(bad):
    with pytest.raises(ConfigError), one_host(**bad):
        pass


def test_a_group_address_is_no_card():
    with one_host() as host, pytest.raises(ConfigError):
        Nic(host.kernel, host.dev, host.nic.wire, b"\x01\0\0\0\0\0")


def test_the_skb_is_freed_after_it_has_left(net):
    net.run(5)
    live = net.a.skbs.live
    skb = net.a.skbs.alloc_skb(60, GFP_ATOMIC)
    skb.buf, skb.len, skb.dev = b"z" * 60, 60, net.a.nic
    net.a.dev.dev_queue_xmit(skb)
    assert net.a.skbs.live == live + 1
    net.run(4)
    assert net.a.skbs.live == live


def frame_of(net, size=60, pull=0):
    """Make an skb for the cable."""
    skb = net.a.skbs.alloc_skb(size + pull, GFP_ATOMIC)
    skb.buf, skb.data, skb.len, skb.dev = b"#" * pull + b"z" * size, pull, size, net.a.nic
    return skb


def test_only_the_data_of_a_packet_leaves(net):
    net.a.dev.dev_queue_xmit(frame_of(net, 100, pull=20))
    assert net.frames[-1][1] == b"z" * 100


def test_fragments_leave_as_their_pages_are_then():
    with two_hosts() as net:
        skb, page = with_page(net.a, b"h" * 60, b"old!")
        skb.dev = net.a.nic
        page.contents = b"new!"
        net.a.dev.dev_queue_xmit(skb)
        page.contents = b"late"
        assert net.frames[-1][1] == b"h" * 60 + b"new!"
        assert net.a.nic.tx_used == 2


def test_a_busy_ring_is_cleaned_before_its_interrupt_is_due():
    with two_hosts(ring=16, wire={"bandwidth_bps": 10_000_000}) as net:
        net.greet()
        net.run(10)
        for _ in range(12):
            net.a.dev.dev_queue_xmit(frame_of(net))
        assert net.a.nic.tx_used == 12
        net.run(1)  # less than TX_INTERRUPT_NS
        assert net.a.nic.tx_used <= 12 - 8


def test_closing_frees_what_has_not_left():
    with two_hosts(ring=16, wire={"bandwidth_bps": 10_000_000}) as net:
        net.greet()
        for _ in range(20):
            net.a.dev.dev_queue_xmit(frame_of(net))
        assert net.a.nic.qdisc
        net.a.nic.close()
        assert (net.a.skbs.live, net.a.nic.tx_used) == (0, 0)
        received = net.a.stats.rx_frames
        net.run(10)
        assert (net.a.stats.rx_frames, net.a.skbs.live) == (received, 0)


def test_a_closed_card_hears_nothing(net):
    net.a.nic.close()
    received = net.a.stats.rx_frames
    net.flood(udp_frame())
    net.a.nic._watchdog(None)  # fired while the card was closed
    net.run(5)
    assert net.a.stats.rx_frames == received
    assert not net.a.nic.rx.incoming


@given(st.binary(max_size=300))
def test_a_finished_checksum_is_what_the_receiver_expects(payload):
    frame = udp_frame(payload)[: 42 + len(payload)]
    unfinished = frame[:40] + b"\0\0" + frame[42:]
    assert fill_checksum(unfinished, 34) == frame


def test_a_datagram_whose_sum_is_zero_says_so_with_ones():
    for number in range(0x10000):
        frame = udp_frame(number.to_bytes(2, "big"))[:44]
        if frame[40:42] == b"\xff\xff":
            break
    else:
        pytest.fail("no such datagram")
    assert fill_checksum(frame[:40] + b"\0\0" + frame[42:], 34) == frame


def test_a_refused_charge_is_named():
    with one_host(ring=16) as host:
        host.nic.rx.starved = host.nic.rx.charge_refused = True
        assert host.nic.dry_probe() == "eth0: ring 0 of 16, the SKB data reserve refuses the charge"
