"""Round trip time, congestion window, and recovery from loss (2.6.23 net/ipv4/tcp_input.c, tcp_cong.c: Reno).

Interface
    TcpCong.tcp_rtt_estimator, tcp_clean_rtx_queue       what an acknowledgement tells
    tcp_cong_avoid, tcp_fastretrans_alert, tcp_enter_loss

Rules
    * NewReno: without SACK every duplicate acknowledgement counts as one segment that left the network (sacked_out); the third
      enters TCP_CA_RECOVERY, where a partial acknowledgement marks the next hole lost. Rate halving, as in the kernel: every second
      acknowledgement takes one segment from the window.
    * Karn: a segment that was sent twice gives no round trip time.
    * Left out: SACK, FACK, D-SACK and F-RTO, undoing of spurious recoveries, pluggable algorithms.
"""

from __future__ import annotations

from kemu_net.ipv4.tcp_output import TcpOutput, tcp_init_cwnd, tcp_packets_in_flight
from kemu_net.ipv4.tcp_sock import (
    ICSK_TIME_RETRANS,
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
    TCPCB_SACKED_RETRANS,
    TcpSock,
)

FLAG_DATA = 0x01  # the segment carried data
FLAG_WIN_UPDATE = 0x02
FLAG_DATA_ACKED = 0x04
FLAG_RETRANS_DATA_ACKED = 0x08
FLAG_SYN_ACKED = 0x10
FLAG_SLOWPATH = 0x100
FLAG_SND_UNA_ADVANCED = 0x400
FLAG_ACKED = FLAG_DATA_ACKED | FLAG_SYN_ACKED
FLAG_NOT_DUP = FLAG_DATA | FLAG_WIN_UPDATE | FLAG_ACKED

_REORDERING = 3
_CWND_CLAMP = 65535


