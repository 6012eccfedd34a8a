"""What a socket lets in, and the queue of a datagram socket (2.6.23 net/core/sock.c, filter.c, datagram.c).

Interface (methods of Socks)
    sk_filter                    the socket gate: patch 20, then the security module, then a program's own filter
    sk_attach_filter, sk_detach_filter
    sock_queue_rcv_skb           rcvbuf, the gate, the queue
    skb_queue_purge

Rules
    * The gates count what they refuse (NetStats.drops); their caller frees it without a reason.
    * A filter gives how many bytes of the packet, data at the transport header, to keep: 0 refuses it. It is classic BPF
      (filter.py), or any callable that takes the packet.
    * Left out: filter charges (sk_omem_alloc).
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from kemu.kernel.errno import EINVAL, ENOMEM, ENONET, EPERM
from kemu_net.core.filter import sk_chk_filter, sk_run_filter
from kemu_net.core.skb_trim import pskb_trim
from kemu_net.core.sock_lock import SockLock
from kemu_net.core.sock_struct import SOCK_DEAD, SOCK_MEMALLOC, Sock, sock_rfree

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu_net.core.net_reserve import NetReserves
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.skbuff import SkBuff
    from kemu_net.core.stats import NetStats


class SecurityHooks(Protocol):
    """What a security module says about packets (``security_sock_rcv_skb()``)."""

    def security_sock_rcv_skb(self, sk: Any, skb: Any) -> int:
        """Tell whether the socket may receive the packet: 0 or a negative errno."""


class SockReceive(SockLock):
    """Receiving on the sockets of one machine.

    :param security: the security module that sk_filter() asks; None: there is none, and sk_filter() has no line about it.
    """

    def __init__(
        self, kernel: Kernel, net_reserves: NetReserves, skbs: SkbAlloc, stats: NetStats, security: SecurityHooks | None = None
    ) -> None:
        super().__init__(kernel, net_reserves, skbs, stats)
        if security is not None:
            self._security_sock_rcv_skb = security.security_sock_rcv_skb
            self.sk_filter = self._sk_filter_security  # type: ignore[method-assign]  # chosen once, at boot
        self._sk_filter_without: Callable[[Any, SkBuff], int] = self.sk_filter

    def sk_filter(self, sk: Sock, skb: SkBuff) -> int:
        """Tell whether the socket takes the packet (``sk_filter()``): 0 or -ENOMEM. The caller frees what is refused.

        An ordinary socket would keep an emergency skb until its reader runs, and the reader may wait for swap (patch 20).
        """
        if self.patched.sk_filter_emergency and skb.emergency and not sk.sk_flags & SOCK_MEMALLOC:  # [p20]
            self._refuse(skb, "socket")
            return -ENOMEM
        return 0

    def _refuse(self, skb: SkBuff, gate: str) -> None:
        """Count a packet that a gate refuses, and trace it here: its caller frees it, and does not know why."""
        self.stats.drops[gate] += 1
        if skb.emergency:
            self.stats.lose_emergency(gate, self.skbs.charged(skb))
        if self._tp_kfree_skb.enabled:
            self._tp_kfree_skb(skb.addr, skb.protocol, gate)

    def _ignore(self, skb: SkBuff, reason: str) -> None:
        """Count a packet that something else than a gate refuses."""
        self.stats.ignore(reason)
        if skb.emergency:
            self.stats.lose_emergency(reason, self.skbs.charged(skb))

    def _sk_filter_security(self, sk: Sock, skb: SkBuff) -> int:
        """Be sk_filter() of a machine with a security module: patch 20's test comes first, in v14 as in 3.6."""
        error = type(self).sk_filter(self, sk, skb)
        if not error:
            error = self._security_sock_rcv_skb(sk, skb)
            if error:
                self._ignore(skb, "security")
        return error

    def _sk_filter_program(self, sk: Sock, skb: SkBuff) -> int:
        """Be sk_filter() of a machine on which somebody attached a filter to a socket: it is asked last, and may cut the packet."""
        error = self._sk_filter_without(sk, skb)
        if not error and sk.sk_program is not None:
            keep = sk.sk_program(skb)
            if not keep:
                self._ignore(skb, "socket filter")
                return -EPERM
            if keep < skb.len and not pskb_trim(self.skbs, skb, keep):
                return -ENOMEM
        return error

    def sk_attach_filter(self, sk: Sock, program: Any) -> int:
        """Let a program say how many bytes of each packet the socket gets (``sk_attach_filter()``): 0 or -EINVAL.

        :param program: a sequence of SockFilter, or ``program(skb)``.
        """
        if not callable(program):
            if not isinstance(program, (list, tuple)) or sk_chk_filter(program):
                return -EINVAL
            program = partial(sk_run_filter, program=tuple(program))
        self.sk_filter = self._sk_filter_program  # type: ignore[method-assign]  # a machine without filters pays nothing
        sk.sk_program = program
        return 0

    def sk_detach_filter(self, sk: Sock) -> int:
        """Take the filter off (SO_DETACH_FILTER): 0, or -ENONET when there is none."""
        if sk.sk_program is None:
            return -ENONET
        sk.sk_program = None
        return 0

    def sock_queue_rcv_skb(self, sk: Sock, skb: SkBuff) -> int:
        """Queue a datagram (``sock_queue_rcv_skb()``): 0 or a negative errno, and then the caller still owns the skb."""
        truesize = skb.truesize
        if sk.sk_rmem_alloc + truesize >= sk.sk_rcvbuf:
            self._refuse(skb, "rmem")
            return -ENOMEM
        error = self.sk_filter(sk, skb)
        if error:
            return error
        skb.dev = None
        skb.sk = sk
        skb.destructor = sock_rfree
        sk.sk_rmem_alloc += truesize
        sk.sk_receive_queue.append(skb)
        if not sk.sk_flags & SOCK_DEAD:
            sk.sk_data_ready(sk)
        return 0

    def skb_queue_purge(self, queue: deque[SkBuff]) -> None:
        """Free all packets of a queue (``skb_queue_purge()``)."""
        kfree_skb = self.skbs.kfree_skb
        while queue:
            kfree_skb(queue.popleft())
