"""Connection tracking: what flows this host takes part in (2.6.23 net/netfilter/nf_conntrack_core.c), small, but it allocates.

Interface
    NfConntrack(kernel, nf, pages, ip_defrag)    ip_defrag(skb, user): reassembly (ipv4/ip_fragment.py)
        load(), unload()        register the hooks; take them out and forget everything
        nf_conntrack_in(...)    the hook that finds or makes the connection of a packet
        count, max, stat        connections, how many there may be, counters as /proc/net/stat/nf_conntrack

Rules
    * The first packet of a flow makes an entry (``nf_conntrack`` cache, GFP_ATOMIC): on the way in before routing, on the way out
      at once. It stands in the table only when the packet has come through: confirmed behind all other hooks. A packet that is
      lost in between takes its entry along.
    * Without memory for it the packet is dropped. An emergency packet is processed with PF_MEMALLOC (patch 23), so its entry comes
      from the reserve: uncharged, and for as long as its timeout says.
    * Beyond ``max`` an entry that never saw traffic both ways must go, from the first of the buckets from the new one's on in
      which there is one, of eight entries at most (early drop); else the packet is dropped.
    * Fragments are put together first.
    * The hash mixes without a secret: a run can be repeated.
    * Left out: expectations and helpers, NAT, accounting, events, ICMP errors as RELATED, IPv6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs

from kemu.errors import KernelBug
from kemu.kernel.timer import HZ, Timer
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.netfilter import nf_conntrack_proto as proto
from kemu_net.netfilter.core import (
    NF_ACCEPT,
    NF_DROP,
    NF_IP_LOCAL_IN,
    NF_IP_LOCAL_OUT,
    NF_IP_POST_ROUTING,
    NF_IP_PRE_ROUTING,
    NF_IP_PRI_CONNTRACK,
    NF_IP_PRI_CONNTRACK_CONFIRM,
    NF_IP_PRI_CONNTRACK_DEFRAG,
    NF_REPEAT,
    NF_STOLEN,
    NfHookOps,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu_net.core.skbuff import SkBuff
    from kemu_net.netfilter.core import NfHooks, Okfn
    from kemu_net.netfilter.nf_conntrack_proto import Tuple

#: struct nf_conn on x86_64: reference 8, two tuples of 56, status 8, timer 48, counters 16, expected and id 8, master 8, marks 8,
#: TCP's state 56, extensions 8.
SIZEOF_NF_CONN: Final = 280
EVICTION_RANGE: Final = 8
IP_DEFRAG_CONNTRACK_IN: Final = 2
IP_DEFRAG_CONNTRACK_OUT: Final = 3


@attrs.define
class Stat:
    """``struct ip_conntrack_stat``."""

    searched: int = 0
    found: int = 0
    new: int = 0
    invalid: int = 0
    insert: int = 0
    insert_failed: int = 0
    delete: int = 0
    drop: int = 0
    early_drop: int = 0


class NfConn:
    """``struct nf_conn``: one flow.

    :ivar use: references: the table's, and those of packets on their way.
    :ivar assured: traffic both ways: early drop spares it; :ivar answers: ICMP questions without an answer yet.
    """

    __slots__ = (
        "addr",
        "answers",
        "assured",
        "confirmed",
        "dying",
        "lifetime",
        "orig",
        "reply",
        "seen_reply",
        "state",
        "timer",
        "use",
    )

    def __init__(self, addr: int, orig: Tuple, reply: Tuple) -> None:
        self.addr = addr
        self.orig = orig
        self.reply = reply
        self.use = 1
        self.confirmed = self.dying = self.seen_reply = self.assured = False
        self.state = proto.NONE
        self.answers = 0
        self.lifetime = 0
        self.timer: Timer

    def __repr__(self) -> str:
        """Name the flow."""
        return f"<conn {self.orig} state {self.state}{' assured' if self.assured else ''}>"


class NfConntrack:
    """The connections of one machine.

    :param pages: of memory: the table has a bucket for each 128 KiB, 32 at least, and may hold four entries for each bucket.
    :ivar buckets: entries by the hash of a tuple; each entry stands there twice.
    """

    def __init__(self, kernel: Kernel, nf: NfHooks, pages: int, ip_defrag: Callable[[SkBuff, int], SkBuff | None]) -> None:
        self.kernel = kernel
        self.timers = kernel.timers
        self.sched = kernel.sched
        self.nf = nf
        self.skbs = nf.skbs
        self.slub = nf.skbs.slub
        self.ip_defrag = ip_defrag
        self.cache = self.slub.kmem_cache_create("nf_conntrack", SIZEOF_NF_CONN)
        size = 16384 if pages > (1 << 30) // 4096 else max(pages * 4096 // 16384 // 8, 32)
        self.buckets: list[list[tuple[Tuple, NfConn]]] = [[] for _ in range(size)]
        self.max = 4 * size
        self.count = 0
        self.stat = Stat()
        self.of_skb: dict[SkBuff, NfConn] = {}
        self.hooks: list[NfHookOps] = []
        self._kfree_skb = self.skbs.kfree_skb

    # loading

    def load(self) -> None:
        """Begin to track (``nf_conntrack_l3proto_ipv4_init()``)."""
        for place, priority, fn in (
            (NF_IP_PRE_ROUTING, NF_IP_PRI_CONNTRACK_DEFRAG, self.conntrack_defrag),
            (NF_IP_PRE_ROUTING, NF_IP_PRI_CONNTRACK, self.nf_conntrack_in),
            (NF_IP_LOCAL_OUT, NF_IP_PRI_CONNTRACK_DEFRAG, self.conntrack_defrag),
            (NF_IP_LOCAL_OUT, NF_IP_PRI_CONNTRACK, self.nf_conntrack_in),
            (NF_IP_POST_ROUTING, NF_IP_PRI_CONNTRACK_CONFIRM, self.conntrack_confirm),
            (NF_IP_LOCAL_IN, NF_IP_PRI_CONNTRACK_CONFIRM, self.conntrack_confirm),
        ):
            ops = NfHookOps(fn, place, priority, "nf_conntrack")
            self.nf.nf_register_hook(ops)
            self.hooks.append(ops)
        self._kfree_skb = self.skbs.kfree_skb
        self.skbs.kfree_skb = self._kfree_skb_nfct  # type: ignore[method-assign]  # skbs know nothing of connections without it

    def unload(self) -> None:
        """Stop, and forget all connections (``nf_conntrack_cleanup()``)."""
        for ops in self.hooks:
            self.nf.nf_unregister_hook(ops)
        self.hooks.clear()
        while self.of_skb:
            self._put(self.of_skb.popitem()[1])
        for bucket in self.buckets:
            while bucket:
                self.kill(bucket[0][1])
        del self.skbs.kfree_skb

    def _kfree_skb_nfct(self, skb: SkBuff, reason: str | None = None) -> None:
        """Be kfree_skb() of a machine that tracks: the last user of a packet lets go of its connection."""
        if skb.users == 1:
            conn = self.of_skb.pop(skb, None)
            if conn is not None:
                self._put(conn)
        self._kfree_skb(skb, reason)

    # the table

    def _hash(self, tuple_: Tuple) -> int:
        saddr, daddr, number, sport, dport = tuple_
        mixed = (saddr * 0x9E3779B1 ^ daddr * 0x85EBCA6B ^ (sport << 16 | dport) * 0xC2B2AE35 ^ number) & 0xFFFFFFFF
        return mixed * len(self.buckets) >> 32

    def find(self, tuple_: Tuple) -> NfConn | None:
        """Look a tuple up (``nf_conntrack_find_get()``)."""
        for known, conn in self.buckets[self._hash(tuple_)]:
            self.stat.searched += 1
            if known == tuple_:
                self.stat.found += 1
                return conn
        return None

    def _alloc(self, orig: Tuple) -> NfConn | None:
        """Make an entry (``nf_conntrack_alloc()``); None: there are too many, or there is no memory."""
        if self.count >= self.max and not self._early_drop(self._hash(orig)):
            return None
        addr = self.slub.kmem_cache_alloc(self.cache, GFP_ATOMIC)
        if addr is None:
            return None
        self.count += 1
        conn = NfConn(addr, orig, proto.invert(orig))
        conn.timer = Timer("nf_conntrack", self.kill, conn)
        return conn

    def _early_drop(self, at: int) -> bool:
        """Make room (``early_drop()``): the last entry that is not assured of the first bucket that has one."""
        looked = 0
        for step in range(len(self.buckets)):
            victim = None
            for _tuple, conn in self.buckets[(at + step) % len(self.buckets)]:
                looked += 1
                if not conn.assured:
                    victim = conn
            if victim is not None:
                self.stat.early_drop += 1
                self.kill(victim)
                return True
            if looked >= EVICTION_RANGE:
                break
        return False

    def _put(self, conn: NfConn) -> None:
        """Drop a reference; the last one frees (``nf_conntrack_put()``)."""
        conn.use -= 1
        if not conn.use:
            self.count -= 1
            self.slub.kmem_cache_free(self.cache, conn.addr)

    def kill(self, conn: NfConn) -> None:
        """Take an entry out of the table (``death_by_timeout()``)."""
        if not conn.confirmed or conn.dying:
            return
        conn.dying = True
        self.timers.del_timer(conn.timer)
        for tuple_ in (conn.orig, conn.reply):
            self.buckets[self._hash(tuple_)].remove((tuple_, conn))
        self.stat.delete += 1
        self._put(conn)

    def _refresh(self, conn: NfConn, seconds: int) -> None:
        """Let an entry live so long from now (``nf_ct_refresh_acct()``)."""
        conn.lifetime = seconds * HZ
        if conn.confirmed and not conn.dying:
            self.timers.mod_timer(conn.timer, self.sched.jiffies + conn.lifetime)

    # hooks

    def conntrack_defrag(self, hook: int, skb: SkBuff, indev: Any, outdev: Any, okfn: Okfn) -> int:
        """Put fragments together (``ipv4_conntrack_defrag()``)."""
        nh = skb.nh
        if not (skb.buf[nh + 6] & 0x3F or skb.buf[nh + 7]):
            return NF_ACCEPT
        user = IP_DEFRAG_CONNTRACK_IN if hook == NF_IP_PRE_ROUTING else IP_DEFRAG_CONNTRACK_OUT
        whole = self.ip_defrag(skb, user)
        if whole is not None:
            self.nf.nf_hook_slow(hook, whole, indev, outdev, okfn, NF_IP_PRI_CONNTRACK_DEFRAG + 1)
        return NF_STOLEN

    def nf_conntrack_in(self, _hook: int, skb: SkBuff, _indev: Any, _outdev: Any, _okfn: Okfn) -> int:
        """Find or make the connection of a packet, and take its step (``nf_conntrack_in()``)."""
        if skb in self.of_skb:
            return NF_ACCEPT  # asked again
        tuple_ = proto.tuple_of(skb)
        if tuple_ is None:
            self.stat.invalid += 1
            return NF_ACCEPT
        conn = self.find(tuple_)
        if conn is None:
            if not self._may_begin(skb, tuple_):
                self.stat.invalid += 1
                return NF_ACCEPT
            conn = self._alloc(tuple_)
            if conn is None:
                self.stat.drop += 1
                return NF_DROP
            self.stat.new += 1
        else:
            conn.use += 1
        self.of_skb[skb] = conn
        direction = int(tuple_ != conn.orig)
        verdict = self._step(conn, skb, direction)
        if verdict != NF_ACCEPT:
            self._put(self.of_skb.pop(skb))
            if verdict == NF_REPEAT:
                return NF_REPEAT
            self.stat.invalid += 1
        elif direction:
            conn.seen_reply = True
        return NF_ACCEPT

    def _may_begin(self, skb: SkBuff, tuple_: Tuple) -> bool:
        """Tell whether a packet may be the first of a connection (the protocols' ``new()``)."""
        if tuple_[2] == proto.IPPROTO_TCP:
            head = proto.transport(skb, 14)
            return len(head) == 14 and proto.tcp_next(0, proto.tcp_event(head[13]), proto.NONE) > 0
        return proto.begins(tuple_)

    def _step(self, conn: NfConn, skb: SkBuff, direction: int) -> int:
        """Do what the packet's protocol says (its ``packet()``): NF_ACCEPT; NF_REPEAT: begin anew; NF_DROP: it is invalid."""
        number = conn.orig[2]
        if number == proto.IPPROTO_TCP:
            return self._tcp_step(conn, skb, direction)
        if number == proto.IPPROTO_UDP:
            both = conn.seen_reply or bool(direction)
            self._refresh(conn, proto.UDP_STREAM_TIMEOUT if both else proto.UDP_TIMEOUT)
            conn.assured |= both
        elif number == proto.IPPROTO_ICMP:
            conn.answers += -1 if direction else 1
            if conn.answers > 0:
                self._refresh(conn, proto.ICMP_TIMEOUT)
            else:
                self.kill(conn)
        else:
            self._refresh(conn, proto.GENERIC_TIMEOUT)
        return NF_ACCEPT

    def _tcp_step(self, conn: NfConn, skb: SkBuff, direction: int) -> int:
        """Take TCP's step (``tcp_packet()``)."""
        head = proto.transport(skb, 14)
        if len(head) < 14:
            return NF_DROP
        event = proto.tcp_event(head[13])
        old = conn.state
        new = proto.tcp_next(direction, event, old)
        if new == proto.IGNORE:
            return NF_ACCEPT
        if new == proto.INVALID:
            return NF_DROP
        if new == proto.SYN_SENT and old in (proto.TIME_WAIT, proto.CLOSE):
            self.kill(conn)
            return NF_REPEAT
        if event == "rst" and not conn.seen_reply and not direction and conn.confirmed:
            self.kill(conn)  # nobody ever answered: nothing to wait for
            return NF_ACCEPT
        conn.state = new
        if new == proto.ESTABLISHED and old in (proto.SYN_RECV, proto.ESTABLISHED) and (conn.seen_reply or direction):
            conn.assured = True
        self._refresh(conn, proto.TCP_TIMEOUTS[new])
        return NF_ACCEPT

    def conntrack_confirm(self, _hook: int, skb: SkBuff, _indev: Any, _outdev: Any, _okfn: Okfn) -> int:
        """Enter the connection of a packet that came through into the table (``nf_conntrack_confirm()``).

        The packet then lets go of it: nobody asks any more (``nf_reset()``).
        """
        conn = self.of_skb.pop(skb, None)
        if conn is None:
            return NF_ACCEPT
        verdict = NF_ACCEPT
        if not conn.confirmed:
            if any(self.find(tuple_) is not None for tuple_ in (conn.orig, conn.reply)):
                self.stat.insert_failed += 1
                verdict = NF_DROP  # another packet of the flow was faster
            else:
                self._insert(conn)
        self._put(conn)
        return verdict

    def _insert(self, conn: NfConn) -> None:
        """Enter both tuples; the table holds a reference until the timer goes off."""
        conn.use += 1
        conn.confirmed = True
        for tuple_ in (conn.orig, conn.reply):
            self.buckets[self._hash(tuple_)].insert(0, (tuple_, conn))
        self.timers.mod_timer(conn.timer, self.sched.jiffies + conn.lifetime)
        self.stat.insert += 1

    def check(self) -> None:
        """Assert that table, references and cache agree."""
        listed = {conn for bucket in self.buckets for _tuple, conn in bucket}
        waiting = set(self.of_skb.values())
        held = len(listed | waiting)
        if self.count != held or self.slub.objects_in_use(self.cache) != held:
            raise KernelBug(f"conntrack: {self.count} entries counted, {held} known", state=self.stat)
