"""What getsockopt(TCP_INFO) tells (2.6.23 include/linux/tcp.h: ``struct tcp_info``; net/ipv4/tcp.c: tcp_get_info()).

Interface
    TcpInfo             the struct, with the kernel's field names; pack() gives its 104 bytes
    tcp_info(sk)        fill one

Rules
    * Times are microseconds, ages milliseconds, as a program sees them. Sequence numbers are not shown.
    * last_ack_sent is never set, as in the kernel.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

import attrs

from kemu.kernel.timer import HZ

if TYPE_CHECKING:
    from kemu_net.ipv4.tcp_sock import TcpSock

TCPI_OPT_TIMESTAMPS: Final = 1
TCPI_OPT_SACK: Final = 2
TCPI_OPT_WSCALE: Final = 4

_USEC_PER_JIFFY: Final = 1_000_000 // HZ
_MSEC_PER_JIFFY: Final = 1000 // HZ
_pack = Struct("<8B24I").pack
_U32 = 0xFFFFFFFF


@attrs.define(eq=False)
class TcpInfo:
    """``struct tcp_info``."""

    tcpi_state: int = 0
    tcpi_ca_state: int = 0
    tcpi_retransmits: int = 0
    tcpi_probes: int = 0
    tcpi_backoff: int = 0
    tcpi_options: int = 0
    tcpi_snd_wscale: int = 0
    tcpi_rcv_wscale: int = 0
    tcpi_rto: int = 0
    tcpi_ato: int = 0
    tcpi_snd_mss: int = 0
    tcpi_rcv_mss: int = 0
    tcpi_unacked: int = 0
    tcpi_sacked: int = 0
    tcpi_lost: int = 0
    tcpi_retrans: int = 0
    tcpi_fackets: int = 0
    tcpi_last_data_sent: int = 0
    tcpi_last_ack_sent: int = 0
    tcpi_last_data_recv: int = 0
    tcpi_last_ack_recv: int = 0
    tcpi_pmtu: int = 0
    tcpi_rcv_ssthresh: int = 0
    tcpi_rtt: int = 0
    tcpi_rttvar: int = 0
    tcpi_snd_ssthresh: int = 0
    tcpi_snd_cwnd: int = 0
    tcpi_advmss: int = 0
    tcpi_reordering: int = 0
    tcpi_rcv_rtt: int = 0
    tcpi_rcv_space: int = 0
    tcpi_total_retrans: int = 0

    def pack(self) -> bytes:
        """Give the struct as the kernel of an x86_64 machine copies it to a program."""
        values = list(attrs.astuple(self))
        head, words = values[:6], values[8:]
        scales = self.tcpi_snd_wscale & 15 | (self.tcpi_rcv_wscale & 15) << 4
        return _pack(*(value & 255 for value in head), scales, 0, *(value & _U32 for value in words))


def tcp_info(sk: TcpSock) -> TcpInfo:
    """Tell how a connection does (``tcp_get_info()``)."""
    opt = sk.rx_opt
    now = sk.socks.sched.jiffies
    return TcpInfo(
        tcpi_state=sk.sk_state,
        tcpi_ca_state=sk.ca_state,
        tcpi_retransmits=sk.retransmits,
        tcpi_probes=sk.probes_out,
        tcpi_backoff=sk.backoff,
        tcpi_options=(opt.tstamp_ok and TCPI_OPT_TIMESTAMPS)
        | (opt.sack_ok and TCPI_OPT_SACK)
        | (opt.wscale_ok and TCPI_OPT_WSCALE),
        tcpi_snd_wscale=opt.snd_wscale if opt.wscale_ok else 0,
        tcpi_rcv_wscale=opt.rcv_wscale if opt.wscale_ok else 0,
        tcpi_rto=sk.rto * _USEC_PER_JIFFY,
        tcpi_ato=sk.ack_ato * _USEC_PER_JIFFY,
        tcpi_snd_mss=sk.mss_cache,
        tcpi_rcv_mss=sk.ack_rcv_mss,
        tcpi_unacked=len(sk.sk_rtx_queue),
        tcpi_sacked=sk.sacked_out,
        tcpi_lost=sk.lost_out,
        tcpi_retrans=sk.retrans_out,
        tcpi_fackets=sk.fackets_out,
        tcpi_last_data_sent=(now - sk.lsndtime) * _MSEC_PER_JIFFY,
        tcpi_last_data_recv=(now - sk.ack_lrcvtime) * _MSEC_PER_JIFFY,
        tcpi_last_ack_recv=(now - sk.rcv_tstamp) * _MSEC_PER_JIFFY,
        tcpi_pmtu=sk.pmtu_cookie,
        tcpi_rcv_ssthresh=sk.rcv_ssthresh,
        tcpi_rtt=sk.srtt * _USEC_PER_JIFFY >> 3,
        tcpi_rttvar=sk.mdev * _USEC_PER_JIFFY >> 2,
        tcpi_snd_ssthresh=sk.snd_ssthresh,
        tcpi_snd_cwnd=sk.snd_cwnd,
        tcpi_advmss=sk.advmss,
        tcpi_reordering=sk.reordering,
        tcpi_rcv_rtt=sk.rcv_rtt * _USEC_PER_JIFFY >> 3,
        tcpi_rcv_space=sk.rcvq_space,
        tcpi_total_retrans=sk.total_retrans,
    )
