"""The socket buffer: ``struct sk_buff`` and ``struct skb_shared_info`` (2.6.23 include/linux/skbuff.h, net/core/skbuff.c).

Interface
    SkBuff          one packet, or one view of a packet that clones share
    SharedInfo      what all clones of one data area share: the reference count
    skb_push, skb_pull, skb_trim, skb_put_bytes, skb_headlen, skb_linear, skb_bytes    pure data functions
    skb_reserve, skb_headroom, skb_tailroom                                            room in the data area

Rules
    * ``buf`` is immutable ``bytes``. Clones share the object; whoever changes a header replaces ``buf`` of its own skb only. The
      bytes of the packet are ``buf[data : data + len - data_len]``, then the fragments: a clone costs no copy, as in the kernel.
    * ``addr`` and ``head`` are addresses of real slab objects; ``head`` is shared by all clones and freed with the last dataref.
    * ``frags`` is one list object for all clones of a data area: entries are ``(page, offset, size)``. Contents of a fragment are
      read when somebody looks (zero copy): a page that changes under transmission changes on the wire.
    * Sizes of x86_64 with all options on. ``truesize`` does not count the shared info, as in the kernel.
    * Where the bytes lie in their area is fixed by skb_reserve() only. Until then the whole rest of the area is room on both sides.
      Who runs out of room with skb_push() or skb_put_bytes() has a panic, as in the kernel. IP output builds its headers in one
      step and does not ask: its skbs were made with MAX_TCP_HEADER or LL_MAX_HEADER to spare.
    * Left out: time stamps, marks, secpath.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kemu.errors import KernelBug

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.mm.page import Page

SIZEOF_SK_BUFF = 232
SIZEOF_FCLONE = 2 * SIZEOF_SK_BUFF + 4  # two sk_buffs and fclone_ref
SIZEOF_SHARED_INFO = 312  # 24 + MAX_SKB_FRAGS * 16
MAX_SKB_FRAGS = 18  # 65536 / PAGE_SIZE + 2
SMP_CACHE_BYTES = 64
NET_SKB_PAD = 16

SKB_ALLOC_FCLONE = 1
SKB_ALLOC_RX = 2

SKB_FCLONE_UNAVAILABLE = 0
SKB_FCLONE_ORIG = 1
SKB_FCLONE_CLONE = 2

CHECKSUM_NONE = 0
CHECKSUM_PARTIAL = 1
CHECKSUM_UNNECESSARY = 2
CHECKSUM_COMPLETE = 3

PACKET_HOST = 0
PACKET_BROADCAST = 1
PACKET_MULTICAST = 2
PACKET_OTHERHOST = 3
PACKET_OUTGOING = 4

_ZERO_PAGE = bytes(4096)


def SKB_DATA_ALIGN(size: int) -> int:
    """Round a data size up to a cache line (``SKB_DATA_ALIGN()``)."""
    return (size + SMP_CACHE_BYTES - 1) & ~(SMP_CACHE_BYTES - 1)


class SharedInfo:
    """The shared part of ``struct skb_shared_info``: who still looks at the data.

    :ivar dataref: skbs that share the data area.
    """

    __slots__ = ("dataref",)

    def __init__(self) -> None:
        self.dataref = 1


class SkBuff:
    """``struct sk_buff``. Made by :class:`~kemu_net.core.skb_alloc.SkbAlloc` only.

    Offsets ``mac``, ``nh`` and ``h`` count from the start of ``buf``. ``saddr``/``daddr`` and ``seq`` ... ``ack_seq`` stand for the
    control block ``cb[48]`` that IP and TCP share.

    :ivar addr: the slab object of the head.
    :ivar head: the slab object of the data area.
    :ivar end: aligned size of the data area, without the shared info (``end - head``).
    :ivar reserved: bytes of the area before ``buf``, or -1 while nothing fixes that.
    :ivar emergency: 1 when the data area came from the charged reserve (patch 19).
    :ivar companion: of an fclone original, its clone once it was used; of a clone, the original.
    """

    __slots__ = (
        "ack_seq",
        "addr",
        "buf",
        "cloned",
        "companion",
        "csum",
        "daddr",
        "data",
        "data_len",
        "destructor",
        "dev",
        "dst",
        "emergency",
        "end",
        "end_seq",
        "fclone",
        "flags",
        "frag_list",
        "frags",
        "h",
        "head",
        "ip_summed",
        "len",
        "mac",
        "next",
        "nh",
        "nohdr",
        "pkt_type",
        "priority",
        "protocol",
        "reserved",
        "sacked",
        "saddr",
        "seq",
        "shinfo",
        "sk",
        "truesize",
        "users",
        "when",
    )

    def __init__(self, addr: int, head: int, end: int, emergency: int) -> None:
        self.addr = addr
        self.head = head
        self.end = end
        self.truesize = end + SIZEOF_SK_BUFF
        self.emergency = emergency
        self.users = 1
        self.shinfo = SharedInfo()
        self.buf: bytes = b""
        self.data = self.len = self.data_len = 0
        self.reserved = -1
        self.frags: list[tuple[Page, int, int]] | None = None
        self.frag_list: SkBuff | None = None
        self.fclone = self.cloned = self.nohdr = 0
        self.companion: SkBuff | None = None
        self.sk: Any = None
        self.dev: Any = None
        self.dst: Any = None
        self.destructor: Callable[[SkBuff], None] | None = None
        self.next: SkBuff | None = None
        self.protocol = self.pkt_type = self.priority = 0
        self.mac = self.nh = self.h = 0
        self.ip_summed = self.csum = 0
        self.saddr = self.daddr = 0
        self.seq = self.end_seq = self.when = self.flags = self.sacked = self.ack_seq = 0

    def __repr__(self) -> str:
        """Say what a person wants to know of a packet."""
        kind = "emergency " if self.emergency else ""
        frags = f" frags {len(self.frags)}" if self.frags else ""
        return f"<{kind}skb {self.addr:#x} len {self.len}{frags} truesize {self.truesize} proto {self.protocol:#06x}>"


def skb_headlen(skb: SkBuff) -> int:
    """Give the bytes in the linear part (``skb_headlen()``)."""
    return skb.len - skb.data_len


def skb_linear(skb: SkBuff) -> bytes:
    """Give the linear part."""
    data = skb.data
    return skb.buf[data : data + skb.len - skb.data_len]


def skb_reserve(skb: SkBuff, count: int) -> None:
    """Set ``count`` bytes at the front of an empty skb's area aside (``skb_reserve()``)."""
    if skb.len or skb.buf or count > skb_tailroom(skb):
        raise KernelBug(f"skb_reserve: {count} bytes of {skb.end}", state=skb)
    skb.reserved = max(skb.reserved, 0) + count


