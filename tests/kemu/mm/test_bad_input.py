"""Bad input: each call does what the kernel does with it, or raises one clear KemuError; check() passes afterwards.

One thing that a kernel without debugging does not notice corrupts a freelist here too: an object that is freed, then others, then
that one once more. Then check() says so, and a machine with slub_debug=F says so at once.
"""

from __future__ import annotations

import re
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemu import Machine, MachineConfig
from kemu.errors import ConfigError, KemuError, KernelBug
from kemu.kernel.errno import EEXIST, EINVAL, ENOENT, ENOMEM
from kemu.lib.radix_tree import MAX_INDEX, RadixTree
from kemu.mm import gfp as g
from kemu.mm.fault_inject import FailPageAlloc, FailSlab
from kemu.mm.hog import AtomicHog
from kemu.mm.mempool import mempool_create_kmalloc_pool, mempool_create_page_pool
from kemu.mm.page import PAGE_OFFSET
from kemu.mm.slub import ZERO_SIZE_PTR
from leaks import assert_nothing_left
from profiles import bad_input_settings

ATOMIC = g.GFP_ATOMIC | g._GFP_NOWARN
MEM = 4 << 20
END = PAGE_OFFSET + MEM


def boot(**words) -> Machine:
    machine = Machine(MachineConfig(**({"mem": MEM, "cpus": 2} | words)))
    machine.kernel.sched.msleep(100)  # kswapd sleeps now, and can be woken
    return machine


@pytest.fixture
def machine():
    with boot() as machine:
        machine.at_boot = machine.page_alloc.allocated_pages() - machine.vmstat.nr_slab
        yield machine
        machine.check()


@pytest.fixture
def pa(machine):
    return machine.page_alloc


@pytest.fixture
def slub(machine):
    return machine.slub


@pytest.fixture
def debugged():
    """A machine whose SLUB looks at every pointer."""
    with boot(slub_debug="F") as machine:
        yield machine
        machine.check()


# pages


@pytest.mark.parametrize("order", [11, 12, 64, 1 << 40, -1, -11])
def test_no_block_has_such_an_order(pa, order):
    assert pa.alloc_pages(ATOMIC, order) is None
    assert pa.alloc_pages_node(0, ATOMIC, order) is None


def test_an_unknown_node_has_no_pages(pa):
    with pytest.raises(KernelBug, match="1 nodes"):
        pa.alloc_pages_node(3, ATOMIC)


@pytest.mark.parametrize("address", [0, 8, PAGE_OFFSET - 1, END, 1 << 64, -5])
def test_an_address_outside_memory_has_no_page(pa, address):
    with pytest.raises(KernelBug, match="not in memory"):
        pa.virt_to_page(address)


def test_a_page_that_is_freed_twice_is_noticed_at_once(pa):
    page = pa.alloc_page(ATOMIC)
    pa.free_pages(page)
    with pytest.raises(KernelBug, match="freed twice"):
        pa.free_pages(page)
    pa.check()


def test_put_page_of_a_free_page_is_noticed_at_once(pa):
    page = pa.alloc_page(ATOMIC)
    pa.put_page(page)
    with pytest.raises(KernelBug, match="free page"):
        pa.put_page(page)
    pa.check()


@pytest.mark.parametrize("order", [0, 1, 3, 11, -1])
def test_a_block_comes_back_with_the_order_that_it_had(pa, order):
    block = pa.alloc_pages(ATOMIC, 2)
    try:
        pa.free_pages(block, order)
    except KernelBug as bug:
        assert "order" in str(bug) or "in use" in str(bug)
    pa.check()


def test_a_page_in_use_by_the_page_cache_is_not_freed(pa):
    page = pa.alloc_page(ATOMIC)
    page.mapping = object()
    with pytest.raises(KernelBug, match="freed in use"):
        pa.free_pages(page)
    page.mapping = None
    page.count = 1
    pa.free_pages(page)


@pytest.mark.parametrize("cpu", [-1, 2, 1 << 80])
def test_only_cpus_that_are_there_are_drained(pa, cpu):
    with pytest.raises(KernelBug, match="2 CPUs"):
        pa.drain_pages(cpu)


