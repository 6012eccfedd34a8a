"""A segment for a connection (2.6.23 net/ipv4/tcp_input.c).

Interface
    TcpInput.tcp_rcv_established(sk, skb)      the fast path, by header prediction, and the slow one
    tcp_rcv_state_process(sk, skb)             every state but ESTABLISHED, LISTEN and TIME_WAIT
    tcp_ack(sk, skb, flag)                     what the peer has received and will take

Rules
    * The skb's data is at the TCP header; seq, end_seq, ack_seq and flags (the header's fourth word) are set by tcp_v4_rcv(). Who
      is handed an skb owns it, but for tcp_ack(), which only looks.
    * Softirq, or a task's release_sock() with bottom halves disabled. Nothing here sleeps, and nothing here may be surprised by
      what arrives.
    * A SYN or RST in the window resets, as in 2.6.23: no challenge acknowledgements.
    * Options other than MSS are skipped. Left out: urgent data (it is read in line), PAWS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.errno import ECONNREFUSED, ECONNRESET, EPIPE
from kemu_net.core.sock import RCV_SHUTDOWN, SEND_SHUTDOWN, SOCK_DEAD, SOCK_NOSPACE, SOCK_QUEUE_SHRUNK, SOCK_SNDBUF_LOCK
from kemu_net.core.stream import MAX_TCP_HEADER, sk_stream_rfree
from kemu_net.ipv4.ip_output import dst_confirm
from kemu_net.ipv4.tcp_cong import (
    FLAG_DATA,
    FLAG_DATA_ACKED,
    FLAG_NOT_DUP,
    FLAG_SLOWPATH,
    FLAG_SND_UNA_ADVANCED,
    FLAG_WIN_UPDATE,
)
from kemu_net.ipv4.tcp_queues import TcpQueues
from kemu_net.ipv4.tcp_sock import (
    HP_BITS,
    ICSK_ACK_SCHED,
    ICSK_TIME_PROBE0,
    MASK,
    SIGN,
    TCP_CA_OPEN,
    TCP_MIN_MSS,
    TCP_MIN_RCVMSS,
    TCP_MSS_DEFAULT,
    TCP_RTO_MAX,
    W_ACK,
    W_FIN,
    W_RST,
    W_SYN,
    TcpSock,
)
from kemu_net.ipv4.tcp_states import (
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_LAST_ACK,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    TCP_TIME_WAIT,
)

if TYPE_CHECKING:
    from kemu_net.core.skbuff import SkBuff

_SEND_OVERHEAD = MAX_TCP_HEADER + 16 + 232  # per segment in the send buffer


def tcp_parse_mss(skb: SkBuff) -> int:
    """Give the MSS that a SYN announces, or the default (``tcp_parse_options()``); any garbage ends the search."""
    options = skb.buf[skb.data + 20 : skb.data + (skb.flags >> 28 << 2)]
    at = 0
    while at < len(options):
        kind = options[at]
        if not kind:
            break
        if kind == 1:
            at += 1
            continue
        size = options[at + 1] if at + 1 < len(options) else 0
        if size < 2 or at + size > len(options):
            break
        if kind == 2 and size == 4:
            return max(options[at + 2] << 8 | options[at + 3], TCP_MIN_MSS)
        at += size
    return TCP_MSS_DEFAULT


class TcpInput(TcpQueues):
    """Everything that arrives for a connection."""

    # acknowledgements

    def tcp_ack(self, sk: TcpSock, skb: SkBuff, flag: int) -> bool:
        """Take an acknowledgement into account (``tcp_ack()``); False when it is of no use."""
        prior_snd_una = sk.snd_una
        ack = skb.ack_seq
        if (sk.snd_nxt - ack) & SIGN or (ack - prior_snd_una) & SIGN:
            return False  # it acknowledges what was never sent, or it is old
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
        if sk.ca_state != TCP_CA_OPEN or not flag & FLAG_NOT_DUP:
            if flag & FLAG_DATA_ACKED and sk.ca_state <= 1:
                self.tcp_cong_avoid(sk, prior_in_flight)
            self.tcp_fastretrans_alert(sk, prior_packets, flag)
        elif flag & FLAG_DATA_ACKED:
            self.tcp_cong_avoid(sk, prior_in_flight)
        return True

    def _tcp_ack_update_window(self, sk: TcpSock, skb: SkBuff, ack: int) -> int:
        """Note what the peer will take (``tcp_ack_update_window()``); give FLAG_WIN_UPDATE if it is news."""
        window = skb.flags & 0xFFFF
        flag = 0
        newer = skb.seq - sk.snd_wl1 & MASK
        if ack != sk.snd_una or 0 < newer < SIGN or (not newer and window > sk.snd_wnd):
            flag = FLAG_WIN_UPDATE
            sk.snd_wl1 = skb.seq
            if sk.snd_wnd != window:
                sk.snd_wnd = window
                sk.pred_flags = 0
                self.tcp_fast_path_check(sk)
                sk.max_window = max(sk.max_window, window)
        sk.snd_una = ack
        return flag

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
            wanted = (sk.mss_cache + _SEND_OVERHEAD) * 2 * max(sk.snd_cwnd, 4)
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
        """Process a segment of an established connection (``tcp_rcv_established()``)."""
        if skb.flags & HP_BITS == sk.pred_flags and skb.seq == sk.rcv_nxt:
            length = skb.len - 20
            if not length:
                self.tcp_ack(sk, skb, 0)
                self.skbs.kfree_skb(skb)
                self.tcp_data_snd_check(sk)
                return
            truesize = skb.truesize
            if truesize <= sk.sk_forward_alloc and sk.sk_rmem_alloc <= sk.sk_rcvbuf:
                skb.data += 20
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
                return
        if not self._tcp_validate(sk, skb):
            return
        if not skb.flags & W_ACK:
            self.skbs.kfree_skb(skb)
            return
        self.tcp_ack(sk, skb, FLAG_SLOWPATH)
        if sk.sk_state == TCP_CLOSE:
            self.skbs.kfree_skb(skb)
            return
        self.tcp_data_queue(sk, skb)
        self.tcp_data_snd_check(sk)
        if sk.ack_pending & ICSK_ACK_SCHED:
            self._tcp_ack_snd_check(sk, True)

    def _tcp_validate(self, sk: TcpSock, skb: SkBuff) -> bool:
        """Check sequence numbers, RST and SYN (steps 1 to 4 of RFC 793); False: the segment is done with."""
        word = skb.flags
        window = sk.rcv_wup + sk.rcv_wnd - sk.rcv_nxt & MASK
        if window & SIGN:
            window = 0
        if (skb.end_seq - sk.rcv_wup) & SIGN or (sk.rcv_nxt + window - skb.seq) & SIGN:  # !tcp_sequence()
            if not word & W_RST:
                self._tcp_send_dupack(sk, skb)
            self.skbs.kfree_skb(skb)
            return False
        if word & W_RST:
            self.tcp_reset(sk)
            self.skbs.kfree_skb(skb)
            return False
        if word & W_SYN and not (skb.seq - sk.rcv_nxt) & SIGN:
            self.tcp_reset(sk)
            self.skbs.kfree_skb(skb)
            return False
        return True

    def _tcp_send_dupack(self, sk: TcpSock, skb: SkBuff) -> None:
        """Tell a peer that sends outside the window where we are (``tcp_send_dupack()``)."""
        if skb.end_seq != skb.seq and (skb.seq - sk.rcv_nxt) & SIGN:
            self.tcp_enter_quickack_mode(sk)
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

    # other states

    def tcp_init_buffer_space(self, sk: TcpSock) -> None:
        """Fit buffers and window to the connection's segment size (``tcp_init_buffer_space()``)."""
        wanted = 3 * (sk.mss_cache + _SEND_OVERHEAD)
        if not sk.sk_userlocks & SOCK_SNDBUF_LOCK and sk.sk_sndbuf < wanted:
            sk.sk_sndbuf = min(wanted, sk.sk_prot.sysctl_wmem[2])
        maxwin = sk.sk_rcvbuf - (sk.sk_rcvbuf >> 2)
        sk.window_clamp = min(maxwin, sk.window_clamp)
        sk.rcv_ssthresh = min(sk.rcv_ssthresh, sk.window_clamp)
        sk.snd_cwnd_stamp = self.sched.jiffies

    def tcp_select_initial_window(self, sk: TcpSock) -> None:
        """Choose the window of our SYN: four segments at first (``tcp_select_initial_window()``)."""
        space = sk.sk_rcvbuf - (sk.sk_rcvbuf >> 2)
        mss = sk.advmss
        if space > mss:
            space = space // mss * mss
        few = 2 if mss > 1460 * 3 else 3 if mss > 1460 else 4
        sk.rcv_wnd = min(space, few * mss, 65535)
        sk.window_clamp = min(sk.window_clamp, 65535)
        sk.rcv_ssthresh = sk.rcv_wnd

    def tcp_initialize_rcv_mss(self, sk: TcpSock) -> None:
        """Guess the size of segments to come (``tcp_initialize_rcv_mss()``)."""
        sk.ack_rcv_mss = max(min(sk.advmss, sk.mss_cache, sk.rcv_wnd // 2, TCP_MIN_RCVMSS), TCP_MIN_MSS)

    def tcp_sync_mss(self, sk: TcpSock, announced: int) -> None:
        """Settle the size of what we send on the peer's MSS and ours (``tcp_sync_mss()``)."""
        sk.mss_clamp = announced
        sk.mss_cache = min(announced, sk.advmss)

    def tcp_finish_connect(self, sk: TcpSock, skb: SkBuff, event: str) -> None:
        """Enter ESTABLISHED with everything that the handshake told."""
        self.tcp_set_state(sk, event)
        sk.snd_wnd = sk.max_window = skb.flags & 0xFFFF
        sk.snd_wl1 = skb.seq
        self.tcp_initialize_rcv_mss(sk)
        self.tcp_init_metrics(sk)
        self.tcp_init_buffer_space(sk)
        sk.lsndtime = sk.ack_lrcvtime = sk.rcv_tstamp = self.sched.jiffies
        sk.copied_seq = sk.rcv_nxt
        self.tcp_fast_path_check(sk)

    def tcp_rcv_synsent_state_process(self, sk: TcpSock, skb: SkBuff) -> None:
        """Process the answer to our SYN (``tcp_rcv_synsent_state_process()``)."""
        word = skb.flags
        kfree_skb = self.skbs.kfree_skb
        if word & W_ACK:
            if skb.ack_seq != sk.snd_nxt:
                if not word & W_RST:
                    self.tcp_v4_send_reset(skb)
                kfree_skb(skb)
                return
            if word & W_RST:
                self.tcp_reset(sk)
                kfree_skb(skb)
                return
            if not word & W_SYN:
                kfree_skb(skb)
                return
            sk.rcv_nxt = skb.seq + 1 & MASK
            sk.rcv_wup = sk.rcv_nxt
            self.tcp_sync_mss(sk, tcp_parse_mss(skb))
            self.tcp_ack(sk, skb, FLAG_SLOWPATH)
            self.tcp_finish_connect(sk, skb, "syn_ack")
            if not sk.sk_flags & SOCK_DEAD:
                sk.sk_state_change(sk)
            kfree_skb(skb)
            if sk.sk_state == TCP_ESTABLISHED:
                self.tcp_send_ack(sk)
                self.tcp_data_snd_check(sk)
            return
        if word & W_RST or not word & W_SYN:
            kfree_skb(skb)
            return
        # both sides connect at once
        self.tcp_set_state(sk, "syn")
        sk.rcv_nxt = sk.rcv_wup = sk.copied_seq = skb.seq + 1 & MASK
        sk.snd_wnd = sk.max_window = word & 0xFFFF
        sk.snd_wl1 = skb.seq
        self.tcp_sync_mss(sk, tcp_parse_mss(skb))
        self.tcp_initialize_rcv_mss(sk)
        self.tcp_send_synack(sk)
        kfree_skb(skb)

    def tcp_rcv_state_process(self, sk: TcpSock, skb: SkBuff) -> None:
        """Process a segment in a state other than ESTABLISHED (``tcp_rcv_state_process()``)."""
        state = sk.sk_state
        kfree_skb = self.skbs.kfree_skb
        if state == TCP_CLOSE:
            kfree_skb(skb)
            return
        if state == TCP_SYN_SENT:
            self.tcp_rcv_synsent_state_process(sk, skb)
            return
        if not self._tcp_validate(sk, skb):
            return
        if not skb.flags & W_ACK or not self._tcp_process_ack(sk, skb):
            kfree_skb(skb)
            return
        state = sk.sk_state
        if state in (TCP_CLOSE_WAIT, TCP_CLOSING, TCP_LAST_ACK):
            if not (skb.seq - sk.rcv_nxt) & SIGN:
                kfree_skb(skb)
                self._tcp_after(sk)
                return
        elif state in (TCP_FIN_WAIT1, TCP_FIN_WAIT2) and sk.sk_shutdown & RCV_SHUTDOWN:
            end = skb.end_seq - (1 if skb.flags & W_FIN else 0) & MASK
            if skb.end_seq != skb.seq and end != sk.rcv_nxt and not (end - sk.rcv_nxt) & SIGN:
                self.tcp_v4_send_reset(skb)  # data for a reader that is gone
                self.tcp_reset(sk)
                kfree_skb(skb)
                return
        self.tcp_data_queue(sk, skb)
        self._tcp_after(sk)

    def _tcp_after(self, sk: TcpSock) -> None:
        """Send what may go now, and an acknowledgement if one is due."""
        if sk.sk_state != TCP_CLOSE:
            self.tcp_data_snd_check(sk)
            if sk.ack_pending & ICSK_ACK_SCHED:
                self._tcp_ack_snd_check(sk, True)
            if sk.sk_state == TCP_FIN_WAIT2 and sk.sk_flags & SOCK_DEAD:
                self.tcp_time_wait(sk, TCP_FIN_WAIT2)  # the FIN was lost or came too early

    def _tcp_process_ack(self, sk: TcpSock, skb: SkBuff) -> bool:
        """Step 5 of RFC 793 for the states around an end: False when the segment is done with."""
        state = sk.sk_state
        useful = self.tcp_ack(sk, skb, FLAG_SLOWPATH)
        if state == TCP_SYN_RECV:
            if not useful:
                self.tcp_v4_send_reset(skb)
                return False
            self.tcp_finish_connect(sk, skb, "ack_of_syn")
            sk.snd_una = skb.ack_seq
            if not sk.sk_flags & SOCK_DEAD:
                sk.sk_state_change(sk)
            return True
        if state == TCP_FIN_WAIT1:
            if sk.snd_una == sk.write_seq:
                self._tcp_fin_acked(sk, skb)
                return sk.sk_state != TCP_CLOSE
        elif state == TCP_CLOSING:
            if sk.snd_una == sk.write_seq:
                self.tcp_time_wait(sk, TCP_TIME_WAIT)
                return False
        elif state == TCP_LAST_ACK and sk.snd_una == sk.write_seq:
            self.tcp_done(sk)
            return False
        return True

    def _tcp_fin_acked(self, sk: TcpSock, skb: SkBuff) -> None:
        """FIN_WAIT1 becomes FIN_WAIT2; an orphan waits for the peer's FIN in a minisocket."""
        self.tcp_set_state(sk, "ack_of_fin")
        sk.sk_shutdown |= SEND_SHUTDOWN
        if not sk.sk_flags & SOCK_DEAD:
            sk.sk_state_change(sk)
            return
        end = skb.end_seq - (1 if skb.flags & W_FIN else 0) & MASK
        if skb.end_seq != skb.seq and end != sk.rcv_nxt and not (end - sk.rcv_nxt) & SIGN:
            self.tcp_v4_send_reset(skb)
            self.tcp_done(sk)
        elif not skb.flags & W_FIN:
            self.tcp_time_wait(sk, TCP_FIN_WAIT2)
