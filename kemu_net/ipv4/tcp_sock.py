"""One TCP connection as data, and TCP's constants (2.6.23 include/linux/tcp.h: ``struct tcp_sock``, net/inet_connection_sock.h).

Interface: class :class:`TcpSock`; header bits, queue marks, timer numbers and limits.

Rules
    * All sequence arithmetic is modulo 2**32, written out where it is used: ``before(a, b)`` is ``(a - b) & SIGN``, which is right
      for Python's negative numbers as well.
    * Times of TCP are jiffies (tcp_time_stamp).
    * The write queue is two queues: ``sk_rtx_queue`` holds what was sent and not yet acknowledged, ``sk_write_queue`` what was
      never sent; its head is the kernel's sk_send_head. ``packets_out`` is the length of the first.
    * Of a received segment ``skb.flags`` holds the header's fourth word (data offset, flags, window), which header prediction
      compares with pred_flags as one number. Of a segment to be sent it holds the flags alone.
    * ``undo_marker`` 0 means that nothing can be undone, as in the kernel.
    * Left out: urgent data that is sent, MD5, ECN, F-RTO (off in 2.6.23), MTU probing.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from kemu.kernel.timer import HZ, Timer
from kemu_net.core.sock import Proto, Sock, Socks
from kemu_net.ipv4.tcp_options import TcpOptionsReceived

if TYPE_CHECKING:
    from kemu.mm.page import Page
    from kemu_net.core.skbuff import SkBuff

MASK: Final = 0xFFFFFFFF
SIGN: Final = 0x80000000

# header flags
FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10
URG: Final = 0x20

# the same in the fourth word of the header
W_FIN: Final = FIN << 16
W_SYN: Final = SYN << 16
W_RST: Final = RST << 16
W_ACK: Final = ACK << 16
HP_BITS: Final = 0xF0F7FFFF  # header prediction ignores reserved bits and PSH

# skb.sacked
TCPCB_SACKED_ACKED: Final = 1
TCPCB_SACKED_RETRANS: Final = 2
TCPCB_LOST: Final = 4
TCPCB_TAGBITS: Final = 7
TCPCB_EVER_RETRANS: Final = 0x80
TCPCB_RETRANS: Final = TCPCB_SACKED_RETRANS | TCPCB_EVER_RETRANS
TCP_FASTRETRANS_THRESH: Final = 3

# congestion avoidance states
TCP_CA_OPEN: Final = 0
TCP_CA_DISORDER: Final = 1
TCP_CA_CWR: Final = 2
TCP_CA_RECOVERY: Final = 3
TCP_CA_LOSS: Final = 4

# icsk_pending: what the retransmission timer is for
ICSK_TIME_RETRANS: Final = 1
ICSK_TIME_PROBE0: Final = 3

# icsk_ack.pending
ICSK_ACK_SCHED: Final = 1
ICSK_ACK_TIMER: Final = 2
ICSK_ACK_PUSHED: Final = 4
ICSK_ACK_PUSHED2: Final = 8

# nonagle
TCP_NAGLE_OFF: Final = 1
TCP_NAGLE_CORK: Final = 2
TCP_NAGLE_PUSH: Final = 4

TCP_MIN_MSS: Final = 88
TCP_MSS_DEFAULT: Final = 536
TCP_BASE_HEADERS: Final = 40  # IPv4 and TCP without options
MAX_TCP_WINDOW: Final = 65535  # no window scaling
TCP_MIN_RCVMSS: Final = 536
TCP_ADV_WIN_SCALE: Final = 2
TCP_INFINITE_SSTHRESH: Final = 0x7FFFFFFF
TCP_MAX_QUICKACKS: Final = 16

TCP_RTO_MAX: Final = 120 * HZ
TCP_RTO_MIN: Final = HZ // 5
TCP_TIMEOUT_INIT: Final = 3 * HZ
TCP_DELACK_MAX: Final = HZ // 5
TCP_DELACK_MIN: Final = HZ // 25
TCP_ATO_MIN: Final = HZ // 25
TCP_RESOURCE_PROBE_INTERVAL: Final = HZ // 2
TCP_TIMEWAIT_LEN: Final = 60 * HZ
TCP_FIN_TIMEOUT: Final = TCP_TIMEWAIT_LEN
TCP_SYNQ_INTERVAL: Final = HZ // 5

TCP_SYN_RETRIES: Final = 5
TCP_SYNACK_RETRIES: Final = 5
TCP_RETRIES1: Final = 3
TCP_RETRIES2: Final = 15
TCP_ORPHAN_RETRIES: Final = 8

SIZEOF_TCP_SOCK: Final = 1600
SIZEOF_TW_SOCK: Final = 192
SIZEOF_REQUEST_SOCK: Final = 112
SIZEOF_BIND_BUCKET: Final = 64


class TcpSock(Sock):
    """``struct tcp_sock``. Made by Tcp.sock_create() and by listeners."""

    __slots__ = (
        "accept_queue",
        "ack_ato",
        "ack_blocked",
        "ack_last_seg_size",
        "ack_lrcvtime",
        "ack_pending",
        "ack_pingpong",
        "ack_quick",
        "ack_rcv_mss",
        "ack_timeout",
        "advmss",
        "backoff",
        "bind_bucket",
        "ca_state",
        "copied_seq",
        "delack_timer",
        "dsack_seen",
        "duplicate_sack",
        "fackets_out",
        "fin_seq",
        "high_seq",
        "icsk_pending",
        "icsk_timeout",
        "keepalive_intvl",
        "keepalive_probes",
        "keepalive_time",
        "keepalive_timer",
        "linger2",
        "listen_timer",
        "lost_out",
        "lsndtime",
        "max_window",
        "mdev",
        "mdev_max",
        "mss_cache",
        "mss_clamp",
        "nonagle",
        "out_of_order_queue",
        "parent",
        "pmtu_cookie",
        "ports_word",
        "pred_flags",
        "prequeue",
        "prequeue_memory",
        "prior_ssthresh",
        "probes_out",
        "pseudo_sum",
        "pushed_seq",
        "rcv_nxt",
        "rcv_rtt",
        "rcv_rtt_seq",
        "rcv_rtt_time",
        "rcv_ssthresh",
        "rcv_tstamp",
        "rcv_wnd",
        "rcv_wup",
        "rcvq_seq",
        "rcvq_space",
        "rcvq_time",
        "reordering",
        "retrans_out",
        "retrans_stamp",
        "retransmit_timer",
        "retransmits",
        "rskq_defer_accept",
        "rto",
        "rtt_seq",
        "rttvar",
        "rx_opt",
        "sacked_out",
        "selective_acks",
        "sk_reuse",
        "sk_rtx_queue",
        "sk_write_queue",
        "snd_cwnd",
        "snd_cwnd_clamp",
        "snd_cwnd_cnt",
        "snd_cwnd_stamp",
        "snd_cwnd_used",
        "snd_nxt",
        "snd_sml",
        "snd_ssthresh",
        "snd_una",
        "snd_wl1",
        "snd_wnd",
        "sndmsg_off",
        "sndmsg_page",
        "srtt",
        "syn_retries",
        "syn_table",
        "tcp_fack",
        "tcp_header_len",
        "total_retrans",
        "ucopy_len",
        "ucopy_pieces",
        "ucopy_task",
        "undo_marker",
        "undo_retrans",
        "urg_data",
        "urg_seq",
        "window_clamp",
        "write_seq",
    )

    def __init__(self, socks: Socks, prot: Proto, addr: int) -> None:
        super().__init__(socks, prot, addr)
        # sending
        self.sk_write_queue: deque[SkBuff] = deque()
        self.sk_rtx_queue: deque[SkBuff] = deque()
        self.snd_una = self.snd_nxt = self.write_seq = self.pushed_seq = self.snd_sml = 0
        self.snd_wnd = self.snd_wl1 = self.max_window = 0
        self.nonagle = 0
        self.lsndtime = 0
        self.ports_word = self.pseudo_sum = 0
        # receiving
        self.rcv_nxt = self.rcv_wup = self.rcv_wnd = self.copied_seq = 0
        self.rcv_ssthresh = 0
        self.window_clamp = 0  # no limit
        self.rcv_tstamp = 0
        self.pred_flags = 0
        self.out_of_order_queue: list[SkBuff] = []
        self.urg_data = self.urg_seq = 0
        # options; a header has 20 bytes, or 32 with time stamps
        self.rx_opt = TcpOptionsReceived()
        self.tcp_header_len = 20
        self.selective_acks: list[tuple[int, int]] = []
        self.duplicate_sack: tuple[int, int] | None = None
        # fitting the receive buffer to the reader (rcv_rtt_est, rcvq_space)
        self.rcv_rtt = self.rcv_rtt_seq = self.rcv_rtt_time = 0
        self.rcvq_seq = self.rcvq_space = self.rcvq_time = 0
        # a task in recvmsg() (ucopy)
        self.prequeue: deque[SkBuff] = deque()
        self.prequeue_memory = 0
        self.ucopy_task: Any = None
        self.ucopy_len = 0
        self.ucopy_pieces: list[bytes] = []
        # segment sizes
        self.mss_cache = self.mss_clamp = TCP_MSS_DEFAULT
        self.advmss = TCP_MSS_DEFAULT
        self.pmtu_cookie = 0
        # acknowledging
        self.ack_pending = self.ack_quick = self.ack_pingpong = self.ack_blocked = 0
        self.ack_ato = self.ack_timeout = self.ack_lrcvtime = 0
        self.ack_last_seg_size = 0
        self.ack_rcv_mss = TCP_MIN_RCVMSS
        # round trip time, in jiffies: srtt is 8 times, mdev 4 times the value
        self.srtt = self.mdev_max = self.rtt_seq = 0
        self.mdev = self.rttvar = self.rto = TCP_TIMEOUT_INIT
        # congestion
        self.ca_state = TCP_CA_OPEN
        self.snd_cwnd = 2
        self.snd_ssthresh = TCP_INFINITE_SSTHRESH
        self.snd_cwnd_cnt = self.snd_cwnd_used = self.snd_cwnd_stamp = 0
        self.snd_cwnd_clamp = 65535
        self.sacked_out = self.lost_out = self.retrans_out = self.high_seq = self.retrans_stamp = 0
        self.fackets_out = 0
        self.tcp_fack = self.dsack_seen = False
        self.reordering = TCP_FASTRETRANS_THRESH
        self.undo_marker = self.undo_retrans = self.prior_ssthresh = self.total_retrans = 0
        # retransmitting
        self.icsk_pending = self.icsk_timeout = 0
        self.backoff = self.retransmits = self.probes_out = 0
        self.syn_retries = 0  # the machine's default
        self.retransmit_timer: Timer
        self.delack_timer: Timer
        # keeping alive, in jiffies; 0 is the machine's default
        self.keepalive_timer: Timer | None = None
        self.keepalive_time = self.keepalive_intvl = self.keepalive_probes = 0
        # the page that writes fill behind full heads
        self.sndmsg_page: Page | None = None
        self.sndmsg_off = 0
        # listening
        self.listen_timer: Timer | None = None
        self.syn_table: dict[tuple[int, int], Any] = {}
        self.accept_queue: deque[TcpSock] = deque()
        self.rskq_defer_accept = 0
        self.linger2 = 0
        self.parent: TcpSock | None = None
        self.bind_bucket: Any = None
        self.sk_reuse = False
        self.fin_seq = -1


def ends(sk: TcpSock) -> tuple[int, int, int, int]:
    """Give the key of a connection: own address and port, the peer's address and port."""
    return (sk.saddr, sk.sport, sk.daddr, sk.dport)
