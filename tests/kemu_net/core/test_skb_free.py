"""Who frees what of a socket buffer, and when."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.skbuff import skb_bytes
from net_ground import filled, one_host


@pytest.fixture
def host():
    with one_host() as host:
        yield host


@pytest.fixture
def skbs(host):
    return host.skbs


def test_a_freed_skb_leaves_nothing(skbs, host):
    skbs.kfree_skb(skbs.alloc_skb(100, GFP_ATOMIC))
    assert (host.in_use("skbuff_head_cache"), host.in_use("kmalloc-512"), skbs.live) == (0, 0, 0)


def test_freeing_twice_is_a_bug(skbs):
    skb = skbs.alloc_skb(1, GFP_ATOMIC)
    skbs.kfree_skb(skb)
    with pytest.raises(KernelBug, match="twice"):
        skbs.kfree_skb(skb)


@pytest.mark.keeps_skbs("the test holds skbs in its hands")
def test_a_second_user_keeps_the_skb(skbs):
    skb = skbs.alloc_skb(1, GFP_ATOMIC)
    skb.users += 1
    skbs.kfree_skb(skb)
    assert skbs.live == 1


def test_a_drop_at_a_gate_is_counted_there(skbs):
    skbs.kfree_skb(skbs.alloc_skb(1, GFP_ATOMIC), "protocol")
    assert skbs.stats.drops["protocol"] == 1


def test_another_reason_is_counted_under_ignored(skbs):
    skbs.kfree_skb(skbs.alloc_skb(1, GFP_ATOMIC), "martian")
    assert skbs.stats.ignored == {"martian": 1}


def test_the_destructor_runs_once_at_the_end(skbs):
    seen = []
    skb = skbs.alloc_skb(1, GFP_ATOMIC)
    skb.destructor = seen.append
    skb.users += 1
    skbs.kfree_skb(skb)
    assert seen == []
    skbs.kfree_skb(skb)
    assert seen == [skb]


def chain(skbs, count: int):
    """Make a packet with a list of fragments, as reassembly would."""
    skb = filled(skbs, b"head")
    last = None
    for number in range(count):
        child = filled(skbs, bytes([65 + number]) * 3)
        if last is None:
            skb.frag_list = child
        else:
            last.next = child
        last = child
        skb.len += 3
        skb.data_len += 3
    return skb


def test_a_fragment_list_goes_with_the_data(skbs, host):
    skb = chain(skbs, 3)
    assert skb_bytes(skb) == b"headAAABBBCCC"
    clone = skbs.skb_clone(skb, GFP_ATOMIC)
    skbs.kfree_skb(skb)
    assert skbs.live == 4
    assert skb_bytes(clone, 5) == b"AABBBCCC"
    skbs.kfree_skb(clone)
    assert (skbs.live, host.in_use("skbuff_head_cache")) == (0, 0)


def test_a_drop_is_traced_with_its_reason(skbs, host):
    host.kernel.trace.enable("skb:kfree_skb")
    skb = skbs.alloc_skb(1, GFP_ATOMIC)
    skb.protocol = 0x0806
    skbs.kfree_skb(skb, "arp: short")
    skbs.kfree_skb(skbs.alloc_skb(1, GFP_ATOMIC))  # used, not dropped
    (line,) = host.kernel.trace.last(5)
    assert "kfree_skb: " in line and "protocol=2054 location=arp: short" in line


def test_the_data_goes_with_the_last_clone_in_any_order(skbs, host):
    skb = filled(skbs, b"data")
    clones = [skbs.skb_clone(skb, GFP_ATOMIC) for _ in range(3)]
    for one in (clones[1], skb, clones[2]):
        skbs.kfree_skb(one)
        assert host.in_use("kmalloc-512") == 1
    skbs.kfree_skb(clones[0])
    assert host.in_use("kmalloc-512") == 0


@pytest.mark.parametrize(("fixes", "charge"), [("all", 1600 + 312), ("none", 1600)])
def test_b19a_what_an_area_is_charged_with(fixes, charge):
    with one_host(fixes=fixes) as host:
        assert host.skbs._charge_of(1600) == charge
