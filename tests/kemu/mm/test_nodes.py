"""Several nodes: who belongs where, and in what order a request goes from node to node."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu import Machine, MachineConfig
from kemu.errors import ConfigError
from kemu.mm import gfp as g
from kemu.mm.nodes import build_all_zonelists, default_zonelist_order, fallback_order, make_nodes, policy_zone, topology
from kemu.patches import PatchSet
from mm_ground import MIB, ground

GIB = 1 << 30


def nodes_of(mem, nodes, arch="x86_64", ncpus=1, distances=None):
    topo = topology(nodes, ncpus, distances)
    made = make_nodes(mem, arch, PatchSet.all(), topo)
    build_all_zonelists(made, topo)
    return made


def zones(node):
    return [(zone.name, zone.present_pages * 4 // 1024) for zone in node.zones if zone.present_pages]


def names(zonelist):
    return [f"{zone.node}:{zone.name}" for zone in zonelist]


# who belongs where


@pytest.mark.parametrize(
    ("nodes", "ncpus", "homes"),
    [(1, 4, (0, 0, 0, 0)), (2, 4, (0, 0, 1, 1)), (2, 3, (0, 0, 1)), (4, 2, (0, 2)), (3, 1, (0,))],
)
def test_cpus_go_to_nodes_in_contiguous_blocks(nodes, ncpus, homes):
    assert topology(nodes, ncpus).cpu_to_node == homes


@pytest.mark.parametrize("nodes", [0, 65, -1])
def test_the_number_of_nodes_has_limits(nodes):
    with pytest.raises(ConfigError, match="1 to 64"):
        topology(nodes, 1)


@pytest.mark.parametrize("distances", [[[10]], [[10, 20], [20]], [[10, 20, 30]] * 2])
def test_distances_are_a_square_table(distances):
    with pytest.raises(ConfigError, match="2 by 2"):
        topology(2, 1, distances)


@pytest.mark.parametrize(
    ("arch", "mem", "nodes", "expected"),
    [
        ("x86_64", 64 * MIB, 2, [[("DMA", 16), ("DMA32", 16)], [("DMA32", 32)]]),
        ("x86_64", 8 * GIB, 2, [[("DMA", 16), ("DMA32", 4080)], [("NORMAL", 4096)]]),
        ("x86_64", 12 * GIB, 2, [[("DMA", 16), ("DMA32", 4080), ("NORMAL", 2048)], [("NORMAL", 6144)]]),
        ("i386", 2 * GIB, 2, [[("DMA", 16), ("NORMAL", 880), ("HIGHMEM", 128)], [("HIGHMEM", 1024)]]),
        ("i386", 1 * GIB, 2, [[("DMA", 16), ("NORMAL", 496)], [("NORMAL", 384), ("HIGHMEM", 128)]]),
        ("x86_64", 24 * MIB, 3, [[("DMA", 8)], [("DMA", 8)], [("DMA32", 8)]]),
    ],
)
def test_memory_is_split_evenly_and_cut_by_address(arch, mem, nodes, expected):
    assert [zones(node) for node in nodes_of(mem, nodes, arch)] == expected


def test_what_cannot_be_divided_is_the_last_nodes():
    assert [sum(zone.present_pages for zone in node.zones) for node in nodes_of(4096 * 1001, 3)] == [333, 333, 335]


def test_a_node_without_a_page_is_refused():
    with pytest.raises(ConfigError, match="not enough for 3 nodes"):
        nodes_of(8192, 3)


# the order of nodes


def test_among_equals_the_next_higher_number_comes_first():
    topo = topology(4, 4)
    assert [fallback_order(nid, topo) for nid in range(4)] == [[0, 1, 2, 3], [1, 2, 3, 0], [2, 3, 0, 1], [3, 0, 1, 2]]


def test_the_nearest_comes_first():
    ring = [[10, 20, 30, 20], [20, 10, 20, 30], [30, 20, 10, 20], [20, 30, 20, 10]]
    assert fallback_order(0, topology(4, 4, ring)) == [0, 1, 3, 2]
    assert fallback_order(2, topology(4, 4, ring)) == [2, 3, 1, 0]


def test_among_equals_a_node_without_cpus_comes_first():
    assert fallback_order(0, topology(4, 2)) == [0, 1, 3, 2]  # CPUs on 0 and 2


def test_a_penalty_is_smaller_than_a_distance():
    """Node 1 has no CPU, but it is farther."""
    distances = [[10, 22, 20, 22], [22, 10, 22, 22], [20, 22, 10, 22], [22, 22, 22, 10]]
    assert fallback_order(0, topology(4, 2, distances)) == [0, 2, 1, 3]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.data())
def test_every_node_is_once_on_every_list_and_the_first_on_its_own(nodes, ncpus, data):
    row = st.lists(st.integers(11, 99), min_size=nodes, max_size=nodes)
    topo = topology(nodes, ncpus, data.draw(st.lists(row, min_size=nodes, max_size=nodes)))
    for nid in range(nodes):
        order = fallback_order(nid, topo)
        assert order[0] == nid and sorted(order) == list(range(nodes))
        far = [topo.distances[nid][other] for other in order[1:]]
        assert all(a <= b + 2 for a, b in pairwise(far))  # the two penalties are 1 each


# node order or zone order


@pytest.mark.parametrize(
    ("arch", "mem", "nodes", "node_order"),
    [
        ("x86_64", 64 * MIB, 2, True),  # all below NORMAL
        ("x86_64", 8 * GIB, 2, True),  # node 0 is all below NORMAL, and not small
        ("x86_64", 16 * GIB, 2, False),  # half of node 0
        ("x86_64", 16 * GIB, 4, True),  # all of node 0, 4 of 16 GiB, more than a fifth
        ("x86_64", 64 * GIB, 16, True),
        ("i386", 2 * GIB, 2, False),  # 16 MiB of DMA
    ],
)
def test_small_low_zones_are_spared_by_zone_order(arch, mem, nodes, node_order):
    assert default_zonelist_order(nodes_of(mem, nodes, arch)) == node_order


def test_node_order_goes_through_a_node_before_it_goes_on():
    first, second = nodes_of(64 * MIB, 2, ncpus=2)
    assert names(first.zonelists[0]) == ["0:DMA32", "0:DMA", "1:DMA32"]
    assert names(second.zonelists[0]) == ["1:DMA32", "0:DMA32", "0:DMA"]


def test_zone_order_goes_through_all_nodes_before_it_goes_down():
    first, second = nodes_of(16 * GIB, 2, ncpus=2)
    assert names(first.zonelists[0]) == ["0:NORMAL", "1:NORMAL", "0:DMA32", "0:DMA"]
    assert names(second.zonelists[0]) == ["1:NORMAL", "0:NORMAL", "0:DMA32", "0:DMA"]


def test_each_modifier_has_its_list():
    second = nodes_of(2 * GIB, 2, "i386", ncpus=2)[1]
    assert names(second.zonelists[g._GFP_HIGHMEM]) == ["1:HIGHMEM", "0:HIGHMEM", "0:NORMAL", "0:DMA"]
    assert names(second.zonelists[0]) == ["0:NORMAL", "0:DMA"]
    assert names(second.zonelists[g._GFP_DMA]) == ["0:DMA"]
    assert names(second.zonelists[g._GFP_DMA32]) == ["0:NORMAL", "0:DMA"]  # i386 has no such zone


@pytest.mark.parametrize(("arch", "mem", "zone"), [("x86_64", 64 * MIB, 1), ("x86_64", 8 * GIB, 2), ("i386", 2 * GIB, 2)])
def test_the_policy_zone_is_the_highest_that_there_is(arch, mem, zone):
    assert policy_zone(nodes_of(mem, 2, arch)) == zone


# marks


def test_marks_are_shares_of_all_nodes_memory():
    with ground(64 * MIB, nodes=2, ncpus=2) as machine:
        assert machine.pa.min_free_kbytes == 1024
        assert [(zone.node, zone.name, zone.pages_min) for zone in machine.pa.zones if zone.present_pages] == [
            (0, "DMA", 64),
            (0, "DMA32", 64),
            (1, "DMA32", 128),
        ]


def test_lowmem_reserve_counts_the_own_nodes_memory_alone():
    with ground(64 * MIB, nodes=2) as machine:
        assert machine.pa.nodes[0].zones[0].lowmem_reserve == [0, 4096 // 256, 4096 // 256]


def test_totalreserve_pages_is_the_sum_of_all_nodes():
    with ground(64 * MIB, nodes=2) as machine:
        assert machine.pa.totalreserve_pages == (16 + 96) + 96 + 192


def test_one_ratio_holds_for_the_zones_of_all_nodes():
    with ground(48 * MIB, nodes=3, arch="i386") as machine:
        assert machine.kernel.sysctl.write("vm.lowmem_reserve_ratio", "32 32 32") == 0
        assert [node.zones[0].lowmem_reserve for node in machine.pa.nodes] == [[0, 0, 0]] * 3
    with ground(64 * MIB, nodes=2, arch="i386") as machine:
        assert machine.kernel.sysctl.write("vm.lowmem_reserve_ratio", "32 32 32") == 0
        assert machine.pa.nodes[0].zones[0].lowmem_reserve == [0, 128, 128]


@pytest.mark.parametrize("cpu", [0, 1])
def test_buffers_are_counted_from_the_local_nodes_list(cpu):
    """Memory that a node's list does not reach would not count; all lists reach all of it."""
    with ground(64 * MIB, nodes=2, ncpus=2) as machine:
        machine.pa.numa_node_id = lambda: cpu
        assert machine.pa.nr_free_buffer_pages() == 16384 - 96 - 96 - 192


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(6, 300), st.sampled_from(["x86_64", "i386"]))
def test_no_page_is_lost_between_nodes(nodes, mib, arch):
    with ground(mib * MIB, nodes=nodes, arch=arch) as machine:
        pa = machine.pa
        assert sum(zone.present_pages for zone in pa.zones) == pa.nr_free_pages() == pa.total_pages == mib * 256
        assert all(
            pa.page_zone(pfn) is zone for zone in pa.zones if zone.present_pages for pfn in (zone.start_pfn, zone.end_pfn - 1)
        )
        assert sum(zone.pages_min for zone in pa.zones if not zone.highmem) <= pa.min_free_kbytes // 4
        pa.check()


