"""The receive ring of a NIC: descriptors, their buffers, and the frames that arrived (of the manner of e1000 in 2.6.23).

Interface
    RxRing.arrive(time, frame)       a frame will have arrived completely at ``time``
    RxRing.dma(now)                  move what has arrived by now into descriptors, or lose it
    RxRing.refill()                  give used descriptors new buffers
    RxRing.take()                    the oldest received packet as an skb; only while ``done`` holds one
    RxRing.use_copybreak(length)     from now on copy short frames out of their buffers
    RxRing.resize(data_size, pages)  empty the ring, for buffers of another size

Rules
    * The hardware works lazily: between two calls of dma() nothing but refill() changes how many descriptors have a buffer, and
      dma() runs first, so that counting at the next interrupt gives the same losses as counting at each arrival.
    * A frame that finds no buffer is lost and counted once: under ``charge`` when the last refill stopped because the SKB data
      reserve refused to pay, else under ``nic``.
    * An emergency buffer rests in its descriptor, charged, until a frame uses it.
    * Linear mode: one skb per descriptor with room for the largest frame. Packet-split mode: a small skb for the headers and pages
      for the payload, from netdev_alloc_page() (patch 14).
    * Left out: pages of a half filled descriptor are freed, not kept.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING
from zlib import crc32

from kemu.kernel.history import FRAME
from kemu.mm.gfp import PAGE_SIZE
from kemu_net.core.checksum import CSUM_SMALL, csum_partial, csum_reduce
from kemu_net.core.if_ether import ETH_P_IP
from kemu_net.core.skbuff import (
    CHECKSUM_COMPLETE,
    CHECKSUM_NONE,
    CHECKSUM_UNNECESSARY,
    PACKET_BROADCAST,
    PACKET_HOST,
    PACKET_MULTICAST,
    PACKET_OTHERHOST,
)
from kemu_net.drivers.wire import BROADCAST

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.page import Page
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.skbuff import SkBuff

ETH_HLEN = 14
VLAN_HLEN = 4
HEADER_BUFFER = 128  # E1000_RXBUFFER_128

_from_bytes = int.from_bytes

#: A descriptor's memory: the skb, and the pages of packet-split mode.
Buffer = tuple["SkBuff", "list[Page] | None"]


class RxRing:
    """Descriptors of one NIC.

    :param size: descriptors.
    :param data_size: bytes asked of netdev_alloc_skb().
    :param pages: pages per descriptor; 0 is linear mode.
    :param checksum: the hardware verifies TCP and UDP checksums; or "complete": it gives the sum of each frame.
    :ivar buffers: descriptors that the hardware may fill.
    :ivar done: descriptors that the hardware has filled.
    :ivar incoming: frames by the time of their arrival, which may lie ahead.
    :ivar promiscuous: take what is for other cards, too.
    :ivar missed: frames that found the ring dry; ``too_long``: frames that fit into no buffer.
    :ivar alloc_failed: times that a refill stopped for want of memory.
    :ivar starved: the last refill stopped for want of memory.
    """

    def __init__(
        self, kernel: Kernel, skbs: SkbAlloc, mac: bytes, size: int, data_size: int, pages: int, checksum: bool | str
    ) -> None:
        self.skbs = skbs
        self.stats = skbs.stats
        self.history = kernel.history
        self.mac = mac
        self.size = size
        self.promiscuous = False
        self.copybreak = 0
        self.missed = self.too_long = 0
        self.checksum = checksum
        self.buffers: deque[Buffer] = deque()
        self.done: deque[tuple[Buffer, bytes]] = deque()
        self.incoming: deque[tuple[int, bytes]] = deque()
        self.alloc_failed = 0
        self.starved = False
        self.charge_refused = False
        self.resize(data_size, pages)
        self._tp_lost = kernel.trace.point("net:rx_ring_lost", ("time", "len", "why"))

    def resize(self, data_size: int, pages: int) -> None:
        """Give descriptors other buffers; the ring is empty afterwards, and frames in it are lost."""
        self._empty()
        self.pages = pages
        self.data_size = HEADER_BUFFER if pages else data_size
        self.capacity = pages * PAGE_SIZE + HEADER_BUFFER if pages else data_size

    # hardware

    def arrive(self, time: int, frame: bytes) -> None:
        """Note a frame on its way in; frames that were delayed keep the order of arrival."""
        incoming = self.incoming
        if incoming and time < incoming[-1][0]:
            later = []
            while incoming and time < incoming[-1][0]:
                later.append(incoming.pop())
            incoming.append((time, frame))
            incoming.extend(reversed(later))
            return
        incoming.append((time, frame))

    def dma(self, now: int) -> int:
        """Fill descriptors with what has arrived; returns how many packets now wait for the driver."""
        incoming = self.incoming
        buffers = self.buffers
        done = self.done
        mac = self.mac
        while incoming and incoming[0][0] <= now:
            time, frame = incoming.popleft()
            length = len(frame)
            self.history.add(FRAME, time, length, crc32(frame))
            if length < ETH_HLEN or length > self.capacity or (frame[:6] != mac and not frame[0] & 1 and not self.promiscuous):
                self.too_long += length > self.capacity
                self._lose(time, length, "not for this NIC")
            elif buffers:
                done.append((buffers.popleft(), frame))
            else:
                self._lose(time, length, "charge" if self.charge_refused else "nic")
        return len(done)

    def _lose(self, time: int, length: int, why: str) -> None:
        """Count a frame that enters no descriptor."""
        if why in self.stats.drops:
            self.stats.drops[why] += 1
            self.missed += 1
        else:
            self.stats.ignore(why)
        if self._tp_lost.enabled:
            self._tp_lost(time, length, why)

    # driver

    def refill(self) -> None:
        """Give every used descriptor a buffer, as far as there is memory (``e1000_alloc_rx_buffers()``)."""
        skbs = self.skbs
        buffers = self.buffers
        room = self.size - len(buffers) - len(self.done)
        skbs.charge_refused = False
        self.starved = False
        while room > 0:
            skb = skbs.netdev_alloc_skb(self, self.data_size)
            pages = None
            if skb is not None and self.pages:
                pages = self._alloc_pages(skb)
                if pages is None:
                    skb = None
            if skb is None:
                self.alloc_failed += 1
                self.starved = True
                break
            buffers.append((skb, pages))
            room -= 1
        self.charge_refused = skbs.charge_refused

    def _alloc_pages(self, skb: SkBuff) -> list[Page] | None:
        """Give a packet-split descriptor its pages, or free everything and give None."""
        pages: list[Page] = []
        while len(pages) < self.pages:
            page = self.skbs.netdev_alloc_page(self)
            if page is None:
                self._free_buffer((skb, pages))
                return None
            pages.append(page)
        return pages

    def _free_buffer(self, buffer: Buffer) -> None:
        """Free a descriptor's memory."""
        skb, pages = buffer
        for page in pages or ():
            self.skbs.netdev_free_page(self, page)
        self.skbs.kfree_skb(skb)

    def take(self) -> SkBuff:
        """Make the oldest filled descriptor a packet, its data at the network header (``eth_type_trans()``)."""
        (skb, pages), frame = self.done.popleft()
        head = frame[:6]
        if head == self.mac:
            skb.pkt_type = PACKET_HOST
        elif frame[0] & 1:
            skb.pkt_type = PACKET_BROADCAST if head == BROADCAST else PACKET_MULTICAST
        else:
            skb.pkt_type = PACKET_OTHERHOST
        skb.protocol = frame[12] << 8 | frame[13]
        if pages is None:
            skb.buf = frame
            skb.len = len(frame) - ETH_HLEN
        else:
            self._split(skb, pages, frame)
        skb.data = ETH_HLEN
        if self.checksum is True:
            skb.ip_summed = CHECKSUM_UNNECESSARY if verify_checksum(frame) else CHECKSUM_NONE
        elif self.checksum:
            _sum_up(skb, frame)
        return skb

    def use_copybreak(self, length: int) -> None:
        """Copy frames of fewer bytes into skbs of their size; their buffers stay in the ring (E1000_CB_LENGTH)."""
        self.copybreak = length
        self.take = self._take_copying  # type: ignore[method-assign]  # chosen once: others pay nothing

    def _take_copying(self) -> SkBuff:
        """Be take() of a ring with copybreak. Without memory for the small skb the frame keeps its large one."""
        (skb, pages), frame = self.done[0]
        if len(frame) < self.copybreak:
            small = self.skbs.netdev_alloc_skb(self, len(frame))
            if small is not None:
                self.done[0] = ((small, None), frame)
                self.buffers.append((skb, pages))
        return type(self).take(self)

    def _split(self, skb: SkBuff, pages: list[Page], frame: bytes) -> None:
        """Leave the headers in the skb and attach pages with the payload; unused pages are freed."""
        header, end = split_point(frame)
        skb.buf = frame[:header]
        skb.len = header - ETH_HLEN
        used = 0
        for page in pages:
            if header < end:
                chunk = frame[header : min(header + PAGE_SIZE, end)]
                page.contents = chunk
                self.skbs.skb_add_rx_frag(skb, used, page, 0, len(chunk))
                used += 1
                header += len(chunk)
            else:
                self.skbs.netdev_free_page(self, page)

    def close(self) -> None:
        """Free all buffers; frames that nobody took are lost."""
        self._empty()
        self.incoming.clear()

    def _empty(self) -> None:
        """Free what descriptors hold."""
        while self.buffers:
            self._free_buffer(self.buffers.popleft())
        while self.done:
            self._free_buffer(self.done.popleft()[0])


