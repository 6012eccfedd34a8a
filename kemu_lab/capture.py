"""A capture of the wire, with comments that say what kemu knows of a frame (``--pcap FILE.pcapng``).

Interface
    prepare_capture(name)                       refuse a file that cannot be written, in one sentence, before anything boots
    Capture(name, wire)                         add(name, stack) per machine; finish() writes, abandon() leaves nothing
    capturing(name, wire, client=stack, ...)    both as a context manager; a name of None captures nothing

Rules of this file
    * One interface per machine. A frame stands once: where it arrived, inbound, at the time of its arrival. What reached none of
      the machines stands where it was sent, outbound, at the time it left. If it stood at both ends, Wireshark would call every
      frame a retransmission.
    * What is said of a frame: ``wire:`` what the cable did to it; ``skb->emergency=1 reserve=USED/LIMIT`` if its buffer came from
      the reserve, with the bytes charged when it was processed; ``dropped: GATE`` and why; ``dry ring`` if it found no buffer.
      A frame without a comment was taken as any other.
    * What a machine did is learnt from its tracepoints. They do not name the frame, but a NIC hands frames up in the order in which
      they arrived: the oldest one that waits is meant. Its address stands for the skb until the skb is freed.
    * A frame is written when KEEP_NS have passed since; what happens to it later is not said any more.
    * The file grows under another name beside its own, which it gets at the end: what has the name is whole. A device or a pipe is
      written as it is.
    * Nothing of the emulated machines changes: same seed, same history, with and without a capture.
"""

from __future__ import annotations

import os
from bisect import insort
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from kemu.errors import ConfigError
from kemu_lab.pcapng import INBOUND, OUTBOUND, PcapngWriter

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_net.core.net_reserve import NetReserves
    from kemu_net.drivers.nic import Nic
    from kemu_net.drivers.wire import Port, Wire

KEEP_NS = 2_000_000_000
FLUSH_EVERY = 4096  # frames

#: What the gates of NetStats.drops mean (patches.md, A.3).
GATES = {
    "nic": "dry ring: no descriptor had a buffer",
    "charge": "dry ring: no descriptor had a buffer, the SKB data reserve had refused the charge",
    "protocol": "dropped: protocol gate, not for emergency memory (patch 23)",
    "socket": "dropped: socket gate, the socket does not carry swap (patch 20)",
    "nfqueue": "dropped: queue gate, not for a userspace queue (patch 22)",
    "rmem": "dropped: rmem, the socket's or the protocol's memory limit",
}


class Captured(Protocol):
    """What is asked of a machine's network: a NetStack has it."""

    kernel: Kernel
    nic: Nic
    net_reserves: NetReserves


class Record:
    """One frame, until it is written."""

    __slots__ = ("comments", "direction", "frame", "interface", "number", "time")

    def __init__(self, interface: int, time: int, number: int, frame: bytes, direction: int) -> None:
        self.interface = interface
        self.time = time
        self.number = number
        self.frame = frame
        self.direction = direction
        self.comments: list[str] = []

    def __lt__(self, other: Record) -> bool:
        """Order by time, and among equals as they were sent."""
        return (self.time, self.number) < (other.time, other.number)


class Interface:
    """One machine's NIC: the frames that are on their way in, and those whose skb lives."""

    def __init__(self, number: int, name: str, stack: Captured) -> None:
        self.number = number
        self.name = name
        self.nic = stack.nic
        self.reserve = stack.net_reserves.net_skb_reserve
        self.expected: deque[Record] = deque()
        self.living: dict[int, Record] = {}
        trace = stack.kernel.trace
        trace.register_probe("net:netif_receive_skb", self.received)
        trace.register_probe("net:rx_ring_lost", self.lost)
        trace.register_probe("skb:kfree_skb", self.dropped)
        trace.register_probe("skb:consume_skb", self.consumed)

    def expect(self, record: Record) -> None:
        """Take note of a frame on its way in."""
        expected = self.expected
        if expected and record < expected[-1]:
            insort(expected, record)
        else:
            expected.append(record)

    def received(self, skbaddr: int, _length: int, protocol: int, emergency: int, device: str) -> None:
        """``net:netif_receive_skb``: the oldest frame is processed now."""
        expected = self.expected
        if device != self.nic.name or not expected or int.from_bytes(expected[0].frame[12:14], "big") != protocol:
            return  # loopback, a VLAN's second round, or a frame that did not come over the wire
        record = expected.popleft()
        self.living[skbaddr] = record
        if emergency:
            record.comments.append(f"skb->emergency=1 {self._use()}")

    def lost(self, time: int, length: int, why: str) -> None:
        """``net:rx_ring_lost``: a frame found no descriptor."""
        for record in self.expected:
            if record.time == time and len(record.frame) == length:
                self.expected.remove(record)
                record.comments.append(f"{GATES[why]}, {self._use()}" if why in GATES else f"dropped: {why}")
                return

    def dropped(self, skbaddr: int, _protocol: int, reason: str) -> None:
        """``skb:kfree_skb``: an skb is lost."""
        record = self.living.pop(skbaddr, None)
        if record is not None:
            record.comments.append(GATES.get(reason, f"dropped: {reason}"))

    def consumed(self, skbaddr: int) -> None:
        """``skb:consume_skb``: an skb has been used; its address may mean another one from now on."""
        self.living.pop(skbaddr, None)

    def _use(self) -> str:
        return f"reserve={self.reserve.usage}/{self.reserve.limit}"


