"""Invariant 31a: swapon and swapoff leave every counter as it was, after a pressure that made every page travel."""

from __future__ import annotations

import pytest

from kemu.mm.page_io import SWAP_OPS
from kemu_lab.contents import Pattern
from kemu_lab.programs import CycleWriter
from nfs_ground import MIB, mounted

PAGES = 2000  # of 3072 that there are; 1356 are the reserve's


def counters(ground):
    """Everything that swapon changes and swapoff has to change back."""
    machine, stack = ground.machine, ground.stack
    reserves = machine.reserves
    nets = stack.net_reserves
    zones = machine.page_alloc.zones
    swapfile = machine.swapfile
    return {
        "memalloc_socks": nets.memalloc_socks,
        "root.pages": reserves.root.pages,
        "reserves": [(node.name, node.pages, node.limit, node.usage) for node in walk(reserves.root)],
        "var_free_kbytes": machine.page_alloc.var_free_kbytes,
        "pages_emerg": [zone.pages_emerg for zone in zones],
        "thresholds": [zone.thresholds for zone in zones],
        "nr_swap_pages": (swapfile.nr_swap_pages, swapfile.total_swap_pages),
        "areas": [si for si in swapfile.areas if si is not None],
        "i_flags": ground.mount.root.inode.i_flags,
        "sk_allocation": ground.mount.xprt.inet.sk_allocation,
        "swapper": ground.mount.xprt.swapper,
        "objects": {
            name: machine.slub.objects_in_use(machine.slub.caches[name]) for name in ("nfs_page", "nfs_write_data", "nfs_read_data")
        },
    }


def walk(node):
    yield node
    for child in node.children:
        yield from walk(child)


@pytest.mark.parametrize(("swap_ops", "proto"), list(zip(SWAP_OPS, ("tcp", "udp"), strict=True)))
def test_swapon_and_swapoff_restore_every_counter_when_every_page_has_travelled(swap_ops, proto):
    with mounted(mem=12 * MIB, swap_ops=swap_ops, proto=proto) as ground:
        machine = ground.machine
        file = ground.mount.make_swapfile("swap", 2 * PAGES)
        before = counters(ground)
        assert machine.swapfile.swapon(file) == 0
        during = counters(ground)
        assert during["memalloc_socks"] > before["memalloc_socks"]
        assert during["root.pages"] > before["root.pages"]
        out = []
        machine.page_io._count = _noting(machine.page_io._count, out)
        program = CycleWriter(PAGES, 2, Pattern(1), 1)
        worker = machine.processes.spawn("worker", program)
        ground.world.run(until=lambda: program.done or worker.exit_code is not None)
        assert worker.exit_code is None
        assert program.position == 2 * PAGES  # every page was written, and written again
        assert len(out) > PAGES  # and more of them went out than there are
        assert machine.vmstat.pswpin > PAGES // 2
        ground.sched.wake_up_process(worker)
        ground.world.run(until=lambda: worker.exit_code is not None)
        assert machine.swapfile.swapoff(file) == 0
        ground.wait_for_calls()
        assert counters(ground) == before
        assert machine.vmstat.lost_pages == 0
        assert ground.mount.close(file) == 0
        ground.check()


def _noting(count, out):
    def noted(kind, entry):
        out.append(entry)
        count(kind, entry)

    return noted
