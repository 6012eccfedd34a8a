"""The device layer: softirqs of the network, the way of a frame up to its protocol and down to its driver (2.6.23 net/core/dev.c).

Interface
    Dev.netif_receive_skb(skb)       hand a received frame to taps and to its protocol (dev_rx.py; patch 23)
    Dev.netif_rx(skb), netif_rx_schedule(napi), netif_rx_complete(napi)    backlog and polling (softnet.py)
    Dev.rx_hook(place, fn)           netpoll, bonding, ingress classifier, bridge, macvlan (dev_hooks.py)
    Dev.dev_queue_xmit(skb)          send a whole frame through ``skb.dev``
    Dev.dev_add_pack(proto, fn), Dev.ptype_all    who gets what: fn(skb) owns the skb; a tap owns its reference

Rules
    * Everything that runs in softirq borrows ``current``. An emergency skb is processed with PF_MEMALLOC set there; whatever
      happens, the bit is put back.
    * Taps see what is received, and a clone of what is sent.
    * A VLAN is a device of its own (vlan.py): its frames pass netif_receive_skb() twice.
    * Left out: queueing disciplines but a FIFO. Putting received segments together (LRO, GRO): younger than 2.6.23, and no
      piece could be told an emergency packet or an ordinary one any more once both are in it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from kemu.kernel.softirq import NET_TX_SOFTIRQ
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.dev_rx import DevReceive
from kemu_net.core.if_ether import (
    EMERGENCY_PROTOCOLS,
    ETH_P_8021Q,
    ETH_P_ARP,
    ETH_P_IP,
    ETH_P_IPV6,
    NET_RX_DROP,
    NET_RX_SUCCESS,
    NET_XMIT_DROP,
    NETDEV_TX_BUSY,
    NETDEV_TX_OK,
)
from kemu_net.core.skbuff import PACKET_OUTGOING
from kemu_net.core.softnet import NETDEV_BUDGET, NETDEV_MAX_BACKLOG, WEIGHT, Backlog, Napi

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.skbuff import SkBuff

__all__ = [
    "EMERGENCY_PROTOCOLS",
    "ETH_P_8021Q",
    "ETH_P_ARP",
    "ETH_P_IP",
    "ETH_P_IPV6",
    "NETDEV_BUDGET",
    "NETDEV_MAX_BACKLOG",
    "NETDEV_TX_BUSY",
    "NETDEV_TX_OK",
    "NET_RX_DROP",
    "NET_RX_SUCCESS",
    "NET_XMIT_DROP",
    "WEIGHT",
    "Backlog",
    "Dev",
    "Napi",
    "NetDevice",
]


class NetDevice(Protocol):
    """What the device layer knows of a driver (``struct net_device``)."""

    name: str
    mac: bytes
    mtu: int
    stopped: bool
    qdisc: deque[SkBuff]
    tx_queue_len: int

    def hard_start_xmit(self, skb: SkBuff) -> int:
        """Put a frame into the transmit ring: NETDEV_TX_OK, or NETDEV_TX_BUSY and nothing happened."""


class Dev(DevReceive):
    """The device layer of one machine."""

    def __init__(self, kernel: Kernel, skbs: SkbAlloc) -> None:
        super().__init__(kernel, skbs)
        self._output_queue: deque[NetDevice] = deque()
        self._tp_xmit = kernel.trace.point("net:net_dev_queue", ("skbaddr", "len", "name"))
        kernel.softirq.open_softirq(NET_TX_SOFTIRQ, self.net_tx_action)

    def dev_queue_xmit(self, skb: SkBuff) -> int:
        """Send a frame: into the ring, or behind what already waits for the ring (``dev_queue_xmit()``)."""
        nic: NetDevice = skb.dev
        if self._tp_xmit.enabled:
            self._tp_xmit(skb.addr, skb.len, nic.name)
        if self.ptype_all:
            self._dev_queue_xmit_nit(skb)
        if not nic.stopped and not nic.qdisc and nic.hard_start_xmit(skb) == NETDEV_TX_OK:
            return 0
        if len(nic.qdisc) >= nic.tx_queue_len:
            self.skbs.kfree_skb(skb, "transmit queue full")
            return NET_XMIT_DROP
        nic.qdisc.append(skb)
        self.qdisc_run(nic)
        return 0

    def _dev_queue_xmit_nit(self, skb: SkBuff) -> None:
        """Show a frame that is being sent to the taps, but not to the socket that sends it (``dev_queue_xmit_nit()``).

        Once for each frame: the kernel does it each time that it tries the driver.
        """
        for tap in list(self.ptype_all):
            if skb.sk is not None and getattr(tap, "owner", None) is skb.sk:
                continue
            seen = self.skbs.skb_clone(skb, GFP_ATOMIC)
            if seen is None:
                return
            seen.mac = seen.data
            seen.pkt_type = PACKET_OUTGOING
            tap(seen)

    def qdisc_run(self, nic: NetDevice) -> None:
        """Move frames from the queue to the ring until one of them is empty or full (``qdisc_run()``)."""
        qdisc = nic.qdisc
        while qdisc and not nic.stopped:
            skb = qdisc.popleft()
            if nic.hard_start_xmit(skb) != NETDEV_TX_OK:
                qdisc.appendleft(skb)
                return

    def netif_wake_queue(self, nic: NetDevice) -> None:
        """Tell that the ring has room again (``netif_wake_queue()``)."""
        nic.stopped = False
        if nic.qdisc and nic not in self._output_queue:
            self._output_queue.append(nic)
            self.softirq.raise_softirq(NET_TX_SOFTIRQ)

    def net_tx_action(self) -> None:
        """Run the queues that were woken (``net_tx_action()``)."""
        while self._output_queue:
            self.qdisc_run(self._output_queue.popleft())
