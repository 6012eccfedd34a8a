"""Neighbours: who lives on the link, and whether he still hears us (2.6.23 net/core/neighbour.c).

The table is the same for ARP and for IPv6's neighbour discovery; a subclass says how to ask (``solicit``).

Interface
    NeighTable.neigh_lookup_create(ip)          the neighbour of an address, made if need be; None without memory
    NeighTable.neigh_resolve_output(neigh, skb) send a packet to a neighbour, now or when its hardware address is known
    NeighTable.neigh_update(neigh, ha, state)   something was learnt
    neigh_release(neigh)                        drop the reference that ``neigh.refcnt += 1`` took
    neigh.confirmed = jiffies                   what a protocol that hears from the peer writes (dst_confirm())

Rules
    * A neighbour is a slab object, allocated with plain GFP_ATOMIC wherever the code happens to run: nothing entitles it but a
      PF_MEMALLOC context. So is every question.
    * What the timer does is a table, ``_on_timer``. REACHABLE lasts for reachable_time (drawn anew every 300 s, between half and
      one and a half of 30 s) after the last proof, then STALE, or DELAY if it was used lately. First use of a stale entry makes it
      DELAY (5 s for a proof from above), then PROBE (three questions to itself, one a second), then FAILED, which drops the queue.
    * The first question to a neighbour that nobody knows is asked by its timer, a jiffy later, in softirq: the packet that caused
      it waits. At most three wait; a fourth pushes the oldest out.
    * The table holds one reference, each route one. Only what nobody else holds is collected: FAILED, or unused for 60 s. The
      collector's timer runs only while there is such an entry.
    * ``hh`` is the Ethernet header of the next packet, ready: on the fast path sending costs one concatenation.
    * Left out: parameters per device (one device), proxy entries, gc_thresh1 (no code of 2.6.23 reads it), user space resolvers.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from kemu.kernel.timer import HZ, Timer
from kemu.mm.gfp import GFP_ATOMIC
from kemu.mm.slub import SLAB_HWCACHE_ALIGN

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu.mm.slub import Slub
    from kemu_net.core.dev import Dev, NetDevice
    from kemu_net.core.skbuff import SkBuff

NUD_NONE = 0x00
NUD_INCOMPLETE = 0x01
NUD_REACHABLE = 0x02
NUD_STALE = 0x04
NUD_DELAY = 0x08
NUD_PROBE = 0x10
NUD_FAILED = 0x20
NUD_NOARP = 0x40
NUD_CONNECTED = NUD_REACHABLE | NUD_NOARP
NUD_VALID = NUD_CONNECTED | NUD_STALE | NUD_DELAY | NUD_PROBE
NUD_IN_TIMER = NUD_INCOMPLETE | NUD_REACHABLE | NUD_DELAY | NUD_PROBE
NUD_STATE_NAMES = {
    NUD_NONE: "NONE",
    NUD_INCOMPLETE: "INCOMPLETE",
    NUD_REACHABLE: "REACHABLE",
    NUD_STALE: "STALE",
    NUD_DELAY: "DELAY",
    NUD_PROBE: "PROBE",
    NUD_FAILED: "FAILED",
    NUD_NOARP: "NOARP",
}

SIZEOF_NEIGHBOUR = 236  # struct neighbour and the key, x86_64
REACHABLE_REDRAWN = 300 * HZ
FORCED_GC_INTERVAL = 5 * HZ
PROBES = 3


class Neighbour:
    """``struct neighbour``: what is known of one host on the link.

    :ivar ha: its hardware address, or None.
    :ivar hh: the Ethernet header of a packet to it.
    :ivar confirmed: jiffy of the last proof that it hears us; ``updated``: of its last change; ``used``: of its last slow use.
    :ivar dead: it left the table; who still holds it looks for its successor.
    """

    __slots__ = ("addr", "confirmed", "dead", "ha", "hh", "ip", "probes", "queue", "refcnt", "state", "timer", "updated", "used")

    def __init__(self, addr: int, ip: int, now: int) -> None:
        self.addr = addr
        self.ip = ip
        self.ha: bytes | None = None
        self.hh = b""
        self.state = NUD_NONE
        self.refcnt = 1
        self.dead = False
        self.probes = 0
        self.confirmed = 0
        self.updated = self.used = now
        self.queue: deque[SkBuff] = deque()
        self.timer: Timer

    def __repr__(self) -> str:
        """Say what ``ip neigh`` would print."""
        ha = self.ha.hex(":") if self.ha else "-"
        return f"<neighbour {self.ip:#010x} {ha} {NUD_STATE_NAMES[self.state]} queued {len(self.queue)}>"


class NeighTable:
    """``struct neigh_table``, and the ``neigh_parms`` of its one device.

    :param cache: name of the slab cache.
    :param ethertype: protocol of the packets that are sent to its neighbours.
    :ivar alloc_failed: neighbours and questions that found no memory.
    """

    def __init__(self, kernel: Kernel, dev: Dev, slub: Slub, nic: NetDevice, cache: str, ethertype: int) -> None:
        self.sched = kernel.sched
        self.timers = kernel.timers
        self.rng = kernel.rng
        self.dev = dev
        self.skbs = dev.skbs
        self.slub = slub
        self.nic = nic
        self._ethertype = ethertype.to_bytes(2, "big")
        self.alloc_failed = 0
        self.table: dict[int, Neighbour] = {}
        self.cache = slub.kmem_cache_create(cache, SIZEOF_NEIGHBOUR, 0, SLAB_HWCACHE_ALIGN)
        self.base_reachable_time = 30 * HZ
        self.delay_probe_time = 5 * HZ
        self.retrans_time = HZ
        self.gc_staletime = 60 * HZ
        self.locktime = HZ
        self.ucast_probes = self.mcast_probes = PROBES
        self.queue_len = 3
        self.gc_thresh2 = 512
        self.gc_thresh3 = 1024
        self._last_flush = 0
        self._last_rand = 0
        self._reachable_time = self._rand_reach_time()
        self._gc_timer = Timer("neigh_gc", self._periodic_gc)
        self._on_timer: dict[int, Callable[[Neighbour, int], None]] = {
            NUD_INCOMPLETE: self._no_answer,
            NUD_REACHABLE: self._reachable_is_over,
            NUD_DELAY: self._delay_is_over,
            NUD_PROBE: self._no_answer,
        }

    def solicit(self, neigh: Neighbour) -> None:
        """Ask for the hardware address of ``neigh``, itself if it is in NUD_PROBE, else everybody."""
        raise NotImplementedError

    def error_report(self, neigh: Neighbour, skb: SkBuff) -> None:
        """Free a packet whose neighbour does not answer (``arp_error_report()``)."""
        self.skbs.kfree_skb(skb, "host unreachable")

    @property
    def reachable_time(self) -> int:
        """How long a proof holds, in jiffies (``neigh_rand_reach_time()``): drawn anew every 300 s."""
        now = self.sched.jiffies
        if now > self._last_rand + REACHABLE_REDRAWN:
            self._last_rand = now
            self._reachable_time = self._rand_reach_time()
        return self._reachable_time

    def _rand_reach_time(self) -> int:
        base = self.base_reachable_time
        return self.rng.randrange(base) + (base >> 1) if base else 0

    # the table

    def neigh_lookup_create(self, ip: int) -> Neighbour | None:
        """Give the neighbour ``ip``, making it if need be (``__neigh_lookup_errno()``); None without memory.

        No reference is taken: who keeps it takes one.
        """
        neigh = self.table.get(ip)
        if neigh is not None:
            return neigh
        now = self.sched.jiffies
        entries = len(self.table)
        crowded = entries >= self.gc_thresh2 and now > self._last_flush + FORCED_GC_INTERVAL
        if (entries >= self.gc_thresh3 or crowded) and not self._forced_gc(now) and entries >= self.gc_thresh3:
            return None
        addr = self.slub.kmem_cache_alloc(self.cache, GFP_ATOMIC)
        if addr is None:
            self.alloc_failed += 1
            return None
        neigh = self.table[ip] = Neighbour(addr, ip, now)
        neigh.timer = Timer("neighbour", self._timer, neigh)
        self.constructor(neigh)
        self._arm_gc()
        return neigh

    def constructor(self, neigh: Neighbour) -> None:
        """Fill in what needs no question (``tbl->constructor``)."""

    def _forced_gc(self, now: int) -> bool:
        """Drop entries that nobody holds (``neigh_forced_gc()``); tell whether there were any."""
        self._last_flush = now
        unheld = [neigh for neigh in self.table.values() if neigh.refcnt == 1]
        for neigh in unheld:
            self._destroy(neigh)
        return bool(unheld)

    def _destroy(self, neigh: Neighbour) -> None:
        """Take an entry out of the table; its memory goes with its last reference."""
        del self.table[neigh.ip]
        self.timers.del_timer(neigh.timer)
        self._purge(neigh)
        neigh.state = NUD_NONE
        neigh.dead = True
        self.neigh_release(neigh)

    def neigh_release(self, neigh: Neighbour) -> None:
        """Drop a reference (``neigh_release()``)."""
        neigh.refcnt -= 1
        if not neigh.refcnt:
            self.slub.kmem_cache_free(self.cache, neigh.addr)
        elif neigh.refcnt == 1 and not neigh.dead:
            self._arm_gc()

    def flush(self) -> None:
        """Drop the whole table (``neigh_ifdown()``)."""
        for neigh in list(self.table.values()):
            self._destroy(neigh)
        self.timers.del_timer(self._gc_timer)

    def _arm_gc(self) -> None:
        if not self._gc_timer.pending:
            self.timers.mod_timer(self._gc_timer, self.sched.jiffies + (self.base_reachable_time >> 1) + 1)

    def _periodic_gc(self, _data: object) -> None:
        """Drop what nobody holds and nobody used for long (``neigh_periodic_timer()``, all chains at once)."""
        now = self.sched.jiffies
        candidates = 0
        for neigh in list(self.table.values()):
            if neigh.refcnt != 1 or neigh.state & NUD_NOARP:
                continue
            candidates += 1
            if neigh.state & NUD_IN_TIMER:
                continue
            neigh.used = max(neigh.used, neigh.confirmed)
            if neigh.state == NUD_FAILED or now > neigh.used + self.gc_staletime:
                self._destroy(neigh)
                candidates -= 1
        if candidates:
            self._arm_gc()

    # output

    def neigh_resolve_output(self, neigh: Neighbour, skb: SkBuff) -> int:
        """Send ``skb``, its data at the network header (``neigh_resolve_output()``); it may wait here for an answer."""
        neigh.used = self.sched.jiffies
        if not neigh.state & (NUD_CONNECTED | NUD_DELAY | NUD_PROBE) and self._event_send(neigh, skb):
            return 0
        data = skb.data
        skb.buf = neigh.hh + skb.buf[data:] if data else neigh.hh + skb.buf
        shift = 14 - data
        skb.data = skb.mac = 0
        skb.nh += shift
        skb.h += shift
        skb.len += 14
        skb.dev = self.nic
        return self.dev.dev_queue_xmit(skb)

    def _event_send(self, neigh: Neighbour, skb: SkBuff) -> bool:
        """Do what the first packet to a neighbour causes (``__neigh_event_send()``); True if the skb is taken."""
        now = self.sched.jiffies
        state = neigh.state
        if neigh.dead:
            self.skbs.kfree_skb(skb, "neighbour gone")
            return True
        if state & NUD_STALE:
            neigh.state = NUD_DELAY
            neigh.updated = now
            self.timers.mod_timer(neigh.timer, now + self.delay_probe_time)
            return False
        if not state & NUD_INCOMPLETE:
            neigh.state = NUD_INCOMPLETE
            neigh.probes = self.ucast_probes
            neigh.updated = now
            self.timers.mod_timer(neigh.timer, now + 1)
        if len(neigh.queue) >= self.queue_len:
            self.skbs.kfree_skb(neigh.queue.popleft(), "neighbour queue full")
        neigh.queue.append(skb)
        return True

    # state

    def _timer(self, neigh: Neighbour) -> None:
        """Move on when the time of a state is over (``neigh_timer_handler()``)."""
        change = self._on_timer.get(neigh.state)
        if change is not None:
            change(neigh, self.sched.jiffies)

    def _set_timer(self, neigh: Neighbour, now: int, expires: int) -> None:
        """Arm the timer, not before half a second from now."""
        self.timers.mod_timer(neigh.timer, max(expires, now + HZ // 2))

    def _reachable_is_over(self, neigh: Neighbour, now: int) -> None:
        until = neigh.confirmed + self.reachable_time
        if now <= until:
            self._set_timer(neigh, now, until)
        elif now <= neigh.used + self.delay_probe_time:
            neigh.state = NUD_DELAY
            neigh.updated = now
            self._set_timer(neigh, now, now + self.delay_probe_time)
        else:
            neigh.state = NUD_STALE
            neigh.updated = now

    def _delay_is_over(self, neigh: Neighbour, now: int) -> None:
        if now <= neigh.confirmed + self.delay_probe_time:
            neigh.state = NUD_REACHABLE
            neigh.updated = now
            self._set_timer(neigh, now, neigh.confirmed + self.reachable_time)
            return
        neigh.state = NUD_PROBE
        neigh.updated = now
        neigh.probes = 0
        self._ask(neigh, now)

    def _no_answer(self, neigh: Neighbour, now: int) -> None:
        """Ask again, or give up after three questions to itself or three to everybody."""
        limit = self.ucast_probes if neigh.state & NUD_PROBE else self.ucast_probes + self.mcast_probes
        if neigh.probes < limit:
            self._ask(neigh, now)
            return
        neigh.state = NUD_FAILED
        neigh.updated = now
        queue = neigh.queue
        while neigh.state == NUD_FAILED and queue:
            self.error_report(neigh, queue.popleft())
        self._purge(neigh)
        if neigh.refcnt == 1:
            self._arm_gc()

    def _ask(self, neigh: Neighbour, now: int) -> None:
        """Ask once and wait a second; a question that finds no memory counts as asked."""
        self._set_timer(neigh, now, now + self.retrans_time)
        neigh.probes += 1
        self.solicit(neigh)

    def _purge(self, neigh: Neighbour) -> None:
        """Drop what waits for the neighbour."""
        queue = neigh.queue
        while queue:
            self.skbs.kfree_skb(queue.popleft(), "host unreachable")

    def _set_address(self, neigh: Neighbour, ha: bytes) -> None:
        neigh.ha = ha
        neigh.hh = ha + self.nic.mac + self._ethertype

    def neigh_update(self, neigh: Neighbour, ha: bytes, state: int, *, override: bool = True) -> None:
        """Take what was learnt of a neighbour (``neigh_update()``): ``state`` is NUD_REACHABLE after an answer, else NUD_STALE.

        :param override: another hardware address than the known one is believed.
        """
        now = self.sched.jiffies
        old = neigh.state
        if old & NUD_NOARP or neigh.dead:
            return
        if state & NUD_CONNECTED:
            neigh.confirmed = now
        neigh.updated = now
        if old & NUD_VALID:
            if ha != neigh.ha:
                if not override:
                    return
            elif state == NUD_STALE and old & NUD_CONNECTED:
                state = old
        if state != old:
            self.timers.del_timer(neigh.timer)
            if state & NUD_REACHABLE:
                self.timers.mod_timer(neigh.timer, now + self.reachable_time)
            neigh.state = state
        if ha != neigh.ha:
            self._set_address(neigh, ha)
            if not state & NUD_CONNECTED:
                neigh.confirmed = now - (self.base_reachable_time << 1)
        if old & NUD_VALID:
            return
        queue = neigh.queue
        while queue and neigh.state & NUD_VALID:
            self.neigh_resolve_output(neigh, queue.popleft())

    def check(self) -> list[str]:
        """Tell what is wrong with the table."""
        return [f"{neigh!r} has {neigh.refcnt} references" for neigh in self.table.values() if neigh.refcnt < 1 or neigh.dead]