# pages and lists of other nodes


def test_a_request_falls_back_to_the_next_node():
    with ground(64 * MIB, nodes=2, ncpus=2) as machine:
        machine.starve_node(0)
        assert machine.pa.alloc_page(g.GFP_KERNEL).zone.node == 1


def test_each_cpu_has_lists_of_remote_zones_too_and_drains_them():
    with ground(256 * MIB, nodes=2, ncpus=2) as machine:
        zone = machine.pa.nodes[1].zones[1]
        page = machine.pa.alloc_pages_node(1, g.GFP_KERNEL)
        machine.pa.free_pages(page)
        assert page.zone is zone and len(zone.hot[0].pages) == zone.hot[0].batch and not zone.hot[1].pages
        machine.pa.drain_pages(1)
        assert zone.pcp_pages
        machine.pa.drain_pages(0)
        assert not zone.pcp_pages and machine.pa.nr_free_pages() == machine.pa.total_pages
        machine.pa.check()


def test_requests_for_a_node_only_stop_where_the_node_changes():
    with ground(64 * MIB, nodes=2, ncpus=2) as machine:
        machine.starve_node(1)
        assert machine.pa.alloc_pages_node(1, g.GFP_ATOMIC | g._GFP_THISNODE | g._GFP_NOWARN) is None
        assert machine.pa.alloc_pages_node(1, g.GFP_ATOMIC).zone.node == 0


