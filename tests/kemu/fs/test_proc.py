"""/proc and /sys as a tree of files: names, modes, reading and writing."""

from __future__ import annotations

import pytest

from kemu.errors import ConfigError, KernelBug
from kemu.kernel.errno import EACCES, EINVAL, EISDIR, ENOENT, ENOTDIR
from kemu.machine import Machine, MachineConfig
from kemu.mm.gfp import GFP_KERNEL


@pytest.fixture
def machine():
    with Machine(MachineConfig(mem=16 << 20, cpus=2)) as machine:
        yield machine
        machine.check()


@pytest.fixture
def proc(machine):
    return machine.proc


def test_all_files_can_be_read(proc):
    for path in proc.paths():
        assert isinstance(proc.read(path), str)
        assert proc.mode(path) in (0o400, 0o444, 0o644)


def test_names_are_sorted_and_there_is_one_of_each(proc):
    paths = proc.paths()
    assert paths == sorted(set(paths))
    for name in ("meminfo", "zoneinfo", "buddyinfo", "slabinfo", "vmstat", "swaps", "reserve_info", "sys/vm/min_free_kbytes"):
        assert f"/proc/{name}" in paths
    assert "/sys/kernel/slab/kmalloc-64/order" in paths


def test_what_is_not_modelled_is_absent(proc):
    for name in ("pagetypeinfo", "loadavg", "version", "cpuinfo"):
        assert f"/proc/{name}" not in proc.paths()


def test_a_variable_is_a_file(machine, proc):
    assert proc.read("/proc/sys/vm/min_free_kbytes") == f"{machine.page_alloc.min_free_kbytes}\n"
    assert proc.write("/proc/sys/vm/min_free_kbytes", "2048\n") == 0
    assert machine.page_alloc.min_free_kbytes == 2048
    assert proc.read("/proc/sys/vm/lowmem_reserve_ratio") == "256\t256\t32\n"


def test_a_variable_that_comes_later_is_a_file_too(machine, proc):
    machine.kernel.sysctl.register("net.core.test", lambda: 7)
    assert proc.read("/proc/sys/net/core/test") == "7\n"
    assert proc.write("/proc/sys/net/core/test", "1") == -EACCES


def test_a_cache_that_comes_and_goes(machine, proc):
    cache = machine.slub.kmem_cache_create("passing", 100)
    assert proc.read("/sys/kernel/slab/passing/object_size") == "100\n"
    machine.slub.kmem_cache_destroy(cache)
    assert proc.write("/sys/kernel/slab/passing/shrink", "1") == -ENOENT


@pytest.mark.parametrize(
    ("path", "text", "error"),
    [
        ("/proc/sys/vm/swappiness", "abc", -EINVAL),
        ("/proc/sys/vm/swappiness", "101", -EINVAL),
        ("/proc/slabinfo", "kmalloc-64 1 2 3", -EINVAL),
        ("/proc/meminfo", "1", -EACCES),
        ("/proc/reserve_info", "1", -EACCES),
        ("/sys/kernel/slab/kmalloc-64/order", "1", -EACCES),
        ("/sys/kernel/slab/kmalloc-64/shrink", "0", -EINVAL),
        ("/proc/sys/vm/none", "1", -ENOENT),
        ("/proc/sys/vm.swappiness", "1", -ENOENT),
        ("/proc/meminfo/x", "1", -ENOTDIR),
        ("/proc/sys/vm/swappiness/", "1", -ENOTDIR),
        ("/sys/kernel/slab/kmalloc-64/order/x/y", "1", -ENOTDIR),
        ("/proc", "1", -EISDIR),
        ("/proc/sys/vm/", "1", -EISDIR),
        ("/sys/kernel/slab/kmalloc-64", "1", -EISDIR),
        ("/", "1", -EISDIR),
        ("", "1", -ENOENT),
        ("proc/meminfo", "1", -ENOENT),
        ("/proc/../etc/passwd", "1", -ENOENT),
        ("/proc/sys/vm/min\0free", "1", -ENOENT),
    ],
)
def test_writes_that_fail(machine, proc, path, text, error):
    before = machine.kernel.sysctl.read("vm.swappiness")
    assert proc.write(path, text) == error
    assert proc.write(path, text.encode()) == error
    assert machine.kernel.sysctl.read("vm.swappiness") == before


@pytest.mark.parametrize(
    ("path", "why"), [("/proc/none", "does not exist"), ("/proc/sys", "is a directory"), ("meminfo", "does not")]
)
def test_reading_what_is_no_file_is_one_sentence(proc, path, why):
    with pytest.raises(ConfigError, match=why):
        proc.read(path)
    with pytest.raises(ConfigError, match=why):
        proc.mode(path)


