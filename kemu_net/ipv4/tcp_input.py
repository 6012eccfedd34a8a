"""A segment for a connection (2.6.23 net/ipv4/tcp_input.c).

Interface
    TcpInput.tcp_rcv_established(sk, skb)      the fast path, by header prediction, and the slow one
    tcp_reset(sk)                              the peer does not want to go on
    tcp_ack(sk, skb, flag)                     what the peer has received and will take

Rules
    * The skb's data is at the TCP header; seq, end_seq, ack_seq and flags (the header's fourth word) are set by tcp_v4_rcv(). Who
      is handed an skb owns it, but for tcp_ack(), which only looks.
    * Softirq, or a task's release_sock() with bottom halves disabled. Nothing here sleeps, and nothing here may be surprised by
      what arrives.
    * A RST anywhere in the window resets, and so does a SYN, which is answered with a RST: challenge acknowledgements (RFC 5961)
      are younger than 2.6.23.
    * Old duplicates are known by their time stamps (PAWS) and answered with an acknowledgement, unless they are acknowledgements
      that overtook each other. A RST is taken whatever its stamp.
    * Left out: ECN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.errno import ECONNREFUSED, ECONNRESET, EPIPE
from kemu.kernel.timer import HZ
from kemu_net.core.sock import SOCK_DEAD, SOCK_NOSPACE, SOCK_QUEUE_SHRUNK, SOCK_SNDBUF_LOCK
from kemu_net.core.stream import sk_stream_rfree
from kemu_net.ipv4.ip_output import dst_confirm
from kemu_net.ipv4.tcp_cong import (
    FLAG_CA_ALERT,
    FLAG_DATA,
    FLAG_DATA_ACKED,
    FLAG_NOT_DUP,
    FLAG_SLOWPATH,
    FLAG_SND_UNA_ADVANCED,
    FLAG_WIN_UPDATE,
)
from kemu_net.ipv4.tcp_options import (
    TCP_PAWS_24DAYS,
    TCP_PAWS_WINDOW,
    TSTAMP_WORD,
    tcp_fast_parse_options,
    tcp_replace_ts_recent,
    unpack_tstamp,
)
from kemu_net.ipv4.tcp_queues import W_URG, TcpQueues
from kemu_net.ipv4.tcp_rcvbuf import SEND_OVERHEAD
from kemu_net.ipv4.tcp_sock import (
    HP_BITS,
    ICSK_ACK_SCHED,
    ICSK_TIME_PROBE0,
    MASK,
    SIGN,
    TCP_CA_OPEN,
    TCP_RTO_MAX,
    W_ACK,
    W_RST,
    W_SYN,
    TcpSock,
)
from kemu_net.ipv4.tcp_states import TCP_CLOSE, TCP_CLOSE_WAIT, TCP_SYN_SENT

if TYPE_CHECKING:
    from kemu_net.core.skbuff import SkBuff


class TcpInput(TcpQueues):
    """Everything that arrives for a connection."""

    # acknowledgements

    def tcp_ack(self, sk: TcpSock, skb: SkBuff, flag: int) -> bool:
        """Take an acknowledgement into account (``tcp_ack()``); False when it is of no use."""
        prior_snd_una = sk.snd_una
        ack = skb.ack_seq
        if (sk.snd_nxt - ack) & SIGN or (ack - prior_snd_una) & SIGN:
            # it acknowledges what was never sent, or it is old, but its SACK blocks may be news
            if sk.rx_opt.sack_blocks and (ack - prior_snd_una) & SIGN:
                self.tcp_sacktag_write_queue(sk, skb, prior_snd_una)
            return False
        if ack != prior_snd_una:
            flag |= FLAG_SND_UNA_ADVANCED
        if not flag & FLAG_SLOWPATH and ack != prior_snd_una:
            sk.snd_wl1 = skb.seq
            sk.snd_una = ack
            flag |= FLAG_WIN_UPDATE
        else:
            if skb.seq != skb.end_seq:
                flag |= FLAG_DATA
            flag |= self._tcp_ack_update_window(sk, skb, ack)
            if sk.rx_opt.sack_blocks:
                flag |= self.tcp_sacktag_write_queue(sk, skb, prior_snd_una)
        sk.sk_err_soft = 0
        now = sk.rcv_tstamp = self.sched.jiffies
        rtx = sk.sk_rtx_queue
        prior_packets = len(rtx)
        if not prior_packets:
            sk.probes_out = 0
            if sk.sk_write_queue:
                self._tcp_ack_probe(sk)
            return True
        prior_in_flight = prior_packets - sk.sacked_out - sk.lost_out + sk.retrans_out
        if flag & FLAG_SND_UNA_ADVANCED:
            flag |= self.tcp_clean_rtx_queue(sk)
            dst_confirm(sk, now)
        if sk.ca_state != TCP_CA_OPEN or not flag & FLAG_NOT_DUP or flag & FLAG_CA_ALERT:
            self.tcp_ack_dubious(sk, prior_packets, prior_in_flight, flag)
        elif flag & FLAG_DATA_ACKED:
            self.tcp_cong_avoid(sk, prior_in_flight)
        return True

    def _tcp_ack_update_window(self, sk: TcpSock, skb: SkBuff, ack: int) -> int:
        """Note what the peer will take (``tcp_ack_update_window()``); give FLAG_WIN_UPDATE if it is news."""
        flag = 0
        if ack != sk.snd_una or self._tcp_may_update_window(sk, skb):
            flag = FLAG_WIN_UPDATE
            sk.snd_wl1 = skb.seq
            window = skb.flags & 0xFFFF
            if not skb.flags & W_SYN:
                window <<= sk.rx_opt.snd_wscale
            if sk.snd_wnd != window:
                sk.snd_wnd = window
                sk.pred_flags = 0
                self.tcp_fast_path_check(sk)
                if window > sk.max_window:
                    sk.max_window = window
                    self.tcp_sync_mss(sk, sk.pmtu_cookie)
        sk.snd_una = ack
        return flag

    def _tcp_may_update_window(self, sk: TcpSock, skb: SkBuff) -> bool:
        """Tell whether the window of a segment that acknowledges nothing new is newer than ours (``tcp_may_update_window()``)."""
        newer = skb.seq - sk.snd_wl1 & MASK
        if newer:
            return newer < SIGN
        return (skb.flags & 0xFFFF) << sk.rx_opt.snd_wscale > sk.snd_wnd

    def _tcp_ack_probe(self, sk: TcpSock) -> None:
        """Nothing is in flight and something waits: stop probing, or go on (``tcp_ack_probe()``)."""
        if not (sk.snd_una + sk.snd_wnd - sk.sk_write_queue[0].end_seq) & SIGN:
            sk.backoff = 0
            sk.icsk_pending = 0
        else:
            self.inet_csk_reset_xmit_timer(sk, ICSK_TIME_PROBE0, min(sk.rto << sk.backoff, TCP_RTO_MAX), TCP_RTO_MAX)

    def tcp_data_snd_check(self, sk: TcpSock) -> None:
        """Send what may go now, and wake who waits for room (``tcp_data_snd_check()``)."""
        if sk.sk_write_queue:
            self.tcp_push_pending_frames(sk, sk.mss_cache, sk.nonagle)
        if sk.sk_flags & SOCK_QUEUE_SHRUNK:
            sk.sk_flags &= ~SOCK_QUEUE_SHRUNK
            if sk.sk_socket_flags & SOCK_NOSPACE:
                self._tcp_new_space(sk)

    def _tcp_new_space(self, sk: TcpSock) -> None:
        """Let the send buffer grow with the window, and tell the writer (``tcp_new_space()``)."""
        prot = sk.sk_prot
        if (
            not sk.sk_userlocks & SOCK_SNDBUF_LOCK
            and not prot.memory_pressure
            and prot.memory_allocated < prot.sysctl_mem[0]
            and len(sk.sk_rtx_queue) < sk.snd_cwnd
        ):
            wanted = (sk.mss_cache + SEND_OVERHEAD) * 2 * max(sk.snd_cwnd, 4)
            if wanted > sk.sk_sndbuf:
                sk.sk_sndbuf = min(wanted, prot.sysctl_wmem[2])
        sk.sk_write_space(sk)

    def _tcp_ack_snd_check(self, sk: TcpSock, ofo_possible: bool) -> None:
        """Acknowledge now or later (``__tcp_ack_snd_check()``)."""
        if (
            (sk.ack_quick and not sk.ack_pingpong)
            or (ofo_possible and sk.out_of_order_queue)
            or ((sk.rcv_nxt - sk.rcv_wup & MASK) > sk.ack_rcv_mss and self._tcp_select_window(sk) >= sk.rcv_wnd)
        ):
            self.tcp_send_ack(sk)
        else:
            self.tcp_send_delayed_ack(sk)

    # ESTABLISHED

    def tcp_rcv_established(self, sk: TcpSock, skb: SkBuff) -> None:
        """Process a segment of an established connection (``tcp_rcv_established()``): here the header that was predicted."""
        if skb.flags & HP_BITS != sk.pred_flags or skb.seq != sk.rcv_nxt:
            self._tcp_rcv_slow_path(sk, skb)
            return
        header = sk.tcp_header_len
        if header != 20:
            word, tsval, tsecr = unpack_tstamp(skb.buf, skb.data + 20)
            opt = sk.rx_opt
            if word != TSTAMP_WORD or (tsval - opt.ts_recent) & SIGN:
                self._tcp_rcv_slow_path(sk, skb)
                return
            opt.saw_tstamp = 1
            opt.rcv_tsval = tsval
            opt.rcv_tsecr = tsecr
            if sk.rcv_nxt == sk.rcv_wup:  # tcp_store_ts_recent()
                opt.ts_recent = tsval
                opt.ts_recent_stamp = self.sched.jiffies // HZ + 1
        length = skb.len - header
        if not length:
            self.tcp_ack(sk, skb, 0)
            self.skbs.kfree_skb(skb)
            self.tcp_data_snd_check(sk)
            return
        if sk.ucopy_len >= length and sk.copied_seq == sk.rcv_nxt and self._tcp_direct_copy(sk, skb, header):
            return
        truesize = skb.truesize
        if truesize > sk.sk_forward_alloc or sk.sk_rmem_alloc > sk.sk_rcvbuf:
            self._tcp_rcv_slow_path(sk, skb)
            return
        if header != 20 and length >= sk.ack_rcv_mss:
            self.tcp_rcv_rtt_measure_ts(sk, skb)
        skb.data += header
        skb.len = length
        skb.sk = sk
        skb.destructor = sk_stream_rfree
        sk.sk_rmem_alloc += truesize
        sk.sk_forward_alloc -= truesize
        sk.sk_receive_queue.append(skb)
        sk.rcv_nxt = skb.end_seq
        self.tcp_event_data_recv(sk, skb)
        if skb.ack_seq != sk.snd_una:
            self.tcp_ack(sk, skb, FLAG_DATA)
            self.tcp_data_snd_check(sk)
        if sk.ack_pending & ICSK_ACK_SCHED:
            self._tcp_ack_snd_check(sk, False)
        sk.sk_data_ready(sk)

    def _tcp_rcv_slow_path(self, sk: TcpSock, skb: SkBuff) -> None:
        """Process any segment of an established connection (``slow_path`` in tcp_rcv_established()), also one without ACK."""
        if not self._tcp_validate(sk, skb):
            return
        if skb.flags & W_ACK:
            self.tcp_ack(sk, skb, FLAG_SLOWPATH)
        if sk.rx_opt.sack_blocks:
            sk.rx_opt.sack_blocks = ()
        if sk.sk_state == TCP_CLOSE:
            self.skbs.kfree_skb(skb)
            return
        if sk.rx_opt.saw_tstamp:
            self.tcp_rcv_rtt_measure_ts(sk, skb)
        if skb.flags & W_URG or sk.urg_data:
            self.tcp_urg(sk, skb)
        self.tcp_data_queue(sk, skb)
        self._tcp_after(sk)

    def _tcp_after(self, sk: TcpSock) -> None:
        """Send what may go now, and an acknowledgement if one is due."""
        if sk.sk_state != TCP_CLOSE:
            self.tcp_data_snd_check(sk)
            if sk.ack_pending & ICSK_ACK_SCHED:
                self._tcp_ack_snd_check(sk, True)

    def _tcp_direct_copy(self, sk: TcpSock, skb: SkBuff, header: int) -> bool:
        """Give a predicted segment to the reader, if it is he who processes it: backlog or prequeue."""
        if not sk.sk_lock_owned or sk.ucopy_task is not self.sched.current:
            return False
        if header != 20:
            self.tcp_rcv_rtt_measure_ts(sk, skb)
        skb.data += header
        skb.len -= header
        self.tcp_copy_to_reader(sk, skb)
        sk.rcv_nxt = skb.end_seq
        self.tcp_event_data_recv(sk, skb)
        if skb.ack_seq != sk.snd_una:
            self.tcp_ack(sk, skb, FLAG_DATA)
            self.tcp_data_snd_check(sk)
        if sk.ack_pending & ICSK_ACK_SCHED:
            self._tcp_ack_snd_check(sk, False)
        self.skbs.kfree_skb(skb)
        return True

    def _tcp_validate(self, sk: TcpSock, skb: SkBuff) -> bool:
        """Check time stamps, sequence numbers, RST and SYN (steps 1 to 4 of RFC 793); False: the segment is done with."""
        word = skb.flags
        opt = sk.rx_opt
        if (
            tcp_fast_parse_options(skb, opt, self)
            and opt.saw_tstamp
            and self._tcp_paws_discard(sk, skb)
            and not word & W_RST  # a reset counts even if it is old
        ):
            self._tcp_send_dupack(sk, skb)
            return self._refuse(sk, skb)
        window = sk.rcv_wup + sk.rcv_wnd - sk.rcv_nxt & MASK
        if window & SIGN:
            window = 0
        if (skb.end_seq - sk.rcv_wup) & SIGN or (sk.rcv_nxt + window - skb.seq) & SIGN:  # !tcp_sequence()
            if not word & W_RST:
                self._tcp_send_dupack(sk, skb)
            return self._refuse(sk, skb)
        if word & W_RST:
            self.tcp_reset(sk)
            return self._refuse(sk, skb)
        if opt.saw_tstamp:
            tcp_replace_ts_recent(sk, skb.seq, self.get_seconds())
        if word & W_SYN and not (skb.seq - sk.rcv_nxt) & SIGN:
            self.tcp_reset(sk)
            self.tcp_v4_send_reset(skb)
            return self._refuse(sk, skb)
        return True

    def _refuse(self, sk: TcpSock, skb: SkBuff) -> bool:
        """Free a segment that goes no further."""
        sk.rx_opt.sack_blocks = ()
        self.skbs.kfree_skb(skb)
        return False

    def _tcp_paws_discard(self, sk: TcpSock, skb: SkBuff) -> bool:
        """Tell whether a segment is an old duplicate by its stamp (``tcp_paws_discard()``)."""
        opt = sk.rx_opt
        behind = opt.ts_recent - opt.rcv_tsval & MASK
        if behind & SIGN or behind <= TCP_PAWS_WINDOW or self.get_seconds() >= opt.ts_recent_stamp + TCP_PAWS_24DAYS:
            return False
        # acknowledgements that overtook each other are not worth an answer (tcp_disordered_ack())
        return not (
            skb.flags & W_ACK
            and skb.seq == skb.end_seq == sk.rcv_nxt
            and skb.ack_seq == sk.snd_una
            and not self._tcp_may_update_window(sk, skb)
            and behind <= sk.rto * 1024 // HZ
        )

    def _tcp_send_dupack(self, sk: TcpSock, skb: SkBuff) -> None:
        """Tell a peer that sends what we have, or outside the window, where we are (``tcp_send_dupack()``)."""
        if skb.end_seq != skb.seq and (skb.seq - sk.rcv_nxt) & SIGN:
            self.tcp_enter_quickack_mode(sk)
            end_seq = sk.rcv_nxt if (sk.rcv_nxt - skb.end_seq) & SIGN else skb.end_seq
            self.tcp_dsack_set(sk, skb.seq, end_seq)
        self.tcp_send_ack(sk)

    def tcp_reset(self, sk: TcpSock) -> None:
        """End a connection that the peer reset (``tcp_reset()``)."""
        state = sk.sk_state
        if state == TCP_SYN_SENT:
            sk.sk_err = ECONNREFUSED
        elif state == TCP_CLOSE_WAIT:
            sk.sk_err = EPIPE
        elif state == TCP_CLOSE:
            return
        else:
            sk.sk_err = ECONNRESET
        if not sk.sk_flags & SOCK_DEAD:
            sk.sk_error_report(sk)
        self.tcp_done(sk)
