"""Packets on their way to user space and back (2.6.23 net/netfilter/nf_queue.c).

Interface
    NfQueue.nf_register_queue_handler(handler)    handler(info, queuenum): 0, or a negative errno and the packet is dropped
    NfQueue.nf_unregister_queue_handler()
    NfQueue.nf_queue(skb, ops, ...)               hand a packet to the handler; False: ask the next hook
    NfQueue.nf_reinject(info, verdict)            go on with a packet as user space decided
    NfQueue.waiting                               what waits: address of the note -> NfInfo

Rules
    * A packet that waits keeps its memory, its route, and an emergency packet its charge: patch 22 keeps those out (core.py).
    * Nobody listens: the packet is dropped, to be safe. Its hook is going away: the next one is asked, as if it had accepted.
    * What waits is remembered in a note (``struct nf_info``) from kmalloc with GFP_ATOMIC; without it the packet is dropped.
    * Left out: segments of a large packet, which are queued one by one; looking up the route again when user space has changed the
      packet (user space here gives verdicts only).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs

from kemu.errors import KernelBug
from kemu.kernel.errno import EBUSY, EEXIST, ENOSPC
from kemu.mm.gfp import GFP_ATOMIC

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.skbuff import SkBuff
    from kemu_net.netfilter.core import NfHookOps, NfHooks, Okfn

    QueueHandler = Callable[["NfInfo", int], int]

#: struct nf_info on x86_64: elem, pf, hook, indev, outdev, okfn; behind it IPv4's route key of 12 bytes.
SIZEOF_NF_INFO: Final = 40 + 12

_ACCEPT: Final = 1
_REPEAT: Final = 4


@attrs.define(eq=False)
class NfInfo:
    """``struct nf_info``: how to go on with a packet that waits.

    :ivar addr: its slab object.
    :ivar elem: the hook that wants it queued.
    """

    addr: int
    skb: SkBuff
    elem: NfHookOps
    hook: int
    indev: Any
    outdev: Any
    okfn: Okfn


class NfQueue:
    """Queueing of one machine."""

    def __init__(self, kernel: Kernel, skbs: SkbAlloc, nf: NfHooks) -> None:
        self.patched = kernel.patched
        self.skbs = skbs
        self.slub = skbs.slub
        self.nf = nf
        self.handler: QueueHandler | None = None
        self.waiting: dict[int, NfInfo] = {}

    def nf_register_queue_handler(self, handler: QueueHandler) -> int:
        """Say who hands packets to user space: 0, -EEXIST when it is he already, -EBUSY when it is somebody else."""
        if self.handler is not None:
            return -EEXIST if self.handler == handler else -EBUSY
        self.handler = handler
        return 0

    def nf_unregister_queue_handler(self) -> None:
        """Say that nobody does any more; the caller flushes what it has."""
        self.handler = None

    def nf_queue(self, skb: SkBuff, ops: NfHookOps, hook: int, indev: Any, outdev: Any, okfn: Okfn, queuenum: int) -> bool:
        """Hand a packet to user space, or drop it (``nf_queue()``); False when the hook is going away: ask the next."""
        handler = self.handler
        if handler is None:
            self.skbs.kfree_skb(skb, "netfilter: no queue")
            return True
        addr = self.slub.kmalloc(SIZEOF_NF_INFO, GFP_ATOMIC)
        if addr is None:
            self.skbs.kfree_skb(skb, "netfilter: no memory to queue")
            return True
        if ops.unloading:
            self.slub.kfree(addr)
            return False
        info = self.waiting[addr] = NfInfo(addr, skb, ops, hook, indev, outdev, okfn)
        dst = skb.dst
        if dst is not None:
            dst.refcnt += 1
        error = handler(info, queuenum)
        if error:
            self._forget(info)
            self.skbs.kfree_skb(skb, "netfilter: queue full" if error == -ENOSPC else "netfilter: queue refused")
        return True

    def _forget(self, info: NfInfo) -> None:
        """Let go of the route and of the note of a packet that waits no more."""
        if self.waiting.pop(info.addr, None) is not info:
            raise KernelBug("nf_reinject: the packet has had its verdict", state=info)
        dst = info.skb.dst
        if dst is not None:
            dst.refcnt -= 1
        self.slub.kfree(info.addr)

    def nf_reinject(self, info: NfInfo, verdict: int) -> None:
        """Go on with a packet (``nf_reinject()``): behind the hook that wanted it queued, at it again, or not at all."""
        self._forget(info)
        hooks = self.nf.registered[info.hook]
        if info.elem not in hooks or verdict not in (_ACCEPT, _REPEAT):
            self.skbs.kfree_skb(info.skb, "netfilter")  # user space said no, or who asked it is gone
            return
        begin = hooks.index(info.elem) + (verdict == _ACCEPT)
        self.nf.nf_iterate(info.hook, info.skb, info.indev, info.outdev, info.okfn, begin)

    def check(self) -> None:
        """Assert that no emergency packet waits for user space."""
        if self.patched.nf_queue_emergency:  # [p22]
            found = sum(info.skb.emergency for info in self.waiting.values())
            if found:
                raise KernelBug(f"{found} emergency packets wait for user space", state=self)
