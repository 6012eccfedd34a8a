"""The page allocator of a machine with several nodes (2.6.23 CONFIG_NUMA: mm/mempolicy.c: alloc_pages_current(), mm/page_alloc.c).

Interface
    * :class:`NumaPageAllocator`: as PageAllocator, and ``set_mempolicy(mode, nodes)``.

Rules of this file
    * A machine has this class or the plain one from boot on: with one node nothing here is asked.
    * A task's policy says which zonelist its requests get. Interrupts and __GFP_THISNODE have no policy: the local node's list.
    * A zonelist is then cut short: __GFP_THISNODE stops where the node changes, a cpuset leaves zones out.
    * Left out: NUMA counters (numa_hit and the like), draining the per-CPU lists of remote zones after three seconds of rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kemu.kernel.errno import EINVAL
from kemu.mm.cpuset import cpuset_zone_allowed_softwall
from kemu.mm.gfp import _GFP_THISNODE, ALLOC_CPUSET, GFP_ZONEMASK, MAX_ORDER, alloc_flags_t, gfp_t
from kemu.mm.mempolicy import MPOL_BIND, MPOL_INTERLEAVE, MPOL_PREFERRED, Mempolicy, bind_zonelist, mpol_new
from kemu.mm.mmzone import Zone
from kemu.mm.nodes import Topology, policy_zone
from kemu.mm.page import Page
from kemu.mm.page_alloc import PageAllocator
from kemu.mm.watermark import MARKS_2_6_23, MarksPolicy

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel


class NumaPageAllocator(PageAllocator):
    """All memory of a machine with several nodes."""

    def __init__(
        self, kernel: Kernel, mem_bytes: int, *, topo: Topology, arch: str = "x86_64", marks: MarksPolicy = MARKS_2_6_23
    ) -> None:
        super().__init__(kernel, mem_bytes, arch=arch, topo=topo, marks=marks)

    def numa_node_id(self) -> int:
        """Return the node of the running CPU."""
        return self.topology.cpu_to_node[self.sched.cpu.id]

    def alloc_pages(self, gfp: gfp_t, order: int = 0) -> Page | None:
        """Return 2**order pages from where the task's policy says, or None for NULL (alloc_pages_current)."""
        if not 0 <= order < MAX_ORDER:
            return None
        policy = self.sched.current.mempolicy
        if policy is None or gfp & _GFP_THISNODE or self.sched.in_interrupt():
            zonelist = self.nodes[self.numa_node_id()].zonelists[gfp & GFP_ZONEMASK]
        else:
            zonelist = self.zonelist_policy(gfp, policy)
        return self._alloc_from(gfp, order, zonelist)

    def zonelist_policy(self, gfp: gfp_t, policy: Mempolicy) -> list[Zone]:
        """Return the zonelist that a policy gives to a request (zonelist_policy, alloc_page_interleave)."""
        nid = self.numa_node_id()
        if policy.mode == MPOL_BIND:
            if self.nodes[0].gfp_zone(gfp) >= policy_zone(self.nodes):
                if policy.zonelist is None:
                    policy.zonelist = bind_zonelist(policy.nodes, self.nodes)
                if self._cpuset_zonelist_valid(policy.zonelist):
                    return policy.zonelist
        elif policy.mode == MPOL_INTERLEAVE:
            nid = policy.interleave_nodes()
        elif policy.mode == MPOL_PREFERRED and policy.nodes:
            nid = policy.nodes[0]
        return self.nodes[nid].zonelists[gfp & GFP_ZONEMASK]

    def _cpuset_zonelist_valid(self, zonelist: list[Zone]) -> bool:
        """Tell whether the cpuset leaves anything of a list (cpuset_zonelist_valid_mems_allowed)."""
        mems_allowed = self.sched.current.mems_allowed
        return mems_allowed is None or any(zone.node in mems_allowed for zone in zonelist)

    def set_mempolicy(self, mode: int, nodes: Sequence[int]) -> int:
        """Give current a policy; 0 or -EINVAL (do_set_mempolicy)."""
        task = self.sched.current
        if task.mems_allowed is not None and any(nid not in task.mems_allowed for nid in nodes):
            return -EINVAL
        policy = mpol_new(mode, nodes, self.nodes)
        if isinstance(policy, int):
            return policy
        task.mempolicy = policy
        return 0

    def _zones_to_try(self, zonelist: list[Zone], gfp: gfp_t, alloc_flags: alloc_flags_t) -> list[Zone]:
        """Return what __GFP_THISNODE and the cpuset leave of a zonelist (get_page_from_freelist)."""
        zones = zonelist
        if gfp & _GFP_THISNODE:
            home = zonelist[0].node
            end = next((place for place, zone in enumerate(zonelist) if zone.node != home), len(zonelist))
            zones = zonelist[:end]  # in zone order a node may come again later: the scan has stopped by then
        if alloc_flags & ALLOC_CPUSET and self.sched.current.mems_allowed is not None:
            sched = self.sched
            zones = [zone for zone in zones if cpuset_zone_allowed_softwall(sched, zone.node, gfp)]
        return zones
