"""ARP (2.6.23 net/ipv4/arp.c; RFC 826).

Interface
    Arp(kernel, dev, slub, nic, ip)   the neighbour table of IPv4 (core/neighbour.py has what a neighbour is and does)
    Arp.arp_send(...)                 send one ARP packet
    Arp.arp_rcv(skb)                  the handler of ETH_P_ARP
    Arp.route                         the route cache, handed in by Inet: a request looks its sender up there, as in the kernel

Rules
    * An answer proves that the neighbour hears us if it was sent to us alone. Every other packet (a request, a broadcast answer,
      somebody's announcement of his own address) only tells an address: STALE, and only of who is in the table already; who asks
      for our address enters it.
    * An address that changed less than a second ago (locktime) is not changed again by an answer: of several, the first counts.
    * A request needs a route to its sender, allocated with GFP_ATOMIC on a miss; without memory for it there is no answer.
    * Left out: proxy ARP, own announcements (2.6.23 sends none), arp_ignore and its kin.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.dev import ETH_P_ARP, ETH_P_IP
from kemu_net.core.neighbour import NUD_NOARP, NUD_PROBE, NUD_REACHABLE, NUD_STALE, Neighbour, NeighTable
from kemu_net.core.skbuff import PACKET_HOST, PACKET_OTHERHOST, SkBuff, skb_bytes

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.slub import Slub
    from kemu_net.core.dev import Dev, NetDevice
    from kemu_net.ipv4.route import RouteCache

ARPOP_REQUEST = 1
ARPOP_REPLY = 2
BROADCAST = b"\xff" * 6
INADDR_BROADCAST = 0xFFFFFFFF

_ARP = struct.Struct("!HHBBH6sI6sI")


class Arp(NeighTable):
    """The neighbour table of one interface.

    :param ip: own address.
    """

    def __init__(self, kernel: Kernel, dev: Dev, slub: Slub, nic: NetDevice, ip: int) -> None:
        super().__init__(kernel, dev, slub, nic, "arp_cache", ETH_P_IP)
        self.ip = ip
        self.arp_cache = self.cache
        self.route: RouteCache | None = None
        dev.dev_add_pack(ETH_P_ARP, self.arp_rcv)

    def constructor(self, neigh: Neighbour) -> None:
        """Give the broadcast address its hardware address (``arp_constructor()``)."""
        if neigh.ip == INADDR_BROADCAST:
            self._set_address(neigh, BROADCAST)
            neigh.state = NUD_NOARP

    def solicit(self, neigh: Neighbour) -> None:
        """Ask the neighbour itself, or everybody (``arp_solicit()``)."""
        target = neigh.ha if neigh.state & NUD_PROBE and neigh.ha else BROADCAST
        self.arp_send(ARPOP_REQUEST, neigh.ip, target, b"\0" * 6)

    def error_report(self, neigh: Neighbour, skb: SkBuff) -> None:
        """Tell the route that its host does not answer, and free the packet (``arp_error_report()``)."""
        if self.route is not None:
            self.route.ipv4_link_failure(skb)
        super().error_report(neigh, skb)

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
        """Check an ARP packet (``arp_rcv()``)."""
        if skb.pkt_type == PACKET_OTHERHOST:
            self.skbs.kfree_skb(skb, "arp: for another host")
            return
        if skb.len < 28:
            self.skbs.kfree_skb(skb, "arp: short")
            return
        packet = skb.buf[skb.data :] if not skb.data_len else skb_bytes(skb)
        hardware, proto, hlen, plen, op, sha, sip, _tha, tip = _ARP.unpack_from(packet)
        if (hardware, proto, hlen, plen) != (1, ETH_P_IP, 6, 4) or op not in (ARPOP_REQUEST, ARPOP_REPLY) or sha[0] & 1:
            self.skbs.kfree_skb(skb, "arp: malformed")
            return
        if tip >> 24 == 127 or tip >> 28 == 0xE:
            self.skbs.kfree_skb(skb, "arp: malformed")
            return
        self._process(op, sha, sip, tip, skb.pkt_type == PACKET_HOST)
        self.skbs.kfree_skb(skb)

    def _process(self, op: int, sha: bytes, sip: int, tip: int, for_us_alone: bool) -> None:
        """Answer, or learn (``arp_process()``)."""
        if op == ARPOP_REQUEST and sip == 0:
            if tip == self.ip:
                self.arp_send(ARPOP_REPLY, sip, sha, sha)  # somebody asks whether the address is taken
            return
        if op == ARPOP_REQUEST and tip == self.ip and self._has_route(tip, sip):
            asker = self.neigh_lookup_create(sip)
            if asker is not None:
                self.neigh_update(asker, sha, NUD_STALE)
                self.arp_send(ARPOP_REPLY, sip, sha, sha)
            return
        known = self.table.get(sip)
        if known is not None:
            state = NUD_REACHABLE if op == ARPOP_REPLY and for_us_alone else NUD_STALE
            self.neigh_update(known, sha, state, override=self.sched.jiffies > known.updated + self.locktime)

    def _has_route(self, tip: int, sip: int) -> bool:
        return self.route is None or not isinstance(self.route.ip_route_input(tip, sip), int)
