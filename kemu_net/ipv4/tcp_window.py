"""What limits a segment and what is advertised (2.6.23 net/ipv4/tcp_output.c): windows, segment size, congestion window when idle.

Interface
    TcpWindow.tcp_select_window(sk), _tcp_select_window(sk)     the window of our next segment, the window that there is room for
    tcp_initialize_mss(sk, announced)                           the peer's MSS and the connection's options are known
    tcp_sync_mss(sk, pmtu), tcp_current_mss(sk)                 how much data a segment may carry
    tcp_cwnd_restart, tcp_current_ssthresh, tcp_enter_cwr, tcp_cwnd_validate
    tcp_packets_in_flight(sk), tcp_init_cwnd(sk), tcp_acceptable_seq(sk)    free functions

Rules
    * rcv_wnd is in bytes; only tcp_select_window() shifts it, on its way into a header.
    * mss_cache has the connection's fixed options taken off (time stamps); SACK blocks come and go, so tcp_current_mss() takes them
      off each time.
    * Who hears of a narrower path calls tcp_sync_mss() at once: mss_cache is always right, and is not looked up per segment.
    * Left out: MTU probing (off in 2.6.23), route metrics.
"""

from __future__ import annotations

from typing import Final

from kemu_net.ipv4.tcp_options import TCPOLEN_TSTAMP_ALIGNED
from kemu_net.ipv4.tcp_reply import TcpReply
from kemu_net.ipv4.tcp_sock import (
    MASK,
    MAX_TCP_WINDOW,
    SIGN,
    TCP_BASE_HEADERS,
    TCP_CA_CWR,
    TCP_CA_RECOVERY,
    TCP_INFINITE_SSTHRESH,
    TcpSock,
)

_SMALLEST_MSS: Final = 48  # tcp_mtu_to_mss()
_SMALLEST_PACKET: Final = 68  # RFC 791


class TcpWindow(TcpReply):
    """Windows and sizes of one connection."""

    # the window that is advertised

    def tcp_select_window(self, sk: TcpSock) -> int:
        """Choose the window field of an outgoing segment; never take back what was promised (``tcp_select_window()``)."""
        current = sk.rcv_wup + sk.rcv_wnd - sk.rcv_nxt & MASK
        if current & SIGN:
            current = 0
        window = self._tcp_select_window(sk)
        if window < current:
            window = current
        sk.rcv_wnd = window
        sk.rcv_wup = sk.rcv_nxt
        shift = sk.rx_opt.rcv_wscale
        if shift:
            window >>= shift
        if window > MAX_TCP_WINDOW:
            window = MAX_TCP_WINDOW
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
        shift = sk.rx_opt.rcv_wscale
        if shift:  # a scaled window does not meet segment boundaries: no rounding but to what the field can say
            return -(-free_space >> shift) << shift
        window = sk.rcv_wnd
        if window <= free_space - mss or window > free_space:
            return free_space // mss * mss if mss else 0
        if mss == full_space and free_space > window + (full_space >> 1):
            return free_space
        return window

    # segment size

    def tcp_initialize_mss(self, sk: TcpSock, announced: int) -> None:
        """Settle header and segment size, when the peer's MSS and the options that both sides know are known."""
        opt = sk.rx_opt
        sk.mss_clamp = announced
        sk.tcp_header_len = 20 + TCPOLEN_TSTAMP_ALIGNED if opt.tstamp_ok else 20
        sk.tcp_fack = bool(opt.sack_ok and self.sysctl_tcp_fack)
        sk.reordering = self.sysctl_tcp_reordering
        dst = sk.sk_dst
        self.tcp_sync_mss(sk, dst.mtu if dst is not None else self.inet.nic.mtu)

    def tcp_sync_mss(self, sk: TcpSock, pmtu: int) -> None:
        """Fit segments to a path (``tcp_sync_mss()``): the peer's MSS, the path's MTU, half of the peer's largest window."""
        sk.pmtu_cookie = pmtu
        mss = pmtu - TCP_BASE_HEADERS
        if mss > sk.mss_clamp:
            mss = sk.mss_clamp
        if mss < _SMALLEST_MSS:
            mss = _SMALLEST_MSS
        mss -= sk.tcp_header_len - 20
        half = sk.max_window >> 1
        if half and mss > half:
            mss = max(half, _SMALLEST_PACKET - sk.tcp_header_len)
        sk.mss_cache = mss

    def tcp_current_mss(self, sk: TcpSock) -> int:
        """Give the bytes that fit into a segment sent now, next to its SACK blocks (``tcp_current_mss()``)."""
        blocks = sk.rx_opt.num_sacks
        return sk.mss_cache - 4 - 8 * blocks if blocks else sk.mss_cache

    # the congestion window of a connection that is idle, or whose own host is congested

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

    def tcp_reno_ssthresh(self, sk: TcpSock) -> int:
        """Give the threshold after a loss: half the window (``tcp_reno_ssthresh()``)."""
        return max(sk.snd_cwnd >> 1, 2)

    def tcp_enter_cwr(self, sk: TcpSock) -> None:
        """Halve the window because this host is congested (``tcp_enter_cwr()``)."""
        sk.prior_ssthresh = 0
        if sk.ca_state < TCP_CA_CWR:
            sk.undo_marker = 0
            sk.snd_ssthresh = self.tcp_reno_ssthresh(sk)
            sk.snd_cwnd = min(sk.snd_cwnd, tcp_packets_in_flight(sk) + 1)
            sk.snd_cwnd_cnt = 0
            sk.high_seq = sk.snd_nxt
            sk.snd_cwnd_stamp = self.sched.jiffies
            sk.ca_state = TCP_CA_CWR

    def tcp_cwnd_validate(self, sk: TcpSock, now: int) -> None:
        """Let a window shrink that the application does not use (``tcp_cwnd_validate()``)."""
        packets_out = len(sk.sk_rtx_queue)
        if packets_out >= sk.snd_cwnd:
            sk.snd_cwnd_used = 0
            sk.snd_cwnd_stamp = now
            return
        if packets_out > sk.snd_cwnd_used:
            sk.snd_cwnd_used = packets_out
        if self.sysctl_tcp_slow_start_after_idle and now - sk.snd_cwnd_stamp >= sk.rto:
            self._tcp_cwnd_application_limited(sk, now)

    def _tcp_cwnd_application_limited(self, sk: TcpSock, now: int) -> None:
        """Take half of what was not used for an RTO off the window (``tcp_cwnd_application_limited()``)."""
        if not sk.ca_state:
            used = max(sk.snd_cwnd_used, tcp_init_cwnd(sk))
            if used < sk.snd_cwnd:
                sk.snd_ssthresh = self.tcp_current_ssthresh(sk)
                sk.snd_cwnd = (sk.snd_cwnd + used) >> 1
            sk.snd_cwnd_used = 0
        sk.snd_cwnd_stamp = now

    def tcp_reset_congestion(self, sk: TcpSock) -> None:
        """Forget what was learned of the path (the middle of ``tcp_disconnect()``)."""
        sk.srtt = sk.probes_out = sk.backoff = sk.retransmits = 0
        sk.snd_cwnd = 2
        sk.snd_cwnd_cnt = 0
        sk.snd_ssthresh = TCP_INFINITE_SSTHRESH
        sk.ca_state = 0
        sk.undo_marker = sk.undo_retrans = sk.prior_ssthresh = sk.retrans_stamp = 0
        sk.pmtu_cookie = 0


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
