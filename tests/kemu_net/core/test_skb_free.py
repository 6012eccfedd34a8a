"""Who frees what of a socket buffer, and when."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.mm.gfp import GFP_ATOMIC
from net_ground import one_host


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
