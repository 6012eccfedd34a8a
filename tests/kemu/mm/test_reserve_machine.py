"""The reserve tree against nested counters, for any patches; growth fails as fail_page_alloc or too little memory says.

The model is a dict of names: parent, pages, limit, usage. Every call is also tried on it, and both must say the same, show the
same text, and agree on the emergency pool.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kemu.errors import KernelBug
from kemu.kernel.errno import EEXIST, EINVAL, ENOMEM
from kemu.mm import gfp as g
from kemu.mm.fault_inject import FailPageAlloc
from kemu.mm.reserve import Reserves
from kernel_sets import fix_sets, patch_sets
from leaks import assert_no_objects, assert_no_pages, assert_nothing_charged
from page_model import Caller, PageModel
from profiles import machine_settings
from slab_ground import SlabGround, slab_ground

PAGES = 512
NODES = 8
BYTES = st.one_of(st.integers(-5000, 5000), st.integers(0, 200_000), st.sampled_from((-64, -16, -1, 1, 64, 4096)))


@attrs.define(eq=False)
class Node:
    """What the model knows of a reserve."""

    real: object
    name: str
    parent: Node | None = None
    children: list[Node] = attrs.Factory(list)  # newest first
    pages: int = 0
    limit: int = 0
    usage: int = 0

    def up(self):
        node = self
        while node is not None:
            yield node
            node = node.parent

    def text(self, nesting=0) -> str:
        line = f"{'  ' * nesting}{self.name:<30} {self.pages * 4}K ({self.usage}/{self.limit})\n"
        return line + "".join(child.text(nesting + 1) for child in self.children)


class ReserveMachine(RuleBasedStateMachine):
    """Reserves are connected, sized, charged."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.sg: SlabGround | None = None

    @initialize(patches=patch_sets(), fixes=fix_sets(), constant=st.sampled_from((0, 40)), cpus=st.sampled_from((1, 2)))
    def boot(self, patches, fixes, constant, cpus):
        self.sg = self.stack.enter_context(slab_ground(PAGES << 12, str(patches), str(fixes), ncpus=cpus))
        self.pa = self.sg.pa
        self.patched, self.fixed = patches, fixes
        self.r = Reserves(self.sg.kernel, self.pa, self.sg.slub, constant)
        (self.zone,) = (zone for zone in self.pa.zones if zone.present_pages)
        self.marks = PageModel(PAGES, patches, fixes, self.pa.min_free_kbytes)
        self.marks.pool = 0 if patches.mem_reserve else constant
        self.root = Node(self.r.root, "total reserve")
        self.nodes = [self.root] + [Node(self.r.mem_reserve_init(f"reserve {n}"), f"reserve {n}") for n in range(1, NODES)]
        self.injected = False

    # the model

    def grow(self, node, pages, limit) -> int | str:
        """Add to a node and all above: 0, -ENOMEM, or "oops" for a pool of less than nothing."""
        path = list(node.up())
        if path[-1] is self.root and pages and self.patched.emergency_pool:
            if self.marks.pool + pages < 0:
                return "oops"
            self.marks.pool += pages
            if pages > 0 and (self.injected or self.marks.served(self.zone.nr_free, 0, g.GFP_KERNEL, Caller()) is None):
                self.marks.pool -= pages
                return -ENOMEM
        for each in path:
            each.pages += pages
            each.limit += limit
        return 0

    def same(self, expected, call):
        """Let the real one do it too, and compare."""
        if expected == "oops":
            try:
                call()
            except KernelBug:
                return
            raise AssertionError("no oops")
        assert call() == expected

    # rules

    @rule(n=st.integers(1, NODES - 1), m=st.integers(0, NODES - 1))
    def connect(self, n, m):
        child, node = self.nodes[n], self.nodes[m]
        if child in node.up():
            return  # below itself: see test_bad_input.py
        expected = 0
        if self.patched.mem_reserve:
            if child.parent is not None:
                if not self.fixed.b11:
                    return  # the list is corrupted: tests/patches has what happens then
                expected = -EEXIST
            else:
                expected = self.grow(node, child.pages, child.limit)
                if expected == 0:
                    child.parent = node
                    node.children.insert(0, child)
        self.same(expected, lambda: self.r.mem_reserve_connect(child.real, node.real))

    @rule(n=st.integers(0, NODES - 1))
    def disconnect(self, n):
        node = self.nodes[n]
        expected = 0
        if self.patched.mem_reserve:
            if node.parent is None:
                expected = "oops"
            else:
                expected = self.grow(node.parent, -node.pages, -node.limit)
                if expected == 0:
                    node.parent.children.remove(node)
                    node.parent = None
        self.same(expected, lambda: self.r.mem_reserve_disconnect(node.real))

    def set_to(self, node, pages, limit, call):
        expected = 0
        if self.patched.mem_reserve:
            expected = self.grow(node, pages - node.pages, limit - node.limit)
        self.same(expected, call)

    @rule(n=st.integers(1, NODES - 1), pages=st.one_of(st.integers(0, 40), st.integers(0, 700)))
    def pages_set(self, n, pages):
        node = self.nodes[n]
        if not node.children:  # "set" is for leaves
            self.set_to(node, pages, pages, lambda: self.r.mem_reserve_pages_set(node.real, pages))

    @rule(n=st.integers(1, NODES - 1), nbytes=st.one_of(st.integers(-100, 40_000), st.integers(0, 2_000_000)))
    def kmalloc_set(self, n, nbytes):
        node = self.nodes[n]
        if node.children:
            return
        mended = self.patched.inet_reserves and self.fixed.b18b
        if nbytes < 0 and not mended:
            return  # b18b: 2**32 pages less a few
        if nbytes < 0:
            self.same(-EINVAL, lambda: self.r.mem_reserve_kmalloc_set(node.real, nbytes))
        else:
            pages = self.sg.slub.kestimate(g.GFP_ATOMIC, nbytes)
            assert pages * 4096 >= nbytes
            self.set_to(node, pages, nbytes, lambda: self.r.mem_reserve_kmalloc_set(node.real, nbytes))

    @rule(n=st.integers(1, NODES - 1), objects=st.integers(-3, 500), size=st.sampled_from((96, 256, 2048)))
    def kmem_cache_set(self, n, objects, size):
        node, cache = self.nodes[n], self.sg.cache(size)
        if node.children:
            return
        if objects < 0:
            if self.patched.inet_reserves and self.fixed.b18b:
                self.same(-EINVAL, lambda: self.r.mem_reserve_kmem_cache_set(node.real, cache, objects))
            return
        pages = self.sg.slub.kmem_estimate_pages(cache, g.GFP_ATOMIC, objects)
        assert pages * 4096 >= size * objects
        self.set_to(node, pages, objects, lambda: self.r.mem_reserve_kmem_cache_set(node.real, cache, objects))

    @rule(n=st.integers(0, NODES - 1), pages=st.integers(-60, 60))
    def pages_add(self, n, pages):
        node = self.nodes[n]
        if node.pages - sum(child.pages for child in node.children) + pages < 0:
            return  # takes what its children have
        expected = self.grow(node, pages, pages) if self.patched.mem_reserve else 0
        self.same(expected, lambda: self.r.mem_reserve_pages_add(node.real, pages))

    def charged(self, node, charge, overcommit) -> int:
        allowed = not self.patched.mem_reserve or charge < 0 or overcommit or node.usage + charge < node.limit
        if allowed:
            node.usage = max(node.usage + charge, 0)
        return int(allowed)

    @rule(n=st.integers(0, NODES - 1), charge=st.integers(-700, 700), overcommit=st.booleans(), objects=st.booleans())
    def charge(self, n, charge, overcommit, objects):
        node = self.nodes[n]
        call = self.r.mem_reserve_kmem_cache_charge if objects else self.r.mem_reserve_pages_charge
        self.same(self.charged(node, charge, overcommit), lambda: call(node.real, charge, int(overcommit)))

    @rule(n=st.integers(0, NODES - 1), beside=st.integers(-1, 1))
    def charge_up_to_the_limit(self, n, beside):
        node = self.nodes[n]
        charge = node.limit - node.usage + beside
        self.same(self.charged(node, charge, 0), lambda: self.r.mem_reserve_pages_charge(node.real, charge))

    @rule(n=st.integers(0, NODES - 1), nbytes=BYTES, overcommit=st.booleans())
    def kmalloc_charge(self, n, nbytes, overcommit):
        node = self.nodes[n]
        rounded = next((1 << bit for bit in range(40) if 1 << bit >= abs(nbytes)), 0) if nbytes else 0
        expected = self.charged(node, rounded if nbytes >= 0 else -rounded, overcommit)
        self.same(expected, lambda: self.r.mem_reserve_kmalloc_charge(node.real, nbytes, int(overcommit)))

    # the weather

    @rule(fails=st.booleans())
    def inject(self, fails):
        """Let every probe of the page allocator fail, or none."""
        self.injected = fails
        attr = FailPageAlloc(self.sg.kernel, ignore_gfp_wait=False, min_order=0) if fails else None
        self.pa.fail_page_alloc = attr

    @rule(left=st.integers(0, PAGES))
    def squeeze(self, left):
        self.sg.ground.hold_zone(self.zone, left)

    @rule()
    def relieve(self):
        self.sg.relief()

    # what always holds

    @invariant()
    def agrees(self):
        if self.sg is None:
            return
        self.r.check()
        self.pa.check()
        self.sg.slub.check()
        assert self.r.reserve_info() == self.root.text()
        for node in self.nodes:
            real = node.real
            assert (real.pages, real.limit, real.usage) == (node.pages, node.limit, node.usage), node.name
            assert real.parent is (node.parent and node.parent.real)
        if self.patched.emergency_pool:
            assert self.pa.var_free_kbytes == 4 * self.marks.pool
            if self.patched.mem_reserve:
                assert self.marks.pool == self.root.pages

    def teardown(self) -> None:
        with self.stack:
            if self.sg is not None and sys.exc_info()[0] is None:  # else what went wrong is known
                self.inject(fails=False)
                for node in self.nodes:
                    self.kmalloc_charge(self.nodes.index(node), -(1 << 30), overcommit=False)
                    if node.parent is not None:
                        self.disconnect(self.nodes.index(node))
                assert_nothing_charged(*(node.real for node in self.nodes))
                own = self.root.pages  # what was added to the root itself
                assert self.r.mem_reserve_pages_add(self.r.root, -own) == 0
                assert self.pa.var_free_kbytes == (4 * self.marks.pool - 4 * own if self.patched.emergency_pool else 0)
                self.sg.relief()
                assert_no_objects(self.sg.slub)
                assert_no_pages(self.pa)


TestReserveTree = ReserveMachine.TestCase
TestReserveTree.settings = machine_settings()
