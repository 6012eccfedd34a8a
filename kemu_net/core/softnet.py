"""What each CPU has to receive: its poll list and its backlog (2.6.23 net/core/dev.c: struct softnet_data).

Interface
    SoftNet.netif_rx(skb)               queue a frame for this CPU's backlog: loopback, VLANs, drivers without polling
    SoftNet.netif_rx_schedule(napi)     put a driver on this CPU's poll list; netif_rx_complete(napi) takes it off
    SoftNet.net_rx_action()             the softirq: at most 300 frames and two jiffies, 64 frames a turn
    SoftNet.softnet[cpu]                Backlog: total, dropped, time_squeeze as /proc/net/softnet_stat has them

Rules
    * What is left when budget or time is used up raises the softirq again; after ten rounds ksoftirqd goes on (kernel/softirq.py).
    * The backlog takes a frame as long as it holds no more than netdev_max_backlog: one more than the sysctl says.
    * A frame of the backlog is counted in ``total`` twice, when it is queued and when it is handed up, as in the kernel.
    * Left out: throttling of the backlog, which 2.6.23 had no more; fastroute; cpu_collision (one queue lock per device).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from kemu.kernel.softirq import NET_RX_SOFTIRQ
from kemu_net.core.if_ether import NET_RX_DROP, NET_RX_SUCCESS

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_net.core.dev_hooks import RxHook
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.skbuff import SkBuff

NETDEV_BUDGET = 300
WEIGHT = 64
NETDEV_MAX_BACKLOG = 1000


class Napi(Protocol):
    """What can be polled: a driver, or the backlog."""

    def poll(self, quota: int) -> int:
        """Process up to ``quota`` frames; fewer than ``quota`` means that it took itself off the poll list."""


class Backlog:
    """``struct softnet_data`` of one CPU: its poll list, and the backlog, which is polled like a driver.

    :ivar total: frames handed up, and frames queued; :ivar dropped: frames that found the backlog full.
    :ivar time_squeeze: how often work was left when budget or time was used up.
    """

    __slots__ = ("dev", "dropped", "input_pkt_queue", "poll_list", "scheduled", "time_squeeze", "total")

    def __init__(self, dev: SoftNet) -> None:
        self.dev = dev
        self.poll_list: deque[Napi] = deque()
        self.input_pkt_queue: deque[SkBuff] = deque()
        self.scheduled = False
        self.total = self.dropped = self.time_squeeze = 0

    def poll(self, quota: int) -> int:
        """Hand queued frames up (``process_backlog()``), for two jiffies at most."""
        queue = self.input_pkt_queue
        receive = self.dev.netif_receive_skb
        sched = self.dev.sched
        start = sched.jiffies
        work = 0
        while queue and work < quota:
            work += 1
            receive(queue.popleft())
            if sched.jiffies - start > 1:
                break
        if queue and work < quota:  # out of time: it stays on the list, as if it had used its quota
            self.total -= quota - work
            return quota
        if work < quota:
            self.scheduled = False
            self.poll_list.remove(self)
        return work


class SoftNet:
    """The receive softirq of one machine.

    :ivar netpoll: the hook that console drivers may have taken over reception with (dev_hooks.py), or None.
    :ivar netdev_max_backlog: frames that may wait in one backlog.
    """

    def __init__(self, kernel: Kernel, skbs: SkbAlloc) -> None:
        self.kernel = kernel
        self.patched = kernel.patched
        self.sched = kernel.sched
        self.softirq = kernel.softirq
        self.skbs = skbs
        self.stats = skbs.stats
        self.netpoll: RxHook | None = None
        self.netdev_max_backlog = NETDEV_MAX_BACKLOG
        self.softnet = [Backlog(self) for _ in kernel.cpus]
        kernel.softirq.open_softirq(NET_RX_SOFTIRQ, self.net_rx_action)
        kernel.sysctl.register(
            "net.core.netdev_max_backlog",
            lambda: self.netdev_max_backlog,
            lambda value: setattr(self, "netdev_max_backlog", value),
        )

    def netif_receive_skb(self, skb: SkBuff) -> int:
        """Hand a frame up; see DevReceive."""
        raise NotImplementedError

    def netif_rx(self, skb: SkBuff) -> int:
        """Queue a frame for this CPU's backlog (``netif_rx()``)."""
        if self.netpoll is not None and self.netpoll.take(skb):
            return NET_RX_DROP
        softnet = self.softnet[self.sched.cpu.id]
        softnet.total += 1
        if len(softnet.input_pkt_queue) > self.netdev_max_backlog:
            softnet.dropped += 1
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
        softnet = self.softnet[sched.cpu.id]
        poll_list = softnet.poll_list
        start = sched.jiffies
        budget = NETDEV_BUDGET
        while poll_list:
            quota = WEIGHT
            if quota > budget:
                quota = budget
            napi = poll_list[0]
            work = napi.poll(quota)
            budget -= work
            softnet.total += work
            if work >= quota:
                poll_list.remove(napi)
                poll_list.append(napi)
            if poll_list and (budget <= 0 or sched.jiffies - start > 1):
                softnet.time_squeeze += 1
                self.softirq.raise_softirq(NET_RX_SOFTIRQ)
                return