@pytest.mark.parametrize("pages", [1 << 62, 4096])
def test_an_emergency_pool_larger_than_memory_is_not_made(machine, pages):
    """GFP_KERNEL never gives up: the machine kills, has nobody to kill, and panics."""
    with pytest.raises(KemuError, match="no killable"):
        machine.page_alloc.adjust_memalloc_reserve(pages)
    assert machine.page_alloc.var_free_kbytes == 0


def test_an_emergency_pool_of_less_than_nothing_is_an_oops(pa):
    with pytest.raises(KernelBug, match="reduced by 1 pages"):
        pa.adjust_memalloc_reserve(-1)


# objects


@pytest.mark.parametrize("size", [(4 << 20) + 1, 1 << 40, 1 << 63, 1 << 64, 1 << 70, -1, -(1 << 40)])
def test_no_kmalloc_is_so_large(slub, size):
    assert slub.kmalloc(size, ATOMIC) is None
    assert slub.kzalloc(size, ATOMIC) is None


def test_kmalloc_of_nothing_is_no_null_and_no_memory(slub):
    address = slub.kmalloc(0, ATOMIC)
    assert address == ZERO_SIZE_PTR and slub.ksize(address) == 0
    slub.kfree(address)


@pytest.mark.parametrize("sizes", [(1 << 32, 1 << 32), (1 << 63, 2), (-1, 8), (8, -1)])
def test_a_product_that_is_no_size_gets_null(slub, sizes):
    assert slub.kcalloc(*sizes, ATOMIC) is None


@pytest.mark.parametrize("address", [1, 15, 17, PAGE_OFFSET - 8, END, END + 4096, 1 << 64, -8])
def test_kfree_of_no_memory_is_an_oops(slub, address):
    with pytest.raises(KernelBug, match=f"{address:#x}"):
        slub.kfree(address)


@pytest.mark.parametrize("address", [0, 1, PAGE_OFFSET - 8, PAGE_OFFSET - 4096, END, -8])
@pytest.mark.parametrize("used", [False, True])
def test_a_cache_takes_no_address_outside_memory(slub, address, used):
    cache = slub.kmem_cache_create("mine", 100)
    if used:
        slub.kmem_cache_alloc(cache, ATOMIC)
    with pytest.raises(KernelBug, match="mine"):
        slub.kmem_cache_free(cache, address)


def test_an_object_of_another_cache_is_refused_and_both_are_named(slub):
    mine, yours = slub.kmem_cache_create("mine", 100), slub.kmem_cache_create("yours", 100)
    address = slub.kmem_cache_alloc(yours, ATOMIC)
    with pytest.raises(KernelBug, match=r"(?s)mine.*yours"):
        slub.kmem_cache_free(mine, address)
    assert slub.objects_in_use(yours) == 1


def test_whole_pages_are_no_objects(slub):
    cache = slub.kmem_cache_create("mine", 100)
    with pytest.raises(KernelBug, match="mine"):
        slub.kmem_cache_free(cache, slub.kmalloc(5000, ATOMIC))


def test_whole_pages_are_freed_by_any_address_in_them_as_in_the_kernel(machine):
    """virt_to_head_page() forgives; kfree() of a tail frees the block."""
    address = machine.slub.kmalloc(20_000, ATOMIC)
    machine.slub.kfree(address + 9000)
    assert_nothing_left(machine, machine.at_boot)


def test_whole_pages_that_are_freed_twice_are_noticed(slub):
    address = slub.kmalloc(20_000, ATOMIC)
    slub.kfree(address)
    with pytest.raises(KernelBug, match=f"{address:#x}"):
        slub.kfree(address)


@pytest.mark.parametrize("inside", [1, 8, 64, 127])
def test_a_pointer_into_an_object_is_refused_where_slub_looks(debugged, inside):
    slub = debugged.slub
    address = slub.kmalloc(128, ATOMIC)
    with pytest.raises(KernelBug, match="kmalloc-128"):
        slub.kfree(address + inside)
    debugged.check()
    slub.kfree(address)


def test_a_double_free_is_refused_where_slub_looks(debugged):
    slub = debugged.slub
    keep, address = slub.kmalloc(128, ATOMIC), slub.kmalloc(128, ATOMIC)
    slub.kfree(address)
    with pytest.raises(KernelBug, match=rf"(?s)kmalloc-128.*{address:#x}"):
        slub.kfree(address)
    debugged.check()
    slub.kfree(keep)


