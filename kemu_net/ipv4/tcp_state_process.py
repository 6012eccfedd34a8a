"""A segment for a connection that is not (or no longer only) ESTABLISHED (2.6.23 net/ipv4/tcp_input.c).

Interface
    TcpStateProcess.tcp_rcv_state_process(sk, skb)      every state but ESTABLISHED, LISTEN and TIME_WAIT
    tcp_finish_connect(sk, skb, event)                  a handshake is complete

Rules
    * The changes themselves are tcp_states.py's; here are their conditions, and what is sent.
    * Data that comes when nobody can read it any more resets the connection: the peer must not believe that it arrived.
    * An orphan in FIN_WAIT2 waits for the peer's FIN in a minisocket; with TCP_LINGER2 below 0 it does not wait at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu_net.core.sock import RCV_SHUTDOWN, SEND_SHUTDOWN, SOCK_DEAD, SOCK_KEEPOPEN
from kemu_net.ipv4.tcp_cong import FLAG_SLOWPATH
from kemu_net.ipv4.tcp_input import TcpInput
from kemu_net.ipv4.tcp_options import TCPOLEN_TSTAMP_ALIGNED, tcp_parse_options, tcp_paws_check, tcp_store_ts_recent
from kemu_net.ipv4.tcp_queues import W_URG
from kemu_net.ipv4.tcp_sock import ICSK_ACK_SCHED, ICSK_ACK_TIMER, MASK, SIGN, TCP_DELACK_MAX, W_ACK, W_FIN, W_RST, W_SYN, TcpSock
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


class TcpStateProcess(TcpInput):
    """Opening and closing."""

    def tcp_finish_connect(self, sk: TcpSock, skb: SkBuff, event: str) -> None:
        """Enter ESTABLISHED with everything that the handshake told."""
        self.tcp_set_state(sk, event)
        window = skb.flags & 0xFFFF
        if not skb.flags & W_SYN:
            window <<= sk.rx_opt.snd_wscale
        sk.snd_wnd = sk.max_window = window
        sk.snd_wl1 = skb.seq
        self.tcp_initialize_rcv_mss(sk)
        self.tcp_init_metrics(sk)
        self.tcp_init_buffer_space(sk)
        sk.lsndtime = sk.ack_lrcvtime = sk.rcv_tstamp = self.sched.jiffies
        sk.copied_seq = sk.rcv_nxt
        if skb.flags & W_SYN and sk.rx_opt.snd_wscale:
            sk.pred_flags = 0  # the next window will be scaled
        else:
            self.tcp_fast_path_on(sk)
        if sk.sk_flags & SOCK_KEEPOPEN:
            self.inet_csk_reset_keepalive_timer(sk, self.keepalive_time_when(sk))

    # SYN_SENT

    def _tcp_take_syn_options(self, sk: TcpSock) -> None:
        """Settle the options of an active open on what the peer's SYN offers."""
        opt = sk.rx_opt
        if not opt.wscale_ok:
            opt.snd_wscale = opt.rcv_wscale = 0
            sk.window_clamp = min(sk.window_clamp, 65535)
        if opt.saw_tstamp:
            opt.tstamp_ok = 1
            tcp_store_ts_recent(opt, self.get_seconds())
        self.tcp_initialize_mss(sk, opt.mss_clamp)

    def tcp_rcv_synsent_state_process(self, sk: TcpSock, skb: SkBuff) -> None:
        """Process the answer to our SYN (``tcp_rcv_synsent_state_process()``)."""
        word = skb.flags
        opt = sk.rx_opt
        saved_clamp = opt.mss_clamp
        tcp_parse_options(skb, opt, False, self)
        if word & W_ACK:
            if skb.ack_seq != sk.snd_nxt or self._echoes_nothing_of_ours(sk):
                if not word & W_RST:
                    self.tcp_v4_send_reset(skb)
                opt.mss_clamp = saved_clamp
            elif word & W_RST:
                self.tcp_reset(sk)
            elif word & W_SYN:
                self._tcp_synack(sk, skb)
                return
        elif (
            not word & W_RST
            and word & W_SYN
            and not (opt.ts_recent_stamp and opt.saw_tstamp and tcp_paws_check(opt, 0, self.get_seconds()))
        ):
            self._tcp_simultaneous_open(sk, skb)
        self.skbs.kfree_skb(skb)

    def _echoes_nothing_of_ours(self, sk: TcpSock) -> bool:
        """Tell whether an answer echoes a time stamp that is not between our SYN's and now."""
        opt = sk.rx_opt
        if not opt.saw_tstamp or not opt.rcv_tsecr or not sk.retrans_stamp:
            return False
        return bool((opt.rcv_tsecr - sk.retrans_stamp) & SIGN or (self.sched.jiffies - opt.rcv_tsecr) & SIGN)

    def _tcp_synack(self, sk: TcpSock, skb: SkBuff) -> None:
        """Process the SYN|ACK that we waited for."""
        sk.snd_wl1 = skb.seq
        self.tcp_ack(sk, skb, FLAG_SLOWPATH)
        sk.rcv_nxt = skb.seq + 1 & MASK
        sk.rcv_wup = sk.rcv_nxt
        sk.rx_opt.sack_blocks = ()
        self._tcp_take_syn_options(sk)
        if sk.rx_opt.tstamp_ok:
            sk.advmss -= TCPOLEN_TSTAMP_ALIGNED
        self.tcp_finish_connect(sk, skb, "syn_ack")
        if not sk.sk_flags & SOCK_DEAD:
            sk.sk_state_change(sk)
        self.skbs.kfree_skb(skb)
        if sk.sk_state != TCP_ESTABLISHED:
            return
        if sk.rskq_defer_accept or sk.ack_pingpong:
            # the acknowledgement can go with data that will come soon, in 200 ms at most
            self.tcp_enter_quickack_mode(sk)
            sk.ack_pending |= ICSK_ACK_SCHED | ICSK_ACK_TIMER
            sk.ack_timeout = self.sched.jiffies + TCP_DELACK_MAX
            self.sk_reset_timer(sk, sk.delack_timer, sk.ack_timeout)
        else:
            self.tcp_send_ack(sk)
            self.tcp_data_snd_check(sk)

    def _tcp_simultaneous_open(self, sk: TcpSock, skb: SkBuff) -> None:
        """Process a SYN that crossed ours: both sides connect at once."""
        self.tcp_set_state(sk, "syn")
        self._tcp_take_syn_options(sk)
        sk.rcv_nxt = sk.rcv_wup = sk.copied_seq = skb.seq + 1 & MASK
        sk.snd_wnd = sk.max_window = skb.flags & 0xFFFF  # the window of a SYN is never scaled
        sk.snd_wl1 = skb.seq
        self.tcp_initialize_rcv_mss(sk)
        self.tcp_send_synack(sk)

    # the other states

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
        done = not skb.flags & W_ACK or not self._tcp_process_ack(sk, skb)
        sk.rx_opt.sack_blocks = ()
        if done:
            kfree_skb(skb)
            return
        if skb.flags & W_URG or sk.urg_data:
            self.tcp_urg(sk, skb)
        state = sk.sk_state
        if state in (TCP_CLOSE_WAIT, TCP_CLOSING, TCP_LAST_ACK) and not (skb.seq - sk.rcv_nxt) & SIGN:
            kfree_skb(skb)
        elif state != TCP_ESTABLISHED and sk.sk_shutdown & RCV_SHUTDOWN and _has_new_data(sk, skb):
            self.tcp_v4_send_reset(skb)  # data for a reader that is gone, or behind a FIN
            self.tcp_reset(sk)
            kfree_skb(skb)
        else:
            self.tcp_data_queue(sk, skb)
        self._tcp_after_state(sk)

    def _tcp_after_state(self, sk: TcpSock) -> None:
        """Send what is due; an orphan whose own FIN is acknowledged goes to its minisocket."""
        self._tcp_after(sk)
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
            if sk.rx_opt.tstamp_ok:
                sk.advmss -= TCPOLEN_TSTAMP_ALIGNED
            self.tcp_finish_connect(sk, skb, "ack_of_syn")
            sk.snd_una = skb.ack_seq
            if sk.rx_opt.saw_tstamp and sk.rx_opt.rcv_tsecr and not sk.srtt:
                # a child has no SYN in flight whose acknowledgement could be measured
                m = self.sched.jiffies - sk.rx_opt.rcv_tsecr & MASK
                if not m & SIGN:
                    self.tcp_rtt_estimator(sk, m)
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
        if sk.linger2 < 0 or _has_new_data(sk, skb):
            self.tcp_v4_send_reset(skb)
            self.tcp_done(sk)
        elif not skb.flags & W_FIN:
            self.tcp_time_wait(sk, TCP_FIN_WAIT2)


def _has_new_data(sk: TcpSock, skb: SkBuff) -> bool:
    """Tell whether a segment has data, more than a FIN, that was not received yet."""
    end = skb.end_seq - (1 if skb.flags & W_FIN else 0) & MASK
    return skb.end_seq != skb.seq and end != sk.rcv_nxt and not (end - sk.rcv_nxt) & SIGN
