"""The timers of a connection (2.6.23 net/ipv4/tcp_timer.c).

Interface
    TcpTimers.tcp_init_xmit_timers(sk)
    tcp_set_keepalive(sk, on), inet_csk_reset_keepalive_timer(sk, when)
    tcp_too_many_orphans(sk, orphans)
    The handlers run in TIMER_SOFTIRQ.

Rules
    * A handler that finds the socket in use tries again soon: after 50 ms to retransmit, 40 ms to acknowledge.
    * A connection gives up after tcp_retries2 = 15 retransmissions: with an RTO of 200 ms that is 924.6 s after the first loss.
    * The timer that fires held the socket; the handler drops that reference last.
    * After tcp_retries1 = 3 retransmissions in a row the route is looked up anew.
    * Left out: black hole detection (MTU probing, off in 2.6.23).
"""

from __future__ import annotations

from kemu.kernel.errno import ETIMEDOUT
from kemu.kernel.timer import HZ, Timer
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.dst import sk_dst_set
from kemu_net.core.sock import SOCK_DEAD, SOCK_KEEPOPEN, SOCK_MIN_SNDBUF, sock_put
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
    TCP_RTO_MAX,
    TCP_TIMEWAIT_LEN,
    TcpSock,
)
from kemu_net.ipv4.tcp_states import TCP_CLOSE, TCP_FIN_WAIT2, TCP_LISTEN, TCP_SYN_RECV, TCP_SYN_SENT


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
                if sk.prequeue:
                    self.tcp_prequeue_flush(sk)  # the reader did not come in time
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

    def _tcp_orphan_retries(self, sk: TcpSock, alive: bool) -> int:
        """Give how often an orphan tries (``tcp_orphan_retries()``)."""
        retries = 0 if sk.sk_err_soft and not alive else self.sysctl_tcp_orphan_retries
        return TCP_ORPHAN_RETRIES if not retries and alive else retries

    def tcp_too_many_orphans(self, sk: TcpSock, orphans: int) -> bool:
        """Tell whether orphans hold too much (``tcp_too_many_orphans()``)."""
        prot = sk.sk_prot
        return orphans > self.sysctl_tcp_max_orphans or (
            sk.sk_wmem_queued > SOCK_MIN_SNDBUF and prot.memory_allocated > prot.sysctl_mem[2]
        )

    def _tcp_out_of_resources(self, sk: TcpSock, do_reset: bool) -> bool:
        """End an orphan that holds memory which others need (``tcp_out_of_resources()``)."""
        orphans = self.orphan_count
        idle = self.sched.jiffies - sk.lsndtime
        if idle > 2 * TCP_RTO_MAX or not do_reset:
            orphans <<= 1
        if sk.sk_err_soft:
            orphans <<= 1
        if not self.tcp_too_many_orphans(sk, orphans):
            return False
        self.kernel.printk.ratelimited("tcp orphans", "Out of socket memory")
        if do_reset or idle <= TCP_TIMEWAIT_LEN or not (sk.snd_wnd or sk.sk_rtx_queue):
            self.tcp_send_active_reset(sk, GFP_ATOMIC)
        self.tcp_done(sk)
        return True

    def _tcp_write_timeout(self, sk: TcpSock) -> bool:
        """Tell whether the connection gave up now (``tcp_write_timeout()``)."""
        if sk.sk_state in (TCP_SYN_SENT, TCP_SYN_RECV):
            retry_until = sk.syn_retries or self.sysctl_tcp_syn_retries
        else:
            retry_until = self.sysctl_tcp_retries2
            if sk.sk_flags & SOCK_DEAD:
                alive = sk.rto < TCP_RTO_MAX
                retry_until = self._tcp_orphan_retries(sk, alive)
                if self._tcp_out_of_resources(sk, alive or sk.retransmits < retry_until):
                    return True
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
        if sk.retransmits > self.sysctl_tcp_retries1:
            self._sk_dst_reset(sk)

    def _sk_dst_reset(self, sk: TcpSock) -> None:
        """Look for another route with the next segment (``__sk_dst_reset()``)."""
        sk_dst_set(sk, None)

    def tcp_probe_timer(self, sk: TcpSock) -> None:
        """Ask a receiver without a window whether it has one now (``tcp_probe_timer()``)."""
        if sk.sk_rtx_queue or not sk.sk_write_queue:
            sk.probes_out = 0
            return
        max_probes = self.sysctl_tcp_retries2
        if sk.sk_flags & SOCK_DEAD:
            alive = sk.rto << sk.backoff < TCP_RTO_MAX
            max_probes = self._tcp_orphan_retries(sk, alive)
            if self._tcp_out_of_resources(sk, alive or sk.probes_out <= max_probes):
                return
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
            if sk.backoff < self.sysctl_tcp_retries2:
                sk.backoff += 1
            sk.probes_out += 1
            self.inet_csk_reset_xmit_timer(sk, ICSK_TIME_PROBE0, min(sk.rto << sk.backoff, TCP_RTO_MAX), TCP_RTO_MAX)
        else:
            sk.probes_out = sk.probes_out or 1
            when = min(sk.rto << sk.backoff, TCP_RESOURCE_PROBE_INTERVAL)
            self.inet_csk_reset_xmit_timer(sk, ICSK_TIME_PROBE0, when, TCP_RTO_MAX)

    # keeping a silent connection alive

    def keepalive_time_when(self, sk: TcpSock) -> int:
        """Give the jiffies of silence before the first probe (``keepalive_time_when()``)."""
        return sk.keepalive_time or self.sysctl_tcp_keepalive_time

    def tcp_set_keepalive(self, sk: TcpSock, on: bool) -> None:
        """Begin or end probing a silent connection (``tcp_set_keepalive()``), before SO_KEEPALIVE is stored."""
        if sk.sk_state in (TCP_CLOSE, TCP_LISTEN):
            return
        if on and not sk.sk_flags & SOCK_KEEPOPEN:
            self.inet_csk_reset_keepalive_timer(sk, self.keepalive_time_when(sk))
        elif not on:
            self.sk_stop_timer(sk, sk.keepalive_timer)

    def inet_csk_reset_keepalive_timer(self, sk: TcpSock, when: int) -> None:
        """Arm the timer for a probe, or for the end of an orphan, ``when`` jiffies from now."""
        timer = sk.keepalive_timer
        if timer is None:
            timer = sk.keepalive_timer = Timer("tcp keepalive", self.tcp_keepalive_timer, sk)
        self.sk_reset_timer(sk, timer, self.sched.jiffies + when)

    def tcp_keepalive_timer(self, sk: TcpSock) -> None:
        """Probe a silent connection, or end an orphan whose peer never closes (``tcp_keepalive_timer()``)."""
        if sk.sk_lock_owned or sk.sk_slock:
            self.inet_csk_reset_keepalive_timer(sk, HZ // 20)
        else:
            sk.sk_slock = True
            if sk.sk_state == TCP_FIN_WAIT2 and sk.sk_flags & SOCK_DEAD:
                self.tcp_send_active_reset(sk, GFP_ATOMIC)
                self.tcp_done(sk)
            elif sk.sk_flags & SOCK_KEEPOPEN and sk.sk_state != TCP_CLOSE:
                self._tcp_keep_alive(sk)
            self.socks.bh_unlock_sock(sk)
        sock_put(sk)

    def _tcp_keep_alive(self, sk: TcpSock) -> None:
        """Send a probe if it is time for one; give up when too many were not answered."""
        due = self.keepalive_time_when(sk)
        if not sk.sk_rtx_queue and not sk.sk_write_queue:
            silent = self.sched.jiffies - sk.rcv_tstamp
            if silent < due:
                due -= silent
            elif sk.probes_out >= (sk.keepalive_probes or self.sysctl_tcp_keepalive_probes):
                self.tcp_send_active_reset(sk, GFP_ATOMIC)
                self.tcp_write_err(sk)
                return
            elif self.tcp_write_wakeup(sk) <= 0:
                sk.probes_out += 1
                due = sk.keepalive_intvl or self.sysctl_tcp_keepalive_intvl
            else:
                due = TCP_RESOURCE_PROBE_INTERVAL
            self.streams.sk_stream_mem_reclaim(sk)
        self.inet_csk_reset_keepalive_timer(sk, due)