def _sum_up(skb: SkBuff, frame: bytes) -> None:
    """Be a card that sums up what it receives and understands nothing of it (CHECKSUM_COMPLETE); padding would be in the sum."""
    length = len(frame) - ETH_HLEN
    if skb.protocol == ETH_P_IP and length >= 20 and frame[16] << 8 | frame[17] == length:
        skb.csum = csum_partial(frame[ETH_HLEN:])
        skb.ip_summed = CHECKSUM_COMPLETE


def split_point(frame: bytes) -> tuple[int, int]:
    """Tell where a packet's headers end and where the packet ends; what the hardware does not know is header up to its buffer."""
    length = len(frame)
    if length >= 34 and frame[12:15] == b"\x08\x00\x45" and frame[20] & 0x3F == 0 and frame[21] == 0:
        total = ETH_HLEN + (frame[16] << 8 | frame[17])
        proto = frame[23]
        header = 0
        if proto == 6 and length >= 54:
            header = 34 + (frame[46] >> 4 << 2)
        elif proto == 17 and length >= 42:
            header = 42
        if 34 < header <= HEADER_BUFFER and header <= total <= length:
            return header, total
    return min(length, HEADER_BUFFER), length


def verify_checksum(frame: bytes) -> bool:
    """Tell whether ``frame`` is an unfragmented IPv4 TCP or UDP packet without options whose checksum is right."""
    length = len(frame)
    if length < 42 or frame[12:15] != b"\x08\x00\x45" or frame[20] & 0x3F or frame[21]:
        return False
    proto = frame[23]
    end = ETH_HLEN + (frame[16] << 8 | frame[17])
    if end > length or end < 42:
        return False
    if proto == 17:
        if frame[40:42] == b"\0\0" or (frame[38] << 8 | frame[39]) != end - 34:
            return False
    elif proto != 6:
        return False
    # source and destination address stand right before the segment: one number for them and the segment
    size = end - 34
    total = _from_bytes(frame[26:end], "big")
    if size > CSUM_SMALL:
        total = csum_reduce(total)
    if size & 1:
        total <<= 8
    return not (total + proto + size) % 65535
