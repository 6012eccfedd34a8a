"""Cutting what is too long for a path (2.6.23 net/ipv4/ip_output.c: ip_fragment(), ip_append_data()).

Interface
    IpSplit.ip_fragment(skb)              send a packet, its data at its IP header, in pieces
    IpSplit.ip_send_datagram(...)         send a datagram of any size up to 65535 bytes with its header

Rules
    * A packet with DF is not cut: the sender, who is this host, gets an ICMP "fragmentation needed" and -EMSGSIZE.
    * A datagram is cut before it is sent: one skb for each piece, from the caller's allocator, which accounts it to the socket.
      The pieces hang in the first one's ``frag_list``, so that hooks see one packet; each then only gets a header. What comes in
      one piece from elsewhere is copied into new skbs, allocated with GFP_ATOMIC.
    * All pieces but the last are multiples of 8 bytes. A checksum that the NIC should fill in is filled in before.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from kemu.kernel.errno import EHOSTUNREACH, EMSGSIZE, ENOMEM
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.checksum import csum_fold, csum_partial, csum_tcpudp_magic
from kemu_net.core.skbuff import CHECKSUM_NONE, CHECKSUM_PARTIAL, SkBuff, skb_bytes
from kemu_net.core.sock import skb_set_owner_w
from kemu_net.core.uapi import IP_PMTUDISC_DO, IP_PMTUDISC_DONT, IP_PMTUDISC_WANT
from kemu_net.ipv4.icmp import ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu_net.core.dst import Dst
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.ipv4.icmp import Icmp
    from kemu_net.ipv4.route import RouteCache

IP_HLEN = 20
IP_DF = 0x4000
IP_MF = 0x2000
IP_MAX = 65535
LL_RESERVED = 16  # LL_RESERVED_SPACE() of Ethernet
COPIED = 0x80  # an option that every fragment carries


class IpSplit:
    """The cutting half of :class:`~kemu_net.ipv4.ip_output.IpOutput`.

    :ivar icmp: set by Inet.
    """

    icmp: Icmp | None = None
    route: RouteCache

    def __init__(self, skbs: SkbAlloc) -> None:
        self.skbs = skbs

    def ip_finish_output2(self, skb: SkBuff) -> int:
        """Give a packet to the next hop."""
        raise NotImplementedError

    def _build_and_send(self, skb: SkBuff, dst: Dst, proto: int, tos: int, ttl: int, df: int) -> int:
        raise NotImplementedError

    # a packet

    def ip_fragment(self, skb: SkBuff) -> int:
        """Send a packet that is longer than its path's MTU in pieces (``ip_fragment()``); 0 or a negative errno."""
        mtu = skb.dst.mtu
        start = skb.nh
        if skb.buf[start + 6] & IP_DF >> 8:
            if self.icmp is not None:
                self.icmp.icmp_send(skb, ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, mtu)
            self.skbs.kfree_skb(skb, "above the MTU")
            return -EMSGSIZE
        ihl = (skb.buf[start] & 0xF) << 2
        header = skb.buf[start : start + ihl]
        if skb.frag_list is not None and self._pieces_fit(skb, ihl, mtu):
            return self._send_pieces(skb, header)
        if skb.ip_summed == CHECKSUM_PARTIAL:
            _checksum_help(skb, ihl)
        return self._copy_pieces(skb, header, (mtu - ihl) & ~7)

    def _pieces_fit(self, skb: SkBuff, ihl: int, mtu: int) -> bool:
        """Tell whether the packets of the fragment list can be sent as they are."""
        size = skb.len - skb.data_len - ihl
        child = skb.frag_list
        if skb.shinfo.dataref > 1 or skb.frags is not None:
            return False
        while child is not None:
            if size & 7 or size + ihl > mtu or child.users > 1 or child.data_len:
                return False
            size = child.len
            child = child.next
        return size + ihl <= mtu

    def _send_pieces(self, skb: SkBuff, header: bytes) -> int:
        """Give each packet of the fragment list a header of its own, and send them (the fast path)."""
        pieces = [skb]
        child = skb.frag_list
        while child is not None:
            pieces.append(child)
            child = child.next
        skb.frag_list = None
        skb.len -= skb.data_len
        skb.data_len = 0
        offset = 0
        error = 0
        dst = skb.dst
        for index, piece in enumerate(pieces):
            payload = skb_bytes(piece)[len(header) if piece is skb else 0 :]
            piece.next = None
            if error:
                self.skbs.kfree_skb(piece, "fragment")
                continue
            flags = 0 if index == len(pieces) - 1 else IP_MF
            self._send_piece(piece, dst, _piece_header(header, offset, flags, len(payload)), payload)
            offset += len(payload)
        return error

    def _copy_pieces(self, skb: SkBuff, header: bytes, size: int) -> int:
        """Copy the packet piece by piece into new skbs (the slow path)."""
        if size <= 0:
            self.skbs.kfree_skb(skb, "above the MTU")
            return -EMSGSIZE
        payload = skb_bytes(skb)[len(header) :]
        field = header[6] << 8 | header[7]
        offset = (field & 0x1FFF) << 3
        error = 0
        for at in range(0, len(payload), size):
            chunk = payload[at : at + size]
            piece = self.skbs.alloc_skb(len(chunk) + len(header) + LL_RESERVED, GFP_ATOMIC)
            if piece is None:
                self.skbs.kfree_skb(skb, "fragment")
                return -ENOMEM
            piece.protocol = skb.protocol
            piece.priority = skb.priority
            if skb.sk is not None:
                skb_set_owner_w(piece, skb.sk)
            more = IP_MF if field & IP_MF or at + size < len(payload) else 0
            piece_header = _piece_header(header, offset + at, more, len(chunk))
            error = self._send_piece(piece, skb.dst, piece_header, chunk)
            if error < 0:
                break
        self.skbs.kfree_skb(skb)
        return error

    def _send_piece(self, piece: SkBuff, dst: Dst, header: bytes, payload: bytes) -> int:
        piece.buf = header + payload
        piece.data = piece.nh = 0
        piece.h = len(header)
        piece.len = len(piece.buf)
        piece.data_len = 0
        piece.dst = dst
        piece.protocol = 0x0800
        piece.ip_summed = CHECKSUM_NONE
        return self.ip_finish_output2(piece)

    # a datagram

    def ip_send_datagram(
        self,
        payload: bytes,
        saddr: int,
        daddr: int,
        proto: int,
        alloc: Callable[[int], SkBuff | int],
        *,
        tos: int = 0,
        ttl: int = 64,
        pmtudisc: int = IP_PMTUDISC_WANT,
    ) -> int:
        """Send a datagram, its transport header and checksum included (``ip_append_data()``, ``ip_push_pending_frames()``).

        :param alloc: gives an skb with room for so many bytes, accounted to the socket, or a negative errno; it may sleep.
        """
        if len(payload) + IP_HLEN > IP_MAX:
            return -EMSGSIZE
        dst = self.route.ip_route_output(daddr, saddr)
        if isinstance(dst, int):
            return -EHOSTUNREACH
        dst.refcnt += 1  # the allocator may sleep
        try:
            return self._append_and_push(payload, dst, proto, alloc, tos, ttl, pmtudisc)
        finally:
            dst.refcnt -= 1

    def _append_and_push(
        self, payload: bytes, dst: Dst, proto: int, alloc: Callable[[int], SkBuff | int], tos: int, ttl: int, pmtudisc: int
    ) -> int:
        fits = len(payload) + IP_HLEN <= dst.mtu
        if not fits and pmtudisc >= IP_PMTUDISC_DO:
            return -EMSGSIZE
        df = IP_DF if pmtudisc >= IP_PMTUDISC_DO else dst.df if fits and pmtudisc != IP_PMTUDISC_DONT else 0
        size = len(payload) if fits else (dst.mtu - IP_HLEN) & ~7
        pieces: list[SkBuff] = []
        for at in range(0, max(len(payload), 1), max(size, 8)):
            chunk = payload[at : at + size]
            piece = alloc(len(chunk) + IP_HLEN + LL_RESERVED)
            if isinstance(piece, int):
                for other in pieces:
                    self.skbs.kfree_skb(other)
                return piece
            piece.buf = chunk
            piece.len = len(chunk)
            pieces.append(piece)
        head = pieces[0]
        for before, after in pairwise(pieces):
            if before is head:
                head.frag_list = after
            else:
                before.next = after
            head.len += after.len
            head.data_len += after.len
        return self._build_and_send(head, dst, proto, tos, ttl, df)


