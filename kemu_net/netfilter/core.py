"""Netfilter: hooks on the way of IPv4 packets, and what becomes of a packet there (2.6.23 net/netfilter/core.c), with patch 22.

Interface
    NfHookOps(fn, hooknum, priority)   one hook: fn(hooknum, skb, indev, outdev, okfn) gives a verdict
    NfHooks.nf_register_hook(ops), nf_unregister_hook(ops)
    NfHooks.nf_hook_slow(hook, skb, indev, outdev, okfn)   what okfn(skb) gives when all accept; -EPERM: dropped; 0: somebody has it
    NfHooks.queue                      packets that wait for user space (nf_queue.py)
    NfHooks.check()                    none of them is an emergency packet (patch 22)

Rules
    * A machine without hooks pays one test of an empty list (``registered``) at each of the five places.
    * The data of a packet begin at its IP header, ``nh``. The packet belongs to nf_hook_slow() from its call on.
    * NF_STOLEN: the hook owns the packet now, and may send it on with nf_hook_slow() and a threshold above its own priority.
    * A smaller priority is asked first; of equal ones the older.
    * Left out: other families than IPv4, socket options of modules (nf_sockopt), the matches and targets of tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs

from kemu.errors import KernelBug
from kemu.kernel.errno import EPERM
from kemu_net.netfilter.nf_queue import NfQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.skbuff import SkBuff

    Okfn = Callable[[SkBuff], int]
    HookFn = Callable[[int, SkBuff, Any, Any, Okfn], int]

NF_IP_PRE_ROUTING: Final = 0
NF_IP_LOCAL_IN: Final = 1
NF_IP_FORWARD: Final = 2
NF_IP_LOCAL_OUT: Final = 3
NF_IP_POST_ROUTING: Final = 4
NF_IP_NUMHOOKS: Final = 5

NF_DROP: Final = 0
NF_ACCEPT: Final = 1
NF_STOLEN: Final = 2
NF_QUEUE: Final = 3
NF_REPEAT: Final = 4
NF_STOP: Final = 5
NF_VERDICT_MASK: Final = 0xFFFF
NF_VERDICT_BITS: Final = 16

INT_MIN: Final = -(1 << 31)
INT_MAX: Final = (1 << 31) - 1

# enum nf_ip_hook_priorities
NF_IP_PRI_CONNTRACK_DEFRAG: Final = -400
NF_IP_PRI_CONNTRACK: Final = -200
NF_IP_PRI_FILTER: Final = 0
NF_IP_PRI_CONNTRACK_CONFIRM: Final = INT_MAX


def NF_QUEUE_NR(number: int) -> int:
    """Give the verdict "to the userspace queue of that number"."""
    return number << NF_VERDICT_BITS | NF_QUEUE


@attrs.define(eq=False)
class NfHookOps:
    """``struct nf_hook_ops``: one hook.

    :ivar unloading: its module is being unloaded: what it wants queued goes on to the next hook (``try_module_get()`` fails).
    """

    fn: HookFn
    hooknum: int
    priority: int = NF_IP_PRI_FILTER
    name: str = ""
    unloading: bool = False


class NfHooks:
    """Netfilter of one machine.

    :ivar registered: the hooks of each place, in the order in which they are asked.
    """

    def __init__(self, kernel: Kernel, skbs: SkbAlloc) -> None:
        self.patched = kernel.patched
        self.skbs = skbs
        self.registered: list[list[NfHookOps]] = [[] for _ in range(NF_IP_NUMHOOKS)]
        self.queue = NfQueue(kernel, skbs, self)

    def nf_register_hook(self, ops: NfHookOps) -> int:
        """Enter a hook behind all whose priority is not larger (``nf_register_hook()``): 0."""
        hooks = self.registered[ops.hooknum]
        at = len(hooks)
        while at and hooks[at - 1].priority > ops.priority:
            at -= 1
        hooks.insert(at, ops)
        return 0

    def nf_unregister_hook(self, ops: NfHookOps) -> None:
        """Take a hook out (``nf_unregister_hook()``)."""
        hooks = self.registered[ops.hooknum]
        if ops not in hooks:
            raise KernelBug("nf_unregister_hook: not registered", state=ops)
        hooks.remove(ops)

    def nf_hook_slow(self, hook: int, skb: SkBuff, indev: Any, outdev: Any, okfn: Okfn, threshold: int = INT_MIN) -> int:
        """Ask the hooks of one place about a packet, and do as they say (``nf_hook_slow()`` and ``NF_HOOK_THRESH()``)."""
        return self.nf_iterate(hook, skb, indev, outdev, okfn, 0, threshold)

    def nf_iterate(
        self, hook: int, skb: SkBuff, indev: Any, outdev: Any, okfn: Okfn, begin: int = 0, threshold: int = INT_MIN
    ) -> int:
        """Ask the hooks from number ``begin`` on, and do as they say (``nf_iterate()`` and what its two callers do then).

        Patch 22: user space may wait for swap, so it is not asked about a packet that lies in the reserve.
        """
        hooks = self.registered[hook]
        at = begin
        while at < len(hooks):
            ops = hooks[at]
            verdict = NF_ACCEPT
            if ops.priority >= threshold:
                verdict = ops.fn(hook, skb, indev, outdev, okfn)
                if verdict == NF_REPEAT:
                    continue
            at += 1
            if verdict == NF_ACCEPT:
                continue
            if verdict == NF_STOP:
                break
            if verdict == NF_DROP:
                self.skbs.kfree_skb(skb, "netfilter")
                return -EPERM
            if verdict & NF_VERDICT_MASK != NF_QUEUE:
                return 0
            if self.patched.nf_queue_emergency and skb.emergency:  # [p22]
                self.skbs.kfree_skb(skb, "nfqueue")
                return -EPERM
            if self.queue.nf_queue(skb, ops, hook, indev, outdev, okfn, verdict >> NF_VERDICT_BITS):
                return 0
        return okfn(skb)

    def check(self) -> None:
        """Assert what patch 22 promises."""
        self.queue.check()