class Capture:
    """What passes a wire, and what the machines on it did with it.

    :param name: the file.
    """

    def __init__(self, name: str, wire: Wire) -> None:
        if wire.watcher is not None:
            raise ConfigError("a wire has one capture")
        self.name = name
        self.wire = wire
        self.interfaces: list[Interface] = []
        self._by_mac: dict[bytes, Interface] = {}
        self._records: list[Record] = []
        self._count = 0
        self._newest = 0
        self._flipped: tuple[bytes, str] | None = None
        self._file: BinaryIO | None = None
        self._writer: PcapngWriter | None = None
        wire.watcher = self

    def add(self, name: str, stack: Captured) -> None:
        """Capture at a machine's NIC too."""
        interface = Interface(len(self.interfaces), name, stack)
        self.interfaces.append(interface)
        self._by_mac[stack.nic.mac] = interface

    # ---- the wire's watcher

    def arriving(self, sender: Port, port: Port, time: int, frame: bytes, late: int) -> None:
        """Note a frame: where it arrives if that is one of the machines, else where it was sent."""
        at = self._by_mac.get(port.mac)
        if at is not None:
            record = self._note(at, time, frame, INBOUND)
            at.expect(record)
        else:
            source = self._by_mac.get(sender.mac)
            if source is None:
                return
            record = self._note(source, time - late - self.wire.latency_ns, frame, OUTBOUND)
        if late:
            record.comments.append(f"wire: held up for {late // 1000} us")

    def lost(self, sender: Port, time: int, frame: bytes, why: str) -> None:
        """Note a frame that one of the machines sent and nobody got."""
        source = self._by_mac.get(sender.mac)
        if source is not None:
            self._note(source, time, frame, OUTBOUND).comments.append(f"wire: lost ({why})")

    def flipped(self, frame: bytes, bit: int) -> None:
        """Remember a wrong bit until its frame arrives."""
        self._flipped = (frame, f"wire: corrupted, bit {bit & 7} of byte {bit >> 3} flipped")

    def _note(self, interface: Interface, time: int, frame: bytes, direction: int) -> Record:
        record = Record(interface.number, time, self._count, frame, direction)
        self._count += 1
        self._records.append(record)
        if self._flipped is not None and frame is self._flipped[0]:
            record.comments.append(self._flipped[1])
        self._newest = max(self._newest, time)
        if not self._count % FLUSH_EVERY:
            self._flush(self._newest - KEEP_NS)
        return record

    # ---- the file

    @property
    def _part(self) -> Path:
        return _part_of(self.name)

    def _flush(self, before: int) -> None:
        """Write what is older."""
        self._records.sort()
        try:
            writer = self._writer
            if writer is None:
                writer = self._open()
            for index, record in enumerate(self._records):
                if record.time >= before:
                    del self._records[:index]
                    break
                writer.packet(record.interface, record.time, record.frame, record.direction, record.comments)
            else:
                self._records.clear()
        except OSError as error:
            self.abandon()
            raise _unwritable(self.name, error) from None

    def _open(self) -> PcapngWriter:
        self._file = self._part.open("wb")
        self._writer = writer = PcapngWriter(self._file)
        for each in self.interfaces:
            writer.interface(each.name, f"{each.nic.name} of the emulated machine {each.name}", each.nic.mac)
        return writer

    def finish(self) -> None:
        """Write what is left and give the file its name."""
        self._stop()
        for interface in self.interfaces:
            for record in interface.expected:
                record.comments.append("not received: the run ended before")
        self._flush(self._newest + 1)
        assert self._file is not None
        try:
            self._file.close()
            if self._part != Path(self.name):
                self._part.replace(self.name)
        except OSError as error:
            self.abandon()
            raise _unwritable(self.name, error) from None

    def abandon(self) -> None:
        """Stop, and leave no file."""
        self._stop()
        if self._file is not None:
            with suppress(OSError):  # what could not be written before cannot be written now
                self._file.close()
            if self._part != Path(self.name):
                self._part.unlink(missing_ok=True)

    def _stop(self) -> None:
        self.wire.watcher = None


def prepare_capture(name: str) -> str:
    """Find that a capture of that name can be written; return the name."""
    part = _part_of(name)
    try:
        if Path(name).is_dir():
            raise ConfigError(f"--pcap {name!r} cannot be written: it is a directory")
        if part != Path(name):
            part.open("wb").close()
            part.unlink()
        elif not os.access(name, os.W_OK):
            raise ConfigError(f"--pcap {name!r} cannot be written: Permission denied")
    except (OSError, ValueError) as error:
        raise _unwritable(name, error) from None
    return name


def _part_of(name: str) -> Path:
    """Give the name that a capture has while it grows: another one, unless it is a device or a pipe."""
    path = Path(name)
    if not name:
        raise ConfigError("--pcap needs the name of a file")
    return path if path.exists() and not path.is_file() else path.with_name(path.name + ".part")


def _unwritable(name: str, error: OSError | ValueError) -> ConfigError:
    why = error.strerror if isinstance(error, OSError) else str(error)
    return ConfigError(f"--pcap {name!r} cannot be written: {why}")


@contextmanager
def capturing(name: str | None, wire: Wire, **stacks: Captured) -> Iterator[None]:
    """Capture what happens inside of the block; whatever is raised there leaves no file.

    :param stacks: the machines, by the names of their interfaces.
    """
    if name is None:
        yield
        return
    capture = Capture(name, wire)
    for each, stack in stacks.items():
        capture.add(each, stack)
    try:
        yield
    except BaseException:  # Ctrl-C too: a capture that ends anywhere would pass for a whole one
        capture.abandon()
        raise
    capture.finish()
