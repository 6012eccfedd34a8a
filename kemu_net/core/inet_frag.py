"""Putting fragments together: what IPv4 and IPv6 have in common (2.6.23 net/ipv4/ip_fragment.c, net/ipv6/reassembly.c).

2.6.23 has this code twice, almost word for word; here it is once, and each family keeps what differs.

Interface
    InetFrags.find(key)                     the queue of a datagram, made if need be; None without memory
    InetFrags.insert(queue, skb, at, end, last)   enter a fragment whose data begin after its headers; False: it is refused
    InetFrags.complete(queue)               everything is here
    InetFrags.glue(queue)                   take the queue apart: the first fragment with the others in its frag_list
    InetFrags.evictor()                     called before each fragment
    InetFrags.close()                       free all

Rules
    * A queue is kmalloc'd with GFP_ATOMIC by the packet that begins a datagram. ``mem`` counts the truesize of all fragments
      and the size of all queues; above high_thresh the oldest queues go until it is at most low_thresh.
    * Overlaps are trimmed: of two fragments with the same bytes the later one loses its head to its predecessor, and takes the
      head of its successors; successors that are covered go. (Later kernels drop the datagram.)
    * One dict is the hash and the list by age: its order is that of the last fragment. So there is nothing for a secret to
      protect, and its periodic change (ipfrag_secret_interval) has nothing to do.
    * The offset of a fragment is in ``skb.seq``, which stands for the control block.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from kemu.errors import KernelBug
from kemu.kernel.timer import Timer
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.skb_trim import pskb_pull, pskb_trim
from kemu_net.core.skbuff import CHECKSUM_COMPLETE, CHECKSUM_NONE, CHECKSUM_UNNECESSARY

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.slub import Slub
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.skbuff import SkBuff

COMPLETE = 4
FIRST_IN = 2
LAST_IN = 1


class FragQueue:
    """``struct ipq``, ``struct frag_queue``: the fragments of one datagram.

    :ivar fragments: in order, without overlaps; ``offsets``: where each begins.
    :ivar len: where the datagram ends, as far as is known; ``meat``: how many of its bytes are here.
    :ivar nhoff: IPv6: where the first fragment's "next header" octet stands.
    :ivar rid: IPv4: number of the last fragment among all of its peer.
    """

    __slots__ = ("addr", "fragments", "key", "last_in", "len", "meat", "nhoff", "offsets", "peer", "rid", "timer")

    def __init__(self, addr: int, key: Any) -> None:
        self.addr = addr
        self.key = key
        self.fragments: list[SkBuff] = []
        self.offsets: list[int] = []
        self.last_in = 0
        self.len = self.meat = 0
        self.nhoff = 0
        self.rid = 0
        self.peer: Any = None
        self.timer: Timer

    def __repr__(self) -> str:
        """Say how far the datagram is."""
        return f"<fragments {self.key} {self.meat} of {self.len if self.last_in & LAST_IN else '?'} bytes>"


class InetFrags:
    """The unfinished datagrams of one family.

    :param size: of the queue's struct, in bytes.
    :ivar mem: bytes of fragments and queues (``ip_frag_mem``).
    :ivar reasm_reqds, reasm_oks, reasm_fails, reasm_timeout: as /proc/net/snmp counts.
    :ivar evicted: datagrams that the evictor gave up.
    """

    def __init__(self, kernel: Kernel, skbs: SkbAlloc, slub: Slub, size: int, timeout: int) -> None:
        self.sched = kernel.sched
        self.timers = kernel.timers
        self.skbs = skbs
        self.slub = slub
        self.sizeof_queue = size
        self.timeout = timeout
        self.high_thresh = 262144
        self.low_thresh = 196608
        self.queues: dict[Any, FragQueue] = {}
        self.mem = 0
        self.alloc_failed = 0
        self.reasm_reqds = self.reasm_oks = self.reasm_fails = self.reasm_timeout = self.evicted = 0

    def __repr__(self) -> str:
        """Say what is here and what became of the rest, in the words of /proc/net/snmp."""
        counts = f"ReasmReqds {self.reasm_reqds} ReasmOKs {self.reasm_oks} ReasmFails {self.reasm_fails}"
        return f"<{len(self.queues)} datagrams in {self.mem} bytes, {counts} ReasmTimeout {self.reasm_timeout}>"

    # queues

    def find(self, key: Any) -> FragQueue | None:
        """Give the queue of a datagram, made if need be (``ip_find()``); None without memory."""
        queue = self.queues.get(key)
        if queue is not None:
            return queue
        addr = self.slub.kmalloc(self.sizeof_queue, GFP_ATOMIC)
        if addr is None:
            self.alloc_failed += 1
            return None
        self.mem += self.sizeof_queue
        queue = self.queues[key] = FragQueue(addr, key)
        queue.timer = Timer("ipfrag", self._expire, queue)
        self.timers.mod_timer(queue.timer, self.sched.jiffies + self.timeout)
        return queue

    def kill(self, queue: FragQueue) -> None:
        """Take a queue out of the table (``ipq_kill()``); its fragments are still there."""
        self.timers.del_timer(queue.timer)
        if not queue.last_in & COMPLETE:
            queue.last_in |= COMPLETE
            del self.queues[queue.key]

    def destroy(self, queue: FragQueue) -> None:
        """Free a queue that was killed, and its fragments (``ip_frag_destroy()``)."""
        self.drop_fragments(queue)
        self.release_peer(queue)
        self.mem -= self.sizeof_queue
        self.slub.kfree(queue.addr)

    def release_peer(self, queue: FragQueue) -> None:
        """Let go of what the family keeps with a queue."""

    def drop_fragments(self, queue: FragQueue) -> None:
        """Free all fragments of a queue."""
        for skb in queue.fragments:
            self._kfree_frag(skb)
        queue.fragments.clear()
        queue.offsets.clear()

    def _kfree_frag(self, skb: SkBuff) -> None:
        self.mem -= skb.truesize
        self.skbs.kfree_skb(skb, "fragment")

    def evictor(self) -> None:
        """Give up the oldest datagrams, if there are too many fragments (``ip_evictor()``)."""
        if self.mem <= self.high_thresh:
            return
        work = self.mem - self.low_thresh
        while work > 0 and self.queues:
            before = self.mem
            queue = next(iter(self.queues.values()))
            self.kill(queue)
            self.destroy(queue)
            work -= before - self.mem
            self.evicted += 1
            self.reasm_fails += 1

    def _expire(self, queue: FragQueue) -> None:
        """Give up a datagram whose time is over (``ip_expire()``)."""
        self.kill(queue)
        self.reasm_timeout += 1
        self.reasm_fails += 1
        if queue.last_in & FIRST_IN and queue.fragments:
            self.time_exceeded(queue.fragments[0])
        self.destroy(queue)

    def time_exceeded(self, skb: SkBuff) -> None:
        """Tell the sender; ``skb`` is the first fragment."""

    # fragments

    def insert(self, queue: FragQueue, skb: SkBuff, offset: int, end: int, last: bool) -> bool:
        """Enter a fragment, its data pulled to the payload (``ip_frag_queue()``). False: it contradicts the others, or is nothing.

        :param offset: of its payload in the datagram; ``end``: where it ends; ``last``: no more fragments follow.
        """
        if last:
            if end < queue.len or (queue.last_in & LAST_IN and end != queue.len):
                return False
            queue.last_in |= LAST_IN
            queue.len = end
        elif end > queue.len:
            if queue.last_in & LAST_IN:
                return False  # bits beyond the end
            queue.len = end
        if end == offset or not pskb_trim(self.skbs, skb, end - offset):
            return False
        return self._place(queue, skb, offset, end)

    def _place(self, queue: FragQueue, skb: SkBuff, offset: int, end: int) -> bool:
        """Put a fragment between its neighbours, trimming what overlaps."""
        fragments, offsets = queue.fragments, queue.offsets
        at = bisect_left(offsets, offset)
        if at:
            overlap = offsets[at - 1] + fragments[at - 1].len - offset
            if overlap > 0:
                offset += overlap
                if end <= offset or not self._pull(skb, overlap):
                    return False
        while at < len(fragments) and offsets[at] < end:
            following = fragments[at]
            overlap = end - offsets[at]
            if overlap < following.len:
                if not self._pull(following, overlap):
                    return False
                offsets[at] += overlap
                following.seq = offsets[at]
                queue.meat -= overlap
                break
            del fragments[at], offsets[at]
            queue.meat -= following.len
            self._kfree_frag(following)
        skb.seq = offset
        fragments.insert(at, skb)
        offsets.insert(at, offset)
        queue.meat += skb.len
        self.mem += skb.truesize
        if not offset:
            queue.last_in |= FIRST_IN
        if not self.complete(queue):
            self.queues[queue.key] = self.queues.pop(queue.key)  # the youngest of all
        return True

    def _pull(self, skb: SkBuff, count: int) -> bool:
        """Step over bytes that another fragment has already; a checksum over them is worth nothing then."""
        if not pskb_pull(self.skbs, skb, count):
            return False
        if skb.ip_summed != CHECKSUM_UNNECESSARY:
            skb.ip_summed = CHECKSUM_NONE
        return True

    def complete(self, queue: FragQueue) -> bool:
        """Tell whether the first and the last fragment and all bytes between them are here."""
        return queue.last_in == FIRST_IN | LAST_IN and queue.meat == queue.len

    def glue(self, queue: FragQueue) -> SkBuff | None:
        """Make one packet of a queue that was killed (``ip_frag_reasm()``); None without memory.

        Its head is the first fragment, data still at the payload; the others hang in its fragment list, and in its truesize.
        """
        head = queue.fragments[0]
        if head.shinfo.dataref > 1 and self.skbs.pskb_expand_head(head, 0, 0, GFP_ATOMIC):
            return None
        if head.frag_list is not None and not self._split_head(queue, head):
            return None
        self.mem -= head.truesize
        before: SkBuff | None = None
        for skb in queue.fragments[1:]:
            if before is None:
                head.frag_list = skb
            else:
                before.next = skb
            before = skb
            self.mem -= skb.truesize
            head.len += skb.len
            head.data_len += skb.len
            head.truesize += skb.truesize
            if head.ip_summed != skb.ip_summed or head.ip_summed == CHECKSUM_COMPLETE:
                head.ip_summed = CHECKSUM_NONE
        queue.fragments.clear()
        queue.offsets.clear()
        self.reasm_oks += 1
        return head

    def _split_head(self, queue: FragQueue, head: SkBuff) -> bool:
        """Give the fragment list that the first fragment has already to an skb of its own."""
        carrier = self.skbs.alloc_skb(0, GFP_ATOMIC)
        if carrier is None:
            return False
        paged = sum(size for _page, _offset, size in head.frags or ())
        carrier.frag_list, head.frag_list = head.frag_list, None
        carrier.len = carrier.data_len = head.data_len - paged
        carrier.ip_summed = head.ip_summed
        head.data_len -= carrier.len
        head.len -= carrier.len
        self.mem += carrier.truesize
        queue.fragments.insert(1, carrier)
        return True

    # the end

    def close(self) -> None:
        """Free everything."""
        for queue in list(self.queues.values()):
            self.kill(queue)
            self.destroy(queue)

    def check(self) -> None:
        """Assert that the accounts are right."""
        truesize = sum(skb.truesize for queue in self.queues.values() for skb in queue.fragments)
        if self.mem != truesize + self.sizeof_queue * len(self.queues):
            raise KernelBug(f"fragments: {self.mem} bytes counted, {truesize} and {len(self.queues)} queues are here", state=self)
