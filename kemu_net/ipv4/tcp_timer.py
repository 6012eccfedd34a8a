"""The timers of a connection (2.6.23 net/ipv4/tcp_timer.c).

Interface: TcpTimers.tcp_init_xmit_timers(sk); the handlers run in TIMER_SOFTIRQ.

Rules
    * A handler that finds the socket in use tries again soon: after 50 ms to retransmit, 40 ms to acknowledge.
    * A connection gives up after tcp_retries2 = 15 retransmissions: with an RTO of 200 ms that is 924.6 s after the first loss.
    * The timer that fires held the socket; the handler drops that reference last.
    * Left out: keep-alive, the path MTU's and the route's part in tcp_write_timeout(), prequeue.
"""

from __future__ import annotations

from kemu.kernel.errno import ETIMEDOUT
from kemu.kernel.timer import HZ, Timer
from kemu_net.core.sock import SOCK_DEAD, sock_put
from kemu_net.ipv4.tcp_cong import TcpCong
from kemu_net.ipv4.tcp_sock import (
    ICSK_ACK_SCHED,
    ICSK_ACK_TIMER,
    ICSK_TIME_PROBE0,
    ICSK_TIME_RETRANS,
    TCP_ATO_MIN,
    TCP_DELACK_MIN,
    TCP_ORPHAN_RETRIES,
    TCP_RESOURCE_PROBE_INTERVAL,
    TCP_RETRIES2,
    TCP_RTO_MAX,
    TcpSock,
)
from kemu_net.ipv4.tcp_states import TCP_CLOSE, TCP_SYN_RECV, TCP_SYN_SENT


