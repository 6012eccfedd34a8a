"""Patch 23 and the places of the receive path: who still sees an emergency frame, in which order, and the flag on every way out.

Invariants (a) to (e) with netpoll, bonding, the ingress classifier, the bridge, macvlan and a VLAN in the way, and what the
entitlement buys: a route, a fragment queue, a tracked connection at the floor.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from kemu.kernel.errno import EAGAIN
from kemu.kernel.task import PF_MEMALLOC
from kemu.mm.gfp import _GFP_NOWARN, GFP_ATOMIC
from kemu_net.core.dev import ETH_P_8021Q, ETH_P_IP, NET_RX_DROP, NET_RX_SUCCESS
from kemu_net.core.if_ether import TC_ACT_OK, TC_ACT_SHOT, TC_ACT_STOLEN
from kemu_net.core.skbuff import PACKET_OUTGOING
from kemu_net.core.uapi import AF_PACKET, F_SETFL, O_NONBLOCK, SOCK_RAW
from kemu_net.core.vlan import Vlans
from kemu_net.netfilter.nf_conntrack import NfConntrack
from kemu_net.packet.af_packet import ETH_P_ALL, PacketFamily
from kemu_net.socket.sockets import Sockets
from net_ground import MAC_A, MAC_B, ip_packet, one_host, two_hosts, udp_frame

AOE = 0x88A2


@contextmanager
def at_the_floor(patches="all"):
    """Boot a host that has nothing left but its reserve."""
    with one_host(patches=patches) as host:
        host.swap_over_network()
        host.hog()
        host.order = []
        yield host
        assert host.usage == 0


@pytest.fixture
def host():
    with at_the_floor() as host:
        yield host


def emergency_skb(host, protocol=ETH_P_IP):
    skb = host.skbs.netdev_alloc_skb(host.nic, 1536)
    assert skb.emergency
    skb.protocol = protocol
    skb.buf = bytes(14) + b"\0\5\x08\0" + bytes(46)
    skb.data, skb.len = 14, 50
    return skb


def entitled(host) -> bool:
    return bool(host.task.flags & PF_MEMALLOC)


def watch(host, protocol=ETH_P_IP):
    host.dev.dev_add_pack(protocol, lambda skb: (host.order.append(("protocol", entitled(host))), host.skbs.kfree_skb(skb)))


def stand(host, place, answer):
    def fn(skb):
        host.order.append((place, entitled(host)))
        return answer(skb)

    return host.dev.rx_hook(place, fn)


def stand_everywhere(host):
    for place in ("netpoll", "bond"):
        stand(host, place, lambda _skb: False)
    stand(host, "ingress", lambda _skb: TC_ACT_OK)
    for place in ("bridge", "macvlan"):
        stand(host, place, lambda skb: skb)
    host.dev.ptype_all.append(lambda skb: (host.order.append(("tap", entitled(host))), host.skbs.kfree_skb(skb)))


def test_only_taps_are_passed_over_and_everybody_is_entitled(host):
    stand_everywhere(host)
    watch(host)
    assert host.dev.netif_receive_skb(emergency_skb(host)) == NET_RX_SUCCESS
    assert host.order == [(place, True) for place in ("netpoll", "bond", "ingress", "bridge", "macvlan", "protocol")]
    assert not entitled(host)


@pytest.mark.parametrize("patches", ["all", "none"])
def test_a_normal_frame_meets_everybody_and_touches_no_flag(patches):
    with one_host(patches=patches) as host:
        host.order = []
        skb = host.skbs.netdev_alloc_skb(host.nic, 1536)
        skb.protocol, skb.buf = ETH_P_IP, bytes(64)
        skb.data, skb.len = 14, 50
        stand_everywhere(host)
        watch(host)
        assert host.dev.netif_receive_skb(skb) == NET_RX_SUCCESS
        places = ("netpoll", "bond", "tap", "ingress", "bridge", "macvlan", "protocol")
        assert host.order == [(place, False) for place in places]
        assert not entitled(host)
        assert host.stats.rx_emergency == 0


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("patches", ["all", "all,-23"])
def test_an_emergency_frame_is_counted_once_on_either_way(patches, hooked):
    with at_the_floor(patches) as host:
        if hooked:
            stand(host, "bridge", lambda skb: skb)
        watch(host)
        host.dev.netif_receive_skb(emergency_skb(host))
        assert host.stats.rx_emergency == 1


def test_the_protocol_gate_stands_behind_the_classifier_and_before_the_bridge(host):
    stand_everywhere(host)
    assert host.dev.netif_receive_skb(emergency_skb(host, AOE)) == NET_RX_DROP
    assert [place for place, _ in host.order] == ["netpoll", "bond", "ingress"]
    assert (host.usage, host.stats.drops["protocol"]) == (0, 1)


def free(host):
    return lambda skb: host.skbs.kfree_skb(skb) is None


#: Every way out of netif_receive_skb(): who takes the frame, and how.
WAYS_OUT = {
    "netpoll": lambda host: stand(host, "netpoll", free(host)),
    "bond": lambda host: stand(host, "bond", free(host)),
    "shot": lambda host: stand(host, "ingress", lambda _skb: TC_ACT_SHOT),
    "stolen": lambda host: stand(host, "ingress", lambda _skb: TC_ACT_STOLEN),
    "bridge": lambda host: stand(host, "bridge", host.skbs.kfree_skb),
    "macvlan": lambda host: stand(host, "macvlan", host.skbs.kfree_skb),
    "protocol": lambda host: (stand_everywhere(host), watch(host)),
    "nobody": lambda host: (stand_everywhere(host), host.dev.packet_types.pop(ETH_P_IP)),
}


@pytest.mark.parametrize("already", [0, PF_MEMALLOC])
@pytest.mark.parametrize("way", WAYS_OUT)
@pytest.mark.parametrize("protocol", [ETH_P_IP, AOE])
def test_the_flag_is_put_back_on_every_way_out(host, way, already, protocol):
    watch(host)
    WAYS_OUT[way](host)
    host.task.flags |= already
    host.dev.netif_receive_skb(emergency_skb(host, protocol))
    assert host.task.flags & PF_MEMALLOC == already
    assert host.usage == 0
    host.task.flags &= ~PF_MEMALLOC


@pytest.mark.parametrize("hooked", [False, True])
def test_what_somebody_on_the_way_did_to_other_flags_stays(host, hooked):
    def handler(skb):
        host.task.flags |= 0x40
        host.skbs.kfree_skb(skb)

    if hooked:
        stand(host, "bridge", lambda skb: skb)
    host.dev.dev_add_pack(ETH_P_IP, handler)
    host.dev.netif_receive_skb(emergency_skb(host))
    assert host.task.flags & (0x40 | PF_MEMALLOC) == 0x40
    host.task.flags &= ~0x40


def test_a_frame_that_the_classifier_queued_again_lands_before_the_gate(host):
    def ingress(skb):
        skb.users += 1
        host.dev.netif_rx_classified(skb)
        return TC_ACT_STOLEN

    stand(host, "ingress", ingress)
    stand(host, "bridge", lambda skb: skb)
    watch(host, AOE)
    host.kernel.softirq.local_bh_disable()
    host.dev.netif_receive_skb(emergency_skb(host, AOE))
    assert host.usage == 2048  # it rests in the backlog
    host.kernel.softirq.local_bh_enable()
    assert [place for place, _ in host.order] == ["ingress"]
    assert (host.usage, host.stats.drops["protocol"]) == (0, 1)


@pytest.mark.parametrize("protocol", [ETH_P_IP, AOE])
def test_without_the_patch_the_long_way_is_2_6_23_s(protocol):
    with at_the_floor("all,-23") as host:
        stand_everywhere(host)
        watch(host, protocol)
        host.dev.netif_receive_skb(emergency_skb(host, protocol))
        places = ("netpoll", "bond", "tap", "ingress", "bridge", "macvlan", "protocol")
        assert host.order == [(place, False) for place in places]


# a VLAN: the second pass


@contextmanager
def on_a_vlan(patches="all"):
    with at_the_floor(patches) as host:
        vlans = Vlans(host.dev)
        vlans.register_vlan_device(host.nic, 5)
        watch(host)
        host.kernel.softirq.local_bh_disable()
        host.dev.netif_receive_skb(emergency_skb(host, ETH_P_8021Q))
        yield host


def test_between_its_passes_a_frame_rests_in_the_backlog_charged():
    with on_a_vlan() as host:
        assert (host.order, host.usage, entitled(host)) == ([], 2048, False)
        host.kernel.softirq.local_bh_enable()


def test_the_second_pass_is_entitled_again():
    with on_a_vlan() as host:
        host.kernel.softirq.local_bh_enable()
        assert host.order == [("protocol", True)]
        assert (host.usage, entitled(host)) == (0, False)


def test_a_frame_that_passes_twice_is_one_frame_at_the_gates():
    with on_a_vlan() as host:
        host.kernel.softirq.local_bh_enable()
        assert (host.stats.rx_emergency, host.stats.rx_again) == (2, 1)
        assert host.stats.gates["protocol"]["emergency"] == 1


def test_what_is_inside_the_tag_meets_the_gate_too(host):
    Vlans(host.dev).register_vlan_device(host.nic, 5)
    watch(host, AOE)
    skb = emergency_skb(host, ETH_P_8021Q)
    skb.buf = bytes(14) + b"\0\5\x88\xa2" + bytes(46)
    host.kernel.softirq.local_bh_disable()
    host.dev.netif_receive_skb(skb)
    host.kernel.softirq.local_bh_enable()
    assert (host.order, host.stats.drops["protocol"]) == ([], 1)


def test_without_the_patch_neither_pass_is_entitled():
    with on_a_vlan("all,-23") as host:
        host.kernel.softirq.local_bh_enable()
        assert host.order == [("protocol", False)]


# what the entitlement buys (rows 06 and 23 of the table of failures, in small)


@contextmanager
def emergency_ring(patches, prepare=lambda _net: None):
    """A host whose ring holds emergency buffers and whose caches have no object left."""
    with two_hosts(patches=patches, ring=16, b={}) as net:
        net.greet()
        prepare(net)
        net.a.swap_over_network()
        reader = net.a.socket(1)
        net.a.hog()
        for _ in range(3):
            net.flood(udp_frame(dport=1), 20)
            net.run(5)
        net.a.hog()
        assert all(skb.emergency for skb, _ in net.a.nic.rx.buffers)
        yield net
        net.a.udp.close(reader)
        net.a.unhog()


ON_AND_OFF = [("all", True), ("all,-23", False), ("all,-6", False)]


@pytest.mark.parametrize(("patches", "served"), ON_AND_OFF)
def test_a_packet_that_misses_the_route_cache(patches, served):
    with emergency_ring(patches) as net:
        lost = net.a.stats.ignored.get("no route", 0)
        net.flood(udp_frame(saddr=0x0A000063, dport=1))
        net.run(5)
        # served: it comes as far as the socket, which refuses it
        assert (net.a.stats.ignored.get("no route", 0) == lost) == served


@pytest.mark.parametrize(("patches", "served"), ON_AND_OFF)
def test_the_first_fragment_of_a_datagram(patches, served):
    with emergency_ring(patches) as net:
        frags = net.a.inet.frags
        net.flood((MAC_A + MAC_B + b"\x08\x00" + ip_packet(17, bytes(400), fragment=0x2000)).ljust(60, b"\0"))
        net.run(5)
        assert bool(frags.queues) == served
        assert (frags.alloc_failed == 0) == served
        frags.close()


@pytest.mark.parametrize(("patches", "served"), ON_AND_OFF)
def test_a_new_connection_that_is_tracked(patches, served):
    tracks = []

    def prepare(net):
        host = net.a
        conntrack = NfConntrack(host.kernel, host.nf, host.page_alloc.total_pages, host.inet.frags.ip_defrag)
        conntrack.load()
        tracks.append(conntrack)

    with emergency_ring(patches, prepare) as net:
        (conntrack,) = tracks
        host = net.a
        taken = []
        while (addr := host.slub.kmem_cache_alloc(conntrack.cache, GFP_ATOMIC | _GFP_NOWARN)) is not None:
            taken.append(addr)
        lost = conntrack.stat.drop
        net.flood(udp_frame(sport=555, dport=1))
        net.run(5)
        assert (conntrack.stat.drop == lost) == served
        for addr in taken:
            host.slub.kmem_cache_free(conntrack.cache, addr)
        conntrack.unload()


@pytest.mark.parametrize("patches", ["all", "all,-23"])
def test_a_packet_socket_that_nobody_reads_pins_the_reserve_only_without_the_patch(patches):
    """D.2 row 23: the socket is a program's tcpdump, and is there before memory is short."""
    with emergency_ring(patches, open_a_tap) as net:
        host, sys, fd = net.a, net.a.sys, net.a.tap
        received(sys, fd)
        usage = host.usage
        net.flood(udp_frame(dport=1), 5)
        net.run(60_000)
        pinned = host.usage - usage
        waiting = received(sys, fd)
        assert pinned == 2048 * waiting
        assert waiting == 0 if patches == "all" else waiting >= 5  # ARP comes too
        assert host.usage == usage
        sys.close_all()


