"""Segments that carry no data of a user: acknowledgements, SYN, FIN, RST, probes (2.6.23 net/ipv4/tcp_output.c).

Interface
    TcpControl.tcp_send_ack, tcp_send_delayed_ack, tcp_send_fin, tcp_send_active_reset, tcp_send_synack, tcp_connect_send
    tcp_xmit_probe_skb, tcp_write_wakeup      ask a peer whether it is there, and whether its window is open

Rules
    * Patch 15: whatever is allocated for a socket asks sk_allocation(). Replies without a socket are tcp_reply.py's.
    * A SYN and a FIN go through the write queue, and are sent again like data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.errno import EFAULT, ENOBUFS
from kemu.mm.gfp import GFP_ATOMIC, GFP_KERNEL, gfp_t
from kemu_net.core.skbuff import SKB_ALLOC_FCLONE
from kemu_net.core.stream import MAX_TCP_HEADER
from kemu_net.ipv4.tcp_output import TcpOutput
from kemu_net.ipv4.tcp_sock import (
    ACK,
    FIN,
    ICSK_ACK_PUSHED,
    ICSK_ACK_SCHED,
    ICSK_ACK_TIMER,
    ICSK_TIME_RETRANS,
    MASK,
    PSH,
    RST,
    SIGN,
    SYN,
    TCP_ATO_MIN,
    TCP_DELACK_MAX,
    TCP_DELACK_MIN,
    TCP_NAGLE_OFF,
    TCP_RTO_MAX,
    TcpSock,
)
from kemu_net.ipv4.tcp_states import TCP_CLOSE
from kemu_net.ipv4.tcp_window import tcp_acceptable_seq

if TYPE_CHECKING:
    from kemu.kernel.timer import Timer
    from kemu_net.core.skbuff import SkBuff


class TcpControl(TcpOutput):
    """Segments of the connection itself."""

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
        self.tcp_push_pending_frames(sk, self.tcp_current_mss(sk), TCP_NAGLE_OFF)

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
            return -EFAULT
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
        if sk.sk_state == TCP_CLOSE:
            return -1
        unsent = sk.sk_write_queue
        if not unsent or not (unsent[0].seq - sk.snd_una - sk.snd_wnd) & SIGN:
            return self.tcp_xmit_probe_skb(sk, 0)
        skb = unsent[0]
        mss = self.tcp_current_mss(sk)
        room = sk.snd_una + sk.snd_wnd - skb.seq & MASK
        if (sk.pushed_seq - skb.end_seq) & SIGN:
            sk.pushed_seq = skb.end_seq
        if room < (skb.end_seq - skb.seq & MASK) or skb.len > mss:
            skb.flags |= PSH
            if self.tcp_fragment(sk, unsent, 0, min(room, mss), GFP_ATOMIC):
                return -1
        skb.flags |= PSH
        skb.when = self.sched.jiffies
        err = self.tcp_transmit_skb(sk, skb, True, GFP_ATOMIC)
        if not err:
            self.update_send_head(sk, skb)
        return err
