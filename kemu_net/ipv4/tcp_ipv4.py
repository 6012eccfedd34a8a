"""Segments from IP, and connections that others open (2.6.23 net/ipv4/tcp_ipv4.c, tcp_minisocks.c, inet_connection_sock.c).

Interface
    TcpIpv4.tcp_v4_rcv(skb)              the handler of IPPROTO_TCP
    TcpIpv4.tcp_v4_do_rcv(sk, skb)       a segment for a socket that nobody owns; also its backlog handler

Rules
    * Order of the checks: header and checksum, lookup, TIME_WAIT, sk_filter() (patch 20), owner. A refused segment disappears
      without a word: no acknowledgement, reset or ICMP.
    * The SYN queue is the listener's table of requests, answered again every 3, 6, 12 ... s, five times. The accept queue holds at
      most backlog + 1 connections; while it is full the third segment of a handshake is forgotten.
    * A connection takes over the listener's buffer sizes, sk_allocation and sk_reuse, not its callbacks, and not SOCK_MEMALLOC,
      which 2.6.23's sk_clone() would copy without counting it.
    * Left out: SYN cookies, MD5, IPv6's way in.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from kemu.kernel import costs
from kemu.kernel.timer import Timer
from kemu.mm.gfp import _GFP_MEMALLOC, GFP_ATOMIC
from kemu_net.core.skbuff import CHECKSUM_UNNECESSARY, PACKET_HOST, skb_bytes
from kemu_net.core.sock import SOCK_USE_WRITE_QUEUE, sock_put
from kemu_net.ipv4.tcp_input import TcpInput, tcp_parse_mss
from kemu_net.ipv4.tcp_reply import RequestSock
from kemu_net.ipv4.tcp_sock import (
    MASK,
    TCP_RTO_MAX,
    TCP_SYNACK_RETRIES,
    TCP_SYNQ_INTERVAL,
    TCP_TIMEOUT_INIT,
    W_ACK,
    W_FIN,
    W_RST,
    W_SYN,
    TcpSock,
    ends,
)
from kemu_net.ipv4.tcp_states import TCP_ESTABLISHED, TCP_LISTEN, TCP_SYN_RECV
from kemu_net.ipv4.tcp_timewait import TW_ACK, TW_RST, TW_SYN, TimeWaitSock, tcp_in_window

if TYPE_CHECKING:
    from kemu_net.core.skbuff import SkBuff

_unpack = Struct("!HHIII").unpack_from  # ports, seq, ack, offset-flags-window
SYSCTL_MAX_SYN_BACKLOG = 256


class TcpIpv4(TcpInput):
    """The way in."""

    def tcp_v4_rcv(self, skb: SkBuff) -> None:
        """Find whom a segment is for (``tcp_v4_rcv()``)."""
        self.sched.spend(costs.TCP_RX)
        buf = skb.buf
        at = skb.data
        length = skb.len
        headlen = length - skb.data_len
        if headlen < 20 or skb.pkt_type != PACKET_HOST:
            self.skbs.kfree_skb(skb, "tcp: malformed")
            return
        sport, dport, seq, ack_seq, word = _unpack(buf, at)
        header = word >> 28 << 2
        if header < 20 or header > headlen:
            self.skbs.kfree_skb(skb, "tcp: malformed")
            return
        saddr = skb.saddr
        daddr = skb.daddr
        if skb.ip_summed != CHECKSUM_UNNECESSARY:
            total = int.from_bytes(skb_bytes(skb) if skb.data_len else buf[at : at + length], "big")
            if length & 1:
                total <<= 8
            if (total + saddr + daddr + 6 + length) % 65535:
                self.skbs.kfree_skb(skb, "tcp: checksum")
                return
        skb.h = at
        skb.seq = seq
        skb.ack_seq = ack_seq
        skb.flags = word
        end_seq = seq + length - header
        if word & (W_SYN | W_FIN):
            end_seq += (word & W_SYN != 0) + (word & W_FIN != 0)
        skb.end_seq = end_seq & MASK
        sk = self.ehash.get((daddr, dport, saddr, sport))
        if sk is None:
            sk = self.listening_hash.get(dport)
            if sk is None or (sk.saddr and sk.saddr != daddr):
                self.tcp_v4_send_reset(skb)
                self.skbs.kfree_skb(skb, "tcp: no socket")
                return
        elif sk.__class__ is TimeWaitSock:
            self._tcp_v4_timewait_rcv(sk, skb)
            return
        if self.socks.sk_filter(sk, skb):
            self.skbs.kfree_skb(skb)
            return
        skb.dev = None
        if sk.sk_lock_owned or sk.sk_slock:
            sk.sk_backlog.append(skb)
            return
        sk.sk_slock = True
        sk.sk_refcnt += 1
        self.tcp_v4_do_rcv(sk, skb)
        if sk.sk_backlog:
            self.socks.bh_unlock_sock(sk)
        sk.sk_slock = False
        sk.sk_refcnt -= 1
        if not sk.sk_refcnt:
            self.socks.sk_free(sk)

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

    def _tcp_v4_timewait_rcv(self, tw: TimeWaitSock, skb: SkBuff) -> None:
        """Process a segment for a connection that is over (``do_time_wait`` in tcp_v4_rcv())."""
        verdict = self.tcp_timewait_state_process(tw, skb)
        if verdict == TW_SYN:
            listener = self.listening_hash.get(tw.sport)
            if (
                listener is not None
                and not listener.sk_lock_owned
                and not listener.sk_slock
                and not self.socks.sk_filter(listener, skb)
            ):
                isn = tw.isn
                self.inet_twsk_kill(tw)
                self._tcp_v4_conn_request(listener, skb, isn)
                self.skbs.kfree_skb(skb)
                return
            verdict = TW_ACK
        if verdict == TW_ACK:
            self.tcp_v4_send_ack(skb, tw.snd_nxt, tw.rcv_nxt, tw.rcv_wnd)
        elif verdict == TW_RST:
            self.tcp_v4_send_reset(skb)
        self.skbs.kfree_skb(skb)

    # listeners

    def _tcp_v4_listen_rcv(self, sk: TcpSock, skb: SkBuff) -> None:
        """Process a segment for a listener: a request, or the end of a handshake (``tcp_v4_hnd_req()``)."""
        buf = skb.buf
        h = skb.h
        sport = buf[h] << 8 | buf[h + 1]
        child = self.ehash.get((skb.daddr, sk.sport, skb.saddr, sport))
        if child is not None and child.__class__ is TcpSock:  # it waited in the backlog while the connection came up
            self._tcp_child_process(sk, child, skb)
            return
        req = sk.syn_table.get((skb.saddr, sport))
        if req is not None:
            self._tcp_check_req(sk, skb, req)
            return
        word = skb.flags
        if word & W_ACK:
            self.tcp_v4_send_reset(skb)
        elif word & W_SYN and not word & W_RST:
            self._tcp_v4_conn_request(sk, skb, 0)
        self.skbs.kfree_skb(skb)

    def _tcp_v4_conn_request(self, sk: TcpSock, skb: SkBuff, isn: int) -> None:
        """Answer a SYN and remember it (``tcp_v4_conn_request()``); without room it is forgotten, and will come again."""
        table = sk.syn_table
        wanted = max(min(sk.sk_max_ack_backlog, SYSCTL_MAX_SYN_BACKLOG), 8)
        if len(table) >= 1 << wanted.bit_length() and not isn:
            self.stats.ignore("tcp: syn queue full")
            return
        if sk.sk_ack_backlog > sk.sk_max_ack_backlog and sum(1 for req in table.values() if not req.retrans) > 1:
            self.stats.ignore("tcp: accept queue full")
            return
        addr = self.slub.kmem_cache_alloc(self.request_cache, GFP_ATOMIC)
        if addr is None:
            return
        buf = skb.buf
        h = skb.h
        sport = buf[h] << 8 | buf[h + 1]
        req = RequestSock(addr, skb, sk.sport, sport, isn or self.rng.getrandbits(32))
        req.mss = tcp_parse_mss(skb)
        req.advmss = self.tcp_advmss()
        req.snd_wnd = skb.flags & 0xFFFF
        space = sk.sk_rcvbuf - (sk.sk_rcvbuf >> 2)
        few = 2 if req.advmss > 1460 * 3 else 3 if req.advmss > 1460 else 4
        req.rcv_wnd = min(max(space // req.advmss * req.advmss, min(space, req.advmss)), few * req.advmss, 65535)
        if self.tcp_v4_send_synack(sk, req):
            self.slub.kmem_cache_free(self.request_cache, addr)
            return
        table[(req.daddr, req.dport)] = req
        req.expires = self.sched.jiffies + TCP_TIMEOUT_INIT
        self._reset_listen_timer(sk)

    def _reset_listen_timer(self, sk: TcpSock) -> None:
        timer = sk.listen_timer
        if timer is None:
            timer = sk.listen_timer = Timer("tcp synack", self.tcp_synack_timer, sk)
        if not timer.pending:
            self.sk_reset_timer(sk, timer, self.sched.jiffies + TCP_SYNQ_INTERVAL)

    def tcp_synack_timer(self, sk: TcpSock) -> None:
        """Answer old requests again, forget very old ones (``inet_csk_reqsk_queue_prune()``)."""
        now = self.sched.jiffies
        if not sk.sk_lock_owned and not sk.sk_slock and sk.sk_state == TCP_LISTEN:
            for req in list(sk.syn_table.values()):
                if req.expires > now:
                    continue
                if req.retrans < TCP_SYNACK_RETRIES and self.tcp_v4_send_synack(sk, req) == 0:
                    self.stats.retransmits += 1
                    req.retrans += 1
                    req.expires = now + min(TCP_TIMEOUT_INIT << req.retrans, TCP_RTO_MAX)
                else:
                    self.reqsk_free(sk, req)
        if sk.syn_table and sk.sk_state == TCP_LISTEN:
            self._reset_listen_timer(sk)
        sock_put(sk)

    def reqsk_free(self, sk: TcpSock, req: RequestSock) -> None:
        """Forget a request (``reqsk_free()``)."""
        del sk.syn_table[(req.daddr, req.dport)]
        self.slub.kmem_cache_free(self.request_cache, req.addr)

    def _tcp_check_req(self, sk: TcpSock, skb: SkBuff, req: RequestSock) -> None:
        """Process a segment for a request: again the SYN, an error, or the end of the handshake (``tcp_check_req()``)."""
        word = skb.flags
        kfree_skb = self.skbs.kfree_skb
        if skb.seq == req.rcv_isn and word & (W_RST | W_SYN | W_ACK) == W_SYN:
            self.tcp_v4_send_synack(sk, req)
            kfree_skb(skb)
            return
        if word & W_ACK and skb.ack_seq != (req.snt_isn + 1 & MASK):
            self.tcp_v4_send_reset(skb)
            kfree_skb(skb)
            return
        first = req.rcv_isn + 1 & MASK
        if not tcp_in_window(skb.seq, skb.end_seq, first, first + req.rcv_wnd & MASK):
            if not word & W_RST:
                self.tcp_v4_send_ack(skb, req.snt_isn + 1 & MASK, first, req.rcv_wnd)
            kfree_skb(skb)
            return
        if skb.seq == req.rcv_isn:
            word &= ~W_SYN
        if word & (W_RST | W_SYN):
            if not word & W_RST:
                self.tcp_v4_send_reset(skb)
            self.reqsk_free(sk, req)
            kfree_skb(skb)
            return
        child = self._tcp_v4_syn_recv_sock(sk, req) if word & W_ACK else None
        if child is None:
            if word & W_ACK:
                req.acked = True
                self.stats.ignore("tcp: accept queue full")
            kfree_skb(skb)
            return
        self.reqsk_free(sk, req)
        sk.accept_queue.append(child)
        sk.sk_ack_backlog += 1
        self._tcp_child_process(sk, child, skb)

    def _tcp_child_process(self, sk: TcpSock, child: TcpSock, skb: SkBuff) -> None:
        """Let a new connection process its first segment, and tell the listener (``tcp_child_process()``)."""
        if child.sk_lock_owned or child.sk_slock:
            child.sk_backlog.append(skb)
            return
        child.sk_slock = True
        child.sk_refcnt += 1
        before = child.sk_state
        self.tcp_v4_do_rcv(child, skb)
        self.socks.bh_unlock_sock(child)
        if before == TCP_SYN_RECV and child.sk_state != before:
            sk.sk_data_ready(sk)
        sock_put(child)

    def _tcp_v4_syn_recv_sock(self, sk: TcpSock, req: RequestSock) -> TcpSock | None:
        """Make the connection (``tcp_v4_syn_recv_sock()``, ``tcp_create_openreq_child()``), if the accept queue has room."""
        if sk.sk_ack_backlog > sk.sk_max_ack_backlog:
            return None
        child = self.socks.sk_alloc(self.prot, GFP_ATOMIC, TcpSock)
        if child is None:
            return None
        self.tcp_v4_init_sock(child)
        child.sk_allocation = sk.sk_allocation & ~_GFP_MEMALLOC
        child.sk_rcvbuf = sk.sk_rcvbuf
        child.sk_sndbuf = sk.sk_sndbuf
        child.sk_userlocks = sk.sk_userlocks
        child.sk_reuse = sk.sk_reuse
        child.nonagle = sk.nonagle
        child.parent = sk
        child.saddr, child.sport, child.daddr, child.dport = req.saddr, req.sport, req.daddr, req.dport
        self.tcp_set_ports(child)
        child.rcv_nxt = child.rcv_wup = child.copied_seq = req.rcv_isn + 1 & MASK
        child.snd_una = child.snd_nxt = child.snd_sml = child.write_seq = child.pushed_seq = req.snt_isn + 1 & MASK
        child.rtt_seq = child.snd_nxt
        child.rcv_wnd = child.rcv_ssthresh = req.rcv_wnd
        child.snd_wnd = child.max_window = req.snd_wnd
        child.snd_wl1 = req.rcv_isn
        child.advmss = req.advmss
        self.tcp_sync_mss(child, req.mss)
        self.tcp_initialize_rcv_mss(child)
        self.tcp_set_state(child, "syn")
        self.inet_bind_hash(child, sk.bind_bucket, sk.sk_reuse)
        self.ehash[ends(child)] = child
        return child

    # a socket's first and last minutes

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
