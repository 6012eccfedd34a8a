"""TIME_WAIT: what remembers a connection when its socket is gone (2.6.23 net/ipv4/tcp_minisocks.c).

Interface
    TimeWaitSock                               ``struct tcp_timewait_sock``: a small slab object, a place in ehash, a timer
    TcpTimewait.tcp_time_wait(sk, state)       leave a minisocket behind and end the socket
    TcpTimewait.tcp_timewait_state_process     a segment for a minisocket: TW_SUCCESS, TW_RST, TW_ACK or TW_SYN

Rules
    * 60 s in TIME_WAIT; an orphan in FIN_WAIT2, whose substate it is here, has tcp_fin_timeout (60 s) or TCP_LINGER2.
    * With time stamps an old duplicate is known by its stamp (PAWS), and a SYN with a later one opens a new connection, whatever
      its sequence number.
    * A segment outside the window is acknowledged, in FIN_WAIT2 even a RST, as in 2.6.23.
    * Without memory for the minisocket the connection just ends, as in the kernel.
    * Left out: the two time-wait wheels (each minisocket has a timer), recycling and reuse (off in 2.6.23), the limit on their
      number; a TCP_LINGER2 above 60 s is spent in the minisocket, not in the socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.timer import Timer
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.ipv4.tcp_options import TcpOptionsReceived, tcp_parse_options, tcp_paws_check
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
    :ivar isn: the sequence number that a new connection between the same ends should start from.
    :ivar ts_recent: the peer's last time stamp, noted at second ``ts_recent_stamp``; that is 0 without time stamps.
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
        "rcv_wscale",
        "saddr",
        "snd_nxt",
        "sport",
        "substate",
        "timer",
        "ts_recent",
        "ts_recent_stamp",
    )

    def __init__(self, sk: TcpSock, substate: int, addr: int, timer: Timer) -> None:
        self.addr = addr
        self.key = ends(sk)
        self.saddr, self.sport, self.daddr, self.dport = self.key
        self.substate = substate
        self.rcv_nxt = sk.rcv_nxt
        self.snd_nxt = sk.snd_nxt
        self.rcv_wnd = max(sk.rcv_wnd - (sk.rcv_nxt - sk.rcv_wup & MASK), 0)
        self.rcv_wscale = sk.rx_opt.rcv_wscale
        self.ts_recent = sk.rx_opt.ts_recent
        self.ts_recent_stamp = sk.rx_opt.ts_recent_stamp
        self.isn = sk.snd_nxt + 65535 + 2 & MASK or 1
        self.timer = timer
        self.bind_bucket: BindBucket | None = None

    def __repr__(self) -> str:
        """Name the connection that was."""
        return f"<timewait {self.key} substate {self.substate}>"


class TcpTimewait(TcpTimers):
    """The end of a connection that closed first."""

    def tcp_fin_time(self, sk: TcpSock) -> int:
        """Give the jiffies that an orphan waits for the peer's FIN (``tcp_fin_time()``)."""
        return max(sk.linger2 or self.sysctl_tcp_fin_timeout, (sk.rto << 2) - (sk.rto >> 1))

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
            timeout = self.tcp_fin_time(sk) if state == TCP_FIN_WAIT2 else TCP_TIMEWAIT_LEN
            self.timers.mod_timer(timer, self.sched.jiffies + timeout)
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

    def inet_twsk_schedule(self, tw: TimeWaitSock) -> None:
        """Start the 60 s of TIME_WAIT again (``inet_twsk_schedule()``)."""
        self.timers.mod_timer(tw.timer, self.sched.jiffies + TCP_TIMEWAIT_LEN)

    def tcp_twsk_unique(self, sk: TcpSock, tw: object) -> bool:
        """Let a socket that was bound to its port take over the ends of a connection in TIME_WAIT (``tcp_twsk_unique()``).

        Time stamps tell the two apart. Ports that connect() chooses itself are left alone: tcp_tw_reuse is off.
        """
        if not isinstance(tw, TimeWaitSock) or not tw.ts_recent_stamp or not sk.bind_port:
            return False
        self.inet_twsk_kill(tw)
        return True

    # segments

    def _tw_options(self, tw: TimeWaitSock, skb: SkBuff) -> tuple[TcpOptionsReceived, bool]:
        """Give the options of a segment, and whether it is an old duplicate by its stamp."""
        opt = TcpOptionsReceived()
        if tw.ts_recent_stamp and skb.flags >> 28 > 5:
            tcp_parse_options(skb, opt, False, self)
            if opt.saw_tstamp:
                opt.ts_recent = tw.ts_recent
                opt.ts_recent_stamp = tw.ts_recent_stamp
                return opt, tcp_paws_check(opt, skb.flags & W_RST, self.get_seconds())
        return opt, False

    def _tw_note_stamp(self, tw: TimeWaitSock, opt: TcpOptionsReceived) -> None:
        """Keep the stamp of a segment in order."""
        if opt.saw_tstamp:
            tw.ts_recent = opt.rcv_tsval
            tw.ts_recent_stamp = self.get_seconds()

    def tcp_timewait_state_process(self, tw: TimeWaitSock, skb: SkBuff) -> int:
        """Decide about a segment that comes late (``tcp_timewait_state_process()``); the caller still owns it."""
        word = skb.flags
        seq = skb.seq
        end_seq = skb.end_seq
        opt, paws_reject = self._tw_options(tw, skb)
        if tw.substate == TCP_FIN_WAIT2:
            if paws_reject or not tcp_in_window(seq, end_seq, tw.rcv_nxt, tw.rcv_nxt + tw.rcv_wnd & MASK):
                return TW_ACK
            return self._tw_fin_wait2(tw, skb, opt)
        if not paws_reject and seq == tw.rcv_nxt and (seq == end_seq or word & W_RST):
            if word & W_RST and not self.sysctl_tcp_rfc1337:
                self.inet_twsk_kill(tw)  # TIME_WAIT assassination
            else:
                self.inet_twsk_schedule(tw)
                self._tw_note_stamp(tw, opt)
            return TW_SUCCESS
        newer = (tw.rcv_nxt - seq) & SIGN or (opt.saw_tstamp and (tw.ts_recent - opt.rcv_tsval) & SIGN)
        if word & (W_SYN | W_RST | W_ACK) == W_SYN and not paws_reject and newer:
            return TW_SYN
        if word & W_RST:
            return TW_SUCCESS
        if paws_reject or word & W_ACK:  # not for a SYN, which may be new
            self.inet_twsk_schedule(tw)
        return TW_ACK

    def _tw_fin_wait2(self, tw: TimeWaitSock, skb: SkBuff, opt: TcpOptionsReceived) -> int:
        """Decide about a segment in the window while the peer's FIN is missing."""
        word = skb.flags
        if word & W_RST:
            self.inet_twsk_kill(tw)
            return TW_SUCCESS
        if word & W_SYN and not (skb.seq - tw.rcv_nxt) & SIGN:
            self.inet_twsk_kill(tw)
            return TW_RST
        if not (tw.rcv_nxt - skb.end_seq) & SIGN or skb.end_seq == skb.seq:
            return TW_SUCCESS
        if not word & W_FIN or skb.end_seq != (tw.rcv_nxt + 1 & MASK):
            self.inet_twsk_kill(tw)
            return TW_RST  # data for a reader that is gone
        tw.substate = TCP_TIME_WAIT
        tw.rcv_nxt = skb.end_seq
        self._tw_note_stamp(tw, opt)
        self.inet_twsk_schedule(tw)
        self.judge.progress()
        return TW_ACK


def tcp_in_window(seq: int, end_seq: int, s_win: int, e_win: int) -> bool:
    """Tell whether a segment touches the window (``tcp_in_window()``)."""
    if seq == s_win:
        return True
    if (s_win - end_seq) & SIGN and (seq - e_win) & SIGN:
        return True
    return seq == e_win and seq == end_seq
