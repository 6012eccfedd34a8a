"""The variables /proc/sys/sunrpc (2.6.23 net/sunrpc/xprtsock.c: xs_tunables_table).

Interface: :class:`SunrpcSysctls`, one per machine: ``tcp_slot_table_entries``, ``udp_slot_table_entries`` (of the next mount, 2 to
128), ``min_resvport``, ``max_resvport`` (where a transport looks for a port of its own).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from kemu.kernel.sysctl import minmax_conv

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel

RPC_DEF_SLOT_TABLE: Final = 16
RPC_MIN_SLOT_TABLE: Final = 2
RPC_MAX_SLOT_TABLE: Final = 128
RPC_DEF_MIN_RESVPORT: Final = 665
RPC_DEF_MAX_RESVPORT: Final = 1023
_MIN_PORT: Final = 1
_MAX_PORT: Final = 65535


class SunrpcSysctls:
    """The tunables of one machine's transports."""

    def __init__(self, kernel: Kernel) -> None:
        self.tcp_slot_table_entries = RPC_DEF_SLOT_TABLE
        self.udp_slot_table_entries = RPC_DEF_SLOT_TABLE
        self.min_resvport = RPC_DEF_MIN_RESVPORT
        self.max_resvport = RPC_DEF_MAX_RESVPORT
        slots = minmax_conv(RPC_MIN_SLOT_TABLE, RPC_MAX_SLOT_TABLE)
        ports = minmax_conv(_MIN_PORT, _MAX_PORT)
        for name, conv in (
            ("tcp_slot_table_entries", slots),
            ("udp_slot_table_entries", slots),
            ("min_resvport", ports),
            ("max_resvport", ports),
        ):
            kernel.sysctl.register(f"sunrpc.{name}", partial(getattr, self, name), partial(setattr, self, name), conv=conv)
