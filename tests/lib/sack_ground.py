"""Test helper: connections with segments in flight, the SACK blocks of a scripted peer, and the sender's counts."""

from __future__ import annotations

import struct

from kemu_net.ipv4.tcp_sock import TCPCB_LOST, TCPCB_SACKED_ACKED, TCPCB_SACKED_RETRANS
from tcp_ground import M32
from tcp_options_ground import opened

MSS = 1460


def sack(*blocks) -> bytes:
    """Build a SACK option, padded."""
    return b"\1\1\5" + bytes((2 + 8 * len(blocks),)) + b"".join(struct.pack("!II", *block) for block in blocks)


def flying(host, count=10, **options):
    """Open a connection with SACK and put ``count`` full segments in flight; give (socket, peer, segments)."""
    sk, peer = opened(host, **options)
    sk.sk_sndbuf, sk.snd_cwnd = 1 << 20, count
    assert host.tcp.sendmsg(sk, bytes(count * sk.mss_cache)) == count * sk.mss_cache
    segs = host.sent()
    assert len(segs) == count
    return sk, peer, segs


def block(segs, first, last=None):
    """Give the SACK block over segments ``first`` to ``last``."""
    end = segs[first if last is None else last]
    return segs[first].seq, end.seq + len(end.data) & M32


def counts(sk):
    """Give (sacked, lost, retransmitted, up to the highest SACK)."""
    return sk.sacked_out, sk.lost_out, sk.retrans_out, sk.fackets_out


def assert_marks_agree(sk):
    """Assert that the sums are those of the marks."""
    marks = [skb.sacked for skb in sk.sk_rtx_queue]
    for bit, count in ((TCPCB_SACKED_ACKED, sk.sacked_out), (TCPCB_LOST, sk.lost_out), (TCPCB_SACKED_RETRANS, sk.retrans_out)):
        assert sum(bool(mark & bit) for mark in marks) == count
    assert sk.sacked_out + sk.lost_out <= len(marks)