def _piece_header(header: bytes, offset: int, flags: int, size: int) -> bytes:
    """Make the IP header of one piece; all but the first carry only the options that are to be copied."""
    if offset and len(header) > IP_HLEN:
        header = header[:IP_HLEN] + _copied_options(header[IP_HLEN:])
    field = flags | offset >> 3
    bare = b"".join((header[:2], (len(header) + size).to_bytes(2, "big"), header[4:6], field.to_bytes(2, "big"), header[8:10]))
    check = csum_fold(csum_partial(bare + b"\0\0" + header[12:]))
    return bare + check.to_bytes(2, "big") + header[12:]


def _copied_options(options: bytes) -> bytes:
    """Blank out what only the first fragment carries (``ip_options_fragment()``)."""
    data = bytearray(options)
    at = 0
    while at < len(data) and data[at]:
        length = 1 if data[at] == 1 else data[at + 1] if at + 1 < len(data) else 0
        if length < 1 or at + length > len(data) or (length == 1 and data[at] != 1):
            break
        if not data[at] & COPIED:
            data[at : at + length] = b"\1" * length
        at += length
    return bytes(data)


def _checksum_help(skb: SkBuff, ihl: int) -> None:
    """Fill in a checksum that was left to the NIC (``skb_checksum_help()``); the packet becomes linear."""
    packet = skb_bytes(skb)
    segment = packet[ihl:]
    saddr, daddr, proto = int.from_bytes(packet[12:16], "big"), int.from_bytes(packet[16:20], "big"), packet[9]
    field = 6 if proto == 17 else 16
    check = csum_tcpudp_magic(saddr, daddr, proto, segment)
    if proto == 17 and not check:
        check = 0xFFFF
    filled = packet[: ihl + field] + check.to_bytes(2, "big") + packet[ihl + field + 2 :]
    headlen = skb.len - skb.data_len
    skb.buf = skb.buf[: skb.data] + filled[:headlen]
    skb.ip_summed = CHECKSUM_NONE
