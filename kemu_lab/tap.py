"""An emulated NIC on a TAP device: the emulated machine talks to the real Linux that runs it.

Interface
    open_tap(name) -> fd                      make or open a TAP device; configure(name, ip, prefix): give this end an address, up
    TapPort(world, wire, fd, mac)             what the wire ends in; step() moves frames and lets virtual time follow real time
    TapHost(name, ip, peer, prefix)           a machine with a network on a TAP device; run(until, seconds)

Rules of this file
    * Virtual time follows real time, never runs ahead of it, and falls behind when emulation is slower: then it goes on from where
      it is, so that a slow computer sees slow time and not a burst of timers.
    * Frames of the machine are written at once, without the wire's latency; what the device does not take is lost and counted.
      Frames of the device enter the wire at the time that the world has reached.
    * Only here does a run depend on the clock: nothing that happens on a TAP device can be repeated.
    * The device is configured by ioctl() and goes with the process. It needs Linux, /dev/net/tun and CAP_NET_ADMIN.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import time
from typing import TYPE_CHECKING

from kemu.errors import ConfigError
from kemu.kernel.world import World
from kemu.machine import Machine, MachineConfig
from kemu_net.drivers.wire import Wire
from kemu_net.stack import NetStack

if TYPE_CHECKING:
    from collections.abc import Callable

TUN_DEVICE = "/dev/net/tun"
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_UP = 0x0002, 0x1000, 0x1
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK, SIOCGIFHWADDR = 0x8913, 0x8914, 0x8916, 0x891C, 0x8927
IFNAMSIZ = 16
MAX_FRAME = 2048
FRAMES_PER_STEP = 64
STEP_NS = 2_000_000  # virtual time that passes between two looks at the device, at most
LAG_NS = 50_000_000  # further behind than this, virtual time gives up catching up
NAP_S = 0.001
MAC = bytes.fromhex("0200000000fe")


def open_tap(name: str) -> int:
    """Make a TAP device of that name, or open one that is there and free; it is gone when the descriptor is closed."""
    if not 0 < len(name.encode()) < IFNAMSIZ:
        raise ConfigError(f"--name {name!r} cannot be used; a device's name has 1 to {IFNAMSIZ - 1} bytes")
    try:
        fd = os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{TUN_DEVICE} cannot be opened: {error.strerror}; a TAP device needs Linux and root") from None
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    except OSError as error:
        os.close(fd)
        raise ConfigError(f"the TAP device {name!r} cannot be made: {error.strerror}; it needs root") from None
    return fd


def configure(name: str, ip: str, prefix: int) -> bytes:
    """Give the real end of the device an address and switch it on; return its hardware address."""
    mask = socket.inet_ntoa(struct.pack("!I", 0xFFFFFFFF << 32 - prefix & 0xFFFFFFFF))
    device = name.encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            for request, address in ((SIOCSIFADDR, ip), (SIOCSIFNETMASK, mask)):
                fcntl.ioctl(control, request, struct.pack("16sHH4s16x", device, socket.AF_INET, 0, socket.inet_aton(address)))
            flags = struct.unpack_from("H", fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16s24x", device)), IFNAMSIZ)[0]
            fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", device, flags | IFF_UP))
            return fcntl.ioctl(control, SIOCGIFHWADDR, struct.pack("16s24x", device))[18:24]
        except OSError as error:
            raise ConfigError(f"the TAP device {name!r} cannot be configured: {error.strerror}") from None


class TapPort:
    """The end of the wire that is a TAP device.

    :param mac: the hardware address of the device, so that the wire knows where its frames go.
    :ivar lost: frames of the machine that the device did not take.
    """

    def __init__(self, world: World, wire: Wire, fd: int, mac: bytes) -> None:
        self.world = world
        self.wire = wire
        self.fd = fd
        self.mac = mac
        self.lost = 0
        self._offset = time.monotonic_ns() - world.now
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        wire.attach(self)

    def deliver(self, time: int, frame: bytes) -> None:
        """Give a frame of the machine to the real kernel."""
        try:
            os.write(self.fd, frame)
        except OSError:  # the device is down, or its queue is full: a cable without a listener
            self.lost += 1

    def step(self) -> None:
        """Take what the device has, let time pass, and rest a little if there was nothing."""
        taken = self.take()
        behind = time.monotonic_ns() - self._offset - self.world.now
        if behind > LAG_NS:
            self._offset += behind - STEP_NS
        if behind > 0:
            self.world.run(for_ns=min(behind, STEP_NS))
        if not taken and behind <= STEP_NS:
            self._poll.poll(NAP_S * 1000)

    def take(self) -> int:
        """Put the device's frames on the wire."""
        for count in range(FRAMES_PER_STEP):
            try:
                frame = os.read(self.fd, MAX_FRAME)
            except BlockingIOError:
                return count
            except OSError:  # the device is down
                return count
            self.wire.transmit(self, frame, self.world.now)
        return FRAMES_PER_STEP


class TapHost:
    """A machine on a TAP device: the emulated address is ``ip``, the real one ``peer``."""

    def __init__(self, name: str, ip: str, peer: str, prefix: int = 24) -> None:
        self.fd = open_tap(name)
        try:
            mac = configure(name, peer, prefix)
        except ConfigError:
            os.close(self.fd)
            raise
        self.world = World()
        self.machine = machine = Machine(MachineConfig(name="kemu"), self.world)
        self.wire = Wire(self.world)
        address = struct.unpack("!I", socket.inet_aton(ip))[0]
        self.stack = NetStack(
            machine.kernel,
            machine.page_alloc,
            machine.slub,
            machine.reserves,
            self.wire,
            mac=MAC,
            ip=address,
            prefix=prefix,
            build=machine.build,
        )
        self.port = TapPort(self.world, self.wire, self.fd, mac)

    def run(self, until: Callable[[], bool], seconds: float | None = None) -> bool:
        """Let real and virtual time pass until ``until()``; tell whether that came in time."""
        end = None if seconds is None else time.monotonic() + seconds
        while not until():
            if end is not None and time.monotonic() > end:
                return False
            self.port.step()
            if self.world.failure is not None:
                raise self.world.failure
        return True

    def close(self) -> None:
        """End the world and the device."""
        self.world.shutdown()
        os.close(self.fd)
