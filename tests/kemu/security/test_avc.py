"""The access vector cache."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.kernel.errno import EACCES, ENOENT, ENOMEM
from kemu.security.avc import (
    AVC_CACHE_RECLAIM,
    AVC_CACHE_SLOTS,
    AVC_STRICT,
    GRACE_PERIOD,
    SIZEOF_AVC_NODE,
    Avc,
    AvDecision,
    avc_hash,
)
from kemu.security.selinux import PolicyServer
from slab_ground import slab_ground

READ, WRITE = 1, 2
FILE = 6  # any class will do
GRACE_NS = (2 * GRACE_PERIOD + 3) * 4_000_000


def even(ssid, tsid, _tclass):
    """Allow reading where both labels are even, everything on what is one's own, nothing else."""
    return 0xFFFFFFFF if ssid == tsid else READ if (ssid | tsid) & 1 == 0 else 0


@pytest.fixture
def machine():
    with slab_ground(8 << 20) as machine:
        machine.server = PolicyServer(even)
        machine.avc = Avc(machine.kernel, machine.slub, machine.server)
        yield machine
        machine.avc.check()
        machine.avc.avc_ss_reset(100)
        machine.kernel.world.run(for_ns=GRACE_NS)
        machine.avc.check()
        assert machine.slub.objects_in_use(machine.avc.avc_node_cachep) == 0


@pytest.fixture
def avc(machine):
    return machine.avc


def test_a_miss_asks_the_server_and_a_hit_does_not(avc):
    assert avc.avc_has_perm(2, 4, FILE, READ) == 0
    avc.server.policy = None  # whoever asked it now would hear something else
    assert avc.avc_has_perm(2, 4, FILE, WRITE) == -EACCES
    assert (avc.stats.lookups, avc.stats.hits, avc.stats.misses, avc.active_nodes) == (2, 1, 1, 1)


@pytest.mark.parametrize(("pair", "requested", "result"), [((2, 4), READ, 0), ((2, 4), WRITE, -EACCES), ((3, 4), READ, -EACCES)])
def test_decisions_are_the_policys(avc, pair, requested, result):
    assert avc.avc_has_perm(*pair, FILE, requested) == result


def test_to_request_nothing_is_to_be_denied(avc):
    assert avc.avc_has_perm(2, 2, FILE, 0) == -EACCES


def test_a_denial_is_reported_with_the_labels(machine, avc):
    avc.avc_has_perm(3, 4, FILE, WRITE)
    assert machine.kernel.printk.buffer[-1][2] == 'avc:  denied  { 0x2 } for  pid=1 comm="init" ssid=3 tsid=4 tclass=6'


def test_where_nothing_is_enforced_a_denial_is_reported_once_and_granted(machine, avc):
    avc.server.enforcing = False
    lines = len(machine.kernel.printk.buffer)
    assert [avc.avc_has_perm(3, 4, FILE, WRITE) for _ in range(3)] == [0, 0, 0]
    assert len(machine.kernel.printk.buffer) == lines + 1
    assert avc.active_nodes == 1  # the new node took the old one's place
    assert avc.avc_has_perm_noaudit(3, 4, FILE, READ, AVC_STRICT)[0] == -EACCES


def test_a_server_without_a_policy_decides_only_what_is_asked(avc):
    avc.server.policy = None
    avc.avc_has_perm(3, 4, FILE, READ)
    assert avc.avc_has_perm(3, 4, FILE, WRITE) == 0
    assert avc.stats.misses == 2  # the node had not decided about writing
    assert avc.active_nodes == 1


def test_the_class_is_part_of_the_question(avc):
    avc.avc_has_perm(2, 4, FILE, READ)
    avc.avc_has_perm(2, 4, FILE + 1, READ)
    assert avc.stats.misses == 2


