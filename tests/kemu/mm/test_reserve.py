"""The reserve tree's structure and text; what patch 11 promises is in tests/patches/test_p11_mem_reserve.py."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kemu.errors import KernelBug
from kemu.kernel.errno import ENOMEM
from kemu.mm.reserve import Reserves
from slab_ground import slab_ground


@pytest.fixture
def sg():
    with slab_ground() as machine:
        machine.reserves = Reserves(machine.kernel, machine.pa, machine.slub)
        yield machine
        machine.reserves.check()


def test_the_text_is_v14s_newest_child_first(sg):
    r = sg.reserves
    net = r.mem_reserve_init("total network reserve", r.root)
    rx = r.mem_reserve_init("network RX reserve", net)
    skb = r.mem_reserve_init("SKB data reserve", rx)
    tx = r.mem_reserve_init("network TX reserve", net)
    assert r.mem_reserve_kmalloc_set(skb, 262144) == 0
    assert r.mem_reserve_pages_set(tx, 49) == 0
    assert r.mem_reserve_kmalloc_charge(skb, 1600) == 1
    assert r.reserve_info() == (
        "total reserve                  756K (0/262193)\n"
        "  total network reserve          756K (0/262193)\n"
        "    network TX reserve             196K (0/49)\n"
        "    network RX reserve             560K (0/262144)\n"
        "      SKB data reserve               560K (2048/262144)\n"
    )


def test_an_empty_tree_is_one_line(sg):
    assert sg.reserves.reserve_info() == "total reserve                  0K (0/0)\n"


def test_disconnecting_what_hangs_nowhere_is_a_bug(sg):
    with pytest.raises(KernelBug, match="connected to nothing"):
        sg.reserves.mem_reserve_disconnect(sg.reserves.mem_reserve_init("loose"))
    with pytest.raises(KernelBug, match="connected to nothing"):
        sg.reserves.mem_reserve_disconnect(sg.reserves.root)


def test_check_finds_a_sum_that_is_wrong(sg):
    r = sg.reserves
    child = r.mem_reserve_init("child", r.root)
    child.pages = 5
    with pytest.raises(KernelBug, match="its children have more"):
        r.check()
    child.pages = 0


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda _net, leaf: setattr(leaf, "usage", -1), "usage -1"),
        (lambda _net, leaf: setattr(leaf, "parent", leaf), "does not know it"),
        (lambda net, leaf: setattr(leaf._head, "next", net._siblings), "never ends|in the tree twice|does not know it"),
    ],
    ids=["usage", "parent", "lists"],
)
def test_check_finds_what_is_wrong_with_a_node(damage, found):
    with slab_ground() as machine:
        r = Reserves(machine.kernel, machine.pa, machine.slub)
        net = r.mem_reserve_init("net", r.root)
        leaf = r.mem_reserve_init("leaf", net)
        damage(net, leaf)
        with pytest.raises(KernelBug, match=found):
            r.check()


class ReserveMachine(RuleBasedStateMachine):
    """A forest of reserves that is connected, sized and charged at random; some growth is refused."""

    @initialize()
    def boot(self):
        self.context = slab_ground()
        self.sg = self.context.__enter__()
        self.r = Reserves(self.sg.kernel, self.sg.pa, self.sg.slub)
        self.leaves = [self.r.mem_reserve_init(f"leaf {n}") for n in range(4)]
        self.inner = [self.r.mem_reserve_init(f"inner {n}") for n in range(3)]
        self.pages = [0] * 4
        self.limit = [0] * 4
        self.usage = [0] * 4
        self.adjusted = 0
        self.refuse = False
        real = self.sg.pa.adjust_memalloc_reserve

        def adjust(pages):
            if self.refuse and pages > 0:
                return -ENOMEM
            self.adjusted += pages
            return real(pages)

        self.sg.pa.adjust_memalloc_reserve = adjust

    def connected(self, node):
        while node.parent is not None:
            node = node.parent
        return node is self.r.root

    def state(self):
        nodes = [self.r.root, *self.inner, *self.leaves]
        return [(n.pages, n.limit, n.usage, n.parent, list(n.children)) for n in nodes], self.sg.pa.var_free_kbytes

    def attempt(self, change, grows):
        """A change may fail only if it grows the root while growth is refused; then nothing changed."""
        before = self.state()
        error = change()
        assert error in (0, -ENOMEM)
        if error:
            assert self.refuse and grows
            assert self.state() == before
        return error

    @rule(n=st.integers(0, 3), pages=st.integers(0, 40))
    def pages_set(self, n, pages):
        leaf = self.leaves[n]
        grows = self.connected(leaf) and pages > leaf.pages
        if not self.attempt(lambda: self.r.mem_reserve_pages_set(leaf, pages), grows):
            self.pages[n] = self.limit[n] = pages

    @rule(n=st.integers(0, 3), nbytes=st.integers(0, 100_000))
    def kmalloc_set(self, n, nbytes):
        leaf = self.leaves[n]
        pages = self.sg.slub.kestimate(0x20, nbytes)
        grows = self.connected(leaf) and pages > leaf.pages
        if not self.attempt(lambda: self.r.mem_reserve_kmalloc_set(leaf, nbytes), grows):
            self.pages[n], self.limit[n] = pages, nbytes

    @rule(n=st.integers(0, 6), m=st.integers(0, 3))
    def connect(self, n, m):
        child = [*self.leaves, *self.inner][n]
        node = [self.r.root, *self.inner][m]
        above = node
        while above is not None:
            if above is child:
                return
            above = above.parent
        if child.parent is None:
            self.attempt(lambda: self.r.mem_reserve_connect(child, node), self.connected(node) and child.pages > 0)

    @rule(n=st.integers(0, 6))
    def disconnect(self, n):
        node = [*self.leaves, *self.inner][n]
        if node.parent is not None:
            assert self.r.mem_reserve_disconnect(node) == 0

    @rule(n=st.integers(0, 3), charge=st.integers(-50, 50), overcommit=st.booleans())
    def charge(self, n, charge, overcommit):
        allowed = charge < 0 or overcommit or self.usage[n] + charge < self.limit[n]
        assert self.r.mem_reserve_pages_charge(self.leaves[n], charge, int(overcommit)) == int(allowed)
        if allowed:
            self.usage[n] = max(0, self.usage[n] + charge)

    @rule(refuse=st.booleans())
    def weather(self, refuse):
        self.refuse = refuse

    @invariant()
    def sums(self):
        if not hasattr(self, "sg"):
            return
        self.r.check()
        for n, leaf in enumerate(self.leaves):
            assert (leaf.pages, leaf.limit, leaf.usage) == (self.pages[n], self.limit[n], self.usage[n])
        connected = [n for n, leaf in enumerate(self.leaves) if self.connected(leaf)]
        assert self.r.root.pages == sum(self.pages[n] for n in connected) == self.adjusted
        assert self.r.root.limit == sum(self.limit[n] for n in connected)

    def teardown(self):
        if hasattr(self, "sg"):
            self.context.__exit__(None, None, None)


TestReserveMachine = ReserveMachine.TestCase
TestReserveMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


def test_what_nobody_had_charged_is_noticed_when_it_is_given_back(sg):
    skb = sg.reserves.mem_reserve_init("SKB data reserve", None)
    sg.reserves.mem_reserve_kmalloc_set(skb, 262144)
    sg.reserves.mem_reserve_kmalloc_charge(skb, 2048)
    sg.reserves.mem_reserve_kmalloc_charge(skb, -2048)
    assert (skb.usage, skb.overdrawn) == (0, 0)
    sg.reserves.mem_reserve_kmalloc_charge(skb, -2048)
    assert (skb.usage, skb.overdrawn) == (0, 2048)
