"""Patch 23, the device half: an emergency packet is processed entitled, unseen by taps, and only if its protocol is safe.

The backlog half is in test_p13_sk_backlog_rcv.py.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.task import PF_MEMALLOC
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.dev import ETH_P_8021Q, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, NET_RX_DROP, NET_RX_SUCCESS
from net_ground import IP_A, IP_C, MAC_A, MAC_C, one_host, two_hosts, udp_frame

ALLOWED = [ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, ETH_P_8021Q]
AOE = 0x88A2


def emergency_skb(host, protocol):
    """Take an emergency buffer and say it holds a frame of ``protocol``."""
    skb = host.skbs.netdev_alloc_skb(host.nic, 1536)
    assert skb.emergency
    skb.protocol = protocol
    return skb


def normal_skb(host, protocol):
    skb = host.skbs.netdev_alloc_skb(host.nic, 1536)
    assert not skb.emergency
    skb.protocol = protocol
    return skb


def at_the_floor(patches="all"):
    class Context:
        def __enter__(self):
            self.inner = one_host(patches=patches)
            host = self.inner.__enter__()
            self.host = host
            host.spares = [normal_skb(host, AOE) for _ in range(4)]
            host.swap_over_network()
            host.hog()
            return host

        def __exit__(self, *exc):
            for skb in self.host.spares:
                if skb.users:
                    self.host.skbs.kfree_skb(skb)
            return self.inner.__exit__(*exc)

    return Context()


@pytest.fixture
def host():
    with at_the_floor() as host:
        yield host


def watch(host, protocol):
    """Record the entitlement that the handler runs with."""
    seen = []

    def handler(skb):
        seen.append(bool(host.task.flags & PF_MEMALLOC))
        host.skbs.kfree_skb(skb)

    host.dev.dev_add_pack(protocol, handler)
    return seen


@pytest.mark.parametrize("protocol", ALLOWED)
def test_safe_protocols_are_processed_entitled(host, protocol):
    seen = watch(host, protocol)
    assert host.dev.netif_receive_skb(emergency_skb(host, protocol)) == NET_RX_SUCCESS
    assert seen == [True]


@pytest.mark.parametrize("already", [0, PF_MEMALLOC])
@pytest.mark.parametrize("protocol", [ETH_P_IP, AOE, 0x1234])
def test_the_flag_is_put_back_on_every_path(host, already, protocol):
    host.task.flags |= already
    watch(host, ETH_P_IP)
    host.dev.netif_receive_skb(emergency_skb(host, protocol))
    assert host.task.flags & PF_MEMALLOC == already
    host.task.flags &= ~PF_MEMALLOC


def test_another_protocol_is_freed_and_uncharged(host):
    seen = watch(host, AOE)
    assert host.dev.netif_receive_skb(emergency_skb(host, AOE)) == NET_RX_DROP
    assert (seen, host.usage, host.stats.drops["protocol"]) == ([], 0, 1)


def test_no_tap_sees_an_emergency_packet(host):
    tapped = []
    host.dev.ptype_all.append(tapped.append)
    watch(host, ETH_P_IP)
    host.dev.netif_receive_skb(emergency_skb(host, ETH_P_IP))
    assert tapped == []


@pytest.mark.keeps_skbs("the tap of the test keeps what it gets")
def test_every_tap_sees_a_normal_packet(host):
    tapped = []
    host.dev.ptype_all.append(tapped.append)
    host.dev.netif_receive_skb(host.spares.pop())
    assert len(tapped) == 1


def test_a_normal_packet_touches_no_flag(host):
    seen = watch(host, AOE)
    host.dev.netif_receive_skb(host.spares.pop())
    assert seen == [False]


def test_an_allocation_of_the_handler_is_entitled(host):
    got = []

    def handler(skb):
        got.append(host.inet.ip_route_output(0x0A000009))
        host.skbs.kfree_skb(skb)

    host.dev.dev_add_pack(ETH_P_IP, handler)
    host.kernel.softirq.local_bh_disable()
    host.dev.netif_receive_skb(emergency_skb(host, ETH_P_IP))
    host.kernel.softirq.local_bh_enable()
    assert not isinstance(got[0], int)
    assert host.skbs.alloc_skb(1, GFP_ATOMIC) is None


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 0xFFFF) | st.sampled_from(ALLOWED), st.booleans()), min_size=1, max_size=10))
def test_whatever_comes_is_freed_once_and_leaves_no_flag(frames):
    with at_the_floor() as host:
        for protocol, held in frames:
            host.task.flags = host.task.flags & ~PF_MEMALLOC | (PF_MEMALLOC if held else 0)
            before = host.task.flags
            host.dev.netif_receive_skb(emergency_skb(host, protocol))
            assert host.task.flags == before
            assert host.usage == 0
        host.task.flags &= ~PF_MEMALLOC


# off


def test_without_the_patch_the_handler_is_not_entitled():
    with at_the_floor("all,-23") as host:
        seen = watch(host, ETH_P_IP)
        host.dev.netif_receive_skb(emergency_skb(host, ETH_P_IP))
        assert seen == [False]


@pytest.mark.keeps_skbs("the tap of the test keeps what it gets")
def test_without_the_patch_a_tap_pins_the_reserve():
    with at_the_floor("all,-23") as host:
        tapped = []
        host.dev.ptype_all.append(tapped.append)
        watch(host, ETH_P_IP)
        host.dev.netif_receive_skb(emergency_skb(host, ETH_P_IP))
        assert (len(tapped), host.usage) == (1, 2048)


def test_without_the_patch_there_is_no_protocol_gate():
    with at_the_floor("all,-23") as host:
        seen = watch(host, AOE)
        host.dev.netif_receive_skb(emergency_skb(host, AOE))
        assert (seen, host.stats.drops["protocol"]) == ([False], 0)


def asked_at_the_floor(patches):
    """A host whose ring holds emergency buffers is asked for its address by somebody new; does it answer?"""
    with two_hosts(patches=patches, ring=16, b={}) as net:
        net.greet()
        net.a.swap_over_network()
        net.a.socket(7)
        net.a.hog()
        net.flood(udp_frame(), 20)
        net.run(10)
        assert all(skb.emergency for skb, _ in net.a.nic.rx.buffers)
        sent = net.a.stats.tx_frames
        question = struct.pack("!HHBBH6sI6sI", 1, 0x0800, 6, 4, 1, MAC_C, IP_C, b"\0" * 6, IP_A)
        net.flood((MAC_A + MAC_C + b"\x08\x06" + question).ljust(60, b"\0"))
        net.run(10)
        return net.a.stats.tx_frames - sent


def test_a_question_at_the_floor_is_answered():
    assert asked_at_the_floor("all") == 1


@pytest.mark.parametrize("patches", ["all,-23", "all,-6"])
def test_without_the_patch_or_patch_06_it_is_not(patches):
    assert asked_at_the_floor(patches) == 0
