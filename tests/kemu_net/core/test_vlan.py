"""VLANs: tags go on and come off, and a frame passes twice."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import EEXIST, ERANGE
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.skbuff import skb_put_bytes
from kemu_net.core.vlan import VlanDev, Vlans
from net_ground import MAC_A, MAC_B, two_hosts, udp_frame


def tagged(frame: bytes, vid: int) -> bytes:
    return frame[:12] + b"\x81\x00" + vid.to_bytes(2, "big") + frame[12:]


@pytest.fixture
def net():
    with two_hosts() as net:
        net.greet()
        net.vlans = Vlans(net.a.dev)
        net.five = net.vlans.register_vlan_device(net.a.nic, 5)
        net.sk = net.a.socket(7)
        yield net
        net.a.udp.close(net.sk)


def test_a_frame_of_the_vlan_comes_to_its_socket(net):
    net.flood(tagged(udp_frame(b"inside"), 5))
    net.run(5)
    assert net.a.udp.recvfrom(net.sk, nonblock=True)[0] == b"inside"
    assert net.five.rx_packets == 1


def test_it_is_handed_up_twice_by_two_devices(net):
    net.a.kernel.trace.enable("net:netif_receive_skb")
    net.flood(tagged(udp_frame(), 5))
    net.run(5)
    seen = [line for line in net.a.kernel.trace.last(20) if "netif_receive_skb" in line]
    assert len(seen) == 2
    assert "name=eth0 " in seen[0] + " "
    assert "eth0.5" in seen[1]


def test_the_priority_bits_do_not_matter(net):
    net.flood(tagged(udp_frame(b"p"), 0xE000 | 5))
    net.run(5)
    assert net.a.udp.recvfrom(net.sk, nonblock=True)[0] == b"p"


@pytest.mark.parametrize("vid", [0, 4, 6, 4095])
def test_another_vlan_is_not_this_host_s(net, vid):
    net.flood(tagged(udp_frame(), vid))
    net.run(5)
    assert net.a.stats.ignored["vlan"] == 1


def test_a_frame_too_short_for_a_tag_is_freed(net):
    skb = net.a.skbs.alloc_skb(3, GFP_ATOMIC)
    skb_put_bytes(skb, b"\0\5\x08")
    skb.dev = net.a.nic
    net.vlans.vlan_skb_recv(skb)
    assert net.a.stats.ignored["vlan"] == 1


def test_what_is_sent_gets_the_tag(net):
    frame = MAC_B + MAC_A + udp_frame(b"out")[12:]
    skb = net.a.skbs.alloc_skb(len(frame), GFP_ATOMIC)
    skb_put_bytes(skb, frame)
    skb.dev = net.five
    assert net.a.dev.dev_queue_xmit(skb) == 0
    net.run(5)
    assert tagged(frame, 5) in [sent for _, sent in net.frames]
    assert net.five.tx_packets == 1


def test_numbers_are_given_once_and_have_twelve_bits(net):
    assert net.vlans.register_vlan_device(net.a.nic, 5) == -EEXIST
    assert net.vlans.register_vlan_device(net.a.nic, 4096) == -ERANGE
    net.vlans.unregister_vlan_device(net.five)
    assert isinstance(net.vlans.register_vlan_device(net.a.nic, 5), VlanDev)
