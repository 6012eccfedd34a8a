"""The formats of /proc, column by column, as 2.6.24 prints them (fs/proc/proc_misc.c, mm/vmstat.c, mm/slub.c, mm/swapfile.c)."""

from __future__ import annotations

import pytest

from kemu.machine import Machine, MachineConfig
from kemu.mm.address_space import AddressSpace, File, Inode
from kemu.mm.gfp import GFP_KERNEL
from kemu.mm.swap_info import SWP_ACTIVE, SwapInfo
from kemu.mm.swap_map import SwapMap

MEMINFO = """\
MemTotal:        20480 kB
MemFree:         20440 kB
Buffers:             0 kB
Cached:              0 kB
SwapCached:          0 kB
Active:              0 kB
Inactive:            0 kB
SwapTotal:           0 kB
SwapFree:            0 kB
Dirty:               0 kB
Writeback:           0 kB
AnonPages:           0 kB
Mapped:              0 kB
Slab:                8 kB
SReclaimable:        0 kB
SUnreclaim:          8 kB
NFS_Unstable:        0 kB
CommitLimit:     10240 kB
Committed_AS:        0 kB
"""

HIGHMEM = """\
HighTotal:      131072 kB
HighFree:       131072 kB
LowTotal:       917504 kB
LowFree:        917504 kB
"""

ZONE = """\
Node 0, zone    DMA32
  pages free     1014
        min      27
        low      33
        high     40
        scanned  3 (a: 1 i: 2)
        spanned  1024
        present  1024
    nr_free_pages 1014
    nr_inactive  0
    nr_active    0
        protection: (0, 0, 0)
  pagesets
    cpu: 0 pcp: 0
              count: 0
              high:  0
              batch: 1
    cpu: 0 pcp: 1
              count: 0
              high:  0
              batch: 1
  all_unreclaimable: 0
  prev_priority:     12
  start_pfn:         4096
"""

BUDDYINFO = """\
Node 0, zone      DMA      0      0      0      0      0      0      0      0      0      0      4 
Node 0, zone    DMA32      0      1      1      0      1      1      1      1      1      1      0 
"""  # noqa: W291  # the kernel ends each line with a space

SLABINFO = """\
slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> <batchcount> <sharedfactor> \
: slabdata <active_slabs> <num_slabs> <sharedavail>
kmalloc-2048           4      4   2048    4    2 : tunables    0    0    0 : slabdata      1      1      0
"""


VMSTAT_NAMES = (
    "nr_free_pages nr_inactive nr_active nr_anon_pages nr_mapped nr_file_pages nr_dirty nr_writeback nr_slab_reclaimable "
    "nr_slab_unreclaimable nr_unstable pgpgin pgpgout pswpin pswpout pgfree pgactivate pgdeactivate pgfault pgmajfault "
    "slabs_scanned kswapd_steal pageoutrun allocstall pgrotated"
)


@pytest.fixture
def machine():
    with Machine(MachineConfig(mem=20 << 20)) as machine:
        yield machine


@pytest.fixture
def used(machine):
    """A machine that holds eight pages and an object of 2 KiB."""
    machine.page_alloc.alloc_pages(GFP_KERNEL, 3)
    machine.slub.kmalloc(2048, GFP_KERNEL)
    return machine


def test_meminfo(used):
    assert used.proc.read("/proc/meminfo") == MEMINFO


def test_meminfo_of_a_machine_with_high_memory():
    with Machine(MachineConfig(mem=1 << 30, arch="i386")) as machine:
        text = machine.proc.read("/proc/meminfo")
        assert text.split("Inactive:            0 kB\n")[1].startswith(HIGHMEM + "SwapTotal:")


def test_zoneinfo(used):
    zone = next(zone for zone in used.page_alloc.zones if zone.name == "DMA32")
    zone.pages_scanned, zone.nr_scan_active, zone.nr_scan_inactive = 3, 1, 2
    blocks = used.proc.read("/proc/zoneinfo").split("Node ")
    assert "Node " + blocks[2] == ZONE.replace("min      27", f"min      {zone.pages_min}").replace(
        "low      33", f"low      {zone.pages_low}"
    ).replace("high     40", f"high     {zone.pages_high}")
    assert len(blocks) == 3


def test_buddyinfo(used):
    assert used.proc.read("/proc/buddyinfo") == BUDDYINFO