@pytest.mark.parametrize("wrong", ["twice", "inside"])
def test_an_ordinary_machine_refuses_the_plain_mistakes_too(machine, wrong):
    address = machine.slub.kmalloc(128, ATOMIC)
    if wrong == "twice":
        machine.slub.kfree(address)
    with pytest.raises(KernelBug, match=rf"kmalloc-128: .*{address:#x}"):
        machine.slub.kfree(address + 8 * (wrong == "inside"))
    machine.check()
    if wrong == "inside":
        machine.slub.kfree(address)


def test_what_the_kernel_does_not_notice_check_finds():
    """And names the cache and the address."""
    with boot() as machine:
        address, other = machine.slub.kmalloc(128, ATOMIC), machine.slub.kmalloc(128, ATOMIC)
        for each in (address, other, address):
            machine.slub.kfree(each)
        with pytest.raises(KernelBug, match=rf"kmalloc-128.*{address:#x}"):
            machine.check()


@pytest.mark.parametrize(("size", "align"), [(0, 0), (-1, 0), (1 << 40, 0), (10, 3), (10, -8)])
def test_no_cache_is_made_of_such_objects(slub, size, align):
    caches = list(slub.caches)
    with pytest.raises(KernelBug, match="kmem_cache_create"):
        slub.kmem_cache_create("mine", size, align)
    assert list(slub.caches) == caches


def test_a_cache_is_destroyed_once(slub):
    cache = slub.kmem_cache_create("mine", 100)
    assert slub.kmem_cache_destroy(cache) == 0
    with pytest.raises(KernelBug, match="no cache of this machine"):
        slub.kmem_cache_destroy(cache)


def test_an_object_without_an_address_is_a_bug(slub):
    with pytest.raises(KernelBug, match="GFP_SLAB_BUG_MASK"):
        slub.kmem_cache_alloc(slub.kmem_cache_create("mine", 100), ATOMIC | g._GFP_HIGHMEM)


@pytest.mark.parametrize("cpu", [-1, 2])
def test_only_cpus_that_are_there_have_slabs(slub, cpu):
    with pytest.raises(KernelBug, match="there are 2"):
        slub.flush_cpu_slab(slub.caches["kmalloc-64"], cpu)


# pools


def test_a_pool_takes_any_element_as_the_kernel_does_and_check_finds_it(machine):
    """mempool_free() cannot know; what it keeps is found when the pool gives it to SLUB."""
    pool = mempool_create_kmalloc_pool(machine.kernel, "pool", 1, machine.slub, 64)
    real = pool.alloc(ATOMIC | g._GFP_NOMEMALLOC)
    pool.free(real)  # full again: goes to SLUB
    with pytest.raises(KernelBug):
        pool.free(0xDEAD)
    pool.destroy()


def test_a_pool_that_lacks_elements_is_not_destroyed(machine):
    pool = mempool_create_kmalloc_pool(machine.kernel, "pool", 2, machine.slub, 64)
    machine.slub.failslab = FailSlab(machine.kernel)
    element = pool.alloc(ATOMIC)
    machine.slub.failslab = None
    with pytest.raises(KernelBug, match="1 elements are out"):
        pool.destroy()
    pool.free(element)
    pool.destroy()


def test_null_is_no_element(machine):
    pool = mempool_create_kmalloc_pool(machine.kernel, "pool", 1, machine.slub, 64)
    with pytest.raises(KernelBug, match="NULL"):
        pool.free(None)


def test_a_pool_of_impossible_elements_is_not_made(machine):
    assert mempool_create_kmalloc_pool(machine.kernel, "pool", 1, machine.slub, 1 << 40) is None
    assert mempool_create_page_pool(machine.kernel, "pool", 1, machine.page_alloc, 11) is None


def test_a_machine_without_a_disk_has_no_bios(machine):
    with pytest.raises(ConfigError, match="disk"):
        machine.bios.bio_alloc(ATOMIC, 1)
    with pytest.raises(ConfigError, match="disk"):
        machine.bios.bioset_create(2, 2)


# reserves


def test_a_reserve_that_hangs_nowhere_is_not_disconnected(machine):
    with pytest.raises(KernelBug, match="connected to nothing"):
        machine.reserves.mem_reserve_disconnect(machine.reserves.mem_reserve_init("loose"))


