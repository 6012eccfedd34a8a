"""The queue to user space: a task reads packets and answers with verdicts (2.6.23 net/netfilter/nfnetlink_queue.c).

Interface
    NfnlQueue(kernel, nf, queuenum=0, maxlen=1024, copy_range=65535)
        bind(), unbind()                take packets from now on; unbinding frees what still waits
        recv(nonblock=False)            the next packet for the reader: (id, hooknum, bytes), or None; may sleep
        verdict(id, verdict)            what the reader decided: 0, or -ENOENT
        queue_total, queue_dropped      what waits for a verdict, and what came when maxlen packets did

Rules
    * For each packet the reader gets a copy in a message of its own, allocated with GFP_ATOMIC when the packet is queued; the
      packet itself stays in the kernel until its verdict.
    * The reader is an ordinary task. If it never runs, what is queued stays queued.
    * Left out: the text of netlink messages (NFQA_* attributes), the receive limit of the reader's socket, several queues behind
      one handler, marks, replaced payload.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from kemu.errors import KernelBug
from kemu.kernel.errno import ENOENT, ENOMEM, ENOSPC
from kemu.kernel.wait import WaitQueue
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.skbuff import skb_bytes, skb_put_bytes

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_net.core.skbuff import SkBuff
    from kemu_net.netfilter.core import NfHooks
    from kemu_net.netfilter.nf_queue import NfInfo

NFQNL_QMAX_DEFAULT: Final = 1024
SIZEOF_ENTRY: Final = 40  # struct nfqnl_queue_entry
#: A message without its payload: nlmsghdr and nfgenmsg 20; packet header 12; two interfaces and the mark 8 each; hardware address
#: 16; time stamp 20 (nfqnl_build_packet_message()).
_HEADER: Final = 20 + 12 + 3 * 8 + 16 + 20
_DROP: Final = 0


class NfnlQueue:
    """One queue and the socket of its reader.

    :param maxlen: packets that may wait for a verdict.
    :param copy_range: bytes of a packet that the reader sees.
    """

    def __init__(
        self, kernel: Kernel, nf: NfHooks, queuenum: int = 0, maxlen: int = NFQNL_QMAX_DEFAULT, copy_range: int = 0xFFFF
    ) -> None:
        self.sched = kernel.sched
        self.softirq = kernel.softirq
        self.skbs = nf.skbs
        self.slub = nf.skbs.slub
        self.nfq = nf.queue
        self.queuenum = queuenum
        self.maxlen = maxlen
        self.copy_range = copy_range
        self.queue_dropped = 0
        self.entries: dict[int, tuple[int, NfInfo]] = {}  # id -> memory of the entry, the packet's note
        self.messages: deque[tuple[int, int, SkBuff]] = deque()  # id, hook, copy
        self.wait = WaitQueue("nfnetlink_queue")
        self._id = 0

    @property
    def queue_total(self) -> int:
        """Packets that wait for a verdict."""
        return len(self.entries)

    def bind(self) -> int:
        """Become the handler (NFQNL_CFG_CMD_BIND): 0 or a negative errno."""
        return self.nfq.nf_register_queue_handler(self.enqueue)

    def unbind(self) -> None:
        """Stop, and drop what waits (``instance_destroy()``, ``nfqnl_flush()``)."""
        self.nfq.nf_unregister_queue_handler()
        while self.messages:
            self.skbs.kfree_skb(self.messages.popleft()[2])
        for ident in list(self.entries):
            self.verdict(ident, _DROP)

    def enqueue(self, info: NfInfo, queuenum: int) -> int:
        """Take a packet (``nfqnl_enqueue_packet()``): 0, -ENOENT for another queue's, -ENOMEM, -ENOSPC when too many wait."""
        if queuenum != self.queuenum:
            return -ENOENT
        payload = skb_bytes(info.skb)[: self.copy_range]
        entry = self.slub.kmalloc(SIZEOF_ENTRY, GFP_ATOMIC)
        message = None if entry is None else self.skbs.alloc_skb(_HEADER + len(payload), GFP_ATOMIC)
        if entry is None or message is None:
            self.slub.kfree(entry)
            return -ENOMEM
        if len(self.entries) >= self.maxlen:
            self.queue_dropped += 1
            self.skbs.kfree_skb(message)
            self.slub.kfree(entry)
            return -ENOSPC
        skb_put_bytes(message, payload)
        self._id += 1
        self.entries[self._id] = (entry, info)
        self.messages.append((self._id, info.elem.hooknum, message))
        self.sched.wake_up(self.wait)
        return 0

    def recv(self, nonblock: bool = False) -> tuple[int, int, bytes] | None:
        """Read the next packet (``recv()`` on the netlink socket); None if there is none and ``nonblock``."""
        if not self.messages:
            if nonblock:
                return None
            self.sched.wait_event(self.wait, lambda: bool(self.messages), ("sleep", None))
        ident, hooknum, message = self.messages.popleft()
        payload = skb_bytes(message)
        self.skbs.kfree_skb(message)
        return ident, hooknum, payload

    def verdict(self, ident: int, verdict: int) -> int:
        """Decide about a packet (``nfqnl_recv_verdict()``, ``issue_verdict()``): 0, or -ENOENT when none waits under ``ident``."""
        found = self.entries.pop(ident, None)
        if found is None:
            return -ENOENT
        entry, info = found
        self.softirq.local_bh_disable()
        self.nfq.nf_reinject(info, verdict)
        self.softirq.local_bh_enable()
        self.slub.kfree(entry)
        return 0

    def check(self) -> None:
        """Assert that each packet here is one that netfilter knows to wait."""
        for _entry, info in self.entries.values():
            if self.nfq.waiting.get(info.addr) is not info:
                raise KernelBug("nfnetlink_queue: a packet that does not wait", state=info)
