"""Two nodes under pressure: a process that is bound to one of them swaps, and the other is left alone."""

from __future__ import annotations

import pytest

from kemu import Machine, MachineConfig
from kemu.mm.mempolicy import MPOL_BIND, Mempolicy
from kemu.mm.swap_header import mkswap_header

MIB = 1 << 20
PAGE = 4096
SWAP = 16 * MIB
PAGES = 3600  # more than the 3072 of one node, less than memory


class WriteAndRead:
    """Write a word of its own into each page, then read each of them: the shadow compares."""

    def __init__(self, pages):
        self.pages, self.place = pages, -1

    def step(self):
        self.place += 1
        if self.place == 0:
            return "grow", self.pages
        vpn = self.place - 1
        if vpn < self.pages:
            return "write", vpn, vpn.to_bytes(4, "big")
        if vpn < 2 * self.pages:
            return "read", vpn - self.pages
        return None


def run(policy, nodes=2):
    """Run the process to its end; return the machine and what is to be seen there."""
    with Machine(MachineConfig(mem=24 * MIB, cpus=2, nodes=nodes)) as machine:
        disk = machine.add_disk("sda", SWAP, latency_ns=100_000)
        disk.blocks[0] = mkswap_header(SWAP // PAGE)
        assert machine.swapfile.swapon(disk.open()) == 0
        machine.kernel.trace.enable("vmscan:mm_vmscan_kswapd_wake")
        before = machine.page_alloc.allocated_pages()
        task = machine.processes.spawn("bound", WriteAndRead(PAGES))
        task.mempolicy = policy
        low = [machine.page_alloc.nr_free_pages() for _ in machine.page_alloc.nodes]
        sched = machine.kernel.sched
        while task.exit_code is None:
            sched.schedule_timeout(1)
            for nid, node in enumerate(machine.page_alloc.nodes):
                low[nid] = min(low[nid], sum(zone.free_pages + zone.pcp_pages for zone in node.zones))
        sched.join(task)
        assert task.exit_code == 0 and machine.vmstat.lost_pages == 0 and machine.vmstat.oom_kills == 0
        machine.check()
        woken = {fields["nid"] for _, fields in machine.kernel.trace.events()}
        left = machine.page_alloc.allocated_pages() - before
        return {"pswpout": machine.vmstat.pswpout, "woken": woken, "low": low, "left": left}


def test_a_bound_process_swaps_on_its_node_alone():
    seen = run(Mempolicy(MPOL_BIND, (1,)))
    assert seen["pswpout"] > PAGES - 3072
    assert seen["woken"] == {1} and seen["low"][0] > 2000 and seen["low"][1] < 300
    assert seen["left"] < 400  # slab pages, and what the disk keeps


@pytest.mark.parametrize("nodes", [1, 2])
def test_without_a_policy_all_memory_is_used_and_nothing_is_swapped(nodes):
    seen = run(None, nodes)
    assert seen["pswpout"] == 0 and seen["left"] < 400