@pytest.mark.parametrize("patches", ["all", "series:12"])
def test_a_reserve_is_not_connected_below_itself(patches):
    with boot(patches=patches) as machine:
        r = machine.reserves
        top = r.mem_reserve_init("top")
        below = r.mem_reserve_init("below", top)
        for node in (top, below):
            with pytest.raises(KernelBug, match="below itself"):
                r.mem_reserve_connect(top, node)
        assert r.mem_reserve_connect(top, r.root) == 0
        machine.check()


def test_a_reserve_is_connected_once(machine):
    r = machine.reserves
    child = r.mem_reserve_init("child", r.root)
    assert r.mem_reserve_connect(child, r.root) == -EEXIST


def test_a_negative_reserve_is_refused(machine):
    r = machine.reserves
    child = r.mem_reserve_init("child", r.root)
    assert r.mem_reserve_kmalloc_set(child, -1) == -EINVAL
    assert r.mem_reserve_kmem_cache_set(child, machine.slub.caches["kmalloc-64"], -1) == -EINVAL
    with pytest.raises(KernelBug, match="reduced by 5 pages"):
        r.mem_reserve_pages_set(child, -5)
    assert (child.pages, child.limit, r.root.pages) == (0, 0, 0)


def test_a_reserve_that_cannot_be_had_changes_nothing(machine):
    r = machine.reserves
    child = r.mem_reserve_init("child", r.root)
    machine.page_alloc.fail_page_alloc = FailPageAlloc(machine.kernel, ignore_gfp_wait=False, min_order=0)
    assert r.mem_reserve_pages_set(child, 10) == -ENOMEM
    assert (child.pages, child.limit, r.root.pages, machine.page_alloc.var_free_kbytes) == (0, 0, 0, 0)


@pytest.mark.parametrize("charge", [1 << 31, 1 << 64, 1 << 100])
def test_an_absurd_charge_is_refused_and_an_absurd_return_is_nothing(machine, charge):
    r = machine.reserves
    child = r.mem_reserve_init("child", r.root)
    assert r.mem_reserve_pages_set(child, 10) == 0
    for call in (r.mem_reserve_pages_charge, r.mem_reserve_kmalloc_charge, r.mem_reserve_kmem_cache_charge):
        assert call(child, charge) == 0
        assert call(child, -charge) == 1
        assert child.usage == 0


# radix trees


@pytest.mark.parametrize("index", [-1, MAX_INDEX + 1, 1 << 80])
def test_no_tree_has_such_a_key(machine, index):
    tree = RadixTree(ATOMIC, machine.radix_nodes)
    assert tree.insert(5, "item") == 0
    with pytest.raises(KernelBug, match="unsigned long"):
        tree.insert(index, "item")
    assert tree.lookup(index) is None and tree.delete(index) is None
    tree.check()


@pytest.mark.parametrize("tag", [-1, 2, 1 << 70])
def test_no_tree_has_such_a_tag(machine, tag):
    tree = RadixTree(ATOMIC, machine.radix_nodes)
    tree.insert(5, "item")
    for call in (
        lambda: tree.tag_set(5, tag),
        lambda: tree.tag_clear(5, tag),
        lambda: tree.tag_get(5, tag),
        lambda: tree.tagged(tag),
        lambda: tree.gang_lookup_tag(0, 1, tag),
    ):
        with pytest.raises(KernelBug, match="no tag"):
            call()
    tree.check()


# words


@given(text=st.one_of(st.binary(max_size=60), st.text(max_size=40), st.from_regex(rb"[-+ 0-9xX\t\n]{0,30}")))
@bad_input_settings()
def test_any_bytes_to_any_sysctl_are_taken_or_refused_with_an_errno(text):
    with boot(mem=1 << 20) as machine:
        sysctl = machine.kernel.sysctl
        for name in sysctl.names():
            before = sysctl.read(name)
            result = sysctl.write(name, text)
            assert isinstance(result, int) and -200 < result <= 1
            if result == -EINVAL and sysctl.table(name).count == 1:
                assert sysctl.read(name) == before
        machine.check()


def test_an_unknown_sysctl_is_enoent(machine):
    assert machine.kernel.sysctl.write("vm.no_such_thing", "1") == -ENOENT


