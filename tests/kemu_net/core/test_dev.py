"""The device layer: protocols, taps, the backlog, the transmit queue."""

from __future__ import annotations

import pytest

from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.dev import NET_RX_DROP, NETDEV_MAX_BACKLOG
from kemu_net.core.skbuff import skb_put_bytes
from net_ground import one_host, two_hosts


@pytest.fixture
def host():
    with one_host() as host:
        yield host


def packet(host, protocol: int = 0x88B5, payload: bytes = b"x" * 50):
    skb = host.skbs.alloc_skb(len(payload), GFP_ATOMIC)
    skb_put_bytes(skb, payload)
    skb.protocol = protocol
    skb.dev = host.nic
    return skb


@pytest.mark.keeps_skbs("the test holds skbs in its hands")
def test_a_frame_goes_to_its_protocol(host):
    seen = []
    host.dev.dev_add_pack(0x88B5, seen.append)
    skb = packet(host)
    host.dev.netif_receive_skb(skb)
    assert seen == [skb]


def test_a_frame_that_nobody_wants_is_freed(host):
    assert host.dev.netif_receive_skb(packet(host)) == NET_RX_DROP
    assert host.skbs.live == 0
    assert host.stats.ignored == {"no protocol handler": 1}


def test_each_tap_owns_a_reference(host):
    kept = []
    host.dev.ptype_all.append(kept.append)
    host.dev.ptype_all.append(host.skbs.kfree_skb)
    host.dev.netif_receive_skb(packet(host))
    assert kept[0].users == 1
    host.skbs.kfree_skb(kept[0])
    assert host.skbs.live == 0


@pytest.mark.keeps_skbs("the test holds skbs in its hands")
def test_the_backlog_is_polled_in_softirq(host):
    seen = []
    host.dev.dev_add_pack(0x88B5, lambda skb: seen.append((skb, host.kernel.sched.in_softirq())))
    skb = packet(host)
    host.kernel.softirq.local_bh_disable()
    host.dev.netif_rx(skb)
    assert seen == []
    host.kernel.softirq.local_bh_enable()
    assert seen == [(skb, True)]


def test_a_full_backlog_drops(host):
    host.kernel.softirq.local_bh_disable()
    for _ in range(NETDEV_MAX_BACKLOG + 3):
        host.dev.netif_rx(packet(host))
    host.kernel.softirq.local_bh_enable()
    # netif_rx() asks whether the queue is no longer than the sysctl: one more fits
    assert host.stats.ignored == {"backlog full": 2, "no protocol handler": NETDEV_MAX_BACKLOG + 1}
    assert host.dev.softnet[0].dropped == 2
    assert host.skbs.live == 0


def test_what_the_ring_cannot_take_waits_and_leaves_in_order():
    with two_hosts(wire={"bandwidth_bps": 10_000_000}, ring=64) as net:
        for number in range(300):
            skb = packet(net.a, payload=net.b.nic.mac + net.a.nic.mac + b"\x88\xb5" + number.to_bytes(2, "big"))
            assert net.a.dev.dev_queue_xmit(skb) == 0
        assert len(net.a.nic.qdisc) > 200
        net.run(200)
        assert [int.from_bytes(frame[14:16], "big") for _, frame in net.frames] == list(range(300))
        assert (net.a.nic.tx_used, len(net.a.nic.qdisc)) == (0, 0)


def test_a_full_transmit_queue_drops():
    with two_hosts(wire={"bandwidth_bps": 1_000_000}, ring=8) as net:
        net.a.nic.tx_queue_len = 5
        results = [net.a.dev.dev_queue_xmit(packet(net.a, payload=b"y" * 60)) for _ in range(31)]
        assert net.a.nic.tx_size == 19  # the largest packet fits
        assert results.count(1) == 31 - 19 - 5
        assert net.a.stats.ignored == {"transmit queue full": 7}
        net.run(50)
        assert (len(net.frames), net.a.nic.stopped) == (24, False)


def test_frames_are_traced_both_ways():
    with two_hosts() as net:
        net.a.kernel.trace.enable("net:*")
        net.greet()
        seen = "\n".join(net.a.kernel.trace.last(200))
        for name in ("netif_receive_skb: ", "net_dev_queue: ", "napi_poll: "):
            assert name in seen
