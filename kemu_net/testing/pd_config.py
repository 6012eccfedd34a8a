"""The options of a script: addresses, ports, tolerances, and the machine that kemu boots for it.

Interface: ``Config.of(script, ...)``; raises :exc:`ScriptSyntaxError` and :exc:`ScriptUnsupported`.

Rules of this file
    * packetdrill's names and defaults: 192.168.0.1 here, gateway 192.168.0.2, 255.255.0.0, 192.0.2.1 there, ports 8080, a tolerance
      of 4 ms or, if that is more, of 12.5 % of the time since the event before.
    * kemu's own: mem, cpus, ring (descriptors of the card), remote_isn (added to the peer's sequence numbers), packet_split.
    * Options that only choose how packetdrill itself runs are taken and do nothing: TAKEN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from kemu_net.testing.pd_errors import ScriptSyntaxError, ScriptUnsupported

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu_net.testing.pd_ast import Script, ScriptOption

MAX_MTU: Final = 9000
_SMALL_BUFFER: Final = 2048  # kmalloc's size for a frame of 1500 bytes
_LARGE_BUFFER: Final = 16384
TAKEN: Final = frozenset(
    """
    define D dry_run verbose v debug speed code_command code_format code_sockopt so_filename so_flags init_scripts strict_segments
    tcp_ts_ecr_scaled send_omit_free persistent_tun_dev mss
    """.split()  # noqa: SIM905  # a table for people
)
_REFUSED: Final = {
    "is_anyip": "addresses of a whole prefix",
    "wire_client": "two hosts on a real wire",
    "wire_server": "two hosts on a real wire",
    "udp_encapsulation": "UDP encapsulation",
}


@attrs.define
class Config:
    """What a script runs with; times in ns, addresses as ints."""

    local_ip: int = 0xC0A80001
    remote_ip: int = 0xC0000201
    gateway_ip: int = 0xC0A80002
    prefix: int = 16
    bind_port: int = 8080
    connect_port: int = 8080
    tolerance: int = 4_000_000
    tolerance_percent: float = 12.5
    ts_tick: int = 0
    mtu: int = 1500
    mem: int = 32 << 20
    cpus: int = 1
    ring: int = 256
    remote_isn: int = 0
    packet_split: bool = False
    non_fatal: frozenset[str] = frozenset()

    @classmethod
    def of(cls, script: Script) -> Config:
        """Read the options of a script."""
        config = cls()
        line = 1
        for option in script.options:
            config._take(script.name, option)
            line = option.line
        buffers = config.ring * (_SMALL_BUFFER if config.mtu <= 1500 else _LARGE_BUFFER)
        if buffers > config.mem // 2:
            raise ScriptSyntaxError(
                script.name, line, f"a ring of {config.ring} buffers does not fit half of {config.mem >> 20} MiB"
            )
        return config

    def _take(self, name: str, option: ScriptOption) -> None:
        key = option.name
        if key in TAKEN:
            return
        if key in _REFUSED or key.startswith("wire_"):
            what = _REFUSED.get(key, "two hosts on a real wire")
            raise ScriptUnsupported(name, option.line, f"--{key}: {what} is not supported")
        if key == "mtu" and (option.value or "").isdecimal() and int((option.value or "")[:9]) > MAX_MTU:
            raise ScriptUnsupported(name, option.line, f"--mtu={option.value}: the card takes at most {MAX_MTU}")
        if key == "ip_version":
            if option.value != "ipv4":
                raise ScriptUnsupported(name, option.line, f"--ip_version={option.value}: only ipv4 is supported")
            return
        if key not in _READERS:
            raise ScriptSyntaxError(name, option.line, f"there is no option --{key}")
        field, reader = _READERS[key]
        try:
            setattr(self, field, reader(option.value or ""))
        except ValueError as error:
            raise ScriptSyntaxError(name, option.line, f"--{key}={option.value} cannot be used; {error}") from None


def _number(low: int, high: int, unit: int = 1) -> Callable[[str], int]:
    """Make a reader of whole numbers."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and low <= int(text) <= high):
            raise ValueError(f"it is a whole number from {low} to {high}")
        return int(text) * unit

    return read


def _percent(text: str) -> float:
    if not text.replace(".", "", 1).isdecimal() or not text.isascii() or len(text) > 10:
        raise ValueError("it is a number")
    return float(text)


def read_address(text: str) -> int:
    """Read a dotted address; a prefix behind it is not looked at."""
    parts = text.partition("/")[0].split(".")
    if len(parts) != 4 or not all(part.isascii() and part.isdecimal() and len(part) < 4 and int(part) < 256 for part in parts):
        raise ValueError("it is an IPv4 address like 192.0.2.1")
    return int.from_bytes(bytes(int(part) for part in parts), "big")


def _prefix(text: str) -> int:
    mask = read_address(text)
    size = mask.bit_count()
    if mask != 0xFFFFFFFF << (32 - size) & 0xFFFFFFFF:
        raise ValueError("it is a netmask like 255.255.0.0")
    return size


def _flag(text: str) -> bool:
    if text not in ("", "0", "1"):
        raise ValueError("it is 0 or 1")
    return text != "0"


def _kinds(text: str) -> frozenset[str]:
    kinds = frozenset(text.replace(",", " ").split())
    if kinds - {"packet", "syscall"}:
        raise ValueError("it is packet, syscall or both")
    return kinds


_READERS: Final[dict[str, tuple[str, Callable[[str], object]]]] = {
    "local_ip": ("local_ip", read_address),
    "remote_ip": ("remote_ip", read_address),
    "gateway_ip": ("gateway_ip", read_address),
    "netmask_ip": ("prefix", _prefix),
    "bind_port": ("bind_port", _number(1, 65535)),
    "connect_port": ("connect_port", _number(1, 65535)),
    "tolerance_usecs": ("tolerance", _number(0, 10**9, 1000)),
    "tolerance_percent": ("tolerance_percent", _percent),
    "tcp_ts_tick_usecs": ("ts_tick", _number(0, 10**7, 1000)),
    "mtu": ("mtu", _number(68, MAX_MTU)),
    "mem": ("mem", _number(8, 4096, 1 << 20)),
    "cpus": ("cpus", _number(1, 8)),
    "ring": ("ring", _number(8, 4096)),
    "remote_isn": ("remote_isn", _number(0, 0xFFFFFFFF)),
    "packet_split": ("packet_split", _flag),
    "non_fatal": ("non_fatal", _kinds),
}