NONSENSE = {
    "mem": ["1M", None, 1.5, True, 0, -4096, 4095, (1 << 20) + 1, 1 << 41],
    "cpus": [0, -1, 9, 65, None, "2", 1.5],
    "nodes": [0, -1, 3000, 64, None, "x"],
    "arch": ["arm", "", None, 86],
    "seed": [None, "x", 1.5],
    "constant_pages": [-1, 1 << 70, None, "7"],
    "patches": ["", ",", "bogus", "1-", "9-1", "34", "all,,", None, 7, ["all"]],
    "fixes": ["", "x", "b99", None, 7],
    "geometry": ["", "5.0", None, 2.6],
    "slub_debug": ["Q", "FQ,kmalloc-64", None, 5],
    "slub_merge": [None, "yes"],
    "selinux": ["yes", None],
    "overrides": [None, 5],
    "name": [None, 5],
    "vehicle": ["car"],
}


@pytest.mark.parametrize(("word", "value"), [(word, value) for word, values in NONSENSE.items() for value in values])
def test_a_machine_of_nonsense_is_refused_and_the_word_is_named(word, value):
    with pytest.raises(ConfigError) as error:
        Machine(MachineConfig(**{word: value}))
    names = {"patches": "patch", "fixes": "fix", "geometry": "polic"}
    assert re.search(f"{word}|{names.get(word, word)}", str(error.value).lower())
    assert len(str(error.value)) < 300


@given(text=st.text(max_size=30))
@bad_input_settings()
def test_any_text_for_patches_geometry_or_debugging_is_used_or_refused(text):
    for word in ("patches", "fixes", "geometry", "slub_debug", "arch"):
        try:
            MachineConfig(**{word: text})
        except ConfigError:
            pass


# any number, for every entry that takes one


class Some:
    """A machine, and one of everything that a number could do harm to."""

    def __init__(self, machine: Machine) -> None:
        self.m = machine
        self.pa, self.slub, self.r = machine.page_alloc, machine.slub, machine.reserves
        self.page = self.pa.alloc_pages(ATOMIC, 0)
        self.block = self.pa.alloc_pages(ATOMIC, 2)
        self.compound = self.pa.alloc_pages(ATOMIC | g._GFP_COMP, 2)
        self.address = self.slub.kmalloc(100, ATOMIC)
        self.cache = self.slub.kmem_cache_create("mine", 100)
        self.object = self.slub.kmem_cache_alloc(self.cache, ATOMIC)
        self.reserve = self.r.mem_reserve_init("mine", self.r.root)
        self.pool = mempool_create_kmalloc_pool(machine.kernel, "mine", 2, self.slub, 64)
        self.tree = RadixTree(ATOMIC, machine.radix_nodes)
        self.tree.insert(70, "item")
        self.disks = 0

    def fail(self, **attr):
        self.pa.fail_page_alloc = FailPageAlloc(self.m.kernel, **attr)
        self.pa.alloc_pages(ATOMIC, 1)

    @contextmanager
    def process(self):
        """Give the running task memory of its own for a while."""
        task = self.m.kernel.sched.current
        self.m.memory.mm_alloc(task)
        try:
            yield task
        finally:
            self.m.memory.exit_mmap(task)

    def in_process(self, call):
        with self.process() as task:
            call(self.m.memory, task)

    def swapon(self, **numbers):
        disk = self.disk()
        file = disk.open()
        if self.m.swapfile.swapon(file, **numbers) == 0:
            self.m.swapfile.swapoff(file)

    def disk(self, **numbers):
        self.disks += 1
        return self.m.add_disk(f"disk-{self.disks}", **({"size": 1 << 20} | numbers))

    def hog(self, n):
        hog = AtomicHog(self.slub)
        hog.hog(n)
        hog.release()

    def release(self, n):
        hog = AtomicHog(self.slub)
        hog.hog(10)
        hog.release(n)
        hog.release()


def no_wait(n: int) -> int:
    return n & g.GFP_BITS_MASK & ~g._GFP_WAIT | g._GFP_NOWARN


