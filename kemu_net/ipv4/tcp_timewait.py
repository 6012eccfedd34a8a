"""TIME_WAIT: what remembers a connection when its socket is gone (2.6.23 net/ipv4/tcp_minisocks.c).

Interface
    TimeWaitSock                               ``struct tcp_timewait_sock``: a small slab object, a place in ehash, a timer
    TcpTimewait.tcp_time_wait(sk, state)       leave a minisocket behind and end the socket
    TcpTimewait.tcp_timewait_state_process     a segment for a minisocket: TW_SUCCESS, TW_RST, TW_ACK or TW_SYN

Rules
    * 60 s in TIME_WAIT, and 60 s for an orphan in FIN_WAIT2, whose substate it is here.
    * Without memory for the minisocket the connection just ends, as in the kernel.
    * Left out: the two time-wait wheels (each minisocket has a timer), recycling, the limit on their number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.timer import Timer
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.ipv4.tcp_sock import MASK, SIGN, TCP_TIMEWAIT_LEN, W_ACK, W_FIN, W_RST, W_SYN, TcpSock, ends
from kemu_net.ipv4.tcp_states import TCP_FIN_WAIT2, TCP_TIME_WAIT
from kemu_net.ipv4.tcp_timer import TcpTimers

if TYPE_CHECKING:
    from kemu_net.core.skbuff import SkBuff
    from kemu_net.ipv4.tcp_base import BindBucket

TW_SUCCESS = 0
TW_RST = 1
TW_ACK = 2
TW_SYN = 3


class TimeWaitSock:
    """``struct tcp_timewait_sock``.

    :ivar substate: TCP_TIME_WAIT, or TCP_FIN_WAIT2 while the peer's FIN is still missing.
    :ivar isn: with TW_SYN, the sequence number that a new connection should start from.
    """

    __slots__ = (
        "addr",
        "bind_bucket",
        "daddr",
        "dport",
        "isn",
        "key",
        "rcv_nxt",
        "rcv_wnd",
        "saddr",
        "snd_nxt",
        "sport",
        "substate",
        "timer",
    )

    def __init__(self, sk: TcpSock, substate: int, addr: int, timer: Timer) -> None:
        self.addr = addr
        self.key = ends(sk)
        self.saddr, self.sport, self.daddr, self.dport = self.key
        self.substate = substate
        self.rcv_nxt = sk.rcv_nxt
        self.snd_nxt = sk.snd_nxt
        self.rcv_wnd = max(sk.rcv_wnd - (sk.rcv_nxt - sk.rcv_wup & MASK), 0)
        self.isn = 0
        self.timer = timer
        self.bind_bucket: BindBucket | None = None

    def __repr__(self) -> str:
        """Name the connection that was."""
        return f"<timewait {self.key} substate {self.substate}>"


class TcpTimewait(TcpTimers):
    """The end of a connection that closed first."""

    def tcp_time_wait(self, sk: TcpSock, state: int) -> None:
        """Move a connection to a minisocket and end its socket (``tcp_time_wait()``)."""
        addr = self.slub.kmem_cache_alloc(self.tw_cache, GFP_ATOMIC)
        if addr is not None:
            timer = Timer("tcp timewait", self.inet_twsk_kill)
            tw = TimeWaitSock(sk, state, addr, timer)
            timer.data = tw
            if sk.bind_bucket is not None:
                self.inet_bind_hash(tw, sk.bind_bucket, sk.sk_reuse)
            self.ehash[tw.key] = tw
            self.timers.mod_timer(timer, self.sched.jiffies + TCP_TIMEWAIT_LEN)
        else:
            self.kernel.printk.ratelimited("time wait", "TCP: time wait bucket table overflow")
        self.tcp_done(sk)

    def inet_twsk_kill(self, tw: TimeWaitSock) -> None:
        """Forget the connection (``__inet_twsk_kill()``)."""
        self.timers.del_timer(tw.timer)
        if self.ehash.get(tw.key) is tw:
            del self.ehash[tw.key]
            self.inet_put_port(tw)
            self.slub.kmem_cache_free(self.tw_cache, tw.addr)

    def tcp_timewait_state_process(self, tw: TimeWaitSock, skb: SkBuff) -> int:
        """Decide about a segment that comes late (``tcp_timewait_state_process()``); the caller still owns it."""
        word = skb.flags
        seq = skb.seq
        end_seq = skb.end_seq
        if tw.substate == TCP_FIN_WAIT2:
            if not tcp_in_window(seq, end_seq, tw.rcv_nxt, tw.rcv_nxt + tw.rcv_wnd & MASK):
                return TW_SUCCESS if word & W_RST else TW_ACK
            if word & W_RST:
                self.inet_twsk_kill(tw)
                return TW_SUCCESS
            if word & W_SYN and not (seq - tw.rcv_nxt) & SIGN:
                self.inet_twsk_kill(tw)
                return TW_RST
            if not word & W_ACK or (tw.rcv_nxt - end_seq) & SIGN == 0 or end_seq == seq:
                return TW_SUCCESS
            if not word & W_FIN or end_seq != (tw.rcv_nxt + 1 & MASK):
                self.inet_twsk_kill(tw)
                return TW_RST  # data for a reader that is gone
            tw.substate = TCP_TIME_WAIT
            tw.rcv_nxt = end_seq
            self.timers.mod_timer(tw.timer, self.sched.jiffies + TCP_TIMEWAIT_LEN)
            self.judge.progress()
            return TW_ACK
        if seq == tw.rcv_nxt and (seq == end_seq or word & W_RST):
            if word & W_RST:
                self.inet_twsk_kill(tw)
            else:
                self.timers.mod_timer(tw.timer, self.sched.jiffies + TCP_TIMEWAIT_LEN)
            return TW_SUCCESS
        if word & W_SYN and not word & (W_RST | W_ACK) and (tw.rcv_nxt - seq) & SIGN:
            tw.isn = tw.snd_nxt + 65535 + 2 & MASK or 1
            return TW_SYN
        if word & W_RST:
            return TW_SUCCESS
        if word & W_ACK:
            self.timers.mod_timer(tw.timer, self.sched.jiffies + TCP_TIMEWAIT_LEN)
        return TW_ACK


def tcp_in_window(seq: int, end_seq: int, s_win: int, e_win: int) -> bool:
    """Tell whether a segment touches the window (``tcp_in_window()``)."""
    if seq == s_win:
        return True
    if (s_win - end_seq) & SIGN and (seq - e_win) & SIGN:
        return True
    return seq == e_win and seq == end_seq
