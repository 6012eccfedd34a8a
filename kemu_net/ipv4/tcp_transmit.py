"""One segment on its way out (2.6.23 net/ipv4/tcp_output.c: tcp_transmit_skb()).

Interface: TcpTransmit.tcp_transmit_skb(sk, skb, clone_it, gfp)      header, options, checksum, IP

Rules
    * A segment of the write queue is never sent itself: its clone gets the header and goes to IP. The clone of an fclone pair costs
      no memory.
    * The bytes of a fragment are read when the device sends them (zero copy), so the device computes such a segment's checksum.
    * Three headers: 20 bytes, 32 with time stamps (sk.tcp_header_len says which, settled once), and those of a SYN or with SACK
      blocks, which are made apart.
    * The stamp is skb.when, the clock of TCP in jiffies.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from kemu.kernel.errno import ENOBUFS
from kemu_net.core.checksum import CSUM_SMALL, csum_reduce
from kemu_net.core.skbuff import CHECKSUM_PARTIAL, SkBuff, skb_bytes
from kemu_net.core.sock import sock_wfree
from kemu_net.ipv4.tcp_options import TSTAMP_WORD, tcp_sack_blocks, tcp_syn_options
from kemu_net.ipv4.tcp_sock import ACK, MASK, MAX_TCP_WINDOW, SYN, TCP_ATO_MIN, TcpSock
from kemu_net.ipv4.tcp_window import TcpWindow

if TYPE_CHECKING:
    from kemu.mm.gfp import gfp_t

_HEADER = Struct("!IIIIHH").pack  # ports, seq, ack, offset-flags-window, checksum, urgent pointer
_HEADER_TS = Struct("!IIIIHHIII").pack  # and NOP NOP TIMESTAMP, our clock, the peer's
_TSTAMP = Struct("!III").pack
_SACK_HEAD = Struct("!BBBB").pack
_PAIR = Struct("!II").pack


class TcpTransmit(TcpWindow):
    """The header."""

    def tcp_transmit_skb(self, sk: TcpSock, skb: SkBuff, clone_it: bool, gfp: gfp_t) -> int:
        """Give a segment its header and hand it to IP (``tcp_transmit_skb()``): 0, or -ENOBUFS and it did not leave."""
        flags = skb.flags
        if clone_it:
            clone = self.skbs.skb_clone(skb, gfp)
            if clone is None:
                return -ENOBUFS
        else:
            clone = skb
        payload = clone.len
        opt = sk.rx_opt
        tsecr = 0
        if flags & SYN or opt.num_sacks:
            option = self._tcp_options(sk, skb)
            header = 20 + len(option)
            window = min(sk.rcv_wnd, MAX_TCP_WINDOW) if flags & SYN else self.tcp_select_window(sk)
            body = option + clone.buf
        else:
            option = b""
            header = sk.tcp_header_len
            if header == 32:
                tsecr = opt.ts_recent
            window = self.tcp_select_window(sk)
            body = clone.buf
        word = header << 26 | flags << 16 | window
        seq = skb.seq
        ack_seq = sk.rcv_nxt if flags & ACK else 0
        length = header + payload
        if clone.data_len and self.csum_offload:
            clone.ip_summed = CHECKSUM_PARTIAL
            clone.csum = 16  # where the field is
            check = 0
        else:
            total = sk.pseudo_sum + length + sk.ports_word + seq + ack_seq + word
            if header == 32 and not option:
                total += TSTAMP_WORD + (skb.when & MASK) + tsecr
            if payload or option:
                data = option + skb_bytes(clone) if clone.data_len else body
                number = int.from_bytes(data, "big")
                if length > CSUM_SMALL:
                    number = csum_reduce(number)
                if length & 1:
                    number <<= 8
                total += number
            check = -total % 65535
        if header == 32 and not option:
            clone.buf = _HEADER_TS(sk.ports_word, seq, ack_seq, word, check, 0, TSTAMP_WORD, skb.when & MASK, tsecr) + body
        else:
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
            if not sk.sk_rtx_queue and now - sk.lsndtime > sk.rto and self.sysctl_tcp_slow_start_after_idle:
                self.tcp_cwnd_restart(sk, now)
            sk.lsndtime = now
            if now - sk.ack_lrcvtime < sk.ack_ato:
                sk.ack_pingpong = 1
        err = self.inet.ip_queue_xmit(clone, sk)
        if err > 0:  # the device's queue is full: less is better
            self.tcp_enter_cwr(sk)
        return err

    def _tcp_options(self, sk: TcpSock, skb: SkBuff) -> bytes:
        """Make the options of a SYN, or time stamps and SACK blocks (``tcp_build_and_update_options()``)."""
        opt = sk.rx_opt
        if skb.flags & SYN:
            stamps = (skb.when & MASK, opt.ts_recent) if self.sysctl_tcp_timestamps else None
            scale = opt.rcv_wscale if self.sysctl_tcp_window_scaling else None
            return tcp_syn_options(sk.advmss, stamps, self.sysctl_tcp_sack, scale)
        option = _TSTAMP(TSTAMP_WORD, skb.when & MASK, opt.ts_recent) if sk.tcp_header_len == 32 else b""
        blocks = tcp_sack_blocks(sk)
        return option + _SACK_HEAD(1, 1, 5, 2 + 8 * len(blocks)) + b"".join(_PAIR(*block) for block in blocks)
