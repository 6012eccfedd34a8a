"""The device layer: softirqs of the network, the way of a frame up to its protocol and down to its driver (2.6.23 net/core/dev.c).

Interface
    Dev.netif_receive_skb(skb)       hand a received frame to taps and to its protocol (patch 23)
    Dev.netif_rx(skb)                queue a frame for this CPU's backlog: loopback, drivers without polling
    Dev.netif_rx_schedule(napi)      put a driver on this CPU's poll list; netif_rx_complete(napi) takes it off
    Dev.dev_queue_xmit(skb)          send a whole frame through ``skb.dev``
    Dev.dev_add_pack(proto, fn), Dev.ptype_all    who gets what: fn(skb) owns the skb; a tap owns its reference

Rules
    * Everything that runs in softirq borrows ``current``. An emergency skb is processed with PF_MEMALLOC set there; whatever
      happens, the bit is put back.
    * A netif_receive_skb() of a normal skb touches no flag.
    * Left out: ingress filter, bridge and macvlan hooks, VLAN re-injection, netpoll, bonding; queueing disciplines but a FIFO.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from kemu.kernel.softirq import NET_RX_SOFTIRQ, NET_TX_SOFTIRQ
from kemu.kernel.task import PF_MEMALLOC, tsk_restore_flags
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.skbuff import PACKET_OUTGOING

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.skbuff import SkBuff

ETH_P_IP = 0x0800
ETH_P_ARP = 0x0806
ETH_P_8021Q = 0x8100
ETH_P_IPV6 = 0x86DD

NET_RX_SUCCESS = 0
NET_RX_DROP = 1
NETDEV_TX_OK = 0
NETDEV_TX_BUSY = 1
NET_XMIT_DROP = 1

NETDEV_BUDGET = 300
WEIGHT = 64
NETDEV_MAX_BACKLOG = 1000

#: What patch 23 processes although it lies in reserve memory; others need to be looked at first.
EMERGENCY_PROTOCOLS = frozenset((ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, ETH_P_8021Q))


class Napi(Protocol):
    """What can be polled: a driver, or the backlog."""

    def poll(self, quota: int) -> int:
        """Process up to ``quota`` frames; fewer than ``quota`` means that it took itself off the poll list."""


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


class Backlog:
    """``struct softnet_data`` of one CPU: its poll list, and the backlog, which is polled like a driver."""

    __slots__ = ("dev", "input_pkt_queue", "poll_list", "scheduled")

    def __init__(self, dev: Dev) -> None:
        self.dev = dev
        self.poll_list: deque[Napi] = deque()
        self.input_pkt_queue: deque[SkBuff] = deque()
        self.scheduled = False

    def poll(self, quota: int) -> int:
        """Hand queued frames up (``process_backlog()``)."""
        queue = self.input_pkt_queue
        receive = self.dev.netif_receive_skb
        work = 0
        while queue and work < quota:
            work += 1
            receive(queue.popleft())
        if work < quota:
            self.scheduled = False
            self.poll_list.remove(self)
        return work


class Dev:
    """The device layer of one machine.

    :ivar packet_types: protocol number to handler (``ptype_base``).
    :ivar ptype_all: taps; each is called with its own reference to every normal frame, and with a clone of every frame sent. A tap
        with an attribute ``owner`` (a socket) is spared the frames of that socket.
    """

    def __init__(self, kernel: Kernel, skbs: SkbAlloc) -> None:
        self.kernel = kernel
        self.patched = kernel.patched
        self.sched = kernel.sched
        self.softirq = kernel.softirq
        self.skbs = skbs
        self.stats = skbs.stats
        self.packet_types: dict[int, Callable[[SkBuff], object]] = {}
        self.ptype_all: list[Callable[[SkBuff], object]] = []
        self.softnet = [Backlog(self) for _ in kernel.cpus]
        self._output_queue: deque[NetDevice] = deque()
        self._tp_receive = kernel.trace.point("net:netif_receive_skb", ("skbaddr", "len", "protocol", "emergency", "name"))
        self._tp_xmit = kernel.trace.point("net:net_dev_queue", ("skbaddr", "len", "name"))
        kernel.softirq.open_softirq(NET_RX_SOFTIRQ, self.net_rx_action)
        kernel.softirq.open_softirq(NET_TX_SOFTIRQ, self.net_tx_action)

    def dev_add_pack(self, protocol: int, fn: Callable[[SkBuff], object]) -> None:
        """Register the handler of a protocol (``dev_add_pack()``)."""
        self.packet_types[protocol] = fn

    # receive

    def netif_receive_skb(self, skb: SkBuff) -> int:
        """Hand a frame, its data at the network header, to everybody who wants it (``netif_receive_skb()``)."""
        if self._tp_receive.enabled:
            self._tp_receive(skb.addr, skb.len, skb.protocol, skb.emergency, getattr(skb.dev, "name", "?"))
        if self.patched.skb_processing and skb.emergency:  # [p23]
            return self._receive_emergency_skb(skb)
        for tap in self.ptype_all:
            skb.users += 1
            tap(skb)
        handler = self.packet_types.get(skb.protocol)
        if handler is None:
            self.skbs.kfree_skb(skb, "no protocol handler")
            return NET_RX_DROP
        handler(skb)
        return NET_RX_SUCCESS

    def _receive_emergency_skb(self, skb: SkBuff) -> int:
        """Process a frame that lies in the reserve: entitled, unseen by taps, and only a protocol that is known to free it soon."""
        current = self.sched.current
        pflags = current.flags
        current.flags = pflags | PF_MEMALLOC
        handler = self.packet_types.get(skb.protocol)
        if skb.protocol not in EMERGENCY_PROTOCOLS:
            self.skbs.kfree_skb(skb, "protocol")
            ret = NET_RX_DROP
        elif handler is None:
            self.skbs.kfree_skb(skb, "no protocol handler")
            ret = NET_RX_DROP
        else:
            handler(skb)
            ret = NET_RX_SUCCESS
        tsk_restore_flags(current, pflags, PF_MEMALLOC)
        return ret

    def netif_rx(self, skb: SkBuff) -> int:
        """Queue a frame for this CPU's backlog (``netif_rx()``)."""
        softnet = self.softnet[self.sched.cpu.id]
        if len(softnet.input_pkt_queue) >= NETDEV_MAX_BACKLOG:
            self.skbs.kfree_skb(skb, "backlog full")
            return NET_RX_DROP
        softnet.input_pkt_queue.append(skb)
        if not softnet.scheduled:
            softnet.scheduled = True
            self.netif_rx_schedule(softnet)
        return NET_RX_SUCCESS

    def netif_rx_schedule(self, napi: Napi) -> None:
        """Put ``napi`` on this CPU's poll list (``__netif_rx_schedule()``)."""
        self.softnet[self.sched.cpu.id].poll_list.append(napi)
        self.softirq.raise_softirq(NET_RX_SOFTIRQ)

    def netif_rx_complete(self, napi: Napi) -> None:
        """Take ``napi`` off this CPU's poll list (``netif_rx_complete()``)."""
        self.softnet[self.sched.cpu.id].poll_list.remove(napi)

    def net_rx_action(self) -> None:
        """Poll who is on the list, at most NETDEV_BUDGET frames and two jiffies (``net_rx_action()``)."""
        sched = self.sched
        poll_list = self.softnet[sched.cpu.id].poll_list
        start = sched.jiffies
        budget = NETDEV_BUDGET
        while poll_list:
            quota = WEIGHT
            if quota > budget:
                quota = budget
            napi = poll_list[0]
            work = napi.poll(quota)
            budget -= work
            if work >= quota:
                poll_list.remove(napi)
                poll_list.append(napi)
            if poll_list and (budget <= 0 or sched.jiffies - start > 1):
                self.softirq.raise_softirq(NET_RX_SOFTIRQ)
                return

    # transmit

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