def test_a_packet_socket_of_one_protocol_is_no_tap():
    """Faithful: 23 passes over ptype_all alone; who stands beside IP's handler still gets what lies in the reserve, and pins it."""
    with emergency_ring("all", lambda net: open_a_tap(net, ETH_P_IP)) as net:
        received(net.a.sys, net.a.tap)
        usage = net.a.usage
        net.flood(udp_frame(dport=1), 3)
        net.run(1000)
        assert net.a.usage - usage == 3 * 2048
        net.a.sys.close_all()
        assert net.a.usage == usage


def open_a_tap(net, protocol=ETH_P_ALL):
    """Give a host a process with a packet socket that does not wait."""
    host = net.a
    family = PacketFamily(host.kernel, host.socks, host.skbs, host.dev, host.nic)
    host.sys = Sockets(host.kernel, host.socks, {AF_PACKET: family})
    host.tap = host.sys.socket(AF_PACKET, SOCK_RAW, protocol)
    assert host.tap >= 3
    assert host.sys.fcntl(host.tap, F_SETFL, O_NONBLOCK) == 0


def received(sys, fd):
    """Read all that waits and say how many frames of it came in."""
    count = 0
    while (got := sys.recvfrom(fd, 2000)) != -EAGAIN:
        count += got[1].pkttype != PACKET_OUTGOING
    return count
