"""A gigabit NIC with rings, interrupt throttling and polling (of the manner of e1000 in 2.6.23).

Interface
    Nic(kernel, dev, wire, mac, ...)     a net_device; Nic.open() fills the ring and attaches to the wire
    Nic.deliver(time, frame)             the wire: a frame arrives at ``time``
    Nic.poll(quota)                      the driver, in NET_RX softirq
    Nic.hard_start_xmit(skb)             the driver's way out
    Nic.change_mtu(mtu)                  with new buffers, while it is open; who must know hangs a function into ``mtu_changed``
    Nic.ethtool_stats()                  what ``ethtool -S`` would print
    Nic.dry_probe()                      for the judge: why this NIC will never receive again by itself, or None

Rules
    * One interrupt for a burst: it comes ``itr_ns`` after the first frame that arrives while interrupts are on, and stays masked
      until a poll finds less than its quota. Finished transmissions alone wait for TX_INTERRUPT_NS, or for any poll before, as long
      as half of their ring is free.
    * The ring is refilled when 16 descriptors are used up, and at the end of every poll, also one that found nothing. A dry ring
      gives no interrupt by itself: the watchdog raises one every 2 s as long as the ring is dry. Its timer runs only then.
    * The bytes of a frame are put together when it enters the transmit ring; fragments are read then, and then an unfinished
      checksum is filled in (CHECKSUM_PARTIAL: the field is zero, the pseudo header comes from the IP header). The skb is freed by
      the poll that follows the end of its transmission.
    * Each packet takes one transmit descriptor for its linear part and one per fragment. The transmit ring holds the
      largest packet, however small the receive ring is.
    * Without ``tx_checksum`` the driver's CPU does what the hardware would, and pays for it.
    * Frames for other cards are taken in promiscuous mode only; frames to a group always (as with IFF_ALLMULTI).
    * Left out: segmentation offload, multicast filters, link negotiation. Generic receive offload is younger (2.6.29), and it would
      merge emergency packets with ordinary ones before anybody has asked which socket they are for.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from kemu.errors import ConfigError
from kemu.kernel.costs import CHECKSUM_PAGE, IP_RX, IP_TX, NIC_RX_FRAME, NIC_TX_FRAME
from kemu.kernel.timer import Timer
from kemu.mm.gfp import PAGE_SIZE, get_order
from kemu.mm.page import ZERO_PAGE
from kemu_net.core.checksum import CSUM_SMALL, csum_reduce
from kemu_net.core.dev import NETDEV_TX_BUSY, NETDEV_TX_OK
from kemu_net.core.skbuff import CHECKSUM_PARTIAL, MAX_SKB_FRAGS, NET_SKB_PAD, SIZEOF_SHARED_INFO, SKB_DATA_ALIGN
from kemu_net.drivers.rx_ring import ETH_HLEN, VLAN_HLEN, RxRing

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu.kernel.cpu import Cpu, Event
    from kemu_net.core.dev import Dev
    from kemu_net.core.skbuff import SkBuff
    from kemu_net.drivers.wire import Wire

ETH_ZLEN = 60
RX_BUFFER_WRITE = 16  # E1000_RX_BUFFER_WRITE
WATCHDOG_JIFFIES = 500
TX_QUEUE_LEN = 1000
TX_WAKE_THRESHOLD = 32
TX_INTERRUPT_NS = 2_000_000

_from_bytes = int.from_bytes


class Nic:
    """One network card and its driver.

    :param mac: six bytes.
    :param ring: descriptors in each of the two rings.
    :param packet_split: receive headers into small skbs and payload into pages (patch 14's subject).
    :param rx_checksum: verify checksums in hardware, or only sum frames up ("complete"); ``tx_checksum``: fill them in there.
    :param promiscuous: take frames for other cards, too.
    :param copybreak: copy frames of fewer bytes into skbs of their size, and use the buffer again (linear mode). 2.6.23's e1000 did
        that below 256 bytes; 0, never, is what the series was reckoned with.
    :param itr_ns: interrupt throttling: delay of an interrupt after its first cause.
    :param cpu: the CPU that gets the interrupts; the first one if not given.
    """

    def __init__(
        self,
        kernel: Kernel,
        dev: Dev,
        wire: Wire,
        mac: bytes,
        *,
        mtu: int = 1500,
        ring: int = 256,
        packet_split: bool = False,
        rx_checksum: bool | str = True,
        tx_checksum: bool = True,
        promiscuous: bool = False,
        copybreak: int = 0,
        itr_ns: int = 30_000,
        cpu: Cpu | None = None,
        name: str = "eth0",
    ) -> None:
        if len(mac) != 6 or mac[0] & 1:
            raise ConfigError(f"nic: {mac.hex(':')} is not the address of one card")
        if ring < 8:
            raise ConfigError(f"nic: ring is at least 8, not {ring}")
        _check_mtu(mtu)
        self.kernel = kernel
        self.sched = kernel.sched
        self.dev = dev
        self.skbs = dev.skbs
        self.stats = dev.stats
        self.wire = wire
        self.mac = mac
        self.mtu = mtu
        self.mtu_changed: list[Callable[[], object]] = []
        self.packet_split = packet_split
        self.tx_checksum = tx_checksum
        self.name = name
        self.itr_ns = itr_ns
        self.cpu = kernel.cpus[0] if cpu is None else cpu
        self.rx = RxRing(kernel, dev.skbs, mac, ring, *self._buffers_for(mtu), rx_checksum)
        self.rx.promiscuous = promiscuous
        if copybreak and not packet_split:
            self.rx.use_copybreak(copybreak)
        self.tx_size = max(ring, MAX_SKB_FRAGS + 1)
        self.tx_wake = min(TX_WAKE_THRESHOLD, self.tx_size // 2)
        self.tx_used = 0
        self.tx_pending: deque[tuple[int, int, SkBuff]] = deque()  # free at, descriptors, packet
        self.tx_queue_len = TX_QUEUE_LEN
        self.qdisc: deque[SkBuff] = deque()
        self.stopped = False
        self.irq_masked = False
        self.irq_event: Event | None = None
        self.tx_event: Event | None = None
        self.watchdog = Timer(f"{name} watchdog", self._watchdog, None)
        self.is_open = False
        self._tp_rx = kernel.trace.point("net:napi_poll", ("name", "work", "buffers"))

    def _buffers_for(self, mtu: int) -> tuple[int, int]:
        """Give the size of a receive buffer, and how many pages it has in packet-split mode."""
        pages = -(-mtu // 4096) if self.packet_split else 0
        return (mtu + ETH_HLEN + VLAN_HLEN + 18 if mtu > 1500 else 1536), pages

    def open(self) -> None:
        """Fill the ring and plug the cable in (``e1000_open()``)."""
        self.rx.refill()
        self.wire.attach(self)
        self.is_open = True

    def close(self) -> None:
        """Stop and free all buffers (``e1000_close()``)."""
        self.is_open = False
        self.kernel.timers.del_timer(self.watchdog)
        for event in (self.irq_event, self.tx_event):
            if event is not None:
                event.cancel()
        self.irq_event = self.tx_event = None
        self.rx.close()
        while self.tx_pending:
            self.skbs.kfree_skb(self.tx_pending.popleft()[2])
        while self.qdisc:
            self.skbs.kfree_skb(self.qdisc.popleft())
        self.tx_used = 0

    def change_mtu(self, mtu: int) -> None:
        """Use another MTU from now on (``e1000_change_mtu()``): an open card is reset, and what lies in its ring is lost."""
        _check_mtu(mtu)
        self.mtu = mtu
        self.rx.resize(*self._buffers_for(mtu))
        if self.is_open:
            self.rx.refill()
            self._watch_dry_ring()
        for changed in self.mtu_changed:
            changed()

    # interrupts

    def deliver(self, time: int, frame: bytes) -> None:
        """Take a frame from the wire; called from the sender's context, so nothing of this machine may run here."""
        if self.is_open:
            incoming = self.rx.incoming
            if incoming and time < incoming[-1][0]:
                self.rx.arrive(time, frame)
            else:  # as nearly all do: RxRing.arrive() without the call
                incoming.append((time, frame))
            if self.irq_masked:
                return
            time += self.itr_ns
            event = self.irq_event
            if event is not None:
                if event.time <= time:
                    return
                event.cancel()  # a frame that comes before those that are already known of
            self.irq_event = self.cpu.post(time, self._interrupt, None)

    def _interrupt(self, _arg: object) -> None:
        """Start polling if a packet came in (``e1000_intr()``); frames that found no buffer give no interrupt."""
        self.irq_event = None
        if self.rx.dma(self.cpu.now):
            self._schedule()
        elif not self.irq_masked:
            self._arm()

    def _tx_interrupt(self, _arg: object) -> None:
        """Start polling if transmissions have ended and no poll has cleaned them up."""
        self.tx_event = None
        pending = self.tx_pending
        if not pending:
            return
        if pending[0][0] <= self.cpu.now:
            self._schedule()
        self.tx_event = self.cpu.post(max(pending[-1][0], self.cpu.now) + TX_INTERRUPT_NS, self._tx_interrupt, None)

    def _schedule(self) -> None:
        """Mask the interrupt and put the driver on the poll list."""
        if not self.irq_masked:
            self.irq_masked = True
            self.dev.netif_rx_schedule(self)

    def _arm(self) -> None:
        """Expect an interrupt for the first frame that still lies ahead."""
        incoming = self.rx.incoming
        if incoming and self.irq_event is None:
            self.irq_event = self.cpu.post(incoming[0][0] + self.itr_ns, self._interrupt, None)

    def _watchdog(self, _data: object) -> None:
        """Raise a receive interrupt: the only thing that wakes a dry ring (``e1000_watchdog()``)."""
        if self.is_open:
            self._schedule()

    # receive

    def poll(self, quota: int) -> int:
        """Clean both rings and refill (``e1000_clean()``)."""
        self._clean_tx()
        rx = self.rx
        incoming = rx.incoming
        done = rx.done
        take = rx.take
        spend = self.sched.spend
        receive = self.dev.netif_receive_skb
        stats = self.stats
        cpu = self.cpu
        work = used = 0
        rx.dma(cpu.now)
        while done and work < quota:
            skb = take()
            work += 1
            used += 1
            stats.rx_frames += 1
            skb.dev = self
            spend(NIC_RX_FRAME + IP_RX)
            receive(skb)
            if incoming and incoming[0][0] <= cpu.now:
                rx.dma(cpu.now)
            if used >= RX_BUFFER_WRITE:
                rx.refill()
                used = 0
        rx.refill()
        if self._tp_rx.enabled:
            self._tp_rx(self.name, work, len(rx.buffers))
        if work < quota:
            self.dev.netif_rx_complete(self)
            self.irq_masked = False
            self._arm()
            if not rx.buffers and rx.starved:
                self._watch_dry_ring()
        return work

    def _watch_dry_ring(self) -> None:
        """Let the watchdog look after a ring that is dry for want of memory."""
        if not self.rx.buffers and self.rx.starved and not self.watchdog.pending:
            self.kernel.timers.mod_timer(self.watchdog, self.sched.jiffies + WATCHDOG_JIFFIES)

    # transmit

    def hard_start_xmit(self, skb: SkBuff) -> int:
        """Put a frame into the transmit ring (``e1000_xmit_frame()``)."""
        frags = skb.frags
        need = 1 if frags is None else 1 + len(frags)
        if self.tx_used + need > self.tx_size:
            self.stopped = True
            return NETDEV_TX_BUSY
        data = skb.data
        end = data + skb.len - skb.data_len
        frame = skb.buf
        if data or len(frame) != end:
            frame = frame[data:end]
        if skb.data_len:
            pieces = [frame]
            for page, offset, size in frags or ():
                pieces.append((page.contents or ZERO_PAGE)[offset : offset + size])
            frame = b"".join(pieces)
        if skb.ip_summed == CHECKSUM_PARTIAL:
            frame = fill_checksum(frame, skb.h - data)
            if not self.tx_checksum:  # skb_checksum_help()
                self.sched.spend(CHECKSUM_PAGE * len(frame) >> 12)
        if len(frame) < ETH_ZLEN:
            frame = frame.ljust(ETH_ZLEN, b"\0")
        self.tx_used += need
        self.stats.tx_frames += 1
        free_at = self.wire.transmit(self, frame, self.sched.cpu.now)
        self.tx_pending.append((free_at, need, skb))
        event = self.tx_event
        if event is None:
            self.tx_event = self.cpu.post(free_at + TX_INTERRUPT_NS, self._tx_interrupt, None)
        elif self.tx_used * 2 > self.tx_size and event.time > free_at:
            event.cancel()
            self.tx_event = self.cpu.post(free_at, self._tx_interrupt, None)
        self.sched.spend(NIC_TX_FRAME + IP_TX)
        return NETDEV_TX_OK

    def _clean_tx(self) -> None:
        """Free what has left (``e1000_clean_tx_irq()``)."""
        pending = self.tx_pending
        now = self.cpu.now
        kfree_skb = self.skbs.kfree_skb
        while pending and pending[0][0] <= now:
            _, used, skb = pending.popleft()
            self.tx_used -= used
            kfree_skb(skb)
        if self.stopped and self.tx_size - self.tx_used >= self.tx_wake:
            self.dev.netif_wake_queue(self)

    # for people

    def receive_order(self) -> int:
        """Give the order of the largest block that a refill asks the page allocator for, at most: what a dry ring waits for."""
        slub = self.skbs.slub
        classes = max(cache.order for cache in slub.kmalloc_caches if cache is not None)
        whole = SKB_DATA_ALIGN(self.rx.data_size + NET_SKB_PAD) + SIZEOF_SHARED_INFO
        return max(classes, get_order(whole) if whole > PAGE_SIZE >> 1 else 0)

    def ethtool_stats(self) -> dict[str, int]:
        """Give the driver's own counters under their names in e1000 (``e1000_gstrings_stats``)."""
        rx = self.rx
        return {
            "rx_packets": self.stats.rx_frames,
            "tx_packets": self.stats.tx_frames,
            "rx_missed_errors": rx.missed,
            "rx_no_buffer_count": rx.missed,
            "rx_long_length_errors": rx.too_long,
            "alloc_rx_buff_failed": rx.alloc_failed,
            "tx_busy": int(self.stopped),
        }

    def dry_probe(self) -> str | None:
        """Tell why no frame can come in any more, or None while one can (judge.closed_probes)."""
        rx = self.rx
        if rx.buffers or rx.done or not rx.starved:
            return None
        why = "the SKB data reserve refuses the charge" if rx.charge_refused else "no memory for a receive buffer"
        return f"{self.name}: ring {len(rx.buffers)} of {rx.size}, {why}"

    def explain_reply(self) -> tuple[str, tuple[str, Any]]:
        """Tell what a task that waits for a packet waits for (judge.explainers["reply"])."""
        return f"its reply needs an skb <- ring {len(self.rx.buffers)} of {self.rx.size}", ("memory", self.skbs.page_alloc)


def _check_mtu(mtu: int) -> None:
    """Refuse an MTU that the card has not."""
    if not 68 <= mtu <= 9000:
        raise ConfigError(f"nic: mtu is 68 to 9000, not {mtu}")


def fill_checksum(frame: bytes, segment: int) -> bytes:
    """Finish the checksum of the TCP or UDP segment that begins at ``segment`` and is the rest of the frame; its field is zero."""
    proto = frame[segment - 11]  # of an IP header without options, whose addresses stand right before the segment
    udp = proto == 17
    field = segment + (6 if udp else 16)
    size = len(frame) - segment
    total = _from_bytes(frame[segment - 8 :], "big")
    if size > CSUM_SMALL:
        total = csum_reduce(total)
    if size & 1:
        total <<= 8
    check = -(total + proto + size) % 65535
    if udp and not check:
        check = 0xFFFF
    return b"".join((frame[:field], check.to_bytes(2, "big"), frame[field + 2 :]))
