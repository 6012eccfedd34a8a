"""VLANs: devices of a number behind a device (2.6.23 net/8021q/vlan_dev.c; IEEE 802.1Q).

Interface
    Vlans(dev)                          the handler of ETH_P_8021Q; vlan_skb_recv(skb)
    Vlans.register_vlan_device(real_dev, vid)    a VlanDev, or a negative errno
    Vlans.unregister_vlan_device(device)
    VlanDev                             a net_device: what is sent through it leaves ``real_dev`` with a tag

Rules
    * A received frame loses its tag and goes to the backlog of this CPU: it passes netif_receive_skb() a second time. An emergency
      frame is an emergency frame there too, with PF_MEMALLOC set again (patch 23).
    * A frame for a VLAN that this host is not on, or too short for a tag, is freed under "vlan".
    * The device has no queue of its own: a frame is the real device's business at once.
    * Left out: tagging by hardware, priorities (all 0), 802.2 frames inside a VLAN, moving the MAC header up (REORDER_HDR).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs

from kemu.kernel.errno import EEXIST, ERANGE
from kemu_net.core.if_ether import ETH_P_8021Q, NETDEV_TX_OK
from kemu_net.core.skbuff import PACKET_HOST, PACKET_OTHERHOST, SkBuff, skb_headlen

if TYPE_CHECKING:
    from kemu_net.core.dev import Dev, NetDevice

VLAN_HLEN = 4
VLAN_VID_MASK = 0xFFF
VLAN_N_VID = 4096
ETH_ALEN = 6


@attrs.define(eq=False)
class VlanDev:
    """One VLAN on one device (``struct net_device`` with ``struct vlan_dev_info``).

    :ivar rx_packets, tx_packets: frames that came in and went out with its tag.
    """

    dev: Dev
    real_dev: NetDevice
    vid: int
    name: str = attrs.field(init=False)
    mac: bytes = attrs.field(init=False)
    mtu: int = attrs.field(init=False)
    stopped: bool = False
    tx_queue_len: int = 0
    qdisc: deque[SkBuff] = attrs.Factory(deque)
    rx_packets: int = 0
    tx_packets: int = 0

    def __attrs_post_init__(self) -> None:
        """Be like the device below."""
        self.name = f"{self.real_dev.name}.{self.vid}"
        self.mac = self.real_dev.mac
        self.mtu = self.real_dev.mtu

    def hard_start_xmit(self, skb: SkBuff) -> int:
        """Put the tag behind the addresses and give the frame to the device below (``vlan_dev_hard_start_xmit()``)."""
        data = skb.data
        at = data + 2 * ETH_ALEN
        tag = ETH_P_8021Q.to_bytes(2, "big") + self.vid.to_bytes(2, "big")
        skb.buf = skb.buf[:at] + tag + skb.buf[at:]
        skb.len += VLAN_HLEN
        skb.nh += VLAN_HLEN
        skb.h += VLAN_HLEN
        skb.protocol = ETH_P_8021Q
        skb.dev = self.real_dev
        self.tx_packets += 1
        self.dev.dev_queue_xmit(skb)
        return NETDEV_TX_OK


class Vlans:
    """The VLANs of one machine."""

    def __init__(self, dev: Dev) -> None:
        self.dev = dev
        self.skbs = dev.skbs
        self.stats = dev.stats
        self.devices: dict[tuple[str, int], VlanDev] = {}
        dev.dev_add_pack(ETH_P_8021Q, self.vlan_skb_recv)

    def register_vlan_device(self, real_dev: NetDevice, vid: int) -> VlanDev | int:
        """Make the device of a VLAN (``register_vlan_device()``): -ERANGE or -EEXIST if that cannot be."""
        if not 0 <= vid < VLAN_N_VID:
            return -ERANGE
        if (real_dev.name, vid) in self.devices:
            return -EEXIST
        device = self.devices[real_dev.name, vid] = VlanDev(self.dev, real_dev, vid)
        return device

    def unregister_vlan_device(self, device: VlanDev) -> None:
        """Leave a VLAN (``unregister_vlan_device()``)."""
        del self.devices[device.real_dev.name, device.vid]

    def vlan_skb_recv(self, skb: SkBuff) -> None:
        """Strip the tag and hand the frame up once more (``vlan_skb_recv()``)."""
        data = skb.data
        if skb_headlen(skb) < VLAN_HLEN:
            self.skbs.kfree_skb(skb, "vlan")
            return
        tci, protocol = skb.buf[data] << 8 | skb.buf[data + 1], skb.buf[data + 2] << 8 | skb.buf[data + 3]
        device = self.devices.get((skb.dev.name, tci & VLAN_VID_MASK))
        if device is None:
            self.skbs.kfree_skb(skb, "vlan")
            return
        skb.dev = device
        skb.data = data + VLAN_HLEN
        skb.len -= VLAN_HLEN
        skb.protocol = protocol
        if skb.pkt_type == PACKET_OTHERHOST and skb.buf[:ETH_ALEN] == device.mac:
            skb.pkt_type = PACKET_HOST
        device.rx_packets += 1
        if skb.emergency:
            self.stats.rx_again += 1
        self.dev.netif_rx(skb)
