"""Patch 12: what SELinux remembers of packets is never worth a page of the reserve."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.errno import EACCES
from kemu.kernel.softirq import NET_RX_SOFTIRQ
from kemu.kernel.task import PF_MEMALLOC
from kemu.mm.gfp import _GFP_ZERO, GFP_ATOMIC
from kemu.security.avc import SIZEOF_AVC_NODE, Avc
from kemu.security.selinux import PACKET__RECV, SECCLASS_PACKET, PolicyServer
from slab_ground import slab_ground

PAIRS = 600
PER_PAGE = 4096 // SIZEOF_AVC_NODE
ON, OFF = "all", "all,-12"
BOTH = pytest.mark.parametrize("patches", [ON, OFF])


def policy(ssid, tsid, _tclass):
    """Allow two of three pairs."""
    return PACKET__RECV if (ssid + tsid) % 3 else 0


class Host:
    """A machine with an access vector cache, and a softirq that asks it."""

    def __init__(self, ground):
        self.ground = ground
        self.slub = ground.slub
        self.avc = Avc(ground.kernel, ground.slub, PolicyServer(policy))
        self.answers = []
        self.asked = 0

    def ask_in_softirq(self, pairs, *, entitled=True):
        """Let a softirq that processes an emergency packet ask for new pairs (patch 23 sets the flag there)."""

        def handler():
            task = self.ground.kernel.sched.current
            if entitled:
                task.flags |= PF_MEMALLOC
            for number in range(self.asked, self.asked + pairs):
                self.answers.append(self.avc.avc_has_perm(number, number // 7, SECCLASS_PACKET, PACKET__RECV))
            task.flags &= ~PF_MEMALLOC
            self.asked += pairs

        softirq = self.ground.kernel.softirq
        softirq.open_softirq(NET_RX_SOFTIRQ, handler)
        softirq.local_bh_disable()
        softirq.raise_softirq(NET_RX_SOFTIRQ)
        softirq.local_bh_enable()
        self.avc.check()
        return self.answers[-pairs:]

    def nodes(self):
        return [node for slot in self.avc.slots for node in slot]

    def reserve_pages(self):
        return sum(page.pfn in self.ground.pa.reserve_pfns for page in self.avc.avc_node_cachep.slabs.values())


def expected(first, count):
    return [0 if policy(number, number // 7, SECCLASS_PACKET) else -EACCES for number in range(first, first + count)]


@pytest.mark.parametrize(("patches", "pages"), [(ON, 0), (OFF, -(-PAIRS // PER_PAGE))])
def test_600_new_pairs_in_a_softirq_at_the_floor(patches, pages):
    """The pages that nodes pin of the reserve: 11 without the patch, at 56 nodes a page."""
    with slab_ground(32 << 20, patches) as ground:
        host = Host(ground)
        ground.floor()
        free = ground.pa.nr_free_pages()
        assert host.ask_in_softirq(PAIRS) == expected(0, PAIRS)
        assert host.reserve_pages() == pages
        assert free - ground.pa.nr_free_pages() == pages
        ground.relief()


@BOTH
def test_decisions_are_the_same_with_and_without_a_node(patches):
    with slab_ground(32 << 20, patches) as ground:
        host = Host(ground)
        with_memory = host.ask_in_softirq(100)
        host.asked = 0
        host.avc.avc_ss_reset(0)
        ground.floor()
        assert host.ask_in_softirq(100) == with_memory == expected(0, 100)
        ground.relief()


def test_no_node_lies_in_the_reserve():
    with slab_ground(32 << 20, ON) as ground:
        host = Host(ground)
        host.ask_in_softirq(10)  # half a page of slack is no reserve memory
        ground.floor()
        host.ask_in_softirq(PAIRS)
        assert len(host.nodes()) == PER_PAGE
        assert not any(ground.slub.is_reserve_backed(node.addr) for node in host.nodes())
        ground.relief()


def test_a_slab_that_others_took_from_the_reserve_is_not_used_either():
    """Given patch 03: an entitled allocation of the same cache leaves a rationed slab behind, and nodes leave it alone."""
    with slab_ground(32 << 20, ON) as ground:
        host = Host(ground)
        ground.floor()
        with ground.memalloc():
            addr = ground.slub.kmem_cache_alloc(host.avc.avc_node_cachep, GFP_ATOMIC)
        assert ground.slub.is_reserve_backed(addr)
        ground.slub.kmem_cache_free(host.avc.avc_node_cachep, addr)
        host.ask_in_softirq(50)
        assert host.nodes() == []
        ground.relief()


@BOTH
def test_a_failure_leaves_the_counters_alone(patches):
    with slab_ground(32 << 20, patches) as ground:
        host = Host(ground)
        ground.floor()
        host.ask_in_softirq(30, entitled=False)
        stats = host.avc.stats
        assert (stats.allocations, host.avc.active_nodes) == (0, 0)
        assert (stats.lookups, stats.misses) == (30, 30)
        ground.relief()


@BOTH
def test_with_ample_memory_the_hit_rate_is_the_same(patches):
    with slab_ground(32 << 20, patches) as ground:
        host = Host(ground)
        for _ in range(2):
            host.asked = 0
            host.ask_in_softirq(300)
        assert (host.avc.stats.hits, host.avc.stats.misses) == (300, 300)


@pytest.mark.parametrize(("patches", "gfp"), [(ON, 0x10020), (OFF, 0x20)])
def test_the_flags_of_a_nodes_allocation(patches, gfp):
    with slab_ground(32 << 20, patches) as ground:
        host = Host(ground)
        seen = []
        alloc = ground.slub.kmem_cache_alloc
        ground.slub.kmem_cache_alloc = lambda cache, flags: seen.append(flags) or alloc(cache, flags)
        host.avc.avc_has_perm(1, 1, SECCLASS_PACKET, PACKET__RECV)
        assert seen == [gfp | _GFP_ZERO]


@settings(max_examples=25, deadline=None)
@given(
    rounds=st.lists(st.tuples(st.integers(1, 80), st.booleans(), st.booleans()), max_size=6),
    patches=st.sampled_from([ON, OFF, "none"]),
    fixes=st.sampled_from(["all", "none"]),
)
def test_in_any_weather_decisions_hold_and_with_the_patch_the_reserve_is_untouched(rounds, patches, fixes):
    with slab_ground(8 << 20, patches, fixes) as ground:
        host = Host(ground)
        for pairs, floor, entitled in rounds:
            if floor:
                ground.floor()
            first = host.asked
            assert host.ask_in_softirq(pairs, entitled=entitled) == expected(first, pairs)
            if patches == ON:
                assert host.reserve_pages() == 0
            ground.relief()
        ground.slub.check()