def test_slabinfo(used):
    lines = used.proc.read("/proc/slabinfo").splitlines(keepends=True)
    assert "".join(line for line in lines if not line.startswith("radix_tree_node"))[: len(SLABINFO)] == SLABINFO


def test_slabinfo_names_the_newest_cache_first(machine):
    machine.slub.kmem_cache_create("a_name_that_is_longer_than_its_column", 40)
    assert machine.proc.read("/proc/slabinfo").splitlines()[2].startswith("a_name_that_is_longer_than_its_column      0      0 ")


def test_vmstat_names_are_the_kernels_in_the_kernels_order(machine):
    names = [line.split()[0] for line in machine.proc.read("/proc/vmstat").splitlines()]
    assert " ".join(names) == VMSTAT_NAMES


def test_vmstat_values(used):
    counters = used.vmstat
    counters.pswpin, counters.pgfault, counters.nr_file_mapped = 5, 6, 7
    text = used.proc.read("/proc/vmstat")
    for line in ("nr_free_pages 5110", "nr_slab_unreclaimable 2", "pswpin 5", "pgfault 6", "nr_mapped 7"):
        assert f"{line}\n" in text


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/swap", "/swap                                   file\t\t"),
        ("/a b\\c\td", "/a\\040b\\134c\\011d                       file\t\t"),
        ("/" + "x" * 45, "/" + "x" * 45 + " file\t\t"),
    ],
)
def test_a_swap_file_in_swaps(machine, path, shown):
    inode = Inode(ino=3, size=64 << 12)
    file = File(inode, AddressSpace(inode, None), f_path=path)
    area = SwapInfo(0, swap_file=file, bdev=None)
    area.map, area.flags, area.prio = SwapMap(64), SWP_ACTIVE, -1
    area.map.scan()
    machine.swapfile.areas.append(area)
    assert machine.proc.read("/proc/swaps").splitlines()[1] == f"{shown}{63 * 4}\t4\t-1"
    machine.swapfile.areas.clear()


def test_sys_values_are_lines(used):
    folder = "/sys/kernel/slab/kmalloc-2048/"
    values = {name: used.proc.read(folder + name) for name in ("object_size", "slab_size", "objs_per_slab", "order", "min_partial")}
    assert values == {
        "object_size": "2048\n",
        "slab_size": "2048\n",
        "objs_per_slab": "4\n",
        "order": "1\n",
        "min_partial": f"{used.slub.caches['kmalloc-2048'].min_partial}\n",
    }
    assert [used.proc.read(folder + name) for name in ("slabs", "cpu_slabs", "partial", "objects")] == ["1\n", "1\n", "0\n", "4\n"]


def test_no_cpu_partial_in_a_kernel_of_2007(machine):
    assert not [path for path in machine.proc.paths() if path.endswith("/cpu_partial")]


def test_a_later_geometry_has_one():
    """52 and 120 objects, as 6.1 has them for 256 and 64 bytes."""
    with Machine(MachineConfig(mem=20 << 20, geometry="6.1")) as machine:
        shown = {size: machine.proc.read(f"/sys/kernel/slab/kmalloc-{size}/cpu_partial") for size in (64, 256)}
        assert shown == {64: "120\n", 256: "52\n"}
        assert machine.proc.read("/sys/kernel/slab/kmalloc-64/min_partial") == "5\n"


def test_with_several_nodes_counts_are_split():
    with Machine(MachineConfig(mem=32 << 20, cpus=2, nodes=2)) as two:
        two.slub.kmalloc(64, GFP_KERNEL)
        assert two.proc.read("/sys/kernel/slab/kmalloc-64/slabs") == "1 N0=1\n"
        assert two.proc.read("/sys/kernel/slab/kmalloc-64/partial") == "0\n"
        starts = [line for line in two.proc.read("/proc/buddyinfo").splitlines() if line.startswith("Node 1, zone")]
        assert len(starts) == 1


def test_a_rationed_slab_counts_as_full(machine):
    """The CPU forgets whose node a slab is that it may only hand out singly, and so does the count of cpu slabs."""
    slub = machine.slub
    slub.kmalloc(64, GFP_KERNEL)
    cache = slub.caches["kmalloc-64"]
    assert machine.proc.read("/sys/kernel/slab/kmalloc-64/cpu_slabs") == "1\n"
    cache.cpu_slab[0].node = -1
    assert machine.proc.read("/sys/kernel/slab/kmalloc-64/cpu_slabs") == "0\n"
    assert machine.proc.read("/sys/kernel/slab/kmalloc-64/slabs") == "1\n"
