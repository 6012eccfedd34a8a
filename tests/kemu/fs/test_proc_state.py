"""In any state every file says what the machine's own counters say, and reading changes nothing."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.machine import Machine, MachineConfig
from kemu.mm.gfp import GFP_ATOMIC, GFP_KERNEL
from kemu.mm.swap_header import mkswap_header
from swap_ground import Touch

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("page"), st.integers(0, 4)),
        st.tuples(st.just("free"), st.integers(0, 1 << 16)),
        st.tuples(st.just("kmalloc"), st.sampled_from([1, 8, 96, 100, 192, 512, 2048, 3000])),
        st.tuples(st.just("kfree"), st.integers(0, 1 << 16)),
        st.tuples(st.just("sysctl"), st.integers(100, 3000)),
        st.tuples(st.just("reserve"), st.integers(0, 200)),
        st.tuples(st.just("time"), st.integers(0, 50)),
    ),
    max_size=40,
)
CONFIGS = st.builds(
    MachineConfig,
    mem=st.sampled_from([8 << 20, 20 << 20]),
    cpus=st.integers(1, 3),
    nodes=st.integers(1, 2),
    patches=st.sampled_from(["all", "none", "all,-8", "all,-3"]),
    arch=st.sampled_from(["x86_64", "i386"]),
)


class Driver:
    """Does to a machine what a list of steps says, and undoes it."""

    def __init__(self, machine):
        self.machine = machine
        self.pages = []
        self.objects = []
        self.leaf = machine.reserves.mem_reserve_init("leaf", machine.reserves.root)

    def do(self, step, value):
        machine = self.machine
        if step == "page":
            page = machine.page_alloc.alloc_pages(GFP_ATOMIC | 0x200, value)
            if page is not None:
                self.pages.append((page, value))
        elif step == "free" and self.pages:
            page, order = self.pages.pop(value % len(self.pages))
            machine.page_alloc.free_pages(page, order)
        elif step == "kmalloc":
            address = machine.slub.kmalloc(value, GFP_KERNEL)
            if address is not None:
                self.objects.append(address)
        elif step == "kfree" and self.objects:
            machine.slub.kfree(self.objects.pop(value % len(self.objects)))
        elif step == "sysctl":
            assert machine.proc.write("/proc/sys/vm/min_free_kbytes", str(value)) == 0
        elif step == "reserve":
            machine.reserves.mem_reserve_pages_set(self.leaf, value)
        elif step == "time":
            machine.world.run(for_ns=value * 1_000_000)

    def undo(self):
        for page, order in self.pages:
            self.machine.page_alloc.free_pages(page, order)
        for address in self.objects:
            self.machine.slub.kfree(address)


def numbers(text):
    """Read ``Name: 12 kB`` and ``name 12`` lines."""
    return {match[1]: int(match[2]) for match in re.finditer(r"(?m)^ *(\w+):? +(\d+)(?: kB)?$", text)}


def check_meminfo(machine):
    found = numbers(machine.proc.read("/proc/meminfo"))
    vmstat = machine.vmstat
    assert found["MemTotal"] == machine.config.mem >> 10
    assert found["MemFree"] == machine.page_alloc.nr_free_pages() << 2
    assert found["Slab"] == vmstat.nr_slab << 2 == found["SReclaimable"] + found["SUnreclaim"]
    assert found["Active"] == vmstat.nr_active << 2
    assert found["SwapTotal"] == machine.swapfile.total_swap_pages << 2
    assert ("HighTotal" in found) == (machine.config.arch == "i386")


def check_zones(machine):
    text = machine.proc.read("/proc/zoneinfo")
    blocks = re.split(r"(?m)^(?=Node)", text)[1:]
    zones = [zone for zone in machine.page_alloc.zones if zone.present_pages]
    assert len(blocks) == len(zones)
    for block, zone in zip(blocks, zones, strict=True):
        emerg = zone.pages_emerg if machine.config.patches.emergency_pool else 0
        assert re.match(rf"Node {zone.node}, zone {zone.name:>8}\n  pages free     {zone.free_pages}\n", block)
        assert re.search(rf"\n        min      {zone.pages_min + emerg}\n        low      {zone.pages_low + emerg}\n", block)
        assert f"protection: ({', '.join(map(str, zone.lowmem_reserve))})" in block
        counts = [int(count) for count in re.findall(r"count: (\d+)", block)]
        assert sum(counts) == zone.pcp_pages and len(counts) == 2 * machine.config.cpus
    buddy = [line.split() for line in machine.proc.read("/proc/buddyinfo").splitlines()]
    assert [[int(word) for word in words[4:]] for words in buddy] == [zone.nr_free for zone in zones]


def check_slabs(machine):
    rows = [line.split() for line in machine.proc.read("/proc/slabinfo").splitlines()[2:]]
    caches = machine.slub.caches
    assert {row[0] for row in rows} <= set(caches)
    total = 0
    for row in rows:
        cache = caches[row[0]]
        in_use, objects, size, per_slab, pages = map(int, row[1:6])
        slabs = int(row[13])
        total += slabs * pages
        assert (size, per_slab, pages, objects) == (cache.size, cache.objects, 1 << cache.order, slabs * cache.objects)
        assert machine.slub.objects_in_use(cache) <= in_use <= objects
        folder = f"/sys/kernel/slab/{row[0]}/"
        values = {name: int(machine.proc.read(folder + name).split()[0]) for name in ("slabs", "partial", "cpu_slabs", "objects")}
        assert values["slabs"] == slabs == len(cache.slabs)
        assert values["partial"] + values["cpu_slabs"] <= slabs
        assert values["objects"] == sum(page.mapcount for page in cache.slabs.values())
    assert total == machine.vmstat.nr_slab


def check_rest(machine):
    found = numbers(machine.proc.read("/proc/vmstat"))
    assert found["nr_free_pages"] == machine.page_alloc.nr_free_pages()
    assert found["allocstall"] == machine.vmstat.allocstall
    for name in machine.kernel.sysctl.names():
        assert machine.proc.read("/proc/sys/" + name.replace(".", "/")) == machine.kernel.sysctl.read(name)


@settings(max_examples=30, deadline=None)
@given(config=CONFIGS, steps=STEPS)
def test_every_file_parses_back_to_the_counters_and_reading_changes_nothing(config, steps):
    with Machine(config) as machine:
        driver = Driver(machine)
        for step in steps:
            driver.do(*step)
        before = state(machine)
        texts = {path: machine.proc.read(path) for path in machine.proc.paths()}
        assert texts == {path: machine.proc.read(path) for path in machine.proc.paths()}
        assert state(machine) == before
        for check in (check_meminfo, check_zones, check_slabs, check_rest):
            check(machine)
        driver.undo()
        machine.check()


def state(machine):
    """What reading must not change."""
    zones = [(zone.free_pages, zone.nr_free, zone.pcp_pages) for zone in machine.page_alloc.zones]
    return (
        machine.world.history.hexdigest(),
        machine.world.clock,
        machine.vmstat.as_dict(),
        zones,
        len(machine.kernel.printk.buffer),
    )


@pytest.fixture
def swapping():
    with Machine(MachineConfig(mem=16 << 20)) as machine:
        disk = machine.add_disk("sda", 8 << 20)
        disk.blocks[0] = mkswap_header((8 << 20) // 4096)
        assert machine.swapfile.swapon(disk.open()) == 0
        machine.disk = disk
        yield machine
        machine.check()


def test_swaps_shows_a_partition_in_the_kernels_columns(swapping):
    size = swapping.swapfile.total_swap_pages << 2
    assert swapping.proc.read("/proc/swaps") == (
        f"Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n/dev/sda                                partition\t{size}\t0\t-1\n"
    )


def test_after_swapoff_the_area_is_gone(swapping):
    assert swapping.swapfile.swapoff(swapping.swapfile.areas[0].swap_file) == 0
    assert swapping.proc.read("/proc/swaps") == "Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n"
    assert numbers(swapping.proc.read("/proc/meminfo"))["SwapTotal"] == 0


def test_meminfo_counts_swap_and_the_pages_of_block_devices(swapping):
    found = numbers(swapping.proc.read("/proc/meminfo"))
    assert found["SwapTotal"] == found["SwapFree"] == swapping.swapfile.total_swap_pages << 2 > 8000
    assert found["Buffers"] == swapping.disk.mapping.nrpages << 2 > 0
    assert found["Cached"] == 0


def test_used_slots_are_used_kilobytes(swapping):
    swapping.swapfile.get_swap_page()
    entry = swapping.swapfile.get_swap_page()
    assert swapping.proc.read("/proc/swaps").splitlines()[1].split()[3] == "8"
    assert numbers(swapping.proc.read("/proc/meminfo"))["SwapFree"] == (swapping.swapfile.total_swap_pages - 2) << 2
    swapping.swapfile.swap_free(entry)


@pytest.mark.parametrize(("nodes", "cpus"), [(1, 1), (2, 2)])
def test_a_machine_in_the_middle_of_swapping(nodes, cpus):
    """Read everything again and again while pages go out and come in: the same run, to the last event, as without a reader."""
    histories = []
    for reader in (True, False):
        with Machine(MachineConfig(mem=8 << 20, nodes=nodes, cpus=cpus)) as machine:
            disk = machine.add_disk("sda", 32 << 20, latency_ns=200_000)
            disk.blocks[0] = mkswap_header((32 << 20) // 4096)
            assert machine.swapfile.swapon(disk.open()) == 0
            task = machine.processes.spawn("worker", Touch(3000, seed=1))
            for _ in range(20):
                machine.world.run(for_ns=100_000_000, until=lambda task=task: task.exit_code is not None)
                if reader:
                    for path in machine.proc.paths():
                        machine.proc.read(path)
                    for check in (check_meminfo, check_zones, check_slabs, check_rest, check_swap):
                        check(machine)
            histories.append((machine.world.history.hexdigest(), machine.world.now, machine.vmstat.pswpout))
    assert histories[0] == histories[1]
    assert histories[0][2] > 500


def check_swap(machine):
    lines = [line.split() for line in machine.proc.read("/proc/swaps").splitlines()[1:]]
    areas = [si for si in machine.swapfile.areas if si is not None]
    assert [int(line[3]) for line in lines] == [si.inuse_pages << 2 for si in areas]
    found = numbers(machine.proc.read("/proc/meminfo"))
    assert found["SwapTotal"] - found["SwapFree"] == sum(si.inuse_pages for si in areas) << 2
    assert found["SwapCached"] == machine.swap_state.swapper_space.nrpages << 2
    assert found["Buffers"] + found["Cached"] + found["SwapCached"] == machine.vmstat.nr_file_pages << 2
    zones = machine.proc.read("/proc/zoneinfo")
    for name in ("nr_active", "nr_inactive"):
        counts = [int(count) for count in re.findall(rf"{name} +(\d+)", zones)]
        assert sum(counts) == getattr(machine.vmstat, name)


def test_memory_that_is_added_is_there_and_so_is_the_hole_before_it():
    with Machine(MachineConfig(mem=64 << 20)) as machine:
        section = machine.memory_hotplug.section_pages
        for start in (4 * section, 6 * section):  # and a hole between
            assert machine.memory_hotplug.online_pages(0, start, section) == 0
        assert numbers(machine.proc.read("/proc/meminfo"))["MemTotal"] == (64 << 10) + 2 * (section << 2)
        block = machine.proc.read("/proc/zoneinfo").split("Node ")[-1]
        assert block.startswith("0, zone   NORMAL\n")
        assert f"        spanned  {3 * section}\n        present  {2 * section}\n" in block
        assert f"  start_pfn:         {4 * section}\n" in block
