"""Round trip time, congestion window, and recovery from loss (2.6.23 net/ipv4/tcp_input.c, tcp_cong.c: Reno).

Interface
    TcpCong.tcp_rtt_estimator, tcp_clean_rtx_queue       what an acknowledgement tells
    tcp_ack_dubious(sk, prior_packets, prior_in_flight, flag)    an acknowledgement that is not plain progress
    tcp_cong_avoid, tcp_fastretrans_alert, tcp_enter_loss, tcp_simple_retransmit

Rules
    * States: OPEN, DISORDER (something is missing), CWR (this host was congested), RECOVERY (fast retransmit), LOSS (after an RTO).
      A state that lowered the window ends when high_seq, snd_nxt of its beginning, is acknowledged.
    * Karn: without time stamps a segment that was sent twice gives no round trip time. With them every acknowledgement does.
    * Undo: when the acknowledgement of a retransmission was of the first transmission (its stamp is older: Eifel), or when D-SACKs
      account for every retransmission, the window comes back.
    * Rate halving in CWR and RECOVERY: every second acknowledgement takes one segment from the window, down to half the threshold.
    * F-RTO is off in 2.6.23 and left out; so are ECN, appropriate byte counting, other algorithms than Reno.
"""

from __future__ import annotations

from kemu_net.ipv4.tcp_sack import FLAG_DATA_LOST, FLAG_DATA_SACKED, TcpSack
from kemu_net.ipv4.tcp_sock import (
    ICSK_TIME_RETRANS,
    MASK,
    SIGN,
    SYN,
    TCP_CA_CWR,
    TCP_CA_DISORDER,
    TCP_CA_LOSS,
    TCP_CA_OPEN,
    TCP_CA_RECOVERY,
    TCP_RTO_MAX,
    TCP_RTO_MIN,
    TCPCB_LOST,
    TCPCB_RETRANS,
    TCPCB_SACKED_ACKED,
    TCPCB_SACKED_RETRANS,
    TcpSock,
)
from kemu_net.ipv4.tcp_window import tcp_init_cwnd, tcp_packets_in_flight

FLAG_DATA = 0x01  # the segment carried data
FLAG_WIN_UPDATE = 0x02
FLAG_DATA_ACKED = 0x04
FLAG_RETRANS_DATA_ACKED = 0x08
FLAG_SYN_ACKED = 0x10
FLAG_SLOWPATH = 0x100
FLAG_SND_UNA_ADVANCED = 0x400
FLAG_ACKED = FLAG_DATA_ACKED | FLAG_SYN_ACKED
FLAG_NOT_DUP = FLAG_DATA | FLAG_WIN_UPDATE | FLAG_ACKED
FLAG_CA_ALERT = FLAG_DATA_SACKED

_MAX_BURST = 3  # tcp_max_burst()


