"""Several nodes: which CPU and which memory belong to which, and in what order a request goes from node to node (NUMA).

Interface
    * :class:`Topology`: processors, distances; :func:`topology` makes one.
    * :func:`make_nodes`: memory split evenly over the nodes of a topology, each with its zones.
    * :func:`build_all_zonelists`: at boot, and when memory is added (2.6.23 mm/page_alloc.c).

Rules of this file
    * Lists are filled in place: who holds a zonelist sees memory that was added later.
    * Node order (all zones of a node, then the next node) keeps requests local. Zone order (the highest zone of all nodes, then the
      next lower one) keeps DMA for those who need it. 2.6.23 chooses by the share that zones below NORMAL have.
    * A node's first neighbour is the nearest; among equals one without CPUs, then the next higher number.
    * 2.6.23 clears node_load before each node's list, so its round robin has no effect: left out.
    * A request with __GFP_THISNODE takes the ordinary list and stops where the node changes, as in 2.6.23. (2.6.24 gives it lists
      of its own: they differ in zone order, and for a node that lacks the zone.)
    * Left out: numa_zonelist_order; the zonelist cache (zlc), a hint that does not change who is served in the end; nodes without
      memory; zone_reclaim_mode, which distances above 20 would set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from kemu.errors import ConfigError
from kemu.mm.gfp import GFP_ZONEMASK, PAGE_SHIFT
from kemu.mm.mmzone import Node, Zone, node_zones
from kemu.patches import PatchSet

MAX_NUMNODES: Final = 64  # x86_64: 1 << CONFIG_NODES_SHIFT
LOCAL_DISTANCE: Final = 10  # of the ACPI SLIT
REMOTE_DISTANCE: Final = 20
PENALTY_FOR_NODE_WITH_CPUS: Final = 1
_LARGE_SHARE: Final = 70  # per cent


@attrs.frozen
class Topology:
    """Which CPUs belong to which node, and how far the nodes are from each other.

    :ivar cpu_to_node: per CPU, its node.
    :ivar distances: per node, the distance to each node (node_distance()).
    """

    cpu_to_node: tuple[int, ...]
    distances: tuple[tuple[int, ...], ...]

    @property
    def nr_nodes(self) -> int:
        """The number of nodes, all online."""
        return len(self.distances)

    def node_to_cpus(self, node: int) -> tuple[int, ...]:
        """Return the CPUs of a node (node_to_cpumask)."""
        return tuple(cpu for cpu, home in enumerate(self.cpu_to_node) if home == node)


def topology(nodes: int, ncpus: int, distances: Sequence[Sequence[int]] | None = None) -> Topology:
    """Give each node a contiguous block of CPUs; with fewer CPUs than nodes some nodes have none.

    >>> topology(2, 4).cpu_to_node
    (0, 0, 1, 1)
    >>> topology(3, 1).node_to_cpus(2)
    ()
    """
    if not 1 <= nodes <= MAX_NUMNODES:
        raise ConfigError(f"nodes {nodes} cannot be used; it goes from 1 to {MAX_NUMNODES}")
    if distances is None:
        distances = [[LOCAL_DISTANCE if a == b else REMOTE_DISTANCE for b in range(nodes)] for a in range(nodes)]
    if len(distances) != nodes or any(len(row) != nodes for row in distances):
        raise ConfigError(f"distances: a table of {nodes} by {nodes} is needed")
    return Topology(tuple(cpu * nodes // ncpus for cpu in range(ncpus)), tuple(map(tuple, distances)))


def make_nodes(mem_bytes: int, arch: str, patched: PatchSet, topo: Topology) -> list[Node]:
    """Split memory evenly, in the order of addresses; what is left over is the last node's."""
    pages = mem_bytes >> PAGE_SHIFT
    share = pages // topo.nr_nodes
    if not share:
        raise ConfigError(f"memory of {mem_bytes} bytes is not enough for {topo.nr_nodes} nodes")
    nodes = []
    for nid in range(topo.nr_nodes):
        end = pages if nid == topo.nr_nodes - 1 else (nid + 1) * share
        nodes.append(Node(nid, node_zones(nid, nid * share, end, arch, patched), topo.node_to_cpus(nid)))
    return nodes


def build_all_zonelists(nodes: list[Node], topo: Topology) -> bool:
    """Fill every node's zonelists; tell whether they are in node order (build_all_zonelists)."""
    in_node_order = default_zonelist_order(nodes)
    for node in nodes:
        fallback = [nodes[nid] for nid in fallback_order(node.node_id, topo)]
        for modifiers in range(GFP_ZONEMASK + 1):
            highest = node.gfp_zone(modifiers)
            if in_node_order:
                zones = [zone for each in fallback for zone in each.populated(highest)]
            else:
                zones = [each.zones[idx] for idx in range(highest, -1, -1) for each in fallback if each.zones[idx].present_pages]
            node.zonelists[modifiers][:] = zones
    return in_node_order


def default_zonelist_order(nodes: list[Node]) -> bool:
    """Tell whether node order is better: no small zones below NORMAL, or they are most of memory (default_zonelist_order)."""
    low = sum(_low_pages(node) for node in nodes)
    total = sum(_present_pages(node) for node in nodes)
    if not low or low > total // 2:
        return True
    average = total // (len(nodes) + 1)
    for node in nodes:
        mine = _low_pages(node)
        if mine and _present_pages(node) > average and mine > _present_pages(node) * _LARGE_SHARE // 100:
            return True
    return False


def fallback_order(node: int, topo: Topology) -> list[int]:
    """Return all nodes in the order in which ``node`` falls back to them, itself first (find_next_best_node)."""
    order = [node]
    rest = [nid for nid in range(topo.nr_nodes) if nid != node]
    while rest:
        values = [
            topo.distances[node][nid] + (nid < node) + (PENALTY_FOR_NODE_WITH_CPUS if topo.node_to_cpus(nid) else 0) for nid in rest
        ]
        order.append(rest.pop(values.index(min(values))))
    return order


def policy_zone(nodes: list[Node]) -> int:
    """Return the index of the highest zone that any node has: requests for lower ones are under no policy (check_highest_zone)."""
    return max(zone.zone_idx for node in nodes for zone in node.zones if zone.present_pages)


def _low_pages(node: Node) -> int:
    return sum(zone.present_pages for zone in _below_normal(node))


def _below_normal(node: Node) -> list[Zone]:
    names = [zone.name for zone in node.zones]
    return node.zones[: names.index("NORMAL")]


def _present_pages(node: Node) -> int:
    return sum(zone.present_pages for zone in node.zones)
