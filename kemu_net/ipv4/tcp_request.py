"""Connections that others open: the SYN queue, and how a request becomes a connection.

2.6.23 net/ipv4/tcp_minisocks.c, tcp_ipv4.c and inet_connection_sock.c.

Interface
    TcpRequest.tcp_v4_do_rcv(sk, skb)                 a segment for a socket that nobody owns; also its backlog handler
    tcp_v4_conn_request(sk, skb, isn)      a SYN for a listener
    tcp_check_req(sk, skb, req)                       a segment for a request: again the SYN, an error, the end of the handshake
    tcp_synack_timer(sk)                              answer old requests again, forget very old ones
    reqsk_free(sk, req)

Rules
    * The SYN queue is the listener's table of requests, answered again every 3, 6, 12 ... s, tcp_synack_retries times. Its size is
      the backlog's next power of two, 16 at least; when half of it is taken, old requests are forgotten sooner. The last quarter
      of tcp_max_syn_backlog is for peers that are known, and none is.
    * The accept queue holds at most backlog + 1 connections. While it is full the third segment of a handshake is forgotten, or
      answered with a reset (tcp_abort_on_overflow), and a SYN too if more than one fresh request waits.
    * With TCP_DEFER_ACCEPT the third segment is forgotten unless it has data.
    * A connection takes over the listener's options, sk_allocation and buffer sizes, not its callbacks, and not SOCK_MEMALLOC,
      which 2.6.23's sk_clone() would copy without counting it.
    * Left out: SYN cookies (off in 2.6.23), MD5, tcp_tw_recycle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.timer import HZ, Timer
from kemu.mm.gfp import _GFP_MEMALLOC, GFP_ATOMIC
from kemu_net.core.sock import (
    SOCK_BROADCAST,
    SOCK_KEEPOPEN,
    SOCK_LINGER,
    SOCK_URGINLINE,
    SOCK_USE_WRITE_QUEUE,
    sock_put,
)
from kemu_net.ipv4.tcp_options import (
    TCPOLEN_TSTAMP_ALIGNED,
    TcpOptionsReceived,
    tcp_initial_window,
    tcp_parse_options,
    tcp_paws_check,
    tcp_win_from_space,
)
from kemu_net.ipv4.tcp_reply import RequestSock
from kemu_net.ipv4.tcp_sock import (
    MASK,
    SIGN,
    TCP_MIN_RCVMSS,
    TCP_RTO_MAX,
    TCP_SYNQ_INTERVAL,
    TCP_TIMEOUT_INIT,
    W_ACK,
    W_RST,
    W_SYN,
    TcpSock,
    ends,
)
from kemu_net.ipv4.tcp_state_process import TcpStateProcess
from kemu_net.ipv4.tcp_states import TCP_ESTABLISHED, TCP_LISTEN, TCP_SYN_RECV
from kemu_net.ipv4.tcp_timewait import tcp_in_window

if TYPE_CHECKING:
    from kemu_net.core.skbuff import SkBuff

_INHERITED_FLAGS = SOCK_KEEPOPEN | SOCK_LINGER | SOCK_URGINLINE | SOCK_BROADCAST
_INHERITED = (
    "sk_rcvbuf",
    "sk_sndbuf",
    "sk_userlocks",
    "sk_reuse",
    "sk_rcvlowat",
    "sk_rcvtimeo",
    "sk_sndtimeo",
    "sk_lingertime",
    "sk_priority",
    "sk_program",
    "tos",
    "uc_ttl",
    "pmtudisc",
    "recverr",
    "nonagle",
    "linger2",
    "keepalive_time",
    "keepalive_intvl",
    "keepalive_probes",
)


class TcpRequest(TcpStateProcess):
    """The listening side."""

    # segments

    def tcp_v4_do_rcv(self, sk: TcpSock, skb: SkBuff) -> int:
        """Process a segment for a socket (``tcp_v4_do_rcv()``)."""
        state = sk.sk_state
        if state == TCP_ESTABLISHED:
            self.tcp_rcv_established(sk, skb)
        elif state == TCP_LISTEN:
            self._tcp_v4_listen_rcv(sk, skb)
        else:
            self.tcp_rcv_state_process(sk, skb)
        return 0

    def _tcp_v4_listen_rcv(self, sk: TcpSock, skb: SkBuff) -> None:
        """Process a segment for a listener: a request, or the end of a handshake (``tcp_v4_hnd_req()``)."""
        buf = skb.buf
        h = skb.h
        sport = buf[h] << 8 | buf[h + 1]
        req = sk.syn_table.get((skb.saddr, sport))
        if req is not None:
            self.tcp_check_req(sk, skb, req)
            return
        child = self.ehash.get((skb.daddr, sk.sport, skb.saddr, sport))
        if child is not None:  # it waited in the backlog while the connection came up, and perhaps went
            if child.__class__ is TcpSock:
                self.tcp_child_process(sk, child, skb)
            else:
                self.skbs.kfree_skb(skb)
            return
        word = skb.flags
        if word & W_ACK:
            self.tcp_v4_send_reset(skb)
        elif word & W_SYN and not word & W_RST:
            self.tcp_v4_conn_request(sk, skb, 0)
        self.skbs.kfree_skb(skb)

    # the SYN

    def _syn_queue_log(self, sk: TcpSock) -> int:
        """Give the power of two that bounds the SYN queue (``reqsk_queue_alloc()``)."""
        return max(min(sk.sk_max_ack_backlog, self.sysctl_tcp_max_syn_backlog), 8).bit_length()

    def _no_room_for_request(self, sk: TcpSock, isn: int) -> str:
        """Say why a SYN is forgotten, if it is; a peer in TIME_WAIT (``isn``) is known to be real."""
        table = sk.syn_table
        if len(table) >> self._syn_queue_log(sk) and not isn:
            return "tcp: syn queue full"
        if sk.sk_ack_backlog > sk.sk_max_ack_backlog and _young(sk) > 1:
            return "tcp: accept queue full"
        most = self.sysctl_tcp_max_syn_backlog
        if most - len(table) < most >> 2 and not isn:
            return "tcp: syn queue full"
        return ""

    def tcp_v4_conn_request(self, sk: TcpSock, skb: SkBuff, isn: int) -> None:
        """Answer a SYN and remember it (``tcp_v4_conn_request()``); without room it is forgotten, and will come again."""
        reason = self._no_room_for_request(sk, isn)
        if reason:
            self.stats.ignore(reason)
            return
        addr = self.slub.kmem_cache_alloc(self.request_cache, GFP_ATOMIC)
        if addr is None:
            return
        opt = TcpOptionsReceived()
        opt.user_mss = sk.rx_opt.user_mss
        tcp_parse_options(skb, opt, False, self)
        opt.tstamp_ok = 1 if opt.saw_tstamp and opt.rcv_tsval else 0  # some send none in a SYN: then none at all
        opt.ts_recent = opt.rcv_tsval if opt.tstamp_ok else 0
        buf = skb.buf
        h = skb.h
        req = RequestSock(addr, skb, sk.sport, buf[h] << 8 | buf[h + 1], opt)
        req.snt_isn = isn or self.rng.getrandbits(32)
        req.advmss = self.tcp_advmss()
        req.rcv_wnd, req.window_clamp, opt.rcv_wscale = tcp_initial_window(
            tcp_win_from_space(sk.sk_rcvbuf),
            req.advmss - (TCPOLEN_TSTAMP_ALIGNED if opt.tstamp_ok else 0),
            sk.window_clamp,
            opt.wscale_ok,
            self.tcp_largest_window(),
        )
        if self.tcp_v4_send_synack(sk, req):
            self.slub.kmem_cache_free(self.request_cache, addr)
            return
        sk.syn_table[(req.daddr, req.dport)] = req
        req.expires = self.sched.jiffies + TCP_TIMEOUT_INIT
        self._reset_listen_timer(sk)

    # waiting for the third segment

    def _reset_listen_timer(self, sk: TcpSock) -> None:
        timer = sk.listen_timer
        if timer is None:
            timer = sk.listen_timer = Timer("tcp synack", self.tcp_synack_timer, sk)
        if not timer.pending:
            self.sk_reset_timer(sk, timer, self.sched.jiffies + TCP_SYNQ_INTERVAL)

    def tcp_synack_timer(self, sk: TcpSock) -> None:
        """Answer old requests again, forget very old ones (``inet_csk_reqsk_queue_prune()``)."""
        if not sk.sk_lock_owned and not sk.sk_slock and sk.sk_state == TCP_LISTEN:
            self._reqsk_queue_prune(sk)
        if sk.syn_table and sk.sk_state == TCP_LISTEN:
            self._reset_listen_timer(sk)
        sock_put(sk)

    def _reqsk_queue_prune(self, sk: TcpSock) -> None:
        now = self.sched.jiffies
        queued = len(sk.syn_table)
        thresh = max_retries = self.sysctl_tcp_synack_retries
        if queued >> (self._syn_queue_log(sk) - 1):  # half full: old ones give way to fresh ones
            young = _young(sk) << 1
            while thresh > 2 and queued >= young:
                thresh -= 1
                young <<= 1
        max_retries = sk.rskq_defer_accept or max_retries
        for req in list(sk.syn_table.values()):
            if req.expires > now:
                continue
            again = req.retrans < thresh or (req.acked and req.retrans < max_retries)
            if again and self.tcp_v4_send_synack(sk, req) == 0:
                self.stats.retransmits += 1
                req.retrans += 1
                req.expires = now + min(TCP_TIMEOUT_INIT << req.retrans, TCP_RTO_MAX)
            else:
                self.reqsk_free(sk, req)

    def reqsk_free(self, sk: TcpSock, req: RequestSock) -> None:
        """Forget a request (``reqsk_free()``)."""
        del sk.syn_table[(req.daddr, req.dport)]
        self.slub.kmem_cache_free(self.request_cache, req.addr)

    # the third segment

    def tcp_check_req(self, sk: TcpSock, skb: SkBuff, req: RequestSock) -> None:
        """Process a segment for a request (``tcp_check_req()``); owns the skb."""
        child = self._tcp_check_req(sk, skb, req)
        if child is None:
            self.skbs.kfree_skb(skb)
            return
        self.reqsk_free(sk, req)
        sk.accept_queue.append(child)
        sk.sk_ack_backlog += 1
        self.tcp_child_process(sk, child, skb)

    def _tcp_check_req(self, sk: TcpSock, skb: SkBuff, req: RequestSock) -> TcpSock | None:
        """Give the new connection if this segment ends the handshake; else it is answered, and that is all."""
        word = skb.flags
        opt, paws_reject = self._req_options(req, skb)
        if skb.seq == req.rcv_isn and word & (W_RST | W_SYN | W_ACK) == W_SYN and not paws_reject:
            self.tcp_v4_send_synack(sk, req)
            return None
        if word & W_ACK and skb.ack_seq != (req.snt_isn + 1 & MASK):
            self.tcp_v4_send_reset(skb)
            return None
        first = req.rcv_isn + 1 & MASK
        if paws_reject or not tcp_in_window(skb.seq, skb.end_seq, first, first + req.rcv_wnd & MASK):
            if not word & W_RST:
                window = req.rcv_wnd >> req.opt.rcv_wscale
                self.tcp_v4_send_ack(skb, req.snt_isn + 1 & MASK, first, window, req.opt.ts_recent)
            return None
        if opt.saw_tstamp and not (first - skb.seq) & SIGN:
            req.opt.ts_recent = opt.rcv_tsval
        if skb.seq == req.rcv_isn:
            word &= ~W_SYN  # its first number is old
        if word & (W_RST | W_SYN):
            self._embryonic_reset(sk, skb, req)
            return None
        if not word & W_ACK:
            return None
        if sk.rskq_defer_accept and skb.end_seq == first:
            req.acked = True
            return None
        child = self._tcp_v4_syn_recv_sock(sk, skb, req)
        if child is None:
            self.stats.ignore("tcp: accept queue full")
            req.acked = True
            if self.sysctl_tcp_abort_on_overflow:
                self._embryonic_reset(sk, skb, req)
        return child

    def _req_options(self, req: RequestSock, skb: SkBuff) -> tuple[TcpOptionsReceived, bool]:
        """Give the options of a segment, and whether it is an old duplicate by its stamp; when ours is from is a guess."""
        opt = TcpOptionsReceived()
        if skb.flags >> 28 > 5:
            tcp_parse_options(skb, opt, False, self)
            if opt.saw_tstamp:
                seconds = self.get_seconds()
                opt.ts_recent = req.opt.ts_recent
                opt.ts_recent_stamp = seconds - ((TCP_TIMEOUT_INIT // HZ) << req.retrans)
                return opt, tcp_paws_check(opt, skb.flags & W_RST, seconds)
        return opt, False

    def _embryonic_reset(self, sk: TcpSock, skb: SkBuff, req: RequestSock) -> None:
        """End a connection before it begins."""
        if not skb.flags & W_RST:
            self.tcp_v4_send_reset(skb)
        self.reqsk_free(sk, req)

    def tcp_child_process(self, sk: TcpSock, child: TcpSock, skb: SkBuff) -> None:
        """Let a new connection process its first segment, and tell the listener (``tcp_child_process()``)."""
        if child.sk_lock_owned or child.sk_slock:
            child.sk_backlog.append(skb)
            return
        child.sk_slock = True
        child.sk_refcnt += 1
        before = child.sk_state
        child.sk_backlog_rcv(child, skb)
        self.socks.bh_unlock_sock(child)
        if before == TCP_SYN_RECV and child.sk_state != before:
            sk.sk_data_ready(sk)
        sock_put(child)

    # the connection

    def _tcp_v4_syn_recv_sock(self, sk: TcpSock, skb: SkBuff, req: RequestSock) -> TcpSock | None:
        """Make the connection (``tcp_v4_syn_recv_sock()``, ``tcp_create_openreq_child()``), if the accept queue has room."""
        if sk.sk_ack_backlog > sk.sk_max_ack_backlog:
            return None
        child = self.socks.sk_alloc(self.prot, GFP_ATOMIC, TcpSock)
        if child is None:
            return None
        self.tcp_v4_init_sock(child)
        for name in _INHERITED:
            setattr(child, name, getattr(sk, name))
        child.sk_allocation = sk.sk_allocation & ~_GFP_MEMALLOC
        child.sk_flags |= sk.sk_flags & _INHERITED_FLAGS
        child.parent = sk
        child.saddr, child.sport, child.daddr, child.dport = req.saddr, req.sport, req.daddr, req.dport
        self.tcp_set_ports(child)
        child.rcv_nxt = child.rcv_wup = child.copied_seq = req.rcv_isn + 1 & MASK
        child.snd_una = child.snd_nxt = child.snd_sml = child.write_seq = child.pushed_seq = req.snt_isn + 1 & MASK
        child.rtt_seq = child.snd_nxt
        child.rcv_wnd = child.rcv_ssthresh = req.rcv_wnd
        child.window_clamp = req.window_clamp
        child.snd_wl1 = req.rcv_isn
        child.advmss = req.advmss
        self._take_request_options(child, skb, req)
        self.tcp_initialize_rcv_mss(child)
        self.tcp_set_state(child, "syn")
        self.inet_bind_hash(child, sk.bind_bucket, sk.sk_reuse)
        self.ehash[ends(child)] = child
        if child.sk_flags & SOCK_KEEPOPEN:
            self.inet_csk_reset_keepalive_timer(child, self.keepalive_time_when(child))
        return child

    def _take_request_options(self, child: TcpSock, skb: SkBuff, req: RequestSock) -> None:
        """Give the connection the options that its SYN and ours agreed upon."""
        opt = child.rx_opt = req.opt
        opt.saw_tstamp = 0
        if not opt.wscale_ok:
            opt.snd_wscale = opt.rcv_wscale = 0
            child.window_clamp = min(child.window_clamp, 65535)
        child.snd_wnd = child.max_window = (skb.flags & 0xFFFF) << opt.snd_wscale
        if opt.tstamp_ok:
            opt.ts_recent_stamp = self.get_seconds()
        self.tcp_initialize_mss(child, opt.mss_clamp)
        if skb.len >= TCP_MIN_RCVMSS + child.tcp_header_len:
            child.ack_last_seg_size = skb.len - child.tcp_header_len

    # a socket's first minute

    def tcp_v4_init_sock(self, sk: TcpSock) -> None:
        """Give a new socket what TCP wants in it (``tcp_v4_init_sock()``)."""
        sk.sk_protocol = 6
        sk.sk_flags |= SOCK_USE_WRITE_QUEUE
        sk.sk_write_space = self.streams.sk_stream_write_space
        sk.sk_backlog_rcv = self.tcp_v4_do_rcv
        sk.sk_sndbuf = self.prot.sysctl_wmem[1]
        sk.sk_rcvbuf = self.prot.sysctl_rmem[1]
        self.tcp_init_xmit_timers(sk)
        self.prot.sockets_allocated += 1

    def tcp_set_ports(self, sk: TcpSock) -> None:
        """Prepare what every header of the connection has in common."""
        sk.ports_word = sk.sport << 16 | sk.dport
        sk.pseudo_sum = sk.saddr + sk.daddr + 6

    def tcp_advmss(self) -> int:
        """Give the MSS that we announce: what a frame of our device carries."""
        return min(self.inet.nic.mtu - 40, 65495)


def _young(sk: TcpSock) -> int:
    """Count requests that were answered once only (``inet_csk_reqsk_queue_young()``)."""
    return sum(1 for req in sk.syn_table.values() if not req.retrans)
