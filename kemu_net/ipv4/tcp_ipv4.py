"""Segments from IP, and what ICMP says about ours (2.6.23 net/ipv4/tcp_ipv4.c).

Interface
    TcpIpv4.tcp_v4_rcv(skb)                    the handler of IPPROTO_TCP
    TcpIpv4.tcp_v4_err(inner, kind, code, info)     an ICMP error about a segment of ours

Rules
    * Order of the checks: header and checksum, lookup, TIME_WAIT, sk_filter() (patch 20), owner. A refused segment disappears
      without a word: no acknowledgement, reset or ICMP.
    * A segment goes to the owner's backlog, or to the prequeue of a reader, or is processed at once.
    * An ICMP error ends a connection that is being opened. One that exists goes on, and remembers the error for the day when it
      gives up (sk_err_soft); with IP_RECVERR it tells at once. Errors about what was never sent are ignored.
    * Left out: IPv6's way in, MD5.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from kemu.kernel import costs
from kemu_net.core.skb_checksum import skb_checksum_complete
from kemu_net.core.skb_trim import pskb_may_pull
from kemu_net.core.skbuff import CHECKSUM_UNNECESSARY, PACKET_HOST
from kemu_net.core.uapi import IP_PMTUDISC_DONT
from kemu_net.ipv4.ip_sockglue import ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, ICMP_SOURCE_QUENCH, icmp_error_of
from kemu_net.ipv4.tcp_request import TcpRequest
from kemu_net.ipv4.tcp_sock import (
    MASK,
    SIGN,
    W_FIN,
    W_SYN,
    TcpSock,
)
from kemu_net.ipv4.tcp_states import TCP_CLOSE, TCP_LISTEN, TCP_SYN_RECV, TCP_SYN_SENT
from kemu_net.ipv4.tcp_timewait import TW_ACK, TW_RST, TW_SYN, TimeWaitSock

if TYPE_CHECKING:
    from kemu_net.core.skbuff import SkBuff
    from kemu_net.ipv4.icmp import IcmpInner

NR_ICMP_UNREACH = 15
_unpack = Struct("!HHIII").unpack_from  # ports, seq, ack, offset-flags-window


class TcpIpv4(TcpRequest):
    """The way in."""

    def tcp_v4_rcv(self, skb: SkBuff) -> None:
        """Find whom a segment is for (``tcp_v4_rcv()``)."""
        self.sched.spend(costs.TCP_RX)
        at = skb.data
        length = skb.len
        headlen = length - skb.data_len
        if length < 20 or skb.pkt_type != PACKET_HOST or (headlen < 20 and not pskb_may_pull(self.skbs, skb, 20)):
            self.skbs.kfree_skb(skb, "tcp: malformed")
            return
        sport, dport, seq, ack_seq, word = _unpack(skb.buf, at)
        header = word >> 28 << 2
        if header < 20 or header > length or (header > headlen and not pskb_may_pull(self.skbs, skb, header)):
            self.skbs.kfree_skb(skb, "tcp: malformed")
            return
        saddr = skb.saddr
        daddr = skb.daddr
        if skb.ip_summed != CHECKSUM_UNNECESSARY and not skb_checksum_complete(skb, 6):
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
        if sk.ucopy_task is not None and not self.sysctl_tcp_low_latency:
            self.tcp_prequeue(sk, skb)
        else:
            self.tcp_v4_do_rcv(sk, skb)
        if sk.sk_backlog:
            self.socks.bh_unlock_sock(sk)
        sk.sk_slock = False
        sk.sk_refcnt -= 1
        if not sk.sk_refcnt:
            self.socks.sk_free(sk)

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
                self.tcp_v4_conn_request(listener, skb, isn)
                self.skbs.kfree_skb(skb)
                return
            verdict = TW_ACK
        if verdict == TW_ACK:
            self.tcp_v4_send_ack(
                skb, tw.snd_nxt, tw.rcv_nxt, tw.rcv_wnd >> tw.rcv_wscale, tw.ts_recent if tw.ts_recent_stamp else 0
            )
        elif verdict == TW_RST:
            self.tcp_v4_send_reset(skb)
        self.skbs.kfree_skb(skb)

    # ICMP

    def tcp_v4_err(self, inner: IcmpInner, kind: int, code: int, info: int) -> None:
        """Hear that a segment of ours met an error (``tcp_v4_err()``)."""
        quoted = inner.transport
        if len(quoted) < 8:
            return
        sport, dport = quoted[0] << 8 | quoted[1], quoted[2] << 8 | quoted[3]
        seq = int.from_bytes(quoted[4:8], "big")
        sk = self.ehash.get((inner.saddr, sport, inner.daddr, dport)) or self.listening_hash.get(sport)
        if sk is None or sk.__class__ is TimeWaitSock or sk.sk_state == TCP_CLOSE or kind == ICMP_SOURCE_QUENCH:
            return
        owned = sk.sk_lock_owned or sk.sk_slock
        if sk.sk_state == TCP_LISTEN:
            req = sk.syn_table.get((inner.daddr, dport))
            if req is not None and not owned and req.saddr == inner.saddr and seq == req.snt_isn:
                if kind != ICMP_DEST_UNREACH or code != ICMP_FRAG_NEEDED:
                    self.reqsk_free(sk, req)
            return
        if (seq - sk.snd_una) & SIGN or (sk.snd_nxt - seq) & SIGN:
            return
        if kind == ICMP_DEST_UNREACH and code == ICMP_FRAG_NEEDED:
            if not owned:
                self.tcp_pmtu_discovery(sk, info)
            return
        error = icmp_error_of(kind, code)
        if error is not None and not (kind == ICMP_DEST_UNREACH and code > NR_ICMP_UNREACH):
            self._tcp_v4_take_err(sk, error[0], owned)

    def _tcp_v4_take_err(self, sk: TcpSock, err: int, owned: bool) -> None:
        """End a connection that is being opened; let another know."""
        sk.sk_refcnt += 1
        if owned:
            sk.sk_err_soft = err
        elif sk.sk_state in (TCP_SYN_SENT, TCP_SYN_RECV):
            sk.sk_err = err
            sk.sk_error_report(sk)
            self.tcp_done(sk)
        elif sk.recverr:
            sk.sk_err = err
            sk.sk_error_report(sk)
        else:
            sk.sk_err_soft = err
        sk.sk_refcnt -= 1
        if not sk.sk_refcnt:
            self.socks.sk_free(sk)

    def tcp_pmtu_discovery(self, sk: TcpSock, mtu: int) -> None:
        """Hear of a path that is narrower than its packets (``do_pmtu_discovery()``): smaller segments from now on."""
        dst = sk.sk_dst
        if dst is None or dst.obsolete:
            return
        self.inet.route.ip_rt_update_pmtu(dst, mtu)
        if sk.pmtudisc != IP_PMTUDISC_DONT and sk.pmtu_cookie > dst.mtu:
            self.tcp_sync_mss(sk, dst.mtu)
            self.tcp_simple_retransmit(sk)
