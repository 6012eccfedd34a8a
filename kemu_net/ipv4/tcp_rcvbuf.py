"""The receive buffer: how much is advertised, how soon it is acknowledged (2.6.23 net/ipv4/tcp_input.c).

Interface
    TcpRcvbuf.tcp_event_data_recv(sk, skb)       data came: schedule an acknowledgement, learn, open the window
    tcp_enter_quickack_mode(sk)                  acknowledge at once for a while
    tcp_init_buffer_space, tcp_select_initial_window, tcp_initialize_rcv_mss    a new connection
    tcp_clamp_window(sk)                         the buffer is overrun
    tcp_rcv_rtt_measure_ts, tcp_rcv_space_adjust    fit the buffer to what the reader takes in a round trip

Rules
    * The window grows with the data that arrives (rcv_ssthresh), the buffer with the data that is read, up to tcp_rmem[2], unless
      SO_RCVBUF fixed it.
    * rcv_rtt is 8 times the round trip in jiffies, as srtt; without time stamps it is the time that a window takes, at the least.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu_net.core.skbuff import SIZEOF_SK_BUFF
from kemu_net.core.sock import SOCK_RCVBUF_LOCK, SOCK_SNDBUF_LOCK
from kemu_net.core.stream import MAX_TCP_HEADER
from kemu_net.ipv4.tcp_options import tcp_initial_window, tcp_win_from_space
from kemu_net.ipv4.tcp_sock import (
    FIN,
    ICSK_ACK_PUSHED,
    ICSK_ACK_PUSHED2,
    ICSK_ACK_SCHED,
    MASK,
    PSH,
    SIGN,
    SYN,
    TCP_ATO_MIN,
    TCP_MAX_QUICKACKS,
    TCP_MIN_MSS,
    TCP_MIN_RCVMSS,
    URG,
    TcpSock,
)
from kemu_net.ipv4.tcp_timewait import TcpTimewait

if TYPE_CHECKING:
    from kemu_net.core.skbuff import SkBuff

_REMNANT = (FIN | URG | SYN | PSH) << 16  # TCP_REMNANT
SEND_OVERHEAD = MAX_TCP_HEADER + 16 + SIZEOF_SK_BUFF  # per segment in a buffer


class TcpRcvbuf(TcpTimewait):
    """Windows and acknowledgements of received data."""

    # acknowledging

    def tcp_incr_quickack(self, sk: TcpSock) -> None:
        """Acknowledge the next segments at once (``tcp_incr_quickack()``): half the window's worth."""
        quickacks = sk.rcv_wnd // (2 * sk.ack_rcv_mss) or 2
        if quickacks > sk.ack_quick:
            sk.ack_quick = min(quickacks, TCP_MAX_QUICKACKS)

    def tcp_enter_quickack_mode(self, sk: TcpSock) -> None:
        """Acknowledge at once from now on (``tcp_enter_quickack_mode()``)."""
        self.tcp_incr_quickack(sk)
        sk.ack_pingpong = 0
        sk.ack_ato = TCP_ATO_MIN

    def tcp_event_data_recv(self, sk: TcpSock, skb: SkBuff) -> None:
        """Schedule an acknowledgement, learn the sender's pace, open the window (``tcp_event_data_recv()``)."""
        sk.ack_pending |= ICSK_ACK_SCHED
        length = skb.len
        if length >= sk.ack_rcv_mss:  # tcp_measure_rcv_mss()
            sk.ack_rcv_mss = length
            sk.ack_last_seg_size = 0
        else:
            self._tcp_measure_short_segment(sk, skb)
        now = self.sched.jiffies
        if not (sk.rcv_nxt - sk.rcv_rtt_seq) & SIGN or not sk.rcv_rtt_time:  # tcp_rcv_rtt_measure()
            self._tcp_rcv_rtt_measure(sk, now)
        ato = sk.ack_ato
        if not ato:
            self.tcp_incr_quickack(sk)
            sk.ack_ato = TCP_ATO_MIN
        else:
            m = now - sk.ack_lrcvtime
            if m <= TCP_ATO_MIN // 2:
                sk.ack_ato = (ato >> 1) + TCP_ATO_MIN // 2
            elif m < ato:
                sk.ack_ato = min((ato >> 1) + m, sk.rto)
            elif m > sk.rto:
                self.tcp_incr_quickack(sk)
                self.streams.sk_stream_mem_reclaim(sk)
        sk.ack_lrcvtime = now
        if length >= 128 and sk.rcv_ssthresh < sk.window_clamp:
            self.tcp_grow_window(sk, skb)

    def _tcp_measure_short_segment(self, sk: TcpSock, skb: SkBuff) -> None:
        """Two short segments of one size are the sender's segment size; one is the end of a write (``tcp_measure_rcv_mss()``).

        SACK blocks make a full segment shorter, so the whole segment counts, less the header without them.
        """
        last = sk.ack_last_seg_size
        sk.ack_last_seg_size = 0
        length = skb.len + skb.data - skb.h - 20
        if length >= TCP_MIN_RCVMSS or (length >= TCP_MIN_MSS and not skb.flags & _REMNANT):
            length += 20 - sk.tcp_header_len
            sk.ack_last_seg_size = length
            if length == last:
                sk.ack_rcv_mss = length
                return
        if sk.ack_pending & ICSK_ACK_PUSHED:
            sk.ack_pending |= ICSK_ACK_PUSHED2
        sk.ack_pending |= ICSK_ACK_PUSHED

    # a new connection

    def tcp_select_initial_window(self, sk: TcpSock) -> None:
        """Choose the window of our SYN and the scale that it offers (``tcp_connect_init()``)."""
        sk.rcv_wnd, sk.window_clamp, sk.rx_opt.rcv_wscale = tcp_initial_window(
            tcp_win_from_space(sk.sk_rcvbuf),
            sk.advmss,
            sk.window_clamp,
            self.sysctl_tcp_window_scaling,
            self.tcp_largest_window(),
        )
        sk.rcv_ssthresh = sk.rcv_wnd

    def tcp_largest_window(self) -> int:
        """Give the most that a receive buffer may grow to, by itself or by SO_RCVBUF; the scale must reach there."""
        return max(self.prot.sysctl_rmem[2], self.socks.sysctl_rmem_max)

    def tcp_initialize_rcv_mss(self, sk: TcpSock) -> None:
        """Guess the size of segments to come (``tcp_initialize_rcv_mss()``)."""
        sk.ack_rcv_mss = max(min(sk.advmss, sk.mss_cache, sk.rcv_wnd // 2, TCP_MIN_RCVMSS), TCP_MIN_MSS)

    def tcp_init_buffer_space(self, sk: TcpSock) -> None:
        """Fit buffers and window to the connection's segment size (``tcp_init_buffer_space()``)."""
        if not sk.sk_userlocks & SOCK_RCVBUF_LOCK:  # tcp_fixup_rcvbuf()
            wanted = 4 * self._rcvmem(sk)
            if sk.sk_rcvbuf < wanted:
                sk.sk_rcvbuf = min(wanted, sk.sk_prot.sysctl_rmem[2])
        wanted = 3 * (sk.mss_cache + SEND_OVERHEAD)
        if not sk.sk_userlocks & SOCK_SNDBUF_LOCK and sk.sk_sndbuf < wanted:  # tcp_fixup_sndbuf()
            sk.sk_sndbuf = min(wanted, sk.sk_prot.sysctl_wmem[2])
        sk.rcvq_space = sk.rcv_wnd
        maxwin = tcp_win_from_space(sk.sk_rcvbuf)
        mss = sk.advmss
        app_win = self.sysctl_tcp_app_win
        if sk.window_clamp >= maxwin:
            sk.window_clamp = maxwin
            if app_win and maxwin > 4 * mss:
                sk.window_clamp = max(maxwin - (maxwin >> app_win), 4 * mss)
        if app_win and sk.window_clamp > 2 * mss and sk.window_clamp + mss > maxwin:
            sk.window_clamp = max(2 * mss, maxwin - mss)
        sk.rcv_ssthresh = min(sk.rcv_ssthresh, sk.window_clamp)
        sk.snd_cwnd_stamp = self.sched.jiffies

    def _rcvmem(self, sk: TcpSock) -> int:
        """Give the buffer that one full segment needs, so that the window has room for its data."""
        rcvmem = sk.advmss + SEND_OVERHEAD
        while tcp_win_from_space(rcvmem) < sk.advmss:
            rcvmem += 128
        return rcvmem

    # the window

    def tcp_grow_window(self, sk: TcpSock, skb: SkBuff) -> None:
        """Let the advertised window grow if data fills its buffers well (``tcp_grow_window()``)."""
        space = sk.sk_rcvbuf - sk.sk_rmem_alloc
        if sk.rcv_ssthresh >= space - (space >> 2) or sk.sk_prot.memory_pressure:
            return
        truesize = skb.truesize - (skb.truesize >> 2)
        increment = 2 * sk.advmss
        if truesize > skb.len:  # __tcp_grow_window()
            increment = 0
            rmem = sk.sk_prot.sysctl_rmem[2]
            window = rmem - (rmem >> 2) >> 1
            truesize >>= 1
            while sk.rcv_ssthresh <= window:
                if truesize <= skb.len:
                    increment = 2 * sk.ack_rcv_mss
                    break
                truesize >>= 1
                window >>= 1
        if increment:
            sk.rcv_ssthresh = min(sk.rcv_ssthresh + increment, sk.window_clamp)
            sk.ack_quick |= 1

    def tcp_clamp_window(self, sk: TcpSock) -> None:
        """Let the buffer grow to what it holds, or shrink the window (``tcp_clamp_window()``)."""
        sk.ack_quick = 0
        prot = sk.sk_prot
        rmem_max = prot.sysctl_rmem[2]
        if (
            sk.sk_rcvbuf < rmem_max
            and not sk.sk_userlocks & SOCK_RCVBUF_LOCK
            and not prot.memory_pressure
            and prot.memory_allocated < prot.sysctl_mem[0]
        ):
            sk.sk_rcvbuf = min(sk.sk_rmem_alloc, rmem_max)
        if sk.sk_rmem_alloc > sk.sk_rcvbuf:
            sk.rcv_ssthresh = min(sk.window_clamp, 2 * sk.advmss)

    # fitting the buffer to the reader

    def _tcp_rcv_rtt_measure(self, sk: TcpSock, now: int) -> None:
        """Measure how long a window takes (``tcp_rcv_rtt_measure()``): an upper bound of the round trip."""
        if sk.rcv_rtt_time:
            m = now - sk.rcv_rtt_time or 1
            if not sk.rcv_rtt or m < sk.rcv_rtt:  # tcp_rcv_rtt_update(), which compares it with eight times the value
                sk.rcv_rtt = m << 3
        sk.rcv_rtt_seq = sk.rcv_nxt + sk.rcv_wnd & MASK
        sk.rcv_rtt_time = now

    def tcp_rcv_rtt_measure_ts(self, sk: TcpSock, skb: SkBuff) -> None:
        """Measure the round trip by the stamp that a full segment echoes (``tcp_rcv_rtt_measure_ts()``)."""
        tsecr = sk.rx_opt.rcv_tsecr
        if tsecr and (skb.end_seq - skb.seq & MASK) >= sk.ack_rcv_mss:
            m = (self.sched.jiffies & MASK) - tsecr & MASK or 1
            if m & SIGN:
                return  # it echoes a stamp that we never sent
            sk.rcv_rtt = sk.rcv_rtt + m - (sk.rcv_rtt >> 3) if sk.rcv_rtt else m << 3

    def tcp_rcv_space_adjust(self, sk: TcpSock) -> None:
        """Let the buffer hold twice what the reader took in the last round trip (``tcp_rcv_space_adjust()``)."""
        now = self.sched.jiffies
        if sk.rcvq_time:
            if not sk.rcv_rtt or now - sk.rcvq_time < sk.rcv_rtt >> 3:
                return
            space = 2 * (sk.copied_seq - sk.rcvq_seq & MASK)
            if space > sk.rcvq_space:
                sk.rcvq_space = space
                if self.sysctl_tcp_moderate_rcvbuf and not sk.sk_userlocks & SOCK_RCVBUF_LOCK:
                    rcvbuf = min((space // sk.advmss or 1) * self._rcvmem(sk), sk.sk_prot.sysctl_rmem[2])
                    if rcvbuf > sk.sk_rcvbuf:
                        sk.sk_rcvbuf = rcvbuf
                        sk.window_clamp = space
        sk.rcvq_seq = sk.copied_seq
        sk.rcvq_time = now