ENTRIES = {
    "alloc_pages order": lambda s, n: s.pa.alloc_pages(ATOMIC, n),
    "alloc_pages gfp": lambda s, n: s.pa.alloc_pages(no_wait(n), n % 11),
    "alloc_pages_node node": lambda s, n: s.pa.alloc_pages_node(n, ATOMIC),
    "alloc_pages_node order": lambda s, n: s.pa.alloc_pages_node(0, ATOMIC, n),
    "free_pages of a page": lambda s, n: s.pa.free_pages(s.page, n),
    "free_pages of a block": lambda s, n: s.pa.free_pages(s.block, n),
    "free_pages of a compound page": lambda s, n: s.pa.free_pages(s.compound, n),
    "pfn_to_page": lambda s, n: s.pa.pfn_to_page(n),
    "put_page": lambda s, n: s.pa.put_page(s.pa.pfn_to_page(n)),
    "free_pages": lambda s, n: s.pa.free_pages(s.pa.pfn_to_page(n)),
    "virt_to_page": lambda s, n: s.pa.virt_to_page(n),
    "drain_pages": lambda s, n: s.pa.drain_pages(n),
    "adjust_memalloc_reserve": lambda s, n: s.pa.adjust_memalloc_reserve(n) or s.pa.adjust_memalloc_reserve(-n),
    "nr_free_buffer_pages": lambda s, n: s.pa.min_free.nr_free_buffer_pages(n),
    "kmalloc size": lambda s, n: s.slub.kmalloc(n, ATOMIC),
    "kmalloc gfp": lambda s, n: s.slub.kmalloc(n % 9000, no_wait(n)),
    "kzalloc": lambda s, n: s.slub.kzalloc(n, ATOMIC),
    "kcalloc n": lambda s, n: s.slub.kcalloc(n, 8, ATOMIC),
    "kcalloc size": lambda s, n: s.slub.kcalloc(8, n, ATOMIC),
    "krealloc address": lambda s, n: s.slub.krealloc(n, 10, ATOMIC),
    "kmalloc_node": lambda s, n: s.slub.kmalloc_node(10, ATOMIC, n),
    "kmem_cache_alloc_node": lambda s, n: s.slub.kmem_cache_alloc_node(s.cache, ATOMIC, n),
    "kfree": lambda s, n: s.slub.kfree(n),
    "kfree beside an object": lambda s, n: s.slub.kfree(s.address + n),
    "kfree in a block": lambda s, n: s.slub.kfree(s.compound.address + n),
    "kmem_cache_free": lambda s, n: s.slub.kmem_cache_free(s.cache, n),
    "kmem_cache_free beside an object": lambda s, n: s.slub.kmem_cache_free(s.cache, s.object + n),
    "ksize": lambda s, n: s.slub.ksize(n),
    "kmem_cache_create size": lambda s, n: s.slub.kmem_cache_create(f"size-{n}", n),
    "kmem_cache_create align": lambda s, n: s.slub.kmem_cache_create(f"align-{n}", 10, n),
    "kmem_cache_create flags": lambda s, n: s.slub.kmem_cache_alloc(s.slub.kmem_cache_create(f"flags-{n}", 10, 0, n), ATOMIC),
    "flush_cpu_slab": lambda s, n: s.slub.flush_cpu_slab(s.cache, n),
    "is_reserve_backed": lambda s, n: s.slub.is_reserve_backed(n),
    "kmem_estimate_pages": lambda s, n: s.slub.kmem_estimate_pages(s.cache, ATOMIC, n),
    "kestimate_single size": lambda s, n: s.slub.kestimate_single(n, ATOMIC, 3),
    "kestimate_single count": lambda s, n: s.slub.kestimate_single(30, ATOMIC, n),
    "kestimate": lambda s, n: s.slub.kestimate(ATOMIC, n),
    "mempool_free": lambda s, n: s.pool.free(n),
    "mempool_resize": lambda s, n: s.pool.resize(n % 1000 - 5, ATOMIC),
    "mem_reserve_pages_set": lambda s, n: s.r.mem_reserve_pages_set(s.reserve, n),
    "mem_reserve_pages_add": lambda s, n: s.r.mem_reserve_pages_add(s.reserve, n),
    "mem_reserve_kmalloc_set": lambda s, n: s.r.mem_reserve_kmalloc_set(s.reserve, n),
    "mem_reserve_kmem_cache_set": lambda s, n: s.r.mem_reserve_kmem_cache_set(s.reserve, s.cache, n),
    "mem_reserve_pages_charge": lambda s, n: s.r.mem_reserve_pages_charge(s.reserve, n),
    "mem_reserve_kmalloc_charge": lambda s, n: s.r.mem_reserve_kmalloc_charge(s.reserve, n),
    "mem_reserve_kmem_cache_charge": lambda s, n: s.r.mem_reserve_kmem_cache_charge(s.reserve, n, 1),
    "vm.min_free_kbytes": lambda s, n: s.m.kernel.sysctl.write("vm.min_free_kbytes", str(n)),
    "vm.lowmem_reserve_ratio": lambda s, n: s.m.kernel.sysctl.write("vm.lowmem_reserve_ratio", f"{n} {n} {n}"),
    "radix insert": lambda s, n: s.tree.insert(n, "item"),
    "radix lookup": lambda s, n: s.tree.lookup(n),
    "radix delete": lambda s, n: s.tree.delete(n),
    "radix gang_lookup from": lambda s, n: s.tree.gang_lookup(n, 3),
    "radix gang_lookup items": lambda s, n: s.tree.gang_lookup(0, n),
    "radix tag": lambda s, n: s.tree.tag_set(70, n),
    "disk size": lambda s, n: s.disk(size=n),
    "disk latency": lambda s, n: s.disk(latency_ns=n),
    "disk bandwidth": lambda s, n: s.disk(bandwidth=n),
    "disk fail": lambda s, n: s.disk().fail(n, 8),
    "disk fail sectors": lambda s, n: s.disk().fail(8, n),
    "bio_alloc vectors": lambda s, n: s.disk() and s.m.bios.bio_alloc(ATOMIC, n),
    "bio_alloc gfp": lambda s, n: s.disk() and s.m.bios.bio_alloc(no_wait(n), 1),
    "swapon pages": lambda s, n: s.swapon(pages=n),
    "swapon priority": lambda s, n: s.swapon(pages=200, priority=n),
    "online_pages node": lambda s, n: s.m.memory_hotplug.online_pages(n, 1024, 256),
    "online_pages start": lambda s, n: s.m.memory_hotplug.online_pages(0, n, 256),
    "read_page": lambda s, n: s.in_process(lambda memory, task: memory.read_page(task, n)),
    "write_page": lambda s, n: s.in_process(lambda memory, task: memory.write_page(task, n, bytes(4096))),
    "do_brk": lambda s, n: s.in_process(lambda memory, task: memory.do_brk(task, n)),
    "munmap": lambda s, n: s.in_process(lambda memory, task: memory.munmap(task, n, 3)),
    "munmap pages": lambda s, n: s.in_process(lambda memory, task: memory.munmap(task, 1, n)),
    "msync": lambda s, n: s.in_process(lambda memory, task: memory.msync(task, n, 3)),
    "security_vm_enough_memory": lambda s, n: s.m.overcommit.security_vm_enough_memory(n),
    "fail_page_alloc probability": lambda s, n: s.fail(probability=n),
    "fail_page_alloc interval": lambda s, n: s.fail(interval=n),
    "fail_page_alloc times": lambda s, n: s.fail(times=n),
    "fail_page_alloc space": lambda s, n: s.fail(space=n),
    "fail_page_alloc min_order": lambda s, n: s.fail(min_order=n),
    "hog": lambda s, n: s.hog(n),
    "release": lambda s, n: s.release(n),
    "get_order": lambda _, n: g.get_order(n),
    "decode_gfp": lambda _, n: g.decode_gfp(n),
}

NUMBERS = st.one_of(
    st.integers(-2, 12),
    st.integers(-5000, 5000),
    st.integers(PAGE_OFFSET - 5000, END + 5000),
    st.integers(0, 80).flatmap(lambda bits: st.sampled_from(((1 << bits) - 1, 1 << bits, -(1 << bits)))),
    st.integers(),
)


@pytest.mark.parametrize("entry", ENTRIES)
def test_any_number(entry):
    """A machine that lives on through all of them; SLUB looks at pointers, or wrong ones would be the kernel's to lose."""
    machine = boot(slub_debug="F")
    try:
        some = Some(machine)

        @given(n=NUMBERS)
        @bad_input_settings()
        def use(n):
            try:
                ENTRIES[entry](some, n)
            except KemuError as error:
                assert str(error)
            machine.check()
            some.tree.check()

        use()
    finally:
        machine.shutdown()
