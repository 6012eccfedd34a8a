"""Making segments and sending them (2.6.23 net/ipv4/tcp_output.c).

Interface
    TcpOutput.tcp_transmit_skb(sk, skb, clone_it, gfp)      header, checksum, IP
    tcp_write_xmit, tcp_push, tcp_push_one                  send what congestion and receiver windows allow
    tcp_retransmit_skb
    tcp_select_window                                       what is advertised
    tcp_send_ack, tcp_send_delayed_ack, tcp_send_fin, tcp_send_active_reset, tcp_send_synack, tcp_connect_send
    tcp_write_wakeup                                        a probe of a closed window

Rules
    * A segment of the write queue is never sent itself: its clone gets the header and goes to IP. The clone of an fclone pair costs
      no memory.
    * The bytes of a fragment are read when the device sends them (zero copy), so the device computes such a segment's checksum.
    * Patch 15: whatever is allocated for a socket asks sk_allocation(). Control replies without a socket are tcp_ipv4.py's.
    * No segmentation offload: a segment is never longer than mss_cache, so a retransmission is never split; an unsent one is,
      where a probe finds room for a part of it.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from kemu.kernel import costs
from kemu.kernel.errno import EAGAIN, ENOBUFS
from kemu.mm.gfp import GFP_ATOMIC, GFP_KERNEL, gfp_t
from kemu.mm.page import get_page
from kemu_net.core.checksum import CSUM_SMALL, csum_reduce
from kemu_net.core.skbuff import CHECKSUM_PARTIAL, SKB_ALLOC_FCLONE, SkBuff, skb_bytes
from kemu_net.core.sock import sock_wfree
from kemu_net.core.stream import MAX_TCP_HEADER
from kemu_net.ipv4.tcp_reply import TcpReply
from kemu_net.ipv4.tcp_sock import (
    ACK,
    FIN,
    ICSK_ACK_PUSHED,
    ICSK_ACK_SCHED,
    ICSK_ACK_TIMER,
    ICSK_TIME_PROBE0,
    ICSK_TIME_RETRANS,
    MASK,
    MAX_TCP_WINDOW,
    PSH,
    RST,
    SIGN,
    SYN,
    TCP_ATO_MIN,
    TCP_CA_CWR,
    TCP_CA_RECOVERY,
    TCP_DELACK_MAX,
    TCP_DELACK_MIN,
    TCP_NAGLE_CORK,
    TCP_NAGLE_OFF,
    TCP_NAGLE_PUSH,
    TCP_RTO_MAX,
    TCPCB_LOST,
    TCPCB_SACKED_RETRANS,
    TcpSock,
)

if TYPE_CHECKING:
    from kemu.kernel.timer import Timer

_HEADER = Struct("!IIIIHH").pack  # ports, seq, ack, offset-flags-window, checksum, urgent pointer
_MSS_OPTION = Struct("!BBH").pack
_WORD20 = 5 << 28
_WORD24 = 6 << 28


class TcpOutput(TcpReply):
    """Everything that leaves."""

    # one segment

    def tcp_transmit_skb(self, sk: TcpSock, skb: SkBuff, clone_it: bool, gfp: gfp_t) -> int:
        """Give a segment its header and hand it to IP (``tcp_transmit_skb()``): 0, or -ENOBUFS and it did not leave."""
        flags = skb.flags
        if clone_it:
            clone = self.skbs.skb_clone(skb, gfp)
            if clone is None:
                return -ENOBUFS
        else:
            clone = skb
        if flags & SYN:
            word = _WORD24 | flags << 16 | (min(MAX_TCP_WINDOW, sk.rcv_wnd))
            option = _MSS_OPTION(2, 4, sk.advmss)
        else:
            word = _WORD20 | flags << 16 | self.tcp_select_window(sk)
            option = b""
        payload = clone.len
        body = option + clone.buf if option else clone.buf
        seq = skb.seq
        ack_seq = sk.rcv_nxt if flags & ACK else 0
        length = 20 + len(option) + payload
        total = sk.pseudo_sum + length
        if clone.data_len and self.csum_offload:
            clone.ip_summed = CHECKSUM_PARTIAL
            clone.csum = 16  # where the field is
            check = 0
        else:
            total += sk.ports_word + seq + ack_seq + word
            if payload or option:
                data = skb_bytes(clone) if clone.data_len else body
                number = int.from_bytes(data, "big")
                if length > CSUM_SMALL:
                    number = csum_reduce(number)
                if length & 1:
                    number <<= 8
                total += number
            check = -total % 65535
        clone.buf = _HEADER(sk.ports_word, seq, ack_seq, word, check, 0) + body
        clone.data = clone.h = 0
        clone.len = length
        clone.sk = sk  # skb_set_owner_w()
        clone.destructor = sock_wfree
        sk.sk_wmem_alloc += clone.truesize
        sk.sk_refcnt += 1
        if flags & ACK:  # tcp_event_ack_sent()
            if sk.ack_quick:
                sk.ack_quick -= 1
                if not sk.ack_quick:
                    sk.ack_ato = TCP_ATO_MIN
            sk.ack_pending = sk.ack_blocked = 0
        if payload:  # tcp_event_data_sent()
            now = skb.when
            if not sk.sk_rtx_queue and now - sk.lsndtime > sk.rto:
                self.tcp_cwnd_restart(sk, now)
            sk.lsndtime = now
            if now - sk.ack_lrcvtime < sk.ack_ato:
                sk.ack_pingpong = 1
        err = self.inet.ip_queue_xmit(clone, sk)
        if err > 0:  # the device's queue is full: less is better
            self.tcp_enter_cwr(sk)
        return err

    def tcp_cwnd_restart(self, sk: TcpSock, now: int) -> None:
        """Shrink the window of a connection that was idle (``tcp_cwnd_restart()``)."""
        delta = now - sk.lsndtime - sk.rto
        restart = min(tcp_init_cwnd(sk), sk.snd_cwnd)
        cwnd = sk.snd_cwnd
        sk.snd_ssthresh = self.tcp_current_ssthresh(sk)
        while delta > 0 and cwnd > restart:
            cwnd >>= 1
            delta -= sk.rto
        sk.snd_cwnd = max(cwnd, restart)
        sk.snd_cwnd_stamp = now
        sk.snd_cwnd_used = 0

    def tcp_current_ssthresh(self, sk: TcpSock) -> int:
        """Give the slow start threshold that the present window deserves (``tcp_current_ssthresh()``)."""
        if sk.ca_state in (TCP_CA_CWR, TCP_CA_RECOVERY):
            return sk.snd_ssthresh
        return max(sk.snd_ssthresh, (sk.snd_cwnd >> 1) + (sk.snd_cwnd >> 2))

    def tcp_enter_cwr(self, sk: TcpSock) -> None:
        """Halve the window because this host is congested (``tcp_enter_cwr()``)."""
        if sk.ca_state < TCP_CA_CWR:
            sk.snd_ssthresh = max(sk.snd_cwnd >> 1, 2)
            sk.snd_cwnd = min(sk.snd_cwnd, tcp_packets_in_flight(sk) + 1)
            sk.snd_cwnd_cnt = 0
            sk.high_seq = sk.snd_nxt
            sk.snd_cwnd_stamp = self.sched.jiffies
            sk.ca_state = TCP_CA_CWR

    # the window that is advertised

    def tcp_select_window(self, sk: TcpSock) -> int:
        """Choose the window of an outgoing segment; never take back what was promised (``tcp_select_window()``)."""
        current = sk.rcv_wup + sk.rcv_wnd - sk.rcv_nxt & MASK
        if current & SIGN:
            current = 0
        window = self._tcp_select_window(sk)
        if window < current:
            window = current
        sk.rcv_wnd = window
        sk.rcv_wup = sk.rcv_nxt
        if not window:
            sk.pred_flags = 0
        return window

    def _tcp_select_window(self, sk: TcpSock) -> int:
        """Choose a window from the room in the receive buffer (``__tcp_select_window()``)."""
        # called for every segment in either direction: comparisons, for min() costs ten times as much
        mss = sk.ack_rcv_mss
        rcvbuf = sk.sk_rcvbuf
        space = rcvbuf - sk.sk_rmem_alloc
        free_space = space - (space >> 2)  # tcp_win_from_space()
        full_space = rcvbuf - (rcvbuf >> 2)
        if full_space > sk.window_clamp:
            full_space = sk.window_clamp
        if mss > full_space:
            mss = full_space
        if free_space < full_space >> 1:
            sk.ack_quick = 0
            if sk.sk_prot.memory_pressure:
                sk.rcv_ssthresh = min(sk.rcv_ssthresh, 4 * sk.advmss)
            if free_space < mss:
                return 0
        if free_space > sk.rcv_ssthresh:
            free_space = sk.rcv_ssthresh
        window = sk.rcv_wnd
        if window <= free_space - mss or window > free_space:
            return free_space // mss * mss if mss else 0
        if mss == full_space and free_space > window + (full_space >> 1):
            return free_space
        return window

    # the write queue

    def tcp_write_xmit(self, sk: TcpSock, mss_now: int, nonagle: int) -> bool:
        """Send unsent segments while windows and Nagle allow (``tcp_write_xmit()``).

        True when something waits, nothing is in flight and so nobody but a probe timer will wake the connection.
        """
        unsent = sk.sk_write_queue
        rtx = sk.sk_rtx_queue
        sent = 0
        while unsent:
            skb = unsent[0]
            if len(rtx) - sk.sacked_out - sk.lost_out + sk.retrans_out >= sk.snd_cwnd:
                break
            end_seq = skb.end_seq
            if (sk.snd_una + sk.snd_wnd - end_seq) & SIGN:
                break  # behind the receiver's window
            if skb.len < mss_now and not self._tcp_nagle_test(sk, skb, nonagle if len(unsent) == 1 else TCP_NAGLE_PUSH):
                break
            skb.when = self.sched.jiffies
            if self.tcp_transmit_skb(sk, skb, True, GFP_ATOMIC):
                break
            self.update_send_head(sk, skb)
            sent += 1
            if skb.len < mss_now:
                sk.snd_sml = end_seq  # tcp_minshall_update()
        if sent:
            self.tcp_cwnd_validate(sk, sk.lsndtime)
            return False
        return not rtx and bool(unsent)

    def _tcp_nagle_test(self, sk: TcpSock, skb: SkBuff, nonagle: int) -> bool:
        """Tell whether a short segment may go (``tcp_nagle_test()``): Nagle's rule in Minshall's form, and MSG_MORE."""
        if nonagle & TCP_NAGLE_PUSH or skb.flags & FIN:
            return True
        if nonagle & TCP_NAGLE_CORK:
            return False
        if nonagle or not sk.sk_rtx_queue:
            return True
        unacked_small = (sk.snd_una - sk.snd_sml) & SIGN and not (sk.snd_nxt - sk.snd_sml) & SIGN
        return not unacked_small

    def update_send_head(self, sk: TcpSock, skb: SkBuff) -> None:
        """Move a segment that has been sent to those in flight (``update_send_head()``)."""
        sk.sk_write_queue.popleft()
        rtx = sk.sk_rtx_queue
        sk.snd_nxt = skb.end_seq
        rtx.append(skb)
        if len(rtx) == 1:
            self.inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, sk.rto, TCP_RTO_MAX)

    def tcp_cwnd_validate(self, sk: TcpSock, now: int) -> None:
        """Let a window shrink that the application does not use (``tcp_cwnd_validate()``)."""
        packets_out = len(sk.sk_rtx_queue)
        if packets_out >= sk.snd_cwnd:
            sk.snd_cwnd_used = 0
            sk.snd_cwnd_stamp = now
            return
        if packets_out > sk.snd_cwnd_used:
            sk.snd_cwnd_used = packets_out
        if now - sk.snd_cwnd_stamp >= sk.rto:  # tcp_cwnd_application_limited()
            if not sk.ca_state:
                used = max(sk.snd_cwnd_used, tcp_init_cwnd(sk))
                if used < sk.snd_cwnd:
                    sk.snd_ssthresh = self.tcp_current_ssthresh(sk)
                    sk.snd_cwnd = (sk.snd_cwnd + used) >> 1
                sk.snd_cwnd_used = 0
            sk.snd_cwnd_stamp = now

    def tcp_push_pending_frames(self, sk: TcpSock, mss_now: int, nonagle: int) -> None:
        """Send what may go; else see that a probe will be sent (``__tcp_push_pending_frames()``)."""
        if sk.sk_write_queue and self.tcp_write_xmit(sk, mss_now, nonagle) and not sk.icsk_pending:
            self.inet_csk_reset_xmit_timer(sk, ICSK_TIME_PROBE0, sk.rto, TCP_RTO_MAX)

    def tcp_push_one(self, sk: TcpSock, mss_now: int) -> None:
        """Send the first unsent segment if it may go (``tcp_push_one()``)."""
        skb = sk.sk_write_queue[0]
        if tcp_packets_in_flight(sk) >= sk.snd_cwnd or (sk.snd_una + sk.snd_wnd - skb.end_seq) & SIGN:
            return
        skb.when = self.sched.jiffies
        if not self.tcp_transmit_skb(sk, skb, True, GFP_ATOMIC):
            self.update_send_head(sk, skb)
            self.tcp_cwnd_validate(sk, skb.when)

    def tcp_push(self, sk: TcpSock, more: bool, mss_now: int, nonagle: int) -> None:
        """End a write (``tcp_push()``); ``more`` is MSG_MORE: a last short segment waits for its rest."""
        if sk.sk_write_queue:
            if not more or (sk.pushed_seq + (sk.max_window >> 1) - sk.write_seq) & SIGN:
                sk.sk_write_queue[-1].flags |= PSH
                sk.pushed_seq = sk.write_seq
            self.tcp_push_pending_frames(sk, mss_now, TCP_NAGLE_CORK if more else nonagle)

    def tcp_fragment(self, sk: TcpSock, skb: SkBuff, length: int, gfp: gfp_t) -> int:
        """Cut the first unsent segment after ``length`` bytes (``tcp_fragment()``): 0, or -ENOBUFS."""
        rest_size = max(skb.len - skb.data_len - length, 0)
        rest = self.streams.sk_stream_alloc_pskb(sk, rest_size, 0, gfp)
        if rest is None:
            return -ENOBUFS
        linear = skb.len - skb.data_len
        rest.seq = skb.seq + length & MASK
        rest.end_seq = skb.end_seq
        rest.flags = skb.flags
        skb.flags &= ~(FIN | PSH)
        skb.end_seq = rest.seq
        rest.len = skb.len - length
        if linear > length:
            rest.buf = skb.buf[length:]
            skb.buf = skb.buf[:length]
            rest.frags = skb.frags
            rest.data_len = skb.data_len
            skb.frags = None
            skb.data_len = 0
        else:
            self._split_frags(skb, rest, length - linear)
        rest.truesize += rest.data_len
        old = skb.truesize
        skb.len = length
        skb.truesize -= rest.data_len
        change = rest.truesize + skb.truesize - old
        sk.sk_wmem_queued += change
        sk.sk_forward_alloc -= change
        sk.sk_write_queue.insert(1, rest)
        return 0

    def _split_frags(self, skb: SkBuff, rest: SkBuff, keep: int) -> None:
        """Leave the first ``keep`` bytes of the fragments with ``skb``; a fragment that is cut is held by both."""
        mine: list[tuple[object, int, int]] = []
        theirs: list[tuple[object, int, int]] = []
        assert skb.frags is not None
        for page, offset, size in skb.frags:
            if keep >= size:
                mine.append((page, offset, size))
            elif keep > 0:
                get_page(page)
                mine.append((page, offset, keep))
                theirs.append((page, offset + keep, size - keep))
            else:
                theirs.append((page, offset, size))
            keep = max(keep - size, 0)
        skb.frags = mine  # type: ignore[assignment]  # the tuples come from skb.frags itself
        rest.frags = theirs  # type: ignore[assignment]  # the tuples come from skb.frags itself
        rest.data_len = sum(size for _page, _offset, size in theirs)
        skb.data_len -= rest.data_len

    def tcp_retransmit_skb(self, sk: TcpSock, skb: SkBuff) -> int:
        """Send a segment again (``tcp_retransmit_skb()``): 0, or negative and it did not leave."""
        if sk.sk_wmem_alloc > min(sk.sk_wmem_queued + (sk.sk_wmem_queued >> 2), sk.sk_sndbuf):
            return -EAGAIN  # the device still holds most of what was sent
        if not (skb.seq - sk.snd_una - sk.snd_wnd) & SIGN and skb.seq != sk.snd_una:
            return -EAGAIN
        skb.when = self.sched.jiffies
        err = self.tcp_transmit_skb(sk, skb, True, GFP_ATOMIC)
        if not err:
            self.stats.retransmits += 1
            if not skb.sacked & TCPCB_SACKED_RETRANS:
                skb.sacked |= TCPCB_SACKED_RETRANS
                sk.retrans_out += 1
            if not sk.retrans_stamp:
                sk.retrans_stamp = skb.when
            skb.ack_seq = sk.snd_nxt
        return err

    def tcp_xmit_retransmit_queue(self, sk: TcpSock) -> None:
        """Send what is marked lost again, as far as the window allows (``tcp_xmit_retransmit_queue()``)."""
        if not sk.lost_out:
            return
        first = True
        for skb in list(sk.sk_rtx_queue):
            if tcp_packets_in_flight(sk) >= sk.snd_cwnd:
                return
            if skb.sacked & (TCPCB_LOST | TCPCB_SACKED_RETRANS) == TCPCB_LOST:
                if self.tcp_retransmit_skb(sk, skb):
                    return
                if first:
                    self.inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, sk.rto, TCP_RTO_MAX)
            first = False

    # segments without data

    def tcp_send_ack(self, sk: TcpSock) -> None:
        """Acknowledge now (``tcp_send_ack()``). Without memory for it, the timer of delayed acknowledgements tries again."""
        gfp = self.socks.sk_allocation(sk, GFP_ATOMIC) if self.patched.sk_allocation else GFP_ATOMIC  # [p15]
        skb = self.skbs.alloc_skb(MAX_TCP_HEADER, gfp)
        if skb is None:
            sk.ack_pending |= ICSK_ACK_SCHED
            sk.ack_ato = TCP_ATO_MIN
            sk.ack_pending |= ICSK_ACK_TIMER
            sk.ack_timeout = self.sched.jiffies + TCP_DELACK_MAX
            self.sk_reset_timer(sk, sk.delack_timer, sk.ack_timeout)
            return
        skb.flags = ACK
        skb.seq = skb.end_seq = tcp_acceptable_seq(sk)
        skb.when = self.sched.jiffies
        self.tcp_transmit_skb(sk, skb, False, GFP_ATOMIC)

    def tcp_send_delayed_ack(self, sk: TcpSock) -> None:
        """Acknowledge in 40 to 200 ms, or at once if that was promised before (``tcp_send_delayed_ack()``)."""
        ato = sk.ack_ato
        if ato > TCP_DELACK_MIN:
            max_ato = 125  # HZ / 2
            if sk.ack_pingpong or sk.ack_pending & ICSK_ACK_PUSHED:
                max_ato = TCP_DELACK_MAX
            if sk.srtt:
                max_ato = min(max(sk.srtt >> 3, TCP_DELACK_MIN), max_ato)
            ato = min(ato, max_ato)
        now = self.sched.jiffies
        timeout = now + ato
        timer: Timer = sk.delack_timer
        if sk.ack_pending & ICSK_ACK_TIMER:
            if sk.ack_blocked or sk.ack_timeout <= now + (ato >> 2):
                self.tcp_send_ack(sk)
                return
            if timeout > sk.ack_timeout:
                timeout = sk.ack_timeout
        sk.ack_pending |= ICSK_ACK_SCHED | ICSK_ACK_TIMER
        sk.ack_timeout = timeout
        if not self.timers.mod_timer(timer, timeout):
            sk.sk_refcnt += 1

    def tcp_send_fin(self, sk: TcpSock) -> None:
        """Put a FIN behind what is queued, and push (``tcp_send_fin()``).

        Loops until there is memory. The base allocates with GFP_KERNEL: for an RPC socket that is direct reclaim from under the
        socket lock, which patch 15 ends.
        """
        if sk.sk_write_queue:
            skb = sk.sk_write_queue[-1]
            skb.flags |= FIN
            skb.end_seq = skb.end_seq + 1 & MASK
            sk.write_seq = sk.write_seq + 1 & MASK
        else:
            gfp = sk.sk_allocation if self.patched.sk_allocation else GFP_KERNEL  # [p15]
            while (fin := self.skbs.alloc_skb(MAX_TCP_HEADER, gfp, SKB_ALLOC_FCLONE)) is None:
                self.sched.yield_()
            fin.flags = ACK | FIN
            fin.seq = sk.write_seq
            fin.end_seq = sk.write_seq + 1 & MASK
            self.tcp_queue_skb(sk, fin)
        self.tcp_push_pending_frames(sk, sk.mss_cache, TCP_NAGLE_OFF)

    def tcp_queue_skb(self, sk: TcpSock, skb: SkBuff) -> None:
        """Queue a SYN or FIN (``tcp_queue_skb()``); it is never refused, so sk_forward_alloc may go below zero."""
        sk.write_seq = skb.end_seq
        sk.sk_write_queue.append(skb)
        sk.sk_wmem_queued += skb.truesize
        sk.sk_forward_alloc -= skb.truesize

    def tcp_send_active_reset(self, sk: TcpSock, priority: gfp_t) -> None:
        """Tell the peer that the connection is over and data was lost (``tcp_send_active_reset()``)."""
        gfp = self.socks.sk_allocation(sk, priority) if self.patched.sk_allocation else priority  # [p15]
        skb = self.skbs.alloc_skb(MAX_TCP_HEADER, gfp)
        if skb is None:
            return
        skb.flags = ACK | RST
        skb.seq = skb.end_seq = tcp_acceptable_seq(sk)
        skb.when = self.sched.jiffies
        self.tcp_transmit_skb(sk, skb, False, GFP_ATOMIC)

    def tcp_send_synack(self, sk: TcpSock) -> int:
        """Answer a SYN while our own is unanswered (``tcp_send_synack()``): both sides connect at once."""
        skb = sk.sk_rtx_queue[0] if sk.sk_rtx_queue else None
        if skb is None or not skb.flags & SYN:
            return -ENOBUFS
        skb.flags |= ACK
        skb.when = self.sched.jiffies
        return self.tcp_transmit_skb(sk, skb, True, GFP_ATOMIC)

    def tcp_connect_send(self, sk: TcpSock) -> int:
        """Queue and send the SYN, start its timer (the end of ``tcp_connect()``): 0 or -ENOBUFS."""
        skb = self.skbs.alloc_skb(MAX_TCP_HEADER + 15, sk.sk_allocation, SKB_ALLOC_FCLONE)
        if skb is None:
            return -ENOBUFS
        skb.flags = SYN
        skb.seq = sk.write_seq
        skb.end_seq = sk.write_seq + 1 & MASK
        skb.when = sk.retrans_stamp = self.sched.jiffies
        sk.snd_nxt = sk.write_seq
        self.tcp_queue_skb(sk, skb)
        sk.sk_write_queue.popleft()
        sk.sk_rtx_queue.append(skb)
        self.tcp_transmit_skb(sk, skb, True, GFP_KERNEL)
        sk.snd_nxt = sk.pushed_seq = sk.write_seq
        self.inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, sk.rto, TCP_RTO_MAX)
        return 0

    # probes

    def tcp_xmit_probe_skb(self, sk: TcpSock, urgent: int) -> int:
        """Send an old byte's number, to which the peer must answer (``tcp_xmit_probe_skb()``)."""
        gfp = self.socks.sk_allocation(sk, GFP_ATOMIC) if self.patched.sk_allocation else GFP_ATOMIC  # [p15]
        skb = self.skbs.alloc_skb(MAX_TCP_HEADER, gfp)
        if skb is None:
            return -1
        skb.flags = ACK
        skb.seq = skb.end_seq = sk.snd_una - (0 if urgent else 1) & MASK
        skb.when = self.sched.jiffies
        return self.tcp_transmit_skb(sk, skb, False, GFP_ATOMIC)

    def tcp_write_wakeup(self, sk: TcpSock) -> int:
        """Probe the peer's window with data if there is any room, else with nothing (``tcp_write_wakeup()``)."""
        unsent = sk.sk_write_queue
        if unsent:
            skb = unsent[0]
            room = sk.snd_una + sk.snd_wnd - skb.seq & MASK
            if room and not room & SIGN:
                if room < skb.len:
                    sk.pushed_seq = skb.end_seq if (sk.pushed_seq - skb.end_seq) & SIGN else sk.pushed_seq
                    skb.flags |= PSH
                    if self.tcp_fragment(sk, skb, min(room, sk.mss_cache), GFP_ATOMIC):
                        return -1
                skb.flags |= PSH
                skb.when = self.sched.jiffies
                err = self.tcp_transmit_skb(sk, skb, True, GFP_ATOMIC)
                if not err:
                    self.update_send_head(sk, skb)
                return err
        return self.tcp_xmit_probe_skb(sk, 0)

    def charge_work(self, segments: int) -> None:
        """Let the time pass that a task needs to make segments; it owns the socket, so packets wait in the backlog."""
        while segments > 0:
            self.sched.spend(costs.TCP_TX)
            segments -= 1


def tcp_packets_in_flight(sk: TcpSock) -> int:
    """Give the segments that are believed to be in the network (``tcp_packets_in_flight()``)."""
    return len(sk.sk_rtx_queue) - sk.sacked_out - sk.lost_out + sk.retrans_out


def tcp_init_cwnd(sk: TcpSock) -> int:
    """Give the initial window in segments (``tcp_init_cwnd()``, RFC 3390)."""
    if sk.mss_cache > 1460:
        return 2
    return 3 if sk.mss_cache > 1095 else 4


def tcp_acceptable_seq(sk: TcpSock) -> int:
    """Give the sequence number of a segment without data (``tcp_acceptable_seq()``): inside the peer's window."""
    wnd_end = sk.snd_una + sk.snd_wnd & MASK
    return sk.snd_nxt if not (wnd_end - sk.snd_nxt) & SIGN else wnd_end
