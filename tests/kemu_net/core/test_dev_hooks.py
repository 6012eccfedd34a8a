"""Places in the receive path: who stands there sees every frame, and may take it."""

from __future__ import annotations

import pytest

from kemu.errors import ConfigError
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.dev import NET_RX_DROP, NET_RX_SUCCESS
from kemu_net.core.dev_hooks import PLACES
from kemu_net.core.if_ether import TC_ACT_OK, TC_ACT_SHOT, TC_ACT_STOLEN
from kemu_net.core.skbuff import skb_put_bytes
from net_ground import one_host

ETH_P_TEST = 0x88B5


@pytest.fixture
def host():
    with one_host() as host:
        host.order = []
        host.dev.dev_add_pack(ETH_P_TEST, lambda skb: (host.order.append("protocol"), host.skbs.kfree_skb(skb)))
        yield host


def packet(host):
    skb = host.skbs.alloc_skb(50, GFP_ATOMIC)
    skb_put_bytes(skb, b"x" * 50)
    skb.protocol = ETH_P_TEST
    skb.dev = host.nic
    return skb


def stand(host, place, answer):
    """Note that a place is passed, and do as ``answer`` says."""

    def fn(skb):
        host.order.append(place)
        return answer(skb)

    return host.dev.rx_hook(place, fn)


PASS = {
    "netpoll": lambda _skb: False,
    "bond": lambda _skb: False,
    "ingress": lambda _skb: TC_ACT_OK,
    "bridge": lambda skb: skb,
    "macvlan": lambda skb: skb,
}


def test_the_order_is_the_kernel_s(host):
    for place in reversed(PLACES):
        stand(host, place, PASS[place])
    host.dev.ptype_all.append(lambda skb: (host.order.append("tap"), host.skbs.kfree_skb(skb)))
    assert host.dev.netif_receive_skb(packet(host)) == NET_RX_SUCCESS
    assert host.order == ["netpoll", "bond", "tap", "ingress", "bridge", "macvlan", "protocol"]


@pytest.mark.parametrize("place", ["netpoll", "bond"])
def test_netpoll_and_bonding_take_a_frame_before_anybody_sees_it(host, place):
    hook = stand(host, place, lambda skb: host.skbs.kfree_skb(skb) is None)
    host.dev.ptype_all.append(lambda _skb: host.order.append("tap"))
    assert host.dev.netif_receive_skb(packet(host)) == NET_RX_DROP
    assert (host.order, host.skbs.live) == ([place], 0)
    assert (hook.seen, hook.taken, hook.emergency) == (1, 1, 0)


def test_netpoll_takes_what_is_queued_too(host):
    hook = stand(host, "netpoll", lambda skb: host.skbs.kfree_skb(skb) is None)
    assert host.dev.netif_rx(packet(host)) == NET_RX_DROP
    assert (hook.taken, host.skbs.live) == (1, 0)


@pytest.mark.parametrize("verdict", [TC_ACT_SHOT, TC_ACT_STOLEN])
def test_the_classifier_s_no_frees_the_frame(host, verdict):
    hook = stand(host, "ingress", lambda _skb: verdict)
    assert host.dev.netif_receive_skb(packet(host)) == NET_RX_DROP
    assert (host.order, hook.taken, host.skbs.live, host.stats.ignored) == (["ingress"], 1, 0, {"ingress": 1})


@pytest.mark.parametrize("place", ["bridge", "macvlan"])
def test_a_bridge_keeps_what_is_not_for_this_host(host, place):
    kept = []
    hook = stand(host, place, kept.append)
    assert host.dev.netif_receive_skb(packet(host)) == NET_RX_SUCCESS
    assert (host.order, hook.taken, len(kept)) == ([place], 1, 1)
    host.skbs.kfree_skb(kept.pop())


def test_a_bridge_may_send_a_frame_up_again(host):
    """As br_pass_frame_up() does: with another device, through the backlog."""

    def bridge(skb):
        if skb.dev is host.nic:
            skb.dev = "br0"
            host.dev.netif_rx(skb)
            return None
        return skb

    hook = stand(host, "bridge", bridge)
    host.kernel.softirq.local_bh_disable()
    host.dev.netif_receive_skb(packet(host))
    host.kernel.softirq.local_bh_enable()
    assert host.order == ["bridge", "bridge", "protocol"]
    assert (hook.seen, hook.taken) == (2, 1)


def test_what_the_classifier_queues_again_goes_on_behind_it(host):
    def ingress(skb):
        skb.users += 1  # its own reference: the frame that it steals is freed
        host.dev.netif_rx_classified(skb)
        return TC_ACT_STOLEN

    stand(host, "ingress", ingress)
    host.dev.ptype_all.append(lambda skb: (host.order.append("tap"), host.skbs.kfree_skb(skb)))
    host.kernel.softirq.local_bh_disable()
    host.dev.netif_receive_skb(packet(host))
    host.kernel.softirq.local_bh_enable()
    assert host.order == ["tap", "ingress", "protocol"]
    assert host.skbs.live == 0


def test_a_machine_that_nobody_stands_in_has_the_short_way_again(host):
    assert "netif_receive_skb" not in vars(host.dev)
    stand(host, "bridge", PASS["bridge"])
    long_way = host.dev.netif_receive_skb
    host.dev.rx_hook("bridge", None)
    assert host.dev.netif_receive_skb != long_way
    host.dev.netif_receive_skb(packet(host))
    assert host.order == ["protocol"]


def test_there_is_no_other_place(host):
    with pytest.raises(ConfigError, match="netpoll, bond, ingress, bridge, macvlan"):
        host.dev.rx_hook("ebtables", len)
