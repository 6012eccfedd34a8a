"""Connecting and connecting again (2.6.23 net/sunrpc/xprtsock.c: connect workers, xs_tcp_state_change(); patch 31).

Interface
    * :class:`XsTcpConnect`, :class:`XsUdpConnect`: the connecting half of a transport: ``xs_connect``, ``xs_close``, the worker,
      and for TCP the callback of the socket's states.

Rules of this file
    * The worker runs on rpciod. The first try comes at once; one that finds the old socket still there waits 3 s, then twice as
      long each time up to 300 s. A connection that comes up resets this.
    * A socket that was reset or refused keeps its local port and is connected again; one that the server closed is closed and made
      anew, with the same port.
    * sk_allocation = GFP_ATOMIC is set when the socket is adopted, before connect; patch 31's sk_set_memalloc() comes after it,
      because the assignment would wipe its bit, and before connect, because the SYN|ACK may come as an emergency skb.
    * Patch 31: while the transport carries swap the worker runs with PF_MEMALLOC and gives back that bit, only that bit, on every
      way out. ``worker_memalloc`` and ``early_memalloc`` are its two halves, for whoever wants to see one missing.
    * A change of the connection's state is progress.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kemu.kernel.errno import EADDRINUSE, EALREADY, ECONNREFUSED, ECONNRESET, EINPROGRESS, EIO, ENOMEM
from kemu.kernel.task import PF_MEMALLOC, tsk_restore_flags
from kemu.kernel.timer import HZ
from kemu.kernel.workqueue import Work
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.sock import sock_hold, sock_put
from kemu_net.ipv4.tcp_states import TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_SYN_RECV, TCP_SYN_SENT

if TYPE_CHECKING:
    from kemu_net.core.sock import Sock
    from kemu_net.ipv4.tcp import Tcp
    from kemu_net.ipv4.tcp_sock import TcpSock
    from kemu_net.ipv4.udp import Udp, UdpSock
    from kemu_nfs.sunrpc.rpc_sysctl import SunrpcSysctls
    from kemu_nfs.sunrpc.xprtsock import Stack, TcpXprt
    from kemu_nfs.sunrpc.xs_udp import UdpXprt

XS_TCP_INIT_REEST_TO: Final = 3 * HZ
XS_TCP_MAX_REEST_TO: Final = 300 * HZ
TCP_NAGLE_OFF: Final = 1


class XsTcpConnect:
    """The connecting half of a TCP transport.

    :ivar local_port: a reserved port, kept from socket to socket.
    :ivar attempts: virtual times at which the worker began to connect.
    """

    def __init__(self, xprt: TcpXprt, stack: Stack) -> None:
        self.xprt = xprt
        self.patched = xprt.patched
        self.fixed = xprt.fixed
        self.sched = xprt.sched
        self.tcp = stack.tcp
        self.socks = stack.socks
        self.ports = xprt.rpc.sysctls
        self.local_port = xprt.kernel.rng.randrange(self.ports.min_resvport, self.ports.max_resvport + 1)
        self.reestablish_timeout = XS_TCP_INIT_REEST_TO
        self.worker_memalloc = True
        self.early_memalloc = True
        self.attempts: list[int] = []
        self.connect_worker = Work("xs_tcp_connect_worker4", self._xs_tcp_connect_worker4)
        self._trace_state = xprt.kernel.trace.point("sunrpc:rpc_socket_state_change", ("port", "state", "connected"))
        self.late_memalloc = Work("xs_late_memalloc", self._xs_late_memalloc)

    def xs_connect(self) -> None:
        """Have the worker connect, unless that is under way (xs_connect())."""
        xprt = self.xprt
        if xprt.connecting:
            return
        xprt.connecting = True
        if xprt.inet is not None:
            xprt.rpc.rpciod.queue_delayed_work(self.connect_worker, self.reestablish_timeout)
            self.reestablish_timeout = min(2 * self.reestablish_timeout, XS_TCP_MAX_REEST_TO)
        else:
            xprt.rpc.rpciod.queue_work(self.connect_worker)

    def _xs_tcp_connect_worker4(self, data: object) -> None:
        """Connect (xs_tcp_connect_worker4()); patch 31 lets socket, bind bucket, route and SYN come from the reserve."""
        current = self.sched.current
        pflags = current.flags
        if self.patched.nfs_enable_swap and self.xprt.swapper and self.worker_memalloc:  # [p31]
            current.flags |= PF_MEMALLOC
        try:
            status = self._connect()
        finally:
            tsk_restore_flags(current, pflags, PF_MEMALLOC)
        xprt = self.xprt
        xprt.connecting = False
        if status not in (0, -EINPROGRESS, -EALREADY):
            xprt.xprt_wake_pending_tasks(status)

    def _connect(self) -> int:
        """Get a socket and send a SYN: -EINPROGRESS, or why not."""
        xprt = self.xprt
        if xprt.shutdown:
            return -EIO
        self.attempts.append(self.sched.now)
        sk = xprt.inet
        if sk is not None and not self._xs_tcp_reuse_connection(sk):
            self.xs_close()
            sk = None
        if sk is None:
            sk = self.tcp.sock_create()
            if sk is None:
                return -ENOMEM
            error = self._xs_bind(sk)
            if error:
                self.tcp.close(sk)
                return error
        status = self._xs_tcp_finish_connecting(sk)
        if status < 0 and status not in (-EINPROGRESS, -EALREADY, -ECONNREFUSED, -ECONNRESET):
            self.xs_close()  # with this socket nothing will come of it
        return status

    def _xs_bind(self, sk: TcpSock) -> int:
        """Bind to the reserved port that we had, or the next lower one that is free (xs_bind4())."""
        error, self.local_port = xs_bind4(self.tcp, sk, self.local_port, self.ports)
        return error

    def _xs_tcp_reuse_connection(self, sk: TcpSock) -> bool:
        """Take the socket back to TCP_CLOSE with its port (xs_tcp_reuse_connection()); tell whether it can be used again."""
        return self.tcp.disconnect(sk) == 0

    def _xs_tcp_finish_connecting(self, sk: TcpSock) -> int:
        """Adopt a socket and connect it (xs_tcp_finish_connecting())."""
        xprt = self.xprt
        if xprt.inet is None:
            sk.sk_user_data = xprt
            sk.sk_data_ready = xprt.xs_tcp_data_ready
            sk.sk_state_change = self.xs_tcp_state_change
            sk.sk_write_space = xprt.xs_tcp_write_space
            sk.sk_allocation = GFP_ATOMIC
            sk.nonagle |= TCP_NAGLE_OFF
            xprt.connected = False
            xprt.inet = sk
        if self.patched.nfs_enable_swap and xprt.swapper and self.early_memalloc:  # [p31]
            self.socks.sk_set_memalloc(sk)
        xprt.connects += 1
        return self.tcp.connect_nonblock(sk, xprt.addr, xprt.port)

    def xs_tcp_state_change(self, sk: TcpSock) -> None:
        """React to the state of the connection (xs_tcp_state_change()); from softirq."""
        xprt = self.xprt
        if sk is not xprt.inet:
            return
        state = sk.sk_state
        if self._trace_state.enabled:
            self._trace_state(sk.sport, state, xprt.connected)
        if state == TCP_ESTABLISHED:
            if not xprt.connected:
                xprt.connected = True
                xprt.stream.reset()
                self.reestablish_timeout = XS_TCP_INIT_REEST_TO
                xprt.judge.progress()
                if self.patched.nfs_enable_swap and xprt.swapper and not self.early_memalloc:  # [p31]
                    xprt.rpc.rpciod.queue_work(self.late_memalloc)
                xprt.established += 1
                xprt.xprt_wake_pending_tasks(0)
        elif state in (TCP_SYN_SENT, TCP_SYN_RECV):
            pass
        else:
            if state == TCP_CLOSE_WAIT:
                xprt.xprt_force_close()  # the server wants no more
            xprt.xprt_disconnect()

    def _xs_late_memalloc(self, data: object) -> None:
        """Mark a socket whose connection is up: what patch 31 must not do later than connect."""
        if self.xprt.inet is not None:
            self.socks.sk_set_memalloc(self.xprt.inet)

    def xs_close(self) -> None:
        """Drop the socket (xs_close()): its callbacks find nothing of ours any more.

        v14 leaves its share of the reserve to sk_free(). The last reference may go in a softirq, when the peer acknowledges our
        FIN, and giving the share back takes a mutex (b31c). Mended, the flag is cleared here, in process context; after the FIN,
        whose memory may have to come from the reserve.
        """
        xprt = self.xprt
        sk = xprt.inet
        if sk is None:
            return
        xprt.inet = None
        sk.sk_user_data = None
        sk.sk_data_ready = self.socks.sock_def_readable
        sk.sk_state_change = self.socks.sock_def_wakeup
        sk.sk_write_space = _no_write_space
        xprt.connected = False
        sock_hold(sk)
        self.tcp.close(sk)
        if self.patched.nfs_enable_swap and xprt.swapper:  # [p31]
            if self.fixed.b31c:  # [b31c]
                self.socks.sk_clear_memalloc(sk)
        sock_put(sk)


class XsUdpConnect:
    """The connecting half of a UDP transport: there is nothing to agree on, so it is connected when it has a socket."""

    def __init__(self, xprt: UdpXprt, stack: Stack) -> None:
        self.xprt = xprt
        self.patched = xprt.patched
        self.fixed = xprt.fixed
        self.sched = xprt.sched
        self.softirq = xprt.kernel.softirq
        self.udp = stack.udp
        self.socks = stack.socks
        self.ports = xprt.rpc.sysctls
        self.local_port = xprt.kernel.rng.randrange(self.ports.min_resvport, self.ports.max_resvport + 1)
        self.worker_memalloc = True
        self.connect_worker = Work("xs_udp_connect_worker4", self._xs_udp_connect_worker4)

    def xs_connect(self) -> None:
        """Have the worker make a socket, unless that is under way."""
        if not self.xprt.connecting:
            self.xprt.connecting = True
            self.xprt.rpc.rpciod.queue_work(self.connect_worker)

    def _xs_udp_connect_worker4(self, data: object) -> None:
        """Make a socket anew (xs_udp_connect_worker4())."""
        current = self.sched.current
        pflags = current.flags
        if self.patched.nfs_enable_swap and self.xprt.swapper and self.worker_memalloc:  # [p31]
            current.flags |= PF_MEMALLOC
        try:
            status = self._connect()
        finally:
            tsk_restore_flags(current, pflags, PF_MEMALLOC)
        self.xprt.connecting = False
        self.xprt.xprt_wake_pending_tasks(status)

    def _connect(self) -> int:
        """Make and adopt a socket: 0 or -errno."""
        if self.xprt.shutdown:
            return -EIO
        self.xs_close()
        sk = self.udp.sock_create()
        if sk is None:
            return -ENOMEM
        error, self.local_port = xs_bind4(self.udp, sk, self.local_port, self.ports)
        if error:
            self.udp.close(sk)
            return error
        self._xs_udp_finish_connecting(sk)
        return 0

    def _xs_udp_finish_connecting(self, sk: UdpSock) -> None:
        """Adopt a socket (xs_udp_finish_connecting()).

        v14 calls sk_set_memalloc() inside write_lock_bh(sk_callback_lock), and sk_set_memalloc() ends in a mutex: sleeping in
        atomic context (b31c). The TCP path calls it outside the lock; mended, so does this one.
        """
        xprt = self.xprt
        self.softirq.local_bh_disable()
        sk.sk_user_data = xprt
        sk.sk_data_ready = xprt.xs_udp_data_ready
        sk.sk_write_space = xprt.xs_udp_write_space
        sk.sk_allocation = GFP_ATOMIC
        xprt.inet = sk
        xprt.connected = True
        xprt.connects += 1
        xprt.established += 1
        if self.patched.nfs_enable_swap and xprt.swapper:  # [p31]
            if not self.fixed.b31c:  # [b31c]
                self.sched.might_sleep()
                self.socks.sk_set_memalloc(sk)
        self.softirq.local_bh_enable()
        if self.patched.nfs_enable_swap and xprt.swapper:  # [p31]
            self.socks.sk_set_memalloc(sk)
        xprt.xs_udp_do_set_buffer_size(sk)
        xprt.judge.progress()

    def xs_close(self) -> None:
        """Drop the socket (xs_close()); the last reference may be a fragment's that the NIC still sends (b31c)."""
        sk = self.xprt.inet
        if sk is None:
            return
        self.xprt.inet = None
        self.xprt.connected = False
        sk.sk_user_data = None
        sk.sk_data_ready = self.socks.sock_def_readable
        sk.sk_write_space = _no_write_space
        sock_hold(sk)
        self.udp.close(sk)
        if self.patched.nfs_enable_swap and self.xprt.swapper:  # [p31]
            if self.fixed.b31c:  # [b31c]
                self.socks.sk_clear_memalloc(sk)
        sock_put(sk)


def xs_bind4(family: Tcp | Udp, sk: Any, port: int, ports: SunrpcSysctls) -> tuple[int, int]:
    """Bind to a reserved port, or the next lower one that is free: (0 or -errno, the port) (xs_bind4())."""
    error = -EADDRINUSE
    for _ in range(ports.min_resvport, ports.max_resvport + 1):
        error = family.bind(sk, 0, port)
        if error != -EADDRINUSE:
            break
        port = port - 1 if port > ports.min_resvport else ports.max_resvport
    return error, port


def _no_write_space(sk: Sock) -> None:
    """Nobody of ours waits for this socket."""
