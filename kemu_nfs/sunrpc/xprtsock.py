"""RPC over TCP: sending a call and receiving its reply (2.6.23 net/sunrpc/xprtsock.c).

Interface
    * :class:`TcpXprt`: a transport. Connecting is in xs_connect.py, patch 31's swap switch in xs_swapper.py. UdpXprt, which
      users take from here too, is in xs_udp.py.

Rules of this file
    * Only the task that has the right to send calls send_request(). Header bytes go by sendmsg, pages by sendpage: they are not
      copied and may change while they are on their way.
    * A partial send is gone on with where it stopped (``rq_bytes_sent``). A socket without room wakes its sender by sk_write_space;
      one without memory is tried again after HZ/16.
    * The socket's callbacks run in softirq; they read, look up and wake, and never sleep.
    * Left out: port mapping.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from kemu.kernel.errno import EAGAIN, ECONNREFUSED, ECONNRESET, ENOMEM, ENOTCONN, EPIPE
from kemu_net.core.sock import SOCK_ASYNC_NOSPACE, SOCK_NOSPACE
from kemu_net.core.stream import sk_stream_min_wspace, sk_stream_wspace
from kemu_nfs.sunrpc.reply_stream import ReplyStream
from kemu_nfs.sunrpc.rpc_const import RPC_LAST_STREAM_FRAGMENT
from kemu_nfs.sunrpc.rpc_sched import RPC_RETRY_DELAY, RpcSched
from kemu_nfs.sunrpc.rpc_task import RpcRqst, RpcTask
from kemu_nfs.sunrpc.xprt import TCP_TIMEOUT, Xprt, XprtTimeout
from kemu_nfs.sunrpc.xs_connect import XsTcpConnect
from kemu_nfs.sunrpc.xs_udp import UdpXprt

if TYPE_CHECKING:
    from kemu_net.core.sock import Socks
    from kemu_net.ipv4.tcp import Tcp
    from kemu_net.ipv4.tcp_sock import TcpSock
    from kemu_net.ipv4.udp import Udp

__all__ = ["Stack", "TcpXprt", "UdpXprt"]

XS_SENDMSG_RETRIES: Final = 10


class Stack(Protocol):
    """What a transport needs of the network (kemu_net.stack.NetStack, or a test's stand-in)."""

    @property
    def tcp(self) -> Tcp:
        """TCP's socket calls."""

    @property
    def udp(self) -> Udp:
        """UDP's socket calls."""

    @property
    def socks(self) -> Socks:
        """Sockets: sk_set_memalloc() and friends."""


class TcpXprt(Xprt):
    """A transport over TCP with record marking.

    :ivar inet: the socket, or None; ``sock_port`` its local port, kept from socket to socket.
    """

    prot = "tcp"

    def __init__(
        self,
        rpc: RpcSched,
        stack: Stack,
        addr: int,
        port: int,
        *,
        timeout: XprtTimeout = TCP_TIMEOUT,
        slots: int = 0,
        reply_from: Any = None,
    ) -> None:
        super().__init__(rpc, addr, port, timeout, slots=slots or rpc.sysctls.tcp_slot_table_entries, reply_from=reply_from)
        self.tcp = stack.tcp
        self.socks = stack.socks
        self.inet: TcpSock | None = None
        self.stream = ReplyStream(self, self.xprt_complete_rqst)
        self.connector = XsTcpConnect(self, stack)

    def connect(self, task: RpcTask) -> None:
        """Begin to connect (xs_connect())."""
        self.connector.xs_connect()

    def close(self) -> None:
        """Drop the socket (xs_close())."""
        self.connector.xs_close()

    def prepare_head(self, req: RpcRqst, head: bytes) -> None:
        """Put the record mark before the call (xs_encode_tcp_record_marker())."""
        size = len(head) + len(req.rq_tail)
        if req.rq_pages is not None:
            for _, _, length in req.rq_pages:
                size += length
        req.rq_slen = size + 4
        req.rq_head = (RPC_LAST_STREAM_FRAGMENT | size).to_bytes(4, "big") + head

    def send_request(self, task: RpcTask) -> int:
        """Send what is left of a call (xs_tcp_send_request())."""
        req = task.tk_rqstp
        assert req is not None
        status = -EAGAIN
        for _ in range(XS_SENDMSG_RETRIES):
            sent = self._xs_sendpages(req)
            if sent < 0:
                status = sent
                break
            req.rq_bytes_sent += sent
            if req.rq_bytes_sent >= req.rq_slen:
                req.rq_bytes_sent = 0
                return 0
        if status in (-EAGAIN, -ENOMEM):
            self._xs_nospace(task)
            return -EAGAIN
        if status in (-ECONNREFUSED, -ECONNRESET, -ENOTCONN, -EPIPE):
            return -ENOTCONN
        self.kernel.printk(f"RPC: sendmsg returned unrecognized error {-status}", "notice")
        self.xprt_disconnect()
        return status

    def _xs_sendpages(self, req: RpcRqst) -> int:
        """Send from ``rq_bytes_sent`` on as far as the socket takes it (xs_sendpages()): bytes, or -errno if it took none."""
        sk = self.inet
        if sk is None:
            return -ENOTCONN
        tcp = self.tcp
        done = 0
        skip = req.rq_bytes_sent
        pages = req.rq_pages
        tail = req.rq_tail
        head = req.rq_head
        if skip < len(head):
            part = head[skip:] if skip else head
            sent = tcp.sendmsg(sk, part, more=pages is not None, nonblock=True)
            if sent < len(part):
                return sent
            done = sent
            skip = 0
        else:
            skip -= len(head)
        if pages is not None:
            for page, offset, size in pages:
                if skip >= size:
                    skip -= size
                    continue
                want = size - skip
                sent = tcp.sendpage(sk, page, offset + skip, want, more=bool(tail), nonblock=True)
                skip = 0
                if sent < 0:
                    return done or sent
                done += sent
                if sent < want:
                    return done
        if skip < len(tail):
            sent = tcp.sendmsg(sk, tail[skip:], nonblock=True)
            if sent < 0:
                return done or sent
            done += sent
        return done

    def _xs_nospace(self, task: RpcTask) -> None:
        """Wait for room on the socket, or a while for memory; the right to send is kept (xs_nospace())."""
        sk = self.inet
        if sk is None or not self.connected:
            return
        task.tk_status = -EAGAIN
        if sk.sk_socket_flags & SOCK_NOSPACE or sk_stream_wspace(sk) < sk_stream_min_wspace(sk):
            sk.sk_socket_flags |= SOCK_NOSPACE | SOCK_ASYNC_NOSPACE
            req = task.tk_rqstp
            assert req is not None
            task.tk_timeout = req.rq_timeout
            self.rpc.rpc_sleep_on(self.pending, task, None, self._xprt_timer)
        else:
            self.rpc.rpc_delay(task, RPC_RETRY_DELAY, -EAGAIN)

    # -- callbacks of the socket -----------------------------------------------------------------------------------------------

    def xs_tcp_data_ready(self, sk: TcpSock) -> None:
        """Read what the socket has (xs_tcp_data_ready()); from softirq."""
        if sk is not self.inet or self.shutdown:
            return
        self.tcp.read_sock(sk, self._xs_tcp_data_recv)

    def _xs_tcp_data_recv(self, data: bytes) -> int:
        """Take one piece of the stream (xs_tcp_data_recv()); all of it is consumed."""
        stream = self.stream
        if stream.broken is None:
            stream.feed(data if type(data) is bytes else bytes(data))
            if stream.broken is not None:
                self.kernel.printk.ratelimited("rpc stream", f"RPC: {stream.broken}; the connection is closed")
                self.xprt_disconnect()
                self.xprt_force_close()
        return len(data)

    def xs_tcp_write_space(self, sk: TcpSock) -> None:
        """Let the sender go on when there is room (xs_tcp_write_space())."""
        if sk is not self.inet or sk_stream_wspace(sk) < sk_stream_min_wspace(sk):
            return
        if sk.sk_socket_flags & SOCK_NOSPACE:
            sk.sk_socket_flags &= ~(SOCK_NOSPACE | SOCK_ASYNC_NOSPACE)
            self.xprt_write_space()
