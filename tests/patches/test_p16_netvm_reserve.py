"""Patch 16: a socket that carries swap, the reserve behind it, and the count that tells everybody (with defect b16)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.kernel.errno import EAGAIN, ENOMEM
from kemu.mm.gfp import _GFP_MEMALLOC, GFP_ATOMIC, GFP_KERNEL
from kemu_net.core.sock import SOCK_MEMALLOC, sk_has_memalloc
from tcp_ground import ACK, FIN, accepted, connected, one_tcp


def _budget(host, size=262144):
    host.reserves.mem_reserve_kmalloc_set(host.net_reserves.net_skb_reserve, size)


def test_set_twice_and_clear_once_leaves_nothing():
    with one_tcp() as host:
        socks, nets = host.socks, host.net_reserves
        sk, _peer = connected(host)
        sk.sk_allocation = GFP_ATOMIC
        assert socks.sk_set_memalloc(sk) == 1
        assert socks.sk_set_memalloc(sk) == 0
        assert sk_has_memalloc(sk)
        assert sk.sk_allocation == 0x2020
        assert nets.sk_memalloc_socks() == 1
        assert socks.sk_clear_memalloc(sk) == 1
        assert socks.sk_clear_memalloc(sk) == 0
        assert sk.sk_allocation == GFP_ATOMIC
        assert nets.sk_memalloc_socks() == 0
        nets.check()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(("set", "clear", "extra", "less"))), max_size=25))
def test_the_count_is_the_sockets_with_the_flag_and_the_extra_references(actions):
    with one_tcp() as host:
        _budget(host)
        sks = [host.tcp.sock_create() for _ in range(4)]
        extra = 0
        for index, action in actions:
            if action == "set":
                host.socks.sk_set_memalloc(sks[index])
            elif action == "clear":
                host.socks.sk_clear_memalloc(sks[index])
            elif action == "extra":
                host.net_reserves.sk_adjust_memalloc(1, 49)
                extra += 1
            elif extra:
                host.net_reserves.sk_adjust_memalloc(-1, -49)
                extra -= 1
            carrying = sum(1 for sk in sks if sk.sk_flags & SOCK_MEMALLOC)
            assert host.net_reserves.memalloc_socks == carrying + extra
            host.net_reserves.check()
            host.socks.check()


def test_the_floor_rises_once_with_the_first_socket_and_falls_with_the_last():
    with one_tcp() as host:
        _budget(host)
        nets = host.net_reserves
        kbytes = lambda: host.page_alloc.var_free_kbytes  # noqa: E731  # asked five times below
        one, two = host.tcp.sock_create(), host.tcp.sock_create()
        assert kbytes() == 0
        host.socks.sk_set_memalloc(one)
        assert nets.net_reserve.pages == nets.net_skb_reserve.pages > 0
        assert kbytes() == nets.net_reserve.pages * 4
        before = kbytes()
        host.socks.sk_set_memalloc(two)
        assert kbytes() == before
        nets.sk_adjust_memalloc(1, 49)
        assert kbytes() == before + 49 * 4
        nets.sk_adjust_memalloc(-1, -49)
        host.socks.sk_clear_memalloc(one)
        assert kbytes() == before
        host.socks.sk_clear_memalloc(two)
        assert kbytes() == 0


def test_freeing_a_socket_that_carries_swap_takes_it_off_the_count():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        host.socks.sk_set_memalloc(sk)
        host.tcp.close(sk)
        assert host.net_reserves.memalloc_socks == 0
        host.net_reserves.check()
        host.assert_nothing_left()


def test_the_last_reference_dropped_in_softirq_takes_a_mutex_there():
    """F: v14 never thought of it (b31c); who replaces a socket that carries swap clears it first."""
    with one_tcp() as host:
        sk, peer = connected(host)
        host.socks.sk_set_memalloc(sk)
        peer.send(FIN | ACK)
        host.sent()
        host.tcp.close(sk)
        peer.saw(host.sent()[0])
        with pytest.raises(KernelBug, match="sleeping function called from invalid context"):
            peer.send(ACK)


def test_refusal_leaves_tx_pages_and_socket_unchanged():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        host.page_alloc.adjust_memalloc_reserve = lambda pages: -ENOMEM if pages > 0 else 0
        _budget(host)
        assert host.socks.sk_set_memalloc(sk) == -ENOMEM
        assert not sk_has_memalloc(sk)
        assert host.net_reserves.net_tx_pages.pages == 0
        assert host.net_reserves.memalloc_socks == 0


@pytest.mark.parametrize("fixes", ["all", "all,-b16"])
def test_a_refused_connection_takes_the_tx_pages_back(fixes):
    with one_tcp(fixes=fixes) as host:
        nets = host.net_reserves
        host.reserves.mem_reserve_connect = lambda *_args: -ENOMEM
        assert nets.sk_adjust_memalloc(1, 49) == -ENOMEM
        assert (nets.net_tx_pages.pages, nets.net_reserve.pages) == (0, 0)


def test_a_refusal_of_tx_pages_ends_there():
    with one_tcp() as host:
        nets = host.net_reserves
        assert nets.sk_adjust_memalloc(1, 49) == 0
        host.page_alloc.adjust_memalloc_reserve = lambda pages: -ENOMEM if pages > 0 else 0
        assert nets.sk_adjust_memalloc(1, 49) == -ENOMEM
        assert (nets.memalloc_socks, nets.net_tx_pages.pages) == (1, 49)
        nets.check()


def test_the_receive_reserve_is_added_once_however_many_sockets_follow():
    with one_tcp() as host:
        _budget(host)
        connects = []
        real = host.reserves.mem_reserve_connect
        host.reserves.mem_reserve_connect = lambda *args: connects.append(args) or real(*args)
        sks = [host.tcp.sock_create() for _ in range(5)]
        for sk in sks:
            host.socks.sk_set_memalloc(sk)
        assert len(connects) == 1
        for sk in sks:
            host.socks.sk_clear_memalloc(sk)
        host.socks.sk_set_memalloc(sks[0])
        assert len(connects) == 2


def test_the_helper_adds_the_bit_and_takes_none_away():
    with one_tcp() as host:
        sk, other = host.tcp.sock_create(), host.tcp.sock_create()
        host.socks.sk_set_memalloc(sk)
        for gfp in (GFP_ATOMIC, GFP_KERNEL, 0x10):
            assert host.socks.sk_allocation(sk, gfp) == gfp | _GFP_MEMALLOC
            assert host.socks.sk_allocation(other, gfp) == gfp


def test_a_socket_of_a_program_must_not_carry_swap():
    """The contract: a program could stop reading, and what waits in the socket pins the reserve."""
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        host.socks.sk_set_memalloc(sk)
        host.socks.check()
        sk.sk_socket = object()
        with pytest.raises(KernelBug, match="in the hands of a program"):
            host.socks.check()


def test_b16_as_posted_counts_a_socket_that_was_refused_and_never_connects():
    with one_tcp(fixes="all,-b16") as host:
        nets = host.net_reserves
        _budget(host)
        sk = host.tcp.sock_create()
        real = host.reserves.mem_reserve_connect
        host.reserves.mem_reserve_connect = lambda *_args: -ENOMEM
        assert host.socks.sk_set_memalloc(sk) == -ENOMEM
        assert nets.memalloc_socks == 1
        host.reserves.mem_reserve_connect = real
        assert host.socks.sk_set_memalloc(sk) == 1  # nobody notices
        assert nets.memalloc_socks == 2
        assert nets.net_reserve.parent is None
        assert host.page_alloc.var_free_kbytes == 0


def test_b16_mended():
    with one_tcp() as host:
        _budget(host)
        sk = host.tcp.sock_create()
        real = host.reserves.mem_reserve_connect
        host.reserves.mem_reserve_connect = lambda *_args: -ENOMEM
        assert host.socks.sk_set_memalloc(sk) == -ENOMEM
        assert host.net_reserves.memalloc_socks == 0
        host.reserves.mem_reserve_connect = real
        assert host.socks.sk_set_memalloc(sk) == 1
        assert host.net_reserves.net_reserve.parent is host.reserves.root


def test_an_accepted_connection_does_not_inherit_the_flag():
    with one_tcp() as host:
        listener, _sk, _peer = accepted(host)
        host.socks.sk_set_memalloc(listener)
        _listener, child, _peer = accepted(host, isn=5001, listener=listener)
        assert not sk_has_memalloc(child)
        assert not child.sk_allocation & _GFP_MEMALLOC
        assert host.net_reserves.memalloc_socks == 1


def test_without_the_patch_nothing_happens():
    with one_tcp(patches="all,-16") as host:
        _budget(host)
        sk, peer = connected(host)
        assert host.socks.sk_set_memalloc(sk) == 0
        assert host.net_reserves.sk_adjust_memalloc(1, 49) == 0
        assert not sk_has_memalloc(sk)
        assert host.net_reserves.sk_memalloc_socks() == 0
        assert host.socks.sk_allocation(sk, GFP_ATOMIC) == GFP_ATOMIC
        assert host.socks.sk_clear_memalloc(sk) == 0
        assert host.page_alloc.var_free_kbytes == 0
        peer.send(ACK, b"x")
        assert host.tcp.recvmsg(sk, 1) == b"x"


@pytest.mark.parametrize(("patches", "leaves"), [("all", True), ("all,-16", False)])
def test_a_swap_write_at_the_floor(patches, leaves):
    """D.2 row 16: the header skb is allocated and the WRITE leaves, or EAGAIN and nothing ever does."""
    with one_tcp(patches=patches, mem=16 << 20) as host:
        _budget(host)
        sk, _peer = connected(host)
        sk.sk_allocation = GFP_ATOMIC
        host.socks.sk_set_memalloc(sk)
        for size in (4096, 2048, 1024, 512, 256, 192, 128, 96, 64, 32, 16, 8):
            while host.slub.kmalloc(size, GFP_ATOMIC | 0x200) is not None:
                pass
        for cache in (host.skbs.skbuff_head_cache, host.skbs.skbuff_fclone_cache):
            while host.slub.kmem_cache_alloc(cache, GFP_ATOMIC | 0x200) is not None:
                pass
        result = host.tcp.sendmsg(sk, b"WRITE", nonblock=True)
        assert result == (5 if leaves else -EAGAIN)
        assert bool(host.sent()) is leaves


@pytest.mark.keeps_skbs("memory is filled with skbs until none is left")
@pytest.mark.parametrize(("patches", "emergency"), [("all", 1), ("all,-16", None)])
def test_receiving_tries_the_reserve_only_if_somebody_swaps(patches, emergency):
    """OFF: sk_memalloc_socks() stays 0, and patch 19 never tries a second time."""
    with one_tcp(patches=patches, mem=16 << 20) as host:
        _budget(host)
        sk = host.tcp.sock_create()
        assert host.socks.sk_set_memalloc(sk) == (1 if emergency else 0)
        while (skb := host.skbs.netdev_alloc_skb(None, 1536)) is not None and not skb.emergency:
            pass
        assert (skb and skb.emergency) == emergency
        if skb is not None:
            host.skbs.kfree_skb(skb)
        assert host.net_reserves.net_skb_reserve.usage == 0


def test_b16_as_posted_lets_receivers_charge_a_reserve_that_is_not_there():
    """F: everybody believes in the reserve: a charge succeeds, but no page stands behind it."""
    with one_tcp(fixes="all,-b16") as host:
        _budget(host)
        host.reserves.mem_reserve_connect = lambda *_args: -ENOMEM
        assert host.socks.sk_set_memalloc(host.tcp.sock_create()) == -ENOMEM
        assert host.net_reserves.sk_memalloc_socks() == 1
        assert host.net_reserves.rx_emergency_get(2048) == 1
        assert host.page_alloc.var_free_kbytes == 0
        host.net_reserves.rx_emergency_put(2048)