def test_a_node_is_an_object_of_its_cache(machine, avc):
    avc.avc_has_perm(2, 4, FILE, READ)
    cache = machine.slub.caches["avc_node"]
    assert (cache.size, cache.objects, cache.order) == (SIZEOF_AVC_NODE, 4096 // SIZEOF_AVC_NODE, 0)
    assert machine.slub.objects_in_use(cache) == 1


def test_one_more_than_the_threshold_gives_sixteen_back(avc):
    for label in range(avc.threshold):
        avc.avc_has_perm(2, 2 * label, FILE, READ)
    assert avc.active_nodes == avc.threshold
    assert avc.stats.reclaims == 0
    avc.avc_has_perm(2, 2 * avc.threshold, FILE, READ)
    assert avc.stats.reclaims == AVC_CACHE_RECLAIM
    assert avc.active_nodes == avc.threshold + 1 - AVC_CACHE_RECLAIM


def test_a_scan_goes_on_where_the_last_one_ended(avc):
    for slot in range(AVC_CACHE_SLOTS):
        assert avc.avc_insert(slot, 0, 0, AvDecision(READ, READ, seqno=1)) is not None
    hints = []
    for label in (1000, 1001):
        avc.threshold = avc.active_nodes
        avc.avc_insert(label, 0, 0, AvDecision(READ, READ, seqno=1))
        hints.append(avc.lru_hint)
    assert hints == [AVC_CACHE_RECLAIM, 2 * AVC_CACHE_RECLAIM]
    gone = [slot for slot in range(AVC_CACHE_SLOTS) if avc.avc_lookup(slot, 0, 0, READ) is None]
    assert gone == list(range(1, 2 * AVC_CACHE_RECLAIM + 1))


def test_a_hit_does_not_save_a_node_from_the_scan(avc):
    node = avc.avc_insert(1, 0, 0, AvDecision(READ, READ, seqno=1))
    assert avc.avc_lookup(1, 0, 0, READ) is node
    avc.threshold = 0
    avc.avc_insert(2, 0, 0, AvDecision(READ, READ, seqno=1))
    assert avc.avc_lookup(1, 0, 0, READ) is None


def test_memory_comes_back_after_a_grace_period(machine, avc):
    avc.avc_has_perm(2, 4, FILE, READ)
    avc.avc_ss_reset(1)
    assert (avc.active_nodes, avc.stats.frees) == (0, 0)
    machine.kernel.world.run(for_ns=GRACE_NS)
    assert avc.stats.frees == 1


def test_who_comes_during_a_grace_period_waits_for_the_next_one(machine, avc):
    world = machine.kernel.world
    for label in (2, 4):
        avc.avc_has_perm(2, label, FILE, READ)
    avc.threshold = 0
    avc.avc_insert(6, 0, 0, AvDecision(READ, READ, seqno=1))  # both go
    assert avc.active_nodes == 1
    world.run(for_ns=6_000_000)
    avc.avc_ss_reset(1)  # and the third
    world.run(for_ns=GRACE_PERIOD * 4_000_000)
    assert avc.stats.frees == 2
    avc.check()
    world.run(for_ns=GRACE_NS)
    assert avc.stats.frees == 3


def test_a_reset_forgets_and_refuses_what_follows_from_an_older_policy(machine, avc):
    avc.avc_has_perm(2, 4, FILE, READ)
    avc.avc_ss_reset(7)
    assert avc.avc_has_perm(2, 4, FILE, READ) == 0  # decided, but by policy 1: not remembered
    assert avc.active_nodes == 0
    assert machine.kernel.printk.buffer[-1][2] == "avc:  seqno 1 < latest_notif 7"
    avc.server.seqno = 7
    avc.avc_has_perm(2, 4, FILE, READ)
    assert avc.active_nodes == 1


def test_updating_what_is_not_there_frees_the_new_node_at_once(avc):
    assert avc.avc_update_node(READ, 1, 2, FILE) == -ENOENT
    assert (avc.stats.allocations, avc.stats.frees, avc.active_nodes) == (1, 1, 0)


def test_without_memory_nothing_is_remembered_and_nothing_is_counted(machine, avc):
    machine.floor()
    while machine.slub.kmem_cache_alloc(avc.avc_node_cachep, 0x220) is not None:  # slack of other nodes
        pass
    held = machine.slub.objects_in_use(avc.avc_node_cachep)
    assert avc.avc_has_perm(2, 4, FILE, READ) == 0
    assert avc.avc_update_node(READ, 2, 4, FILE) == -ENOMEM
    assert (avc.stats.allocations, avc.active_nodes) == (0, 0)
    machine.relief()
    assert held == 0


def test_hash_stats_are_the_kernels_three_lines(avc):
    for ssid in (0, AVC_CACHE_SLOTS, 5):
        avc.avc_insert(ssid, 0, 0, AvDecision(READ, READ, seqno=1))
    assert avc.avc_get_hash_stats() == "entries: 3\nbuckets used: 2/512\nlongest chain: 2\n"


def test_check_notices_a_node_in_a_wrong_slot(avc):
    node = avc.avc_insert(1, 0, 0, AvDecision(READ, READ, seqno=1))
    node.ssid = 2
    with pytest.raises(KernelBug, match="another slot"):
        avc.check()
    node.ssid = 1


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda avc: setattr(avc, "active_nodes", 7), "are counted"),
        (lambda avc: setattr(avc.stats, "frees", 1), "the counters say otherwise"),
        (lambda avc: setattr(avc.stats, "lookups", 9), "hits and misses"),
        (lambda avc: avc.slub.kmem_cache_alloc(avc.avc_node_cachep, 0x20), "nodes are lost"),
    ],
)
def test_check_notices_what_does_not_add_up(spoil, what):
    with slab_ground(8 << 20) as machine:
        avc = Avc(machine.kernel, machine.slub, PolicyServer(even))
        avc.avc_has_perm(2, 4, FILE, READ)
        avc.check()
        spoil(avc)
        with pytest.raises(KernelBug, match=what):
            avc.check()


def test_the_hash_is_the_kernels():
    assert avc_hash(1, 1, 1) == 1 ^ 4 ^ 16
    assert avc_hash(0x12345, 0x678, 57) == (0x12345 ^ 0x19E0 ^ 0x390) & 511


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.sampled_from([READ, WRITE, 3])), max_size=120),
    threshold=st.integers(0, 30),
    patches=st.sampled_from(["all", "all,-12"]),
)
def test_the_cache_never_changes_a_decision(steps, threshold, patches):
    with slab_ground(4 << 20, patches) as machine:
        avc = Avc(machine.kernel, machine.slub, PolicyServer(even))
        avc.threshold = threshold
        known: OrderedDict = OrderedDict()
        for ssid, tsid, requested in steps:
            expected = -EACCES if requested & ~even(ssid, tsid, FILE) else 0
            assert avc.avc_has_perm(ssid, tsid, FILE, requested) == expected
            known[ssid, tsid] = None
            assert avc.active_nodes <= max(threshold, 1)
            avc.check()
        assert avc.stats.allocations >= len(known)
