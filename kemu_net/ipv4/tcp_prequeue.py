"""The prequeue: segments wait for the task that reads, which processes them itself (2.6.23 net/tcp.h: tcp_prequeue(), tcp.c).

Interface
    TcpPrequeue.tcp_prequeue(sk, skb)            leave a segment to the reader, in softirq
    tcp_prequeue_process(sk)                     the reader, who owns the socket
    tcp_prequeue_flush(sk)                       the timer of delayed acknowledgements: the reader did not come

Rules
    * A reader installs itself in ``ucopy_task`` when it finds nothing to read. RPC and nfsd never do, so their segments never wait
      here.
    * The prequeue is bounded by sk_rcvbuf: what overflows it is processed at once, in softirq.
    * Patch 13's wrapper is called at two of three places. The third, the overflow, was forgotten (b13): an emergency segment that
      waited there is processed without PF_MEMALLOC when an ordinary one overflows the prequeue.
    * No emergency segment is here whose socket does not carry swap: sk_filter() came first (patch 20).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu_net.ipv4.tcp_base import TcpBase
from kemu_net.ipv4.tcp_sock import ICSK_ACK_SCHED, ICSK_ACK_TIMER, TCP_RTO_MIN, TcpSock

if TYPE_CHECKING:
    from kemu_net.core.skbuff import SkBuff


class TcpPrequeue(TcpBase):
    """Segments that wait for a reader."""

    def tcp_prequeue(self, sk: TcpSock, skb: SkBuff) -> None:
        """Leave a segment to the task in recvmsg() (``tcp_prequeue()``), which exists; wake it for the first one."""
        queue = sk.prequeue
        queue.append(skb)
        sk.prequeue_memory += skb.truesize
        if sk.prequeue_memory > sk.sk_rcvbuf:
            while queue:
                late = queue.popleft()
                if self.patched.sk_backlog_rcv:  # [p13]
                    if self.fixed.b13:  # [b13]
                        self.socks.sk_backlog_rcv(sk, late)
                    else:
                        sk.sk_backlog_rcv(sk, late)
                else:
                    sk.sk_backlog_rcv(sk, late)
            sk.prequeue_memory = 0
        elif len(queue) == 1:
            self.sched.wake_up(sk.sk_sleep)
            if not sk.ack_pending & ICSK_ACK_SCHED:
                sk.ack_pending |= ICSK_ACK_TIMER
                sk.ack_timeout = self.sched.jiffies + 3 * TCP_RTO_MIN // 4
                self.sk_reset_timer(sk, sk.delack_timer, sk.ack_timeout)

    def tcp_prequeue_flush(self, sk: TcpSock) -> None:
        """Process what waits; bottom halves are disabled and nobody else is in the socket (in ``tcp_delack_timer()``)."""
        queue = sk.prequeue
        while queue:
            skb = queue.popleft()
            if self.patched.sk_backlog_rcv:  # [p13]
                self.socks.sk_backlog_rcv(sk, skb)
            else:
                sk.sk_backlog_rcv(sk, skb)
        sk.prequeue_memory = 0

    def tcp_prequeue_process(self, sk: TcpSock) -> None:
        """Process what waits, as the reader (``tcp_prequeue_process()``)."""
        self.softirq.local_bh_disable()
        queue = sk.prequeue
        while queue:
            skb = queue.popleft()
            if self.patched.sk_backlog_rcv:  # [p13]
                self.socks.sk_backlog_rcv(sk, skb)
            else:
                sk.sk_backlog_rcv(sk, skb)
        self.softirq.local_bh_enable()
        sk.prequeue_memory = 0
