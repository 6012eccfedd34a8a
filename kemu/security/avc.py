"""The access vector cache: what SELinux decided before (2.6.23 security/selinux/avc.c). Patch 12.

Interface
    * :class:`Avc`: ``avc_has_perm(ssid, tsid, tclass, requested)``, ``avc_has_perm_noaudit``; ``avc_lookup``, ``avc_insert``;
      ``avc_ss_reset(seqno)``; ``stats``, ``active_nodes``, ``avc_get_hash_stats()``.
    * :class:`AvDecision`: what the security server answers. :class:`AvcNode`: one remembered decision.

Rules of this file
    * The cache is only a cache: a decision is the same with and without a node, and no error comes of a missing one.
    * A node is an object of the slab cache ``avc_node``, allocated atomically: lookups come from the packet path.
    * Above the threshold one scan gives up to 16 nodes back, slot after slot from where the last scan ended. ``used`` is 1 in a new
      node and after a hit, and a scan takes who reaches 0: so everybody it meets goes. The name LRU is 2.6.23's.
    * A deleted node leaves its slot at once and its memory after a grace period, when no reader can hold it: in a softirq that
      misses a thousand times nothing is freed.
    * No time passes here, so no slot needs its lock.
    * Left out: audit records but for the denial's line, callbacks other than the reset, permissions' names, per-CPU counters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import attrs

from kemu.errors import KernelBug
from kemu.kernel.errno import EACCES, EAGAIN, ENOENT, ENOMEM
from kemu.kernel.timer import Timer
from kemu.mm.gfp import _GFP_NOMEMALLOC, _GFP_ZERO, GFP_ATOMIC
from kemu.mm.slub_cache import SLAB_PANIC

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.slub import Slub

AVC_CACHE_SLOTS: Final = 512
AVC_DEF_CACHE_THRESHOLD: Final = 512
AVC_CACHE_RECLAIM: Final = 16
AVC_STRICT: Final = 1  # deny also where nothing is enforced
SIZEOF_AVC_NODE: Final = 72  # 64 bits: an entry of 36 bytes and 4 of padding, a list head, an RCU head
GRACE_PERIOD: Final = 2  # jiffies; every CPU has been through its idle loop or a switch by then


@attrs.define(eq=False)
class AvDecision:
    """``struct av_decision``: bit masks of permissions, and the number of the policy that they follow from.

    :ivar decided: the permissions that ``allowed`` says something about.
    """

    allowed: int
    decided: int
    auditallow: int = 0
    auditdeny: int = 0xFFFFFFFF
    seqno: int = 0


class AvcNode:
    """``struct avc_node``: a decision at an address."""

    __slots__ = ("addr", "avd", "ssid", "tclass", "tsid", "used")

    def __init__(self, addr: int) -> None:
        self.addr = addr
        self.ssid = self.tsid = self.tclass = 0
        self.avd = AvDecision(0, 0)
        self.used = 1

    def populate(self, ssid: int, tsid: int, tclass: int, avd: AvDecision) -> None:
        """Fill the node with a copy of a decision (avc_node_populate())."""
        self.ssid, self.tsid, self.tclass = ssid, tsid, tclass
        self.avd = attrs.evolve(avd)

    def matches(self, ssid: int, tsid: int, tclass: int) -> bool:
        """Tell whether the node is about this subject, object and class."""
        return self.ssid == ssid and self.tsid == tsid and self.tclass == tclass


@attrs.define(eq=False)
class AvcCacheStats:
    """``struct avc_cache_stats``."""

    lookups: int = 0
    hits: int = 0
    misses: int = 0
    allocations: int = 0
    reclaims: int = 0
    frees: int = 0


class SecurityServer(Protocol):
    """Who decides."""

    enforcing: bool

    def security_compute_av(self, ssid: int, tsid: int, tclass: int, requested: int) -> AvDecision:
        """Decide what a subject may do to an object of a class."""


def avc_hash(ssid: int, tsid: int, tclass: int) -> int:
    """Give the slot of a subject, object and class."""
    return (ssid ^ (tsid << 2) ^ (tclass << 4)) & (AVC_CACHE_SLOTS - 1)


class Avc:
    """The cache of one machine.

    :param server: decides on a miss.
    :ivar active_nodes: nodes in the slots, or about to be.
    :ivar lru_hint: the slot where the last scan ended.
    :ivar latest_notif: the newest policy that the cache has heard of.
    """

    def __init__(self, kernel: Kernel, slub: Slub, server: SecurityServer) -> None:
        self.kernel = kernel
        self.patched = kernel.patched
        self.slub = slub
        self.server = server
        self.slots: list[list[AvcNode]] = [[] for _ in range(AVC_CACHE_SLOTS)]
        self.threshold = AVC_DEF_CACHE_THRESHOLD
        self.lru_hint = 0
        self.active_nodes = 0
        self.latest_notif = 0
        self.stats = AvcCacheStats()
        self.avc_node_cachep = slub.kmem_cache_create("avc_node", SIZEOF_AVC_NODE, 0, SLAB_PANIC)
        self._waiting: list[AvcNode] = []  # for the grace period that runs (RCU's curlist)
        self._next: list[AvcNode] = []  # for the one after it (RCU's nxtlist)
        self._grace = Timer("avc_node_free", self._avc_node_free)

    # decisions

    def avc_has_perm(self, ssid: int, tsid: int, tclass: int, requested: int) -> int:
        """Tell whether ``ssid`` may do all that is requested to ``tsid``, and report a denial: 0 or -EACCES."""
        rc, avd = self.avc_has_perm_noaudit(ssid, tsid, tclass, requested)
        denied = requested & ~avd.allowed
        if denied & avd.auditdeny:
            task = self.kernel.sched.current
            self.kernel.printk.ratelimited(
                "avc", f'avc:  denied  {{ {denied:#x} }} for  pid={task.pid} comm="{task.comm}" {ssid=} {tsid=} {tclass=}'
            )
        return rc

    def avc_has_perm_noaudit(self, ssid: int, tsid: int, tclass: int, requested: int, flags: int = 0) -> tuple[int, AvDecision]:
        """Decide, from the cache or by the server, and remember: 0 or -EACCES, and the whole decision.

        Where nothing is enforced a denial is granted, and remembered as granted, so that it is reported once.
        """
        node = self.avc_lookup(ssid, tsid, tclass, requested)
        if node is not None:
            avd = node.avd
        else:
            avd = self.server.security_compute_av(ssid, tsid, tclass, requested)
            node = self.avc_insert(ssid, tsid, tclass, avd)
        avd = attrs.evolve(avd)
        if not requested or requested & ~avd.allowed:
            if self.server.enforcing or flags & AVC_STRICT:
                return -EACCES, avd
            if node is not None:
                self.avc_update_node(requested, ssid, tsid, tclass)
        return 0, avd

    def avc_ss_reset(self, seqno: int) -> int:
        """Forget everything: policy ``seqno`` holds from now on. Return 0."""
        for slot in self.slots:
            for node in slot[:]:
                self._avc_node_delete(slot, node)
        self._avc_latest_notif_update(seqno, is_insert=False)
        return 0

    # nodes

    def avc_lookup(self, ssid: int, tsid: int, tclass: int, requested: int) -> AvcNode | None:
        """Find a node that has decided all that is requested."""
        self.stats.lookups += 1
        for node in self.slots[avc_hash(ssid, tsid, tclass)]:
            if node.matches(ssid, tsid, tclass):
                node.used = 1
                if node.avd.decided & requested == requested:
                    self.stats.hits += 1
                    return node
                break
        self.stats.misses += 1
        return None

    def avc_insert(self, ssid: int, tsid: int, tclass: int, avd: AvDecision) -> AvcNode | None:
        """Remember a decision; None if it follows from a policy that is over, or if there is no memory."""
        if self._avc_latest_notif_update(avd.seqno, is_insert=True):
            return None
        node = self.avc_alloc_node()
        if node is None:
            return None
        node.populate(ssid, tsid, tclass, avd)
        slot = self.slots[avc_hash(ssid, tsid, tclass)]
        for place, old in enumerate(slot):
            if old.matches(ssid, tsid, tclass):
                self._avc_node_replace(slot, place, node)
                return node
        slot.insert(0, node)
        return node

    def avc_update_node(self, perms: int, ssid: int, tsid: int, tclass: int) -> int:
        """Grant permissions in a remembered decision, by a new node in place of the old one: 0, -ENOMEM or -ENOENT."""
        node = self.avc_alloc_node()
        if node is None:
            return -ENOMEM
        slot = self.slots[avc_hash(ssid, tsid, tclass)]
        for place, old in enumerate(slot):
            if old.matches(ssid, tsid, tclass):
                node.populate(ssid, tsid, tclass, old.avd)
                node.avd.allowed |= perms
                self._avc_node_replace(slot, place, node)
                return 0
        self.active_nodes -= 1  # avc_node_kill(): nobody has seen it, so it needs no grace period
        self._free(node)
        return -ENOENT

    def avc_alloc_node(self) -> AvcNode | None:
        """Make an empty node, and make room if there are too many.

        Patch 12: also for who may use the reserve a node is not worth it; a miss costs time, a page of the reserve costs packets.
        """
        gfp = GFP_ATOMIC | _GFP_ZERO
        if self.patched.avc_nomemalloc:  # [p12]
            gfp |= _GFP_NOMEMALLOC
        addr = self.slub.kmem_cache_alloc(self.avc_node_cachep, gfp)
        if addr is None:
            return None
        self.stats.allocations += 1
        self.active_nodes += 1
        if self.active_nodes > self.threshold:
            self._avc_reclaim_node()
        return AvcNode(addr)

    def _avc_reclaim_node(self) -> None:
        """Delete up to AVC_CACHE_RECLAIM nodes, in one round over the slots at most."""
        reclaimed = 0
        for _ in range(AVC_CACHE_SLOTS):
            self.lru_hint = self.lru_hint + 1 & (AVC_CACHE_SLOTS - 1)
            slot = self.slots[self.lru_hint]
            for node in slot[:]:
                node.used -= 1
                if not node.used:
                    self._avc_node_delete(slot, node)
                    self.stats.reclaims += 1
                    reclaimed += 1
                    if reclaimed == AVC_CACHE_RECLAIM:
                        return

    def _avc_node_delete(self, slot: list[AvcNode], node: AvcNode) -> None:
        slot.remove(node)
        self._call_rcu(node)

    def _avc_node_replace(self, slot: list[AvcNode], place: int, new: AvcNode) -> None:
        old = slot[place]
        slot[place] = new
        self._call_rcu(old)

    def _call_rcu(self, node: AvcNode) -> None:
        """Free a node after a grace period (call_rcu()), which begins at the next tick, or when the running one is over."""
        self.active_nodes -= 1
        self._next.append(node)
        if not self._grace.pending:
            self.kernel.timers.mod_timer(self._grace, self.kernel.sched.jiffies + 1)

    def _avc_node_free(self, _data: object) -> None:
        for node in self._waiting:
            self._free(node)
        self._waiting, self._next = self._next, []
        if self._waiting:
            self.kernel.timers.mod_timer(self._grace, self.kernel.sched.jiffies + GRACE_PERIOD)

    def _free(self, node: AvcNode) -> None:
        self.slub.kmem_cache_free(self.avc_node_cachep, node.addr)
        self.stats.frees += 1

    def _avc_latest_notif_update(self, seqno: int, *, is_insert: bool) -> int:
        """Hear of a policy, or refuse what follows from an older one: 0 or -EAGAIN."""
        if not is_insert:
            self.latest_notif = max(self.latest_notif, seqno)
        elif seqno < self.latest_notif:
            self.kernel.printk(f"avc:  seqno {seqno} < latest_notif {self.latest_notif}", level="warning")
            return -EAGAIN
        return 0

    # for people

    def avc_get_hash_stats(self) -> str:
        """Give the text of /selinux/avc/hash_stats."""
        used = [len(slot) for slot in self.slots if slot]
        longest = max(used, default=0)
        return f"entries: {self.active_nodes}\nbuckets used: {len(used)}/{AVC_CACHE_SLOTS}\nlongest chain: {longest}\n"

    def check(self) -> None:
        """Assert the cache's invariants: nodes are counted, stand in their slot, once, and live in their slab cache."""
        listed = sum(len(slot) for slot in self.slots)
        dying = len(self._waiting) + len(self._next)
        if listed != self.active_nodes:
            raise KernelBug(f"avc: {listed} nodes in the slots, {self.active_nodes} are counted", self.stats)
        if self.stats.allocations - self.stats.frees != listed + dying:
            raise KernelBug(f"avc: {listed} nodes and {dying} dying ones, the counters say otherwise", self.stats)
        if self.stats.lookups != self.stats.hits + self.stats.misses:
            raise KernelBug("avc: lookups are not hits and misses", self.stats)
        for place, slot in enumerate(self.slots):
            keys = {(node.ssid, node.tsid, node.tclass) for node in slot}
            if len(keys) != len(slot) or any(avc_hash(*key) != place for key in keys):
                raise KernelBug(f"avc: slot {place} holds a node twice, or one of another slot", slot)
        if self.slub.objects_in_use(self.avc_node_cachep) != listed + dying:
            raise KernelBug("avc: nodes are lost", self.stats)
