"""Where receive buffers come from, compared: kmalloc as v14, a cache of one size, recycling.

One scenario for all: a host at the floor that swaps over the network, and a flood for a socket that carries no swap. Patch 20 drops
every emergency packet of it, so what differs is what the driver does with buffers.
"""

from __future__ import annotations

import pytest

from kemu.errors import ConfigError
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.skb_alloc import SkbAlloc
from kemu_net.core.skb_variants import POOL_SIZE, RX_BUFFER_SIZE, FixedBuffers, Recycling, skb_alloc_class
from kemu_net.core.skbuff import NET_SKB_PAD, SKB_ALLOC_FCLONE, SKB_DATA_ALIGN
from net_ground import MIB, filled, one_host, two_hosts, udp_frame

RING = 32
FRAMES = 40
ROUNDS = 5
VARIANTS = {
    "kmalloc": {},
    "fixed": {"rx_buffers": "fixed"},
    "recycle": {"recycle": True},
    "both": {"rx_buffers": "fixed", "recycle": True},
}


def keep(host):
    if isinstance(host.skbs, Recycling):
        host.skbs.keep(host.nic.rx.data_size + NET_SKB_PAD)


def close(host):
    host.unhog()
    host.nic.close()
    if isinstance(host.skbs, Recycling):
        host.skbs.drain()
    assert (host.skbs.live, host.skbs.emergency_live, host.usage) == (0, 0, 0)


class Outcome:
    """What the scenario shows of one variant."""

    def __init__(self, **options) -> None:
        with two_hosts(ring=RING, b={}, **options) as net:
            host = net.a
            keep(host)
            net.greet()
            host.swap_over_network()
            host.hog()
            heads = host.skbs.skbuff_head_cache
            allocated = []
            real = host.slub.kmem_cache_alloc

            def counting(cache, gfp):
                address = real(cache, gfp)
                if cache is heads and address is not None:
                    allocated.append(address)
                return address

            host.slub.kmem_cache_alloc = counting
            sk = host.socket(7)
            for _ in range(ROUNDS):
                net.flood(udp_frame(), FRAMES)
                net.run(10)
            self.ring = len(host.nic.rx.buffers)
            self.emergency = sum(skb.emergency for skb, _pages in host.nic.rx.buffers)
            self.charged = host.usage
            self.reserve_pages = len(host.page_alloc.reserve_pfns)
            self.allocations = len(allocated)
            self.drops = dict(host.stats.drops)
            self.recycled = getattr(host.skbs, "recycled", 0)
            host.unhog()
            net.run(10)
            net.flood(udp_frame(b"after"), FRAMES)
            net.run(10)
            self.charged_after = host.usage
            self.lost_after = host.stats.drops["socket"] - self.drops["socket"]
            host.udp.close(sk)
            close(host)