def test_a_request_for_a_node_only_may_have_all_its_zones():
    with ground(64 * MIB, nodes=2, ncpus=2) as machine:
        machine.hold(0, "DMA32")
        assert machine.pa.alloc_pages_node(0, g.GFP_ATOMIC | g._GFP_THISNODE).zone.name == "DMA"


def test_with_all_three_bits_it_gives_up_before_kswapd_is_woken():
    with ground(64 * MIB, nodes=2, ncpus=2) as machine:
        machine.starve_node(1)
        reclaim = machine.script()
        assert machine.pa.alloc_pages_node(1, g.GFP_KERNEL | g.GFP_THISNODE) is None
        assert reclaim.calls == []
        assert machine.pa.alloc_pages_node(1, g.GFP_KERNEL | g._GFP_THISNODE | g._GFP_NORETRY) is None
        assert "reclaim" in reclaim.calls


def test_a_request_wakes_the_kswapd_of_every_zone_of_its_list():
    with ground(64 * MIB, nodes=2, ncpus=2) as machine:
        for node in (0, 1):
            machine.starve_node(node)
        woken = []
        machine.script().wakeup_kswapd = lambda zone, _order: woken.append((zone.node, zone.name))
        machine.pa.alloc_pages_node(1, g.GFP_ATOMIC | g._GFP_NOWARN)
        assert woken == [(1, "DMA32"), (0, "DMA32"), (0, "DMA")]


