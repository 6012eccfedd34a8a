"""TCP as one object: the socket calls that the kernel's own users make (RPC, and the server's nfsd), from all its layers.

Interface (methods of Tcp; errors are negative errnos)
    sock_create() -> TcpSock | None
    bind(sk, addr, port)
    connect, connect_nonblock                    tcp_connect.py
    listen, accept                               tcp_listen.py
    shutdown, close, abort, disconnect           tcp_close.py
    sendmsg, sendpage                            tcp_send.py
    recvmsg, read_sock                           tcp_recv.py
    tcp_setsockopt, tcp_getsockopt               tcp_options_calls.py

Rules
    * Process context, except read_sock().
    * The machine's net.ipv4.tcp_* variables are attributes sysctl_tcp_*; three of them are shown in seconds and kept in jiffies.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from kemu.kernel.errno import EADDRNOTAVAIL, EINVAL
from kemu.kernel.timer import HZ
from kemu.mm.gfp import GFP_KERNEL
from kemu_net.core.sock import sock_put
from kemu_net.ipv4.tcp_options_calls import TcpOptionsCalls
from kemu_net.ipv4.tcp_sock import TcpSock
from kemu_net.ipv4.tcp_states import TCP_CLOSE

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.sock import Socks
    from kemu_net.core.stats import NetStats
    from kemu_net.ipv4.inet import Inet

IPPROTO_TCP = 6
_SYSCTLS: Final = (
    "timestamps",
    "window_scaling",
    "sack",
    "dsack",
    "fack",
    "reordering",
    "retrans_collapse",
    "slow_start_after_idle",
    "moderate_rcvbuf",
    "low_latency",
    "app_win",
    "abort_on_overflow",
    "rfc1337",
    "max_syn_backlog",
    "syn_retries",
    "synack_retries",
    "retries1",
    "retries2",
    "orphan_retries",
    "max_orphans",
    "keepalive_probes",
)
_IN_SECONDS: Final = ("fin_timeout", "keepalive_time", "keepalive_intvl")


def _set_entry(vector: list[int], value: int, index: int) -> None:
    """Write one entry of a sysctl that is a vector."""
    vector[index] = value


class Tcp(TcpOptionsCalls):
    """TCP of one machine."""

    def __init__(self, kernel: Kernel, socks: Socks, skbs: SkbAlloc, inet: Inet, stats: NetStats) -> None:
        super().__init__(kernel, socks, skbs, inet, stats)
        inet.inet_add_protocol(IPPROTO_TCP, self.tcp_v4_rcv)
        inet.protocols_err[IPPROTO_TCP] = self.tcp_v4_err
        register = kernel.sysctl.register
        for name in ("mem", "rmem", "wmem"):
            vector: list[int] = getattr(self.prot, f"sysctl_{name}")
            register(f"net.ipv4.tcp_{name}", vector.copy, partial(_set_entry, vector), count=3)
        for name in _SYSCTLS:
            variable = f"sysctl_tcp_{name}"
            register(f"net.ipv4.tcp_{name}", partial(getattr, self, variable), partial(setattr, self, variable))
        for name in _IN_SECONDS:
            variable = f"sysctl_tcp_{name}"
            register(f"net.ipv4.tcp_{name}", partial(self._seconds, variable), partial(self._set_seconds, variable))

    def _seconds(self, variable: str) -> int:
        """Show a time in seconds (``proc_dointvec_jiffies()``)."""
        jiffies: int = getattr(self, variable)
        return jiffies // HZ

    def _set_seconds(self, variable: str, seconds: int) -> None:
        """Store a time that was given in seconds."""
        setattr(self, variable, seconds * HZ)

    # birth

    def sock_create(self) -> TcpSock | None:
        """Make a socket with its ``struct socket`` and inode (``sock_create_kern()``); may sleep for memory."""
        sk = self.socks.sk_alloc(self.prot, GFP_KERNEL, TcpSock)
        if sk is None:
            return None
        if self.socks.sock_alloc_inode(sk):
            sock_put(sk)
            return None
        self.tcp_v4_init_sock(sk)
        return sk

    def bind(self, sk: TcpSock, addr: int, port: int) -> int:
        """Choose the own address and port (``inet_bind()``): 0, -EADDRINUSE, -EADDRNOTAVAIL, -EINVAL."""
        if not self.inet.is_local(addr):
            return -EADDRNOTAVAIL
        socks = self.socks
        socks.lock_sock(sk)
        err = -EINVAL
        if sk.sk_state == TCP_CLOSE and sk.bind_bucket is None:
            err = self.inet_csk_get_port(sk, port)
            if not err:
                sk.saddr = addr
                sk.bind_port = sk.sport
        socks.release_sock(sk)
        return err
