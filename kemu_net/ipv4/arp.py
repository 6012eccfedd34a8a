"""Neighbours and ARP (2.6.23 net/core/neighbour.c, net/ipv4/arp.c; RFC 826).

Interface
    Arp.neigh_lookup_create(ip)          the neighbour of an address, made if need be; None without memory
    Arp.neigh_resolve_output(neigh, skb) send an IP packet to a neighbour, now or when its hardware address is known
    Arp.arp_rcv(skb)                     the handler of ETH_P_ARP
    neigh.confirmed = jiffies            what a protocol that hears from the peer writes (dst_confirm())

Rules
    * A neighbour is a slab object, allocated with plain GFP_ATOMIC wherever the code happens to run: nothing entitles it but a
      PF_MEMALLOC context. So is every ARP packet.
    * NUD states as the kernel's: REACHABLE for 30 s after the last proof, then STALE; first use of a stale entry makes it DELAY
      (5 s for a proof from above), then PROBE (three unicast requests, one a second), then FAILED, which drops the queue.
    * A neighbour keeps at most three packets while it is INCOMPLETE; a fourth pushes the oldest out.
    * ``hh`` is the Ethernet header of the next packet, ready: on the fast path sending costs one concatenation.
    * Left out: proxy ARP, gratuitous announcements, per-device parameters, reference counts; the periodic collector (an entry is
      dropped only when the table is full).
"""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING

from kemu.kernel.timer import HZ, Timer
from kemu.mm.gfp import GFP_ATOMIC
from kemu.mm.slub import SLAB_HWCACHE_ALIGN
from kemu_net.core.dev import ETH_P_ARP, ETH_P_IP
from kemu_net.core.skbuff import PACKET_HOST, SkBuff

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.slub import Slub
    from kemu_net.core.dev import Dev, NetDevice

NUD_INCOMPLETE = 0x01
NUD_REACHABLE = 0x02
NUD_STALE = 0x04
NUD_DELAY = 0x08
NUD_PROBE = 0x10
NUD_FAILED = 0x20
NUD_NOARP = 0x40
NUD_NONE = 0x00
NUD_CONNECTED = NUD_REACHABLE | NUD_NOARP
NUD_VALID = NUD_CONNECTED | NUD_STALE | NUD_DELAY | NUD_PROBE
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

REACHABLE_TIME = 30 * HZ
DELAY_PROBE_TIME = 5 * HZ
RETRANS_TIME = 1 * HZ
PROBES = 3
QUEUE_LEN = 3
GC_THRESH3 = 1024
SIZEOF_NEIGHBOUR = 236  # struct neighbour and the key, x86_64

ARPOP_REQUEST = 1
ARPOP_REPLY = 2
BROADCAST = b"\xff" * 6

_ARP = struct.Struct("!HHBBH6sI6sI")


class Neighbour:
    """``struct neighbour``: what is known of one host on the link.

    :ivar ha: its hardware address, or None.
    :ivar hh: the Ethernet header of a packet to it.
    :ivar confirmed: jiffy of the last proof that it hears us.
    """

    __slots__ = ("addr", "confirmed", "ha", "hh", "ip", "probes", "queue", "state", "timer", "used")

    def __init__(self, addr: int, ip: int) -> None:
        self.addr = addr
        self.ip = ip
        self.ha: bytes | None = None
        self.hh = b""
        self.state = NUD_NONE
        self.probes = 0
        self.confirmed = 0
        self.used = 0
        self.queue: deque[SkBuff] = deque()
        self.timer: Timer

    def __repr__(self) -> str:
        """Say what ``ip neigh`` would print."""
        ha = self.ha.hex(":") if self.ha else "-"
        return f"<neighbour {self.ip:#010x} {ha} {NUD_STATE_NAMES[self.state]} queued {len(self.queue)}>"