# machines


def test_a_machine_has_a_kswapd_per_node_on_a_cpu_of_that_node():
    with Machine(MachineConfig(mem=64 * MIB, cpus=4, nodes=2)) as machine:
        tasks = {task.comm: task for task in machine.kernel.sched.tasks.values()}
        assert [tasks[f"kswapd{nid}"].cpu.id for nid in (0, 1)] == [0, 2] and "kswapd2" not in tasks
        machine.check()


def test_only_the_kswapd_of_the_low_node_is_woken():
    with Machine(MachineConfig(mem=64 * MIB, cpus=2, nodes=2)) as machine:
        first, second = machine.reclaim.kswapds
        zone = second.node.zones[1]
        pages = []
        machine.kernel.sched.schedule_timeout(5)  # both go to sleep
        while zone.free_pages > zone.pages_low:
            pages.append(machine.page_alloc.alloc_pages_node(1, g.GFP_ATOMIC | g._GFP_THISNODE))
        machine.kernel.trace.enable("vmscan:mm_vmscan_kswapd_wake")
        machine.reclaim.wakeup_kswapd(zone, 0)
        assert [fields["nid"] for _, fields in machine.kernel.trace.events()] == [1]
        assert second.wanted and not first.wanted
        for page in pages:
            machine.page_alloc.free_pages(page)
        machine.kernel.sched.schedule_timeout(5)
        machine.check()


@pytest.mark.parametrize(("nodes", "mem"), [(0, 64), (65, 128), (3, 2), (64, 63)])
def test_a_machine_refuses_nodes_that_cannot_be(nodes, mem):
    with pytest.raises(ConfigError, match="nodes"):
        MachineConfig(mem=mem * MIB, nodes=nodes)


def test_numa_node_id_is_that_of_the_running_cpu():
    with Machine(MachineConfig(mem=64 * MIB, cpus=2, nodes=2)) as machine:
        seen = []
        for _ in range(2):
            task = machine.kernel.sched.spawn("asks", lambda: seen.append(machine.page_alloc.numa_node_id()), start=False)
            task.cpu, task.bound = machine.kernel.cpus[len(seen) % 2], True
            machine.kernel.sched.wake_up_process(task)
            machine.kernel.sched.join(task)
        assert seen == [0, 1]


def test_a_mixin_for_the_allocator_stands_before_that_of_several_nodes_too():
    from kemu.mm.page_alloc import PageAllocator

    class Counting:
        asked = 0

        def alloc_pages(self, gfp, order=0):
            type(self).asked += 1
            return super().alloc_pages(gfp, order)

    with Machine(MachineConfig(mem=64 * MIB, nodes=2, overrides={PageAllocator: Counting})) as machine:
        before = machine.page_alloc.asked
        machine.page_alloc.free_pages(machine.page_alloc.alloc_page(g.GFP_KERNEL))
        assert machine.page_alloc.asked == before + 1 and machine.page_alloc.numa
