"""What the code of a script can ask for: tcp_info of its connection, and what kemu knows.

Interface: ``Names(host, conns, origin)``; ``lookup(name)`` raises KeyError for an unknown name.

Known are
    * ``tcpi_*`` and the states (TCP_ESTABLISHED, TCP_CA_Open);
    * ``skb.emergency`` live emergency packets, ``skb.emergency_total`` since boot;
    * ``reserve.usage``, ``reserve.limit``, ``reserve.peak`` of the SKB data reserve, in bytes;
    * ``drops["socket"]`` by gate, ``ignored`` by reason (core/stats.py), ``rx_frames``, ``tx_frames``, ``retransmits``;
    * ``free_pages``, ``memalloc_socks``; ``now`` in seconds;
    * ``wire.pending``: packets that the machine sent and no line has expected yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from kemu_net.core.uapi import SOL_TCP
from kemu_net.testing.pd_asserts import Space
from kemu_net.testing.pd_constants import TCP_STATES

TCP_INFO: Final = 11

if TYPE_CHECKING:
    from kemu_net.testing.pd_host import Host
    from kemu_net.testing.pd_table import Conns


class Names:
    """Looks names up for the evaluator."""

    def __init__(self, host: Host, conns: Conns, origin: int) -> None:
        self._host = host
        self._conns = conns
        stack = host.stack
        reserve = stack.net_reserves.net_skb_reserve
        self._skb = Space(emergency=lambda: stack.skbs.emergency_live, emergency_total=lambda: stack.stats.emergency_skbs)
        self._reserve = Space(usage=lambda: reserve.usage, limit=lambda: reserve.limit, peak=lambda: stack.net_reserves.peak_usage)
        self._wire = Space(pending=lambda: len(host.peer.seen))
        self._values: dict[str, Callable[[], Any]] = {
            "skb": lambda: self._skb,
            "reserve": lambda: self._reserve,
            "wire": lambda: self._wire,
            "drops": lambda: dict(stack.stats.drops),
            "ignored": lambda: dict(stack.stats.ignored),
            "free_pages": host.machine.page_alloc.nr_free_pages,
            "memalloc_socks": lambda: stack.net_reserves.memalloc_socks,
            "rx_frames": lambda: stack.stats.rx_frames,
            "tx_frames": lambda: stack.stats.tx_frames,
            "retransmits": lambda: stack.stats.retransmits,
            "now": lambda: (host.now - origin) / 1_000_000_000,
        }

    def lookup(self, name: str) -> Any:
        """Give the value of a name."""
        if name in TCP_STATES:
            return TCP_STATES[name]
        if name.startswith("tcpi_"):
            return self._tcp_info(name)
        return self._values[name]()

    def _tcp_info(self, name: str) -> Any:
        """Give a field of ``struct tcp_info`` of the connection that the script is about."""
        fd = self._conns.current_fd()
        sock = None if fd is None else self._host.sockets.lookup(fd)
        if sock is None:
            raise KeyError(name)
        error, info = self._host.sockets.getsockopt(fd or 0, SOL_TCP, TCP_INFO)
        if error or not hasattr(info, name):
            raise KeyError(name)
        return getattr(info, name)