@pytest.fixture(scope="module")
def outcomes():
    return {name: Outcome(**options) for name, options in VARIANTS.items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_keeps_its_ring_full_at_the_floor(outcomes, variant):
    outcome = outcomes[variant]
    assert outcome.ring == RING
    assert outcome.emergency > 0
    assert outcome.drops["charge"] == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_pays_for_every_emergency_buffer(outcomes, variant):
    outcome = outcomes[variant]
    assert outcome.charged >= outcome.emergency * 2048
    if variant in ("kmalloc", "fixed"):
        assert outcome.charged == outcome.emergency * 2048


def test_recycling_allocates_once_and_uses_again(outcomes):
    assert outcomes["recycle"].allocations < outcomes["kmalloc"].allocations / 2
    assert outcomes["recycle"].recycled > FRAMES
    assert outcomes["both"].recycled > FRAMES
    assert outcomes["kmalloc"].recycled == 0


def test_recycled_buffers_stay_charged_while_they_wait(outcomes):
    """What recycling costs: the pool keeps its share of the budget, where v14 gives it back at the gate."""
    assert outcomes["recycle"].charged >= outcomes["kmalloc"].charged


def test_a_cache_of_its_own_holds_no_more_pages_of_the_reserve(outcomes):
    assert outcomes["fixed"].reserve_pages <= outcomes["kmalloc"].reserve_pages


def test_emergency_buffers_outlive_the_shortage_in_the_ring_only(outcomes):
    """B.12: a buffer in the ring is dropped with the frame that comes, although memory is plentiful again; that holds for all."""
    for outcome in outcomes.values():
        assert outcome.lost_after <= RING


def test_the_pool_gives_its_charge_back_when_memory_is_there_again(outcomes):
    assert outcomes["recycle"].charged_after < outcomes["recycle"].charged


@pytest.mark.parametrize(
    ("options", "kind"), [(("kmalloc", False), SkbAlloc), (("fixed", False), FixedBuffers), (("kmalloc", True), Recycling)]
)
def test_switches_choose_the_class(options, kind):
    assert skb_alloc_class(*options) is kind


def test_an_unknown_kind_of_buffer_is_refused():
    with pytest.raises(ConfigError, match="kmalloc or fixed"):
        skb_alloc_class("huge", recycle=False)


def test_a_fixed_buffer_comes_from_its_cache():
    with one_host(rx_buffers="fixed") as host:
        skb = host.skbs.netdev_alloc_skb(host.nic, RX_BUFFER_SIZE - NET_SKB_PAD)
        assert host.in_use("skbuff_rx_cache") == 1
        assert (skb.end, skb.emergency, skb.dev) == (SKB_DATA_ALIGN(RX_BUFFER_SIZE), 0, host.nic)
        host.skbs.kfree_skb(skb)
        assert host.in_use("skbuff_rx_cache") == 0


def test_a_larger_buffer_comes_from_kmalloc():
    with one_host(rx_buffers="fixed", mem=64 * MIB) as host:
        skb = host.skbs.netdev_alloc_skb(host.nic, 9000)
        assert (host.in_use("skbuff_rx_cache"), skb.end >= 9000) == (0, True)
        host.skbs.kfree_skb(skb)


@pytest.mark.parametrize("patches", ["all,-19", "none"])
def test_without_patch_19_a_fixed_buffer_is_plain_atomic(patches):
    with one_host(rx_buffers="fixed", patches=patches) as host:
        host.swap_over_network()
        host.hog()
        while (address := host.slub.kmem_cache_alloc(host.skbs.skbuff_rx_cache, GFP_ATOMIC)) is not None:
            host.hogged.append(address)
        assert host.skbs.netdev_alloc_skb(host.nic, 1536) is None
        assert host.usage == 0


def test_without_swap_sockets_a_fixed_buffer_is_never_charged():
    with one_host(rx_buffers="fixed") as host:
        host.hog()
        assert host.skbs.netdev_alloc_skb(host.nic, 1536) is None


def test_a_packet_that_somebody_else_looks_at_is_not_recycled():
    with one_host(recycle=True) as host:
        host.skbs.keep(1536)
        skb = filled(host.skbs, b"x" * 1536)
        clone = host.skbs.skb_clone(skb, GFP_ATOMIC)
        host.skbs.kfree_skb(skb)
        assert not any(host.skbs.pools[1536])
        host.skbs.kfree_skb(clone)  # the data are its own now
        assert len(host.skbs.pools[1536][0]) == 1
        close(host)


def test_a_used_packet_is_as_good_as_new():
    with one_host(recycle=True) as host:
        host.skbs.keep(1536)
        skb = filled(host.skbs, b"x" * 1500 + bytes(36))
        skb.protocol = 5
        destroyed = []
        skb.destructor = destroyed.append
        addresses = (skb.addr, skb.head)
        host.skbs.kfree_skb(skb, "socket")
        assert destroyed == [skb]
        assert host.stats.drops["socket"] == 1
        again = host.skbs.alloc_skb(1536, GFP_ATOMIC)
        assert (again.addr, again.head) == addresses
        assert (again.len, again.protocol, again.buf, again.destructor) == (0, 0, b"", None)
        assert host.skbs.recycled == 1
        host.skbs.kfree_skb(again)
        close(host)


def test_a_transmitted_packet_serves_the_receiver():
    with two_hosts(recycle=True, b={}) as net:
        host = net.a
        keep(host)
        net.greet()
        skb = host.skbs.alloc_skb(host.nic.rx.data_size + NET_SKB_PAD, GFP_ATOMIC)
        skb.buf = udp_frame()
        skb.len = len(skb.buf)
        skb.dev = host.nic
        address = skb.head
        host.dev.dev_queue_xmit(skb)
        net.run(10)
        assert address in [head for _addr, head in next(iter(host.skbs.pools.values()))[0]]
        host.nic.rx._free_buffer(host.nic.rx.buffers.pop())
        host.nic.rx.refill()
        assert host.skbs.recycled >= 1
        close(host)


def test_a_pool_is_bounded():
    with one_host(recycle=True) as host:
        host.skbs.keep(1536)
        packets = [filled(host.skbs, bytes(1536)) for _ in range(POOL_SIZE + 5)]
        for skb in packets:
            host.skbs.kfree_skb(skb)
        assert len(host.skbs.pools[1536][0]) == POOL_SIZE
        assert host.in_use("skbuff_head_cache") == POOL_SIZE
        close(host)
        assert host.in_use("skbuff_head_cache") == 0


def test_pairs_are_not_recycled():
    with one_host(recycle=True) as host:
        host.skbs.keep(1536)
        host.skbs.kfree_skb(filled(host.skbs, bytes(1536), SKB_ALLOC_FCLONE))
        assert not any(host.skbs.pools[1536])