class TcpCong(TcpSack):
    """How much may be in flight, and what to do when some of it is lost."""

    # round trip time

    def tcp_rtt_estimator(self, sk: TcpSock, mrtt: int) -> None:
        """Take one measurement in jiffies into account and set the RTO (``tcp_rtt_estimator()``, ``tcp_set_rto()``)."""
        m = mrtt or 1
        if sk.srtt:
            m -= sk.srtt >> 3
            sk.srtt += m
            if m < 0:
                m = -m
                m -= sk.mdev >> 2
                if m > 0:
                    m >>= 3
            else:
                m -= sk.mdev >> 2
            sk.mdev += m
            if sk.mdev > sk.mdev_max:
                sk.mdev_max = sk.mdev
                sk.rttvar = max(sk.rttvar, sk.mdev_max)
            if (sk.rtt_seq - sk.snd_una) & SIGN:
                if sk.mdev_max < sk.rttvar:
                    sk.rttvar -= (sk.rttvar - sk.mdev_max) >> 2
                sk.rtt_seq = sk.snd_nxt
                sk.mdev_max = TCP_RTO_MIN
        else:
            sk.srtt = m << 3
            sk.mdev = m << 1
            sk.mdev_max = sk.rttvar = max(sk.mdev, TCP_RTO_MIN)
            sk.rtt_seq = sk.snd_nxt
        rto = (sk.srtt >> 3) + sk.rttvar
        if rto > TCP_RTO_MAX:
            rto = TCP_RTO_MAX
        sk.rto = rto

    # what was acknowledged

    def tcp_clean_rtx_queue(self, sk: TcpSock) -> int:
        """Free what the peer has acknowledged (``tcp_clean_rtx_queue()``); give FLAG_*_ACKED."""
        rtx = sk.sk_rtx_queue
        snd_una = sk.snd_una
        free = self.streams.sk_stream_free_skb
        flag = 0
        sent_at = -1
        while rtx:
            skb = rtx[0]
            if (snd_una - skb.end_seq) & SIGN:
                break
            if skb.flags & SYN:
                flag |= FLAG_SYN_ACKED
                sk.retrans_stamp = 0
            else:
                flag |= FLAG_DATA_ACKED
            sacked = skb.sacked
            if sacked:
                if sacked & TCPCB_RETRANS:
                    if sacked & TCPCB_SACKED_RETRANS:
                        sk.retrans_out -= 1
                    flag |= FLAG_RETRANS_DATA_ACKED
                elif sent_at < 0:
                    sent_at = skb.when
                if sacked & TCPCB_SACKED_ACKED:
                    sk.sacked_out -= 1
                if sacked & TCPCB_LOST:
                    sk.lost_out -= 1
            elif sent_at < 0:
                sent_at = skb.when
            if sk.fackets_out:
                sk.fackets_out -= 1
            rtx.popleft()
            free(sk, skb)
        if flag:
            opt = sk.rx_opt
            if opt.saw_tstamp and opt.rcv_tsecr:  # tcp_ack_saw_tstamp()
                self.tcp_rtt_estimator(sk, (self.sched.jiffies & MASK) - opt.rcv_tsecr & MASK)
                sk.backoff = 0
            elif not flag & FLAG_RETRANS_DATA_ACKED and sent_at >= 0:  # tcp_ack_no_tstamp()
                self.tcp_rtt_estimator(sk, self.sched.jiffies - sent_at)
                sk.backoff = 0
            if not rtx:  # tcp_ack_packets_out()
                sk.icsk_pending = 0
            else:
                self.inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, sk.rto, TCP_RTO_MAX)
        return flag

    def tcp_ack_dubious(self, sk: TcpSock, prior_packets: int, prior_in_flight: int, flag: int) -> None:
        """Look for losses, when an acknowledgement is a duplicate, has news by SACK, or something is wrong already."""
        if flag & FLAG_DATA_ACKED and sk.ca_state not in (TCP_CA_RECOVERY, TCP_CA_CWR):  # tcp_may_raise_cwnd()
            self.tcp_cong_avoid(sk, prior_in_flight)
        self.tcp_fastretrans_alert(sk, prior_packets, flag)

    # the window

    def tcp_cong_avoid(self, sk: TcpSock, in_flight: int) -> None:
        """Let the window grow (``tcp_reno_cong_avoid()``): by one per acknowledgement, then by one per window."""
        cwnd = sk.snd_cwnd
        if in_flight < cwnd and cwnd - in_flight > _MAX_BURST:  # tcp_is_cwnd_limited()
            return
        if cwnd <= sk.snd_ssthresh:
            if cwnd < sk.snd_cwnd_clamp:
                sk.snd_cwnd = cwnd + 1
        elif sk.snd_cwnd_cnt >= cwnd:
            if cwnd < sk.snd_cwnd_clamp:
                sk.snd_cwnd = cwnd + 1
            sk.snd_cwnd_cnt = 0
        else:
            sk.snd_cwnd_cnt += 1
        sk.snd_cwnd_stamp = self.sched.jiffies

    def tcp_cwnd_down(self, sk: TcpSock) -> None:
        """Take one segment from the window with every second acknowledgement (``tcp_cwnd_down()``)."""
        decrease = sk.snd_cwnd_cnt + 1
        sk.snd_cwnd_cnt = decrease & 1
        decrease >>= 1
        if decrease and sk.snd_cwnd > sk.snd_ssthresh >> 1:  # tcp_reno_min_cwnd()
            sk.snd_cwnd -= decrease
        sk.snd_cwnd = min(sk.snd_cwnd, tcp_packets_in_flight(sk) + 1)
        sk.snd_cwnd_stamp = self.sched.jiffies

    def tcp_moderate_cwnd(self, sk: TcpSock) -> None:
        """Prevent a burst (``tcp_moderate_cwnd()``)."""
        sk.snd_cwnd = min(sk.snd_cwnd, tcp_packets_in_flight(sk) + _MAX_BURST)
        sk.snd_cwnd_stamp = self.sched.jiffies

    # a loss that shows by time

    def tcp_enter_loss(self, sk: TcpSock, how: int = 0) -> None:
        """Everything in flight that no SACK covers is lost: start again with one segment (``tcp_enter_loss()``).

        :param how: 1: do not believe SACKs either, the peer took them back.
        """
        if sk.ca_state <= TCP_CA_DISORDER or sk.snd_una == sk.high_seq or (sk.ca_state == TCP_CA_LOSS and not sk.retransmits):
            sk.prior_ssthresh = self.tcp_current_ssthresh(sk)
            sk.snd_ssthresh = self.tcp_reno_ssthresh(sk)
        sk.snd_cwnd = 1
        sk.snd_cwnd_cnt = 0
        sk.snd_cwnd_stamp = self.sched.jiffies
        sk.sacked_out = sk.retrans_out = sk.lost_out = sk.fackets_out = 0
        sk.undo_retrans = 0
        undo_marker = 0 if how else sk.snd_una
        for count, skb in enumerate(sk.sk_rtx_queue, 1):
            sacked = skb.sacked
            if sacked & TCPCB_RETRANS:
                undo_marker = 0
            if sacked & TCPCB_SACKED_ACKED and not how:
                skb.sacked = sacked & ~(TCPCB_LOST | TCPCB_SACKED_RETRANS)
                sk.sacked_out += 1
                sk.fackets_out = count
            else:
                skb.sacked = sacked & ~(TCPCB_SACKED_ACKED | TCPCB_SACKED_RETRANS) | TCPCB_LOST
                sk.lost_out += 1
        sk.undo_marker = undo_marker
        sk.reordering = min(sk.reordering, self.sysctl_tcp_reordering)
        sk.ca_state = TCP_CA_LOSS
        sk.high_seq = sk.snd_nxt

    def _tcp_check_sack_reneging(self, sk: TcpSock) -> bool:
        """Treat it as a timeout that the peer took a SACK back (``tcp_check_sack_reneging()``)."""
        rtx = sk.sk_rtx_queue
        if not rtx or not rtx[0].sacked & TCPCB_SACKED_ACKED:
            return False
        self.tcp_enter_loss(sk, 1)
        sk.retransmits += 1
        self.tcp_retransmit_skb(sk, rtx[0])
        self.inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, sk.rto, TCP_RTO_MAX)
        return True

    # a path that turns out narrower

    def tcp_simple_retransmit(self, sk: TcpSock) -> None:
        """Send again, cut, what is too long for the path (``tcp_simple_retransmit()``); the window stays: nothing was congested."""
        mss = self.tcp_current_mss(sk)
        lost = False
        for skb in sk.sk_rtx_queue:
            if skb.len <= mss or skb.sacked & TCPCB_SACKED_ACKED:
                continue
            if skb.sacked & TCPCB_SACKED_RETRANS:
                skb.sacked &= ~TCPCB_SACKED_RETRANS
                sk.retrans_out -= 1
            if not skb.sacked & TCPCB_LOST:
                skb.sacked |= TCPCB_LOST
                sk.lost_out += 1
                lost = True
        if not lost:
            return
        if sk.ca_state != TCP_CA_LOSS:
            sk.high_seq = sk.snd_nxt
            sk.snd_ssthresh = self.tcp_current_ssthresh(sk)
            sk.prior_ssthresh = sk.undo_marker = 0
            sk.ca_state = TCP_CA_LOSS
        self.tcp_xmit_retransmit_queue(sk)

    # undoing

    def _tcp_may_undo(self, sk: TcpSock) -> bool:
        """Tell whether the last reduction of the window was a mistake (``tcp_may_undo()``)."""
        if not sk.undo_marker:
            return False
        opt = sk.rx_opt
        delayed = not sk.retrans_stamp or bool(
            opt.saw_tstamp and opt.rcv_tsecr and (opt.rcv_tsecr - sk.retrans_stamp) & SIGN
        )  # tcp_packet_delayed()
        return not sk.undo_retrans or delayed

    def _tcp_undo_cwr(self, sk: TcpSock, undo: bool) -> None:
        """Give the window back (``tcp_undo_cwr()``)."""
        if sk.prior_ssthresh:
            sk.snd_cwnd = max(sk.snd_cwnd, sk.snd_ssthresh << 1)
            if undo and sk.prior_ssthresh > sk.snd_ssthresh:
                sk.snd_ssthresh = sk.prior_ssthresh
        else:
            sk.snd_cwnd = max(sk.snd_cwnd, sk.snd_ssthresh)
        self.tcp_moderate_cwnd(sk)

    def _tcp_try_undo_recovery(self, sk: TcpSock) -> bool:
        """Leave RECOVERY or LOSS (``tcp_try_undo_recovery()``); True: without SACK, not before high_seq is passed."""
        if self._tcp_may_undo(sk):
            self._tcp_undo_cwr(sk, True)
            sk.undo_marker = 0
        if sk.snd_una == sk.high_seq and not sk.rx_opt.sack_ok:
            self.tcp_moderate_cwnd(sk)  # a late duplicate acknowledgement must not start another recovery (RFC 2582)
            return True
        sk.ca_state = TCP_CA_OPEN
        return False

    def _tcp_try_undo_dsack(self, sk: TcpSock) -> None:
        """D-SACKs accounted for all retransmissions: none was needed (``tcp_try_undo_dsack()``)."""
        if sk.undo_marker and not sk.undo_retrans:
            self._tcp_undo_cwr(sk, True)
            sk.undo_marker = 0

    def _tcp_try_undo_partial(self, sk: TcpSock, acked: int) -> bool:
        """Tell whether the next hole is lost, too, when a part of the window arrived (``tcp_try_undo_partial()``)."""
        sack = sk.rx_opt.sack_ok
        failed = not sack or sk.fackets_out > sk.reordering
        if self._tcp_may_undo(sk):
            if not sk.retrans_out:
                sk.retrans_stamp = 0
            self.tcp_update_reordering(sk, (sk.fackets_out if sack else sk.sacked_out + 1) + acked)
            self._tcp_undo_cwr(sk, False)
            failed = False
        return failed

    def _tcp_try_undo_loss(self, sk: TcpSock) -> bool:
        """Undo a timeout that came too early (``tcp_try_undo_loss()``)."""
        if not self._tcp_may_undo(sk):
            return False
        for skb in sk.sk_rtx_queue:
            skb.sacked &= ~TCPCB_LOST
        sk.lost_out = 0
        self._tcp_undo_cwr(sk, True)
        sk.retransmits = 0
        sk.undo_marker = 0
        if sk.rx_opt.sack_ok:
            sk.ca_state = TCP_CA_OPEN
        return True

    # a loss that shows by acknowledgements

    def tcp_fastretrans_alert(self, sk: TcpSock, prior_packets: int, flag: int) -> None:
        """Decide what an acknowledgement means while something is wrong (``tcp_fastretrans_alert()``)."""
        rtx = sk.sk_rtx_queue
        is_dupack = not flag & (FLAG_SND_UNA_ADVANCED | FLAG_NOT_DUP)
        do_lost = is_dupack or bool(flag & FLAG_DATA_SACKED and sk.fackets_out > sk.reordering)
        if not rtx:
            sk.sacked_out = 0
        if not sk.sacked_out:
            sk.fackets_out = 0
        elif self._tcp_check_sack_reneging(sk):
            return
        if (
            flag & FLAG_DATA_LOST
            and (sk.snd_una - sk.high_seq) & SIGN
            and sk.ca_state != TCP_CA_OPEN
            and sk.fackets_out > sk.reordering
        ):
            self.tcp_mark_head_lost(sk, sk.fackets_out - sk.reordering)
        if sk.ca_state == TCP_CA_OPEN:
            sk.retrans_stamp = 0
        elif not (sk.snd_una - sk.high_seq) & SIGN and self._tcp_leave_state(sk):
            return
        acked = prior_packets - len(rtx)
        if sk.ca_state == TCP_CA_RECOVERY:
            if not flag & FLAG_SND_UNA_ADVANCED:
                if is_dupack and not sk.rx_opt.sack_ok:
                    self.tcp_add_reno_sack(sk)
            else:
                if not sk.rx_opt.sack_ok:
                    self.tcp_remove_reno_sacks(sk, acked)
                do_lost = self._tcp_try_undo_partial(sk, acked)
        elif (sk.ca_state == TCP_CA_LOSS and self._tcp_in_loss(sk, flag)) or not self._tcp_begin_recovery(sk, flag, is_dupack):
            return
        if do_lost or self.tcp_head_timedout(sk):
            self.tcp_update_scoreboard(sk)
        self.tcp_cwnd_down(sk)
        self.tcp_xmit_retransmit_queue(sk)

    def _tcp_leave_state(self, sk: TcpSock) -> bool:
        """High_seq is acknowledged: the state may end (E of ``tcp_fastretrans_alert()``); True: nothing more to do."""
        state = sk.ca_state
        if state == TCP_CA_LOSS:
            sk.retransmits = 0
            return self._tcp_try_undo_recovery(sk)
        if state == TCP_CA_CWR:
            if sk.snd_una != sk.high_seq:
                self._tcp_complete_cwr(sk)
                sk.ca_state = TCP_CA_OPEN
        elif state == TCP_CA_DISORDER:
            self._tcp_try_undo_dsack(sk)
            if not sk.undo_marker or not sk.rx_opt.sack_ok or sk.snd_una != sk.high_seq:
                sk.undo_marker = 0
                sk.ca_state = TCP_CA_OPEN
        elif state == TCP_CA_RECOVERY:
            if not sk.rx_opt.sack_ok:
                sk.sacked_out = 0
            if self._tcp_try_undo_recovery(sk):
                return True
            self._tcp_complete_cwr(sk)
        return False

    def _tcp_complete_cwr(self, sk: TcpSock) -> None:
        """End a reduction of the window (``tcp_complete_cwr()``)."""
        sk.snd_cwnd = min(sk.snd_cwnd, sk.snd_ssthresh)
        sk.snd_cwnd_stamp = self.sched.jiffies

    def _tcp_in_loss(self, sk: TcpSock, flag: int) -> bool:
        """Go on after a timeout (F of ``tcp_fastretrans_alert()``); False: it is undone, and the window may open."""
        if flag & FLAG_DATA_ACKED:
            sk.retransmits = 0
        if not self._tcp_try_undo_loss(sk):
            self.tcp_moderate_cwnd(sk)
            self.tcp_xmit_retransmit_queue(sk)
            return True
        return sk.ca_state != TCP_CA_OPEN

    def _tcp_begin_recovery(self, sk: TcpSock, flag: int, is_dupack: bool) -> bool:
        """Count, and enter RECOVERY if a segment is lost rather than late; False: it is not, yet."""
        if not sk.rx_opt.sack_ok:
            if flag & FLAG_SND_UNA_ADVANCED:
                sk.sacked_out = 0
            if is_dupack:
                self.tcp_add_reno_sack(sk)
        if sk.ca_state == TCP_CA_DISORDER:
            self._tcp_try_undo_dsack(sk)
        if not self._tcp_time_to_recover(sk):
            self._tcp_try_to_open(sk)
            return False
        sk.high_seq = sk.snd_nxt
        sk.prior_ssthresh = 0
        sk.undo_marker = sk.snd_una
        sk.undo_retrans = sk.retrans_out
        if sk.ca_state < TCP_CA_CWR:
            sk.prior_ssthresh = self.tcp_current_ssthresh(sk)
            sk.snd_ssthresh = self.tcp_reno_ssthresh(sk)
        sk.snd_cwnd_cnt = 0
        sk.ca_state = TCP_CA_RECOVERY
        return True

    def _tcp_time_to_recover(self, sk: TcpSock) -> bool:
        """Tell whether a segment is lost rather than late (``tcp_time_to_recover()``)."""
        if sk.lost_out or (sk.fackets_out if sk.rx_opt.sack_ok else sk.sacked_out + 1) > sk.reordering:
            return True
        if self.tcp_head_timedout(sk):
            return True
        packets_out = len(sk.sk_rtx_queue)
        return (
            packets_out <= sk.reordering
            and sk.sacked_out >= max(packets_out >> 1, self.sysctl_tcp_reordering)
            and not self.tcp_may_send_now(sk)
        )

    def _tcp_try_to_open(self, sk: TcpSock) -> None:
        """Choose between TCP_CA_OPEN and TCP_CA_DISORDER (``tcp_try_to_open()``)."""
        if not sk.retrans_out:
            sk.retrans_stamp = 0
        if sk.ca_state == TCP_CA_CWR:
            self.tcp_cwnd_down(sk)
            return
        state = TCP_CA_DISORDER if sk.sacked_out or sk.lost_out or sk.retrans_out or sk.undo_marker else TCP_CA_OPEN
        if sk.ca_state != state:
            sk.ca_state = state
            sk.high_seq = sk.snd_nxt
        self.tcp_moderate_cwnd(sk)

    def tcp_init_metrics(self, sk: TcpSock) -> None:
        """Give a new connection its initial window (``tcp_init_metrics()``)."""
        sk.snd_cwnd = tcp_init_cwnd(sk)
        sk.snd_cwnd_stamp = self.sched.jiffies