class TcpCong(TcpOutput):
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
                if sacked & TCPCB_SACKED_RETRANS:
                    sk.retrans_out -= 1
                    flag |= FLAG_RETRANS_DATA_ACKED
                if sacked & TCPCB_LOST:
                    sk.lost_out -= 1
            elif sent_at < 0:
                sent_at = skb.when
            rtx.popleft()
            free(sk, skb)
        if flag:
            if not flag & FLAG_RETRANS_DATA_ACKED and sent_at >= 0:  # tcp_ack_no_tstamp()
                self.tcp_rtt_estimator(sk, self.sched.jiffies - sent_at)
                sk.backoff = 0
            if not rtx:  # tcp_ack_packets_out()
                sk.icsk_pending = 0
            else:
                self.inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, sk.rto, TCP_RTO_MAX)
        return flag

    # the window

    def tcp_cong_avoid(self, sk: TcpSock, in_flight: int) -> None:
        """Let the window grow (``tcp_reno_cong_avoid()``): by one per acknowledgement, then by one per window."""
        cwnd = sk.snd_cwnd
        if in_flight < cwnd and cwnd - in_flight > _REORDERING:  # tcp_is_cwnd_limited()
            return
        if cwnd <= sk.snd_ssthresh:
            if cwnd < _CWND_CLAMP:
                sk.snd_cwnd = cwnd + 1
        elif sk.snd_cwnd_cnt >= cwnd:
            if cwnd < _CWND_CLAMP:
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
        if decrease and sk.snd_cwnd > sk.snd_ssthresh:
            sk.snd_cwnd -= decrease
        sk.snd_cwnd = min(sk.snd_cwnd, tcp_packets_in_flight(sk) + 1)
        sk.snd_cwnd_stamp = self.sched.jiffies

    def tcp_moderate_cwnd(self, sk: TcpSock) -> None:
        """Prevent a burst after a recovery (``tcp_moderate_cwnd()``)."""
        sk.snd_cwnd = min(sk.snd_cwnd, tcp_packets_in_flight(sk) + _REORDERING)
        sk.snd_cwnd_stamp = self.sched.jiffies

    # loss

    def tcp_add_reno_sack(self, sk: TcpSock) -> None:
        """Count a duplicate acknowledgement; the hole itself cannot have arrived (``tcp_add_reno_sack()``)."""
        sk.sacked_out = min(sk.sacked_out + 1, max(len(sk.sk_rtx_queue) - sk.lost_out, 1) - (0 if sk.lost_out else 1))

    def tcp_mark_head_lost(self, sk: TcpSock) -> None:
        """Mark the first segment in flight lost (``tcp_mark_head_lost()``)."""
        rtx = sk.sk_rtx_queue
        if rtx and not rtx[0].sacked & TCPCB_LOST:
            rtx[0].sacked |= TCPCB_LOST
            sk.lost_out += 1
            if sk.sacked_out + sk.lost_out > len(rtx):
                sk.sacked_out = len(rtx) - sk.lost_out

    def tcp_enter_loss(self, sk: TcpSock) -> None:
        """Everything in flight is lost: start again with one segment (``tcp_enter_loss()``)."""
        if sk.ca_state <= TCP_CA_DISORDER or sk.snd_una == sk.high_seq or (sk.ca_state == TCP_CA_LOSS and not sk.retransmits):
            sk.snd_ssthresh = max(sk.snd_cwnd >> 1, 2)
        sk.snd_cwnd = 1
        sk.snd_cwnd_cnt = 0
        sk.snd_cwnd_stamp = self.sched.jiffies
        sk.sacked_out = sk.retrans_out = 0
        for skb in sk.sk_rtx_queue:
            skb.sacked = TCPCB_LOST
        sk.lost_out = len(sk.sk_rtx_queue)
        sk.ca_state = TCP_CA_LOSS
        sk.high_seq = sk.snd_nxt

    def tcp_fastretrans_alert(self, sk: TcpSock, prior_packets: int, flag: int) -> None:
        """Decide what an acknowledgement means while something is wrong (``tcp_fastretrans_alert()``)."""
        if not sk.sk_rtx_queue:
            sk.sacked_out = 0
        if sk.ca_state == TCP_CA_OPEN:
            sk.retrans_stamp = 0
        elif not (sk.snd_una - sk.high_seq) & SIGN:
            self._leave_recovery(sk)
        is_dupack = not flag & (FLAG_SND_UNA_ADVANCED | FLAG_NOT_DUP)
        state = sk.ca_state
        if state == TCP_CA_RECOVERY:
            if not flag & FLAG_SND_UNA_ADVANCED:
                if is_dupack:
                    self.tcp_add_reno_sack(sk)
            else:
                acked = prior_packets - len(sk.sk_rtx_queue)
                sk.sacked_out = max(sk.sacked_out - max(acked - 1, 0), 0)
                self.tcp_mark_head_lost(sk)  # a partial acknowledgement: the next hole
        elif state == TCP_CA_LOSS:
            if flag & FLAG_DATA_ACKED:
                sk.retransmits = 0
            self.tcp_moderate_cwnd(sk)
            self.tcp_xmit_retransmit_queue(sk)
            return
        else:
            if flag & FLAG_SND_UNA_ADVANCED:
                sk.sacked_out = 0
            if is_dupack:
                self.tcp_add_reno_sack(sk)
            if not self._tcp_time_to_recover(sk):
                self._tcp_try_to_open(sk)
                return
            sk.high_seq = sk.snd_nxt
            if state < TCP_CA_CWR:
                sk.snd_ssthresh = max(sk.snd_cwnd >> 1, 2)
            sk.snd_cwnd_cnt = 0
            sk.ca_state = TCP_CA_RECOVERY
            self.tcp_mark_head_lost(sk)
        self.tcp_cwnd_down(sk)
        self.tcp_xmit_retransmit_queue(sk)

    def _tcp_time_to_recover(self, sk: TcpSock) -> bool:
        """Tell whether a segment is lost rather than late (``tcp_time_to_recover()``)."""
        if sk.lost_out or sk.sacked_out >= _REORDERING:
            return True
        packets_out = len(sk.sk_rtx_queue)
        return packets_out <= _REORDERING and not sk.sk_write_queue and sk.sacked_out >= max(packets_out >> 1, _REORDERING)

    def _tcp_try_to_open(self, sk: TcpSock) -> None:
        """Choose between TCP_CA_OPEN and TCP_CA_DISORDER (``tcp_try_to_open()``)."""
        if sk.ca_state == TCP_CA_CWR:
            self.tcp_cwnd_down(sk)
            return
        state = TCP_CA_DISORDER if sk.sacked_out or sk.retrans_out else TCP_CA_OPEN
        if sk.ca_state != state:
            sk.ca_state = state
            sk.high_seq = sk.snd_nxt
        if state != TCP_CA_OPEN:
            self.tcp_moderate_cwnd(sk)

    def _leave_recovery(self, sk: TcpSock) -> None:
        """Everything that was in flight when the trouble began is acknowledged."""
        if sk.ca_state in (TCP_CA_CWR, TCP_CA_RECOVERY):
            sk.snd_cwnd = min(sk.snd_cwnd, sk.snd_ssthresh)  # tcp_complete_cwr()
        if sk.ca_state == TCP_CA_LOSS:
            sk.retransmits = 0
        sk.sacked_out = 0
        self.tcp_moderate_cwnd(sk)
        sk.ca_state = TCP_CA_OPEN

    def tcp_init_metrics(self, sk: TcpSock) -> None:
        """Give a new connection its initial window (``tcp_init_metrics()``)."""
        sk.snd_cwnd = tcp_init_cwnd(sk)
        sk.snd_cwnd_stamp = self.sched.jiffies