def test_a_slash_too_many_is_no_error(proc):
    assert proc.read("/proc//sys/vm/swappiness") == "60\n"
    assert proc.write("//proc/sys/vm//swappiness", "50") == 0


def test_who_may(proc):
    assert proc.mode("/proc/reserve_info") == 0o400
    assert proc.mode("/proc/slabinfo") == 0o644
    assert proc.mode("/proc/sys/vm/swappiness") == 0o644
    assert proc.mode("/sys/kernel/slab/kmalloc-8/order") == 0o444


def test_shrink_gives_empty_slabs_back(machine, proc):
    address = machine.slub.kmalloc(64, GFP_KERNEL)
    machine.slub.kfree(address)
    assert proc.read("/sys/kernel/slab/kmalloc-64/slabs") == "1\n"
    assert proc.write("/sys/kernel/slab/kmalloc-64/shrink", "1\n") == 0
    assert proc.read("/sys/kernel/slab/kmalloc-64/slabs") == "0\n"


def test_validate_finds_what_was_overwritten():
    with Machine(MachineConfig(mem=16 << 20, slub_debug="FZPU")) as machine:
        address = machine.slub.kmalloc(64, GFP_KERNEL)
        assert machine.proc.read("/sys/kernel/slab/kmalloc-64/red_zone") == "1\n"
        assert machine.proc.write("/sys/kernel/slab/kmalloc-64/validate", "1") == 0
        assert machine.proc.write("/sys/kernel/slab/kmalloc-64/validate", "yes") == -EINVAL
        page = machine.slub.virt_to_page(address)
        machine.slub.debug.write(machine.slub.caches["kmalloc-64"], page, address + 64, b"x")
        with pytest.raises(KernelBug, match="kmalloc-64"):
            machine.proc.write("/sys/kernel/slab/kmalloc-64/validate", "1")
        machine.slub.kfree(address)


def test_a_merged_cache_has_both_names():
    with Machine(MachineConfig(mem=16 << 20, slub_merge=True)) as machine:
        machine.slub.kmem_cache_create("like_kmalloc", 512)
        assert machine.proc.read("/sys/kernel/slab/like_kmalloc/aliases") == "1\n"
        assert machine.proc.read("/sys/kernel/slab/kmalloc-512/aliases") == "1\n"
        assert "like_kmalloc" not in machine.proc.read("/proc/slabinfo")


def test_without_patch_11_there_is_no_reserve_info():
    with Machine(MachineConfig(mem=16 << 20, patches="all,-11")) as machine:
        assert "/proc/reserve_info" not in machine.proc.paths()


def test_reserve_info_is_v14s(machine, proc):
    tree = machine.reserves
    total = tree.mem_reserve_init("total network reserve", tree.root)
    rx = tree.mem_reserve_init("RX", total)
    tree.mem_reserve_pages_set(rx, 10)
    tree.mem_reserve_pages_charge(rx, 3)
    assert proc.read("/proc/reserve_info") == (
        "total reserve                  40K (0/10)\n"
        "  total network reserve          40K (0/10)\n"
        "    RX                             40K (3/10)\n"
    )
    tree.mem_reserve_pages_charge(rx, -3)
    tree.mem_reserve_disconnect(total)


def test_tunables_of_the_network_are_files_and_their_refusals_errnos(machine, proc):
    from kemu_net.drivers.wire import Wire
    from kemu_net.stack import NetStack

    net = NetStack(
        machine.kernel,
        machine.page_alloc,
        machine.slub,
        machine.reserves,
        Wire(machine.world),
        mac=b"\2\0\0\0\0\1",
        ip=1,
        ring=16,
    )
    path = "/proc/sys/net/ipv4/route/max_size"
    size = net.inet.route.max_size
    assert proc.read(path) == f"{size}\n"
    assert "IPv4 route cache" not in proc.read("/proc/reserve_info")  # no socket carries swap: not connected
    net.net_reserves.sk_adjust_memalloc(1, 0)
    assert f"(0/{size})" in proc.read("/proc/reserve_info")
    assert proc.write(path, "-5") == -EINVAL
    assert proc.read(path) == f"{size}\n"
    assert proc.write(path, f"{size + 120}") == 0
    assert f"(0/{size + 120})" in proc.read("/proc/reserve_info")
    net.net_reserves.sk_adjust_memalloc(-1, 0)
    net.close()
