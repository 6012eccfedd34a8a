"""Memory policies of tasks: which node's memory a request tries first, or is bound to (2.6.23 mm/mempolicy.c).

Interface
    * :class:`Mempolicy`; :func:`mpol_new`, which checks and makes one; :func:`zonelist_policy`.
    * ``task.mempolicy``: None for the default, the local node first.

Rules of this file
    * MPOL_BIND has a zonelist of its own: the highest zones of all its nodes, in the order of numbers, then the next lower ones. No
      distances count.
    * Lower zones are under no policy: a GFP_DMA request, or GFP_KERNEL on i386 with highmem, goes by the local node's list.
    * A list is made when a policy is made. Memory that comes to a zone later is seen, a zone that was empty then is not.
    * Left out: policies of a VMA (mbind) and of shared memory, migration of pages, rebinding when a cpuset changes, inheritance by
      fork.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from kemu.kernel.errno import EINVAL
from kemu.mm.mmzone import Node, Zone

MPOL_DEFAULT: Final = 0
MPOL_PREFERRED: Final = 1
MPOL_BIND: Final = 2
MPOL_INTERLEAVE: Final = 3


@attrs.define(eq=False)
class Mempolicy:
    """``struct mempolicy``.

    :param nodes: of PREFERRED the first counts; none means the local one.
    :ivar zonelist: of BIND; None until it is first asked for.
    :ivar il_next: of INTERLEAVE: place in ``nodes`` of the next allocation's node (the kernel has it in the task).
    """

    mode: int
    nodes: tuple[int, ...] = ()
    zonelist: list[Zone] | None = None
    il_next: int = 0

    def interleave_nodes(self) -> int:
        """Return the next node in turn."""
        nid = self.nodes[self.il_next]
        self.il_next = (self.il_next + 1) % len(self.nodes)
        return nid


def mpol_new(mode: int, wanted: Sequence[int], nodes: list[Node]) -> Mempolicy | int | None:
    """Check a policy and make it; None for the default, -EINVAL for one that cannot be (mpol_check_policy, mpol_new)."""
    known = [node.node_id for node in nodes if any(zone.present_pages for zone in node.zones)]
    mask = tuple(sorted(dict.fromkeys(wanted)))
    if any(nid not in known for nid in mask):
        return -EINVAL
    if mode == MPOL_DEFAULT:
        return -EINVAL if mask else None
    if mode == MPOL_PREFERRED:
        return Mempolicy(mode, mask[:1])
    if mode not in (MPOL_BIND, MPOL_INTERLEAVE) or not mask:
        return -EINVAL
    return Mempolicy(mode, mask, bind_zonelist(mask, nodes) if mode == MPOL_BIND else None)


def bind_zonelist(wanted: Sequence[int], nodes: list[Node]) -> list[Zone]:
    """Return the zones that MPOL_BIND allows, the highest of all nodes first (bind_zonelist)."""
    return [
        nodes[nid].zones[idx]
        for idx in range(len(nodes[0].zones) - 1, -1, -1)
        for nid in wanted
        if nodes[nid].zones[idx].present_pages
    ]