class TcpTimers(TcpCong):
    """What happens when nothing comes."""

    def tcp_init_xmit_timers(self, sk: TcpSock) -> None:
        """Give a connection its timers (``tcp_init_xmit_timers()``)."""
        sk.retransmit_timer = Timer("tcp retransmit", self.tcp_write_timer, sk)
        sk.delack_timer = Timer("tcp delack", self.tcp_delack_timer, sk)

    # delayed acknowledgements

    def tcp_delack_timer(self, sk: TcpSock) -> None:
        """Send the acknowledgement that waited (``tcp_delack_timer()``)."""
        now = self.sched.jiffies
        if sk.sk_lock_owned or sk.sk_slock:
            sk.ack_blocked = 1
            self.sk_reset_timer(sk, sk.delack_timer, now + TCP_DELACK_MIN)
        elif sk.sk_state != TCP_CLOSE and sk.ack_pending & ICSK_ACK_TIMER:
            sk.sk_slock = True
            self.streams.sk_stream_mem_reclaim(sk)
            if sk.ack_timeout > now:
                self.sk_reset_timer(sk, sk.delack_timer, sk.ack_timeout)
            else:
                sk.ack_pending &= ~ICSK_ACK_TIMER
                if sk.ack_pending & ICSK_ACK_SCHED:
                    if sk.ack_pingpong:
                        sk.ack_pingpong = 0
                        sk.ack_ato = TCP_ATO_MIN
                    else:
                        sk.ack_ato = min(sk.ack_ato << 1, sk.rto)
                    self.tcp_send_ack(sk)
            self.socks.bh_unlock_sock(sk)
        sock_put(sk)

    # retransmission and probes

    def tcp_write_timer(self, sk: TcpSock) -> None:
        """Do what the retransmission timer was armed for (``tcp_write_timer()``)."""
        now = self.sched.jiffies
        if sk.sk_lock_owned or sk.sk_slock:
            self.sk_reset_timer(sk, sk.retransmit_timer, now + HZ // 20)
        elif sk.sk_state != TCP_CLOSE and sk.icsk_pending:
            sk.sk_slock = True
            if sk.icsk_timeout > now:
                self.sk_reset_timer(sk, sk.retransmit_timer, sk.icsk_timeout)
            else:
                event = sk.icsk_pending
                sk.icsk_pending = 0
                if event == ICSK_TIME_RETRANS:
                    self.tcp_retransmit_timer(sk)
                else:
                    self.tcp_probe_timer(sk)
                self.streams.sk_stream_mem_reclaim(sk)
            self.socks.bh_unlock_sock(sk)
        sock_put(sk)

    def tcp_write_err(self, sk: TcpSock) -> None:
        """Give up (``tcp_write_err()``)."""
        sk.sk_err = sk.sk_err_soft or ETIMEDOUT
        sk.sk_error_report(sk)
        self.tcp_done(sk)

    def _tcp_write_timeout(self, sk: TcpSock) -> bool:
        """Tell whether the connection gave up now (``tcp_write_timeout()``)."""
        if sk.sk_state in (TCP_SYN_SENT, TCP_SYN_RECV):
            retry_until = sk.syn_retries
        elif sk.sk_flags & SOCK_DEAD:
            retry_until = TCP_ORPHAN_RETRIES if sk.rto < TCP_RTO_MAX else 0
        else:
            retry_until = TCP_RETRIES2
        if sk.retransmits >= retry_until:
            self.tcp_write_err(sk)
            return True
        return False

    def tcp_retransmit_timer(self, sk: TcpSock) -> None:
        """Send the first segment in flight again and double the RTO (``tcp_retransmit_timer()``)."""
        rtx = sk.sk_rtx_queue
        if not rtx:
            return
        if not sk.snd_wnd and not sk.sk_flags & SOCK_DEAD and sk.sk_state not in (TCP_SYN_SENT, TCP_SYN_RECV):
            # the receiver took its window back: keep asking as long as it answers
            if self.sched.jiffies - sk.rcv_tstamp > TCP_RTO_MAX:
                self.tcp_write_err(sk)
                return
            self.tcp_enter_loss(sk)
            self.tcp_retransmit_skb(sk, rtx[0])
        else:
            if self._tcp_write_timeout(sk):
                return
            self.tcp_enter_loss(sk)
            if self.tcp_retransmit_skb(sk, rtx[0]) > 0:
                # this host is congested: soon again, and it does not count
                sk.retransmits = sk.retransmits or 1
                self.inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, min(sk.rto, TCP_RESOURCE_PROBE_INTERVAL), TCP_RTO_MAX)
                return
            sk.backoff += 1
            sk.retransmits += 1
        sk.rto = min(sk.rto << 1, TCP_RTO_MAX)
        self.inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, sk.rto, TCP_RTO_MAX)

    def tcp_probe_timer(self, sk: TcpSock) -> None:
        """Ask a receiver without a window whether it has one now (``tcp_probe_timer()``)."""
        if sk.sk_rtx_queue or not sk.sk_write_queue:
            sk.probes_out = 0
            return
        max_probes = TCP_RETRIES2
        if sk.sk_flags & SOCK_DEAD:
            max_probes = TCP_ORPHAN_RETRIES if sk.rto << sk.backoff < TCP_RTO_MAX else 0
        if sk.probes_out > max_probes:
            self.tcp_write_err(sk)
        else:
            self.tcp_send_probe0(sk)

    def tcp_send_probe0(self, sk: TcpSock) -> None:
        """Send a probe and arm the timer for the next (``tcp_send_probe0()``)."""
        err = self.tcp_write_wakeup(sk)
        if sk.sk_rtx_queue or not sk.sk_write_queue:
            sk.probes_out = 0
            sk.backoff = 0
            return
        if err <= 0:
            if sk.backoff < TCP_RETRIES2:
                sk.backoff += 1
            sk.probes_out += 1
            self.inet_csk_reset_xmit_timer(sk, ICSK_TIME_PROBE0, min(sk.rto << sk.backoff, TCP_RTO_MAX), TCP_RTO_MAX)
        else:
            sk.probes_out = sk.probes_out or 1
            when = min(sk.rto << sk.backoff, TCP_RESOURCE_PROBE_INTERVAL)
            self.inet_csk_reset_xmit_timer(sk, ICSK_TIME_PROBE0, when, TCP_RTO_MAX)