class Arp:
    """The neighbour table of one interface.

    :param ip: own address.
    :ivar alloc_failed: neighbours and ARP packets that found no memory.
    """

    def __init__(self, kernel: Kernel, dev: Dev, slub: Slub, nic: NetDevice, ip: int) -> None:
        self.sched = kernel.sched
        self.timers = kernel.timers
        self.dev = dev
        self.skbs = dev.skbs
        self.slub = slub
        self.nic = nic
        self.ip = ip
        self.alloc_failed = 0
        self.table: dict[int, Neighbour] = {}
        self.arp_cache = slub.kmem_cache_create("arp_cache", SIZEOF_NEIGHBOUR, 0, SLAB_HWCACHE_ALIGN)
        dev.dev_add_pack(ETH_P_ARP, self.arp_rcv)

    # the table

    def neigh_lookup_create(self, ip: int) -> Neighbour | None:
        """Give the neighbour ``ip``, making it if need be (``__neigh_lookup_errno()``); None without memory."""
        neigh = self.table.get(ip)
        if neigh is not None:
            return neigh
        if len(self.table) >= GC_THRESH3 and not self._forced_gc():
            return None
        addr = self.slub.kmem_cache_alloc(self.arp_cache, GFP_ATOMIC)
        if addr is None:
            self.alloc_failed += 1
            return None
        neigh = self.table[ip] = Neighbour(addr, ip)
        neigh.timer = Timer("neighbour", self._timer, neigh)
        if ip == 0xFFFFFFFF:
            self._set_address(neigh, BROADCAST)
            neigh.state = NUD_NOARP
        return neigh

    def _forced_gc(self) -> bool:
        """Drop entries that are not in use (``neigh_forced_gc()``)."""
        busy = NUD_CONNECTED | NUD_INCOMPLETE | NUD_DELAY | NUD_PROBE
        for neigh in list(self.table.values()):
            if not neigh.state & busy:
                self._destroy(neigh)
        return len(self.table) < GC_THRESH3

    def _destroy(self, neigh: Neighbour) -> None:
        """Free an entry; routes that know it get a fresh start with the next packet."""
        del self.table[neigh.ip]
        self.timers.del_timer(neigh.timer)
        self._drop_queue(neigh)
        neigh.state = NUD_FAILED
        self.slub.kmem_cache_free(self.arp_cache, neigh.addr)

    def flush(self) -> None:
        """Drop the whole table (``neigh_ifdown()``)."""
        for neigh in list(self.table.values()):
            self._destroy(neigh)

    # output

    def neigh_resolve_output(self, neigh: Neighbour, skb: SkBuff) -> int:
        """Send ``skb``, its data at the IP header (``neigh_resolve_output()``); it may wait here for an answer."""
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
        neigh.used = now
        state = neigh.state
        if state & NUD_STALE:
            neigh.state = NUD_DELAY
            self.timers.mod_timer(neigh.timer, now + DELAY_PROBE_TIME)
            return False
        if self.table.get(neigh.ip) is not neigh:
            self.skbs.kfree_skb(skb, "neighbour gone")
            return True
        if len(neigh.queue) >= QUEUE_LEN:
            self.skbs.kfree_skb(neigh.queue.popleft(), "neighbour queue full")
        neigh.queue.append(skb)
        if not state & NUD_INCOMPLETE:
            neigh.state = NUD_INCOMPLETE
            neigh.probes = 0
            self._probe(neigh)
        return True

    # state

    def _timer(self, neigh: Neighbour) -> None:
        """Move on when the time of a state is over (``neigh_timer_handler()``)."""
        now = self.sched.jiffies
        state = neigh.state
        if state & NUD_REACHABLE:
            if now < neigh.confirmed + REACHABLE_TIME:
                self.timers.mod_timer(neigh.timer, neigh.confirmed + REACHABLE_TIME)
            elif now < neigh.used + DELAY_PROBE_TIME:
                neigh.state = NUD_DELAY
                self.timers.mod_timer(neigh.timer, now + DELAY_PROBE_TIME)
            else:
                neigh.state = NUD_STALE
        elif state & NUD_DELAY:
            if now < neigh.confirmed + DELAY_PROBE_TIME:
                neigh.state = NUD_REACHABLE
                self.timers.mod_timer(neigh.timer, neigh.confirmed + REACHABLE_TIME)
            else:
                neigh.state = NUD_PROBE
                neigh.probes = 0
                self._probe(neigh)
        elif state & (NUD_INCOMPLETE | NUD_PROBE):
            if neigh.probes >= PROBES:
                neigh.state = NUD_FAILED
                self._drop_queue(neigh)
            else:
                self._probe(neigh)

    def _probe(self, neigh: Neighbour) -> None:
        """Ask once and wait a second (``arp_solicit()``); a request that finds no memory counts as sent."""
        neigh.probes += 1
        self.timers.mod_timer(neigh.timer, self.sched.jiffies + RETRANS_TIME)
        target = neigh.ha if neigh.state & NUD_PROBE and neigh.ha else BROADCAST
        self.arp_send(ARPOP_REQUEST, neigh.ip, target, b"\0" * 6)

    def _drop_queue(self, neigh: Neighbour) -> None:
        """Give up what waits for the neighbour."""
        queue = neigh.queue
        while queue:
            self.skbs.kfree_skb(queue.popleft(), "host unreachable")

    def _set_address(self, neigh: Neighbour, ha: bytes) -> None:
        neigh.ha = ha
        neigh.hh = ha + self.nic.mac + ETH_P_IP.to_bytes(2, "big")

    def neigh_update(self, neigh: Neighbour, ha: bytes, state: int) -> None:
        """Take what was learnt of a neighbour (``neigh_update()``): ``state`` is NUD_REACHABLE after an answer, else NUD_STALE."""
        now = self.sched.jiffies
        if neigh.state & NUD_NOARP:
            return
        if state == NUD_REACHABLE:
            neigh.confirmed = now
        elif ha == neigh.ha and neigh.state & NUD_CONNECTED:
            return
        self._set_address(neigh, ha)
        neigh.state = state
        if state == NUD_REACHABLE:
            self.timers.mod_timer(neigh.timer, now + REACHABLE_TIME)
        else:
            self.timers.del_timer(neigh.timer)
        queue = neigh.queue
        while queue and neigh.state & NUD_VALID:
            self.neigh_resolve_output(neigh, queue.popleft())

    # packets

    def arp_send(self, op: int, target_ip: int, dest: bytes, target_ha: bytes) -> None:
        """Send one ARP packet (``arp_send()``); without memory nothing happens."""
        skb = self.skbs.alloc_skb(60, GFP_ATOMIC)
        if skb is None:
            self.alloc_failed += 1
            return
        nic = self.nic
        packet = _ARP.pack(1, ETH_P_IP, 6, 4, op, nic.mac, self.ip, target_ha, target_ip)
        skb.buf = b"".join((dest, nic.mac, b"\x08\x06", packet))
        skb.len = len(skb.buf)
        skb.protocol = ETH_P_ARP
        skb.dev = nic
        self.dev.dev_queue_xmit(skb)

    def arp_rcv(self, skb: SkBuff) -> None:
        """Process an ARP packet (``arp_rcv()``, ``arp_process()``)."""
        buf = skb.buf
        offset = skb.data
        headlen = skb.len - skb.data_len
        if headlen < 28:
            self.skbs.kfree_skb(skb, "arp: short")
            return
        hardware, proto, hlen, plen, op, sha, sip, _tha, tip = _ARP.unpack_from(buf, offset)
        if (hardware, proto, hlen, plen) != (1, ETH_P_IP, 6, 4) or op not in (ARPOP_REQUEST, ARPOP_REPLY) or sha[0] & 1:
            self.skbs.kfree_skb(skb, "arp: malformed")
            return
        if op == ARPOP_REQUEST and tip == self.ip and sip != self.ip:
            if sip == 0:
                self.arp_send(ARPOP_REPLY, sip, sha, sha)  # somebody asks whether the address is taken
            else:
                neigh = self.neigh_lookup_create(sip)
                if neigh is not None:
                    self.neigh_update(neigh, sha, NUD_STALE)
                    self.arp_send(ARPOP_REPLY, sip, sha, sha)
        elif op == ARPOP_REPLY:
            known = self.table.get(sip)
            if known is not None:
                self.neigh_update(known, sha, NUD_REACHABLE if skb.pkt_type == PACKET_HOST else NUD_STALE)
        self.skbs.kfree_skb(skb)
