"""RPC over UDP: a call and its reply are one datagram each (2.6.23 net/sunrpc/xprtsock.c: xs_udp_...()).

Interface
    * :class:`UdpXprt`. Its congestion window and timeouts are in xprt_cong.py, its connect worker in xs_connect.py.

Rules of this file
    * The socket has no peer, so nothing is ever connected and no ICMP error reaches it, as in the kernel: a server that is not
      there is one that does not answer. An errno that sendto() gives ends the call, but for EAGAIN, ENOTCONN and the few that
      call_status() knows; ENOBUFS, an skb that could not be had, is not among them (b30e).
    * A datagram is sent whole or not at all; IP cuts it into fragments. Without room in the send buffer the sender waits for
      sk_write_space and keeps the right to send.
    * Of what comes, scraps, what is not from the server, and replies that nobody waits for are dropped. A reply longer than its
      call wants is cut.
    * Left out: pages that are sent without a copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kemu.kernel.errno import EAGAIN, ENOMEM, ENOTCONN
from kemu.kernel.timer import HZ
from kemu_net.core.sock import SOCK_ASYNC_NOSPACE, SOCK_NOSPACE
from kemu_nfs.sunrpc.rpc_sched import RPC_RETRY_DELAY, RpcSched
from kemu_nfs.sunrpc.rpc_task import RpcRqst, RpcTask
from kemu_nfs.sunrpc.xprt_cong import CongXprt
from kemu_nfs.sunrpc.xprt_timeout import UDP_TIMEOUT, XprtTimeout
from kemu_nfs.sunrpc.xs_connect import XsUdpConnect

if TYPE_CHECKING:
    from kemu_net.ipv4.udp import UdpSock
    from kemu_nfs.sunrpc.xprtsock import Stack

XS_UDP_CONN_TO: Final = 5 * HZ
UDP_SLACK: Final = 100  # of a datagram, besides the data (fs/nfs/client.c: rpc_setbufsize(wsize + 100, rsize + 100))


class UdpXprt(CongXprt):
    """A transport over UDP.

    :ivar sndsize: bytes of the largest call, ``rcvsize`` of the largest reply; 0 leaves the socket's buffers as they are.
    """

    prot = "udp"

    def __init__(
        self,
        rpc: RpcSched,
        stack: Stack,
        addr: int,
        port: int,
        *,
        timeout: XprtTimeout = UDP_TIMEOUT,
        slots: int = 0,
        reply_from: Any = None,
    ) -> None:
        super().__init__(rpc, addr, port, timeout, slots=slots or rpc.sysctls.udp_slot_table_entries, reply_from=reply_from)
        self.udp = stack.udp
        self.socks = stack.socks
        self.connect_timeout = XS_UDP_CONN_TO
        self.sndsize = 0
        self.rcvsize = 0
        self.inet: UdpSock | None = None
        self.connector = XsUdpConnect(self, stack)

    def connect(self, task: RpcTask) -> None:
        """Begin to connect (xs_connect())."""
        self.connector.xs_connect()

    def close(self) -> None:
        """Drop the socket (xs_close())."""
        self.connector.xs_close()

    def set_buffer_size(self, sndsize: int, rcvsize: int) -> None:
        """Make room for a slot table of calls and replies of these sizes (xs_udp_set_buffer_size())."""
        self.sndsize = sndsize + UDP_SLACK
        self.rcvsize = rcvsize + UDP_SLACK
        if self.inet is not None:
            self.xs_udp_do_set_buffer_size(self.inet)

    def xs_udp_do_set_buffer_size(self, sk: UdpSock) -> None:
        """Give a socket its buffers (xs_udp_do_set_buffer_size())."""
        if self.rcvsize:
            sk.sk_rcvbuf = self.rcvsize * len(self.slots) * 2
        if self.sndsize:
            sk.sk_sndbuf = self.sndsize * len(self.slots) * 2
            sk.sk_write_space(sk)

    # -- sending ---------------------------------------------------------------------------------------------------------------

    def prepare_head(self, req: RpcRqst, head: bytes) -> None:
        """Take the call as it is: a datagram has its own length."""
        size = len(head) + len(req.rq_tail)
        if req.rq_pages is not None:
            for _, _, length in req.rq_pages:
                size += length
        req.rq_slen = size
        req.rq_head = head

    def send_request(self, task: RpcTask) -> int:
        """Send a call as one datagram (xs_udp_send_request())."""
        req = task.tk_rqstp
        assert req is not None
        sk = self.inet
        if sk is None:
            return -ENOTCONN
        parts = [req.rq_head]
        if req.rq_pages is not None:
            for page, offset, size in req.rq_pages:
                parts.append((page.contents or bytes(4096))[offset : offset + size])
        parts.append(req.rq_tail)
        req.rq_xtime = self.sched.jiffies
        sent = self.udp.sendto(sk, b"".join(parts), self.addr, self.port)
        if sent >= 0:
            return 0
        if sent in (-EAGAIN, -ENOMEM):
            self._xs_nospace(sk, task, req)
            return -EAGAIN
        return sent

    def _xs_nospace(self, sk: UdpSock, task: RpcTask, req: RpcRqst) -> None:
        """Wait for room on the socket, or a while for memory (xs_nospace())."""
        task.tk_status = -EAGAIN
        if sk.sk_socket_flags & SOCK_NOSPACE:
            task.tk_timeout = req.rq_timeout
            self.rpc.rpc_sleep_on(self.pending, task, None, self._xprt_timer)
        else:
            self.rpc.rpc_delay(task, RPC_RETRY_DELAY, -EAGAIN)

    def xs_udp_write_space(self, sk: UdpSock) -> None:
        """Let the sender go on when there is room (xs_udp_write_space()); from softirq."""
        if sk.sk_wmem_alloc << 1 < sk.sk_sndbuf and sk.sk_socket_flags & SOCK_NOSPACE:
            sk.sk_socket_flags &= ~(SOCK_NOSPACE | SOCK_ASYNC_NOSPACE)
            if sk is self.inet:
                self.xprt_write_space()

    # -- receiving -------------------------------------------------------------------------------------------------------------

    def xs_udp_data_ready(self, sk: UdpSock) -> None:
        """Read the datagrams that are there (xs_udp_data_ready()); from softirq. What is no reply of ours is dropped."""
        if sk is not self.inet or self.shutdown:
            return
        while sk.sk_receive_queue:
            answer = self.udp.recvfrom(sk, nonblock=True)
            if isinstance(answer, int):
                continue  # its checksum was wrong, and it is gone; the next may be right
            data, saddr, sport = answer
            if len(data) < 4 or saddr != self.addr or sport != self.port:
                continue
            req = self.recv.get(int.from_bytes(data[:4], "big"))
            if req is None or req.rq_task is None:
                self.replies_unknown += 1
                continue
            self.xprt_complete_cong(req, req.rq_task, bytes(data[: req.rq_task.tk_proc.limit]))