def skb_headroom(skb: SkBuff) -> int:
    """Give the bytes of room before the data (``skb_headroom()``)."""
    if skb.reserved < 0:
        return skb.end - (skb.len - skb.data_len)
    return skb.reserved + skb.data


def skb_tailroom(skb: SkBuff) -> int:
    """Give the bytes of room behind the data; none when there are fragments (``skb_tailroom()``)."""
    if skb.data_len:
        return 0
    return skb.end - max(skb.reserved, 0) - (skb.data if skb.reserved >= 0 else 0) - skb.len


def skb_push(skb: SkBuff, header: bytes) -> None:
    """Put ``header`` before the data (``skb_push()``); ``data`` becomes 0, so earlier offsets of this skb no longer hold."""
    room = skb_headroom(skb)
    if len(header) > room:
        raise KernelBug(f"skb_under_panic: {len(header)} bytes before the data, room for {room}", state=skb)
    if skb.reserved >= 0:
        skb.reserved = room - len(header)
    data = skb.data
    skb.buf = header + skb.buf[data:] if data else header + skb.buf
    skb.data = 0
    skb.len += len(header)


def skb_pull(skb: SkBuff, count: int) -> bool:
    """Step over ``count`` bytes of the linear part (``skb_pull()``); False when there are not so many."""
    if count > skb.len - skb.data_len:
        return False
    skb.data += count
    skb.len -= count
    return True


def skb_trim(skb: SkBuff, length: int) -> None:
    """Cut a linear skb to ``length`` bytes (``skb_trim()``); longer fragments are the caller's business."""
    if skb.len > length and not skb.data_len:
        skb.len = length


def skb_put_bytes(skb: SkBuff, payload: bytes) -> None:
    """Append to the linear part of an skb without fragments (``skb_put()`` and a copy)."""
    if len(payload) > skb_tailroom(skb):
        raise KernelBug(f"skb_over_panic: {len(payload)} bytes behind the data, room for {skb_tailroom(skb)}", state=skb)
    tail = skb.data + skb.len
    skb.buf = skb.buf[:tail] + payload if tail else payload
    skb.len += len(payload)


def skb_bytes(skb: SkBuff, offset: int = 0) -> bytes:
    """Read the packet from ``offset`` to its end, fragments as their pages are now (``skb_copy_bits()``)."""
    data = skb.data
    linear = skb.buf[data : data + skb.len - skb.data_len]
    if not skb.data_len:
        return linear[offset:] if offset else linear
    pieces = [linear]
    if skb.frags is not None:
        for page, start, size in skb.frags:
            pieces.append((page.contents or _ZERO_PAGE)[start : start + size])
    child = skb.frag_list
    while child is not None:
        pieces.append(skb_bytes(child))
        child = child.next
    joined = b"".join(pieces)
    return joined[offset:] if offset else joined
