"""Copies with room, and private copies."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.skb_copy import skb_copy_expand, skb_cow, skb_get, skb_realloc_headroom, skb_share_check
from kemu_net.core.skbuff import skb_bytes, skb_headroom, skb_pull, skb_push, skb_put_bytes, skb_reserve, skb_tailroom
from net_ground import filled, one_host, with_page


@pytest.fixture
def host():
    with one_host() as host:
        yield host


@pytest.fixture
def skbs(host):
    return host.skbs


def free(host, *packets):
    for skb in packets:
        host.skbs.kfree_skb(skb)
    assert host.skbs.live == 0


def emergency(host):
    """Take an emergency buffer with four bytes in it, at the floor."""
    host.swap_over_network()
    host.hog()
    skb = host.skbs.netdev_alloc_skb(host.nic, 1536)
    assert skb.emergency
    skb_put_bytes(skb, b"data")
    return skb


def test_reserved_room_is_in_front(host):
    skb = host.skbs.alloc_skb(192, GFP_ATOMIC)
    skb_reserve(skb, 64)
    assert (skb_headroom(skb), skb_tailroom(skb)) == (64, 128)
    skb_put_bytes(skb, b"x" * 100)
    skb_push(skb, b"h" * 60)
    assert (skb_headroom(skb), skb_tailroom(skb)) == (4, 28)
    skb_pull(skb, 10)
    assert (skb_headroom(skb), skb_tailroom(skb)) == (14, 28)
    free(host, skb)


def test_without_a_reservation_the_rest_of_the_area_is_room_on_both_sides(host):
    skb = host.skbs.alloc_skb(192, GFP_ATOMIC)
    skb_put_bytes(skb, b"x" * 100)
    assert (skb_headroom(skb), skb_tailroom(skb)) == (92, 92)
    free(host, skb)


@pytest.mark.parametrize("reserved", [0, 10])
def test_pushing_beyond_the_headroom_panics(host, reserved):
    skb = host.skbs.alloc_skb(192, GFP_ATOMIC)
    skb_reserve(skb, reserved)
    with pytest.raises(KernelBug, match="skb_under_panic"):
        skb_push(skb, b"x" * (reserved + 1))
    free(host, skb)


def test_putting_beyond_the_tailroom_panics(host):
    skb = host.skbs.alloc_skb(192, GFP_ATOMIC)
    skb_reserve(skb, 100)
    with pytest.raises(KernelBug, match="skb_over_panic"):
        skb_put_bytes(skb, b"x" * 93)
    free(host, skb)


def test_nothing_is_put_behind_fragments(host):
    skb, _page = with_page(host, b"head", b"page")
    with pytest.raises(KernelBug, match="skb_over_panic"):
        skb_put_bytes(skb, b"x")
    free(host, skb)


def test_room_is_reserved_in_an_empty_packet_only(host):
    skb = filled(host.skbs, b"data")
    with pytest.raises(KernelBug, match="skb_reserve"):
        skb_reserve(skb, 1)
    free(host, skb)


def test_an_expanded_copy_has_room_on_both_sides_and_is_linear(host):
    skb, _page = with_page(host, b"head", b"page")
    skb.h = 4
    skb_pull(skb, 1)
    copy = skb_copy_expand(host.skbs, skb, 32, 16, GFP_ATOMIC)
    assert (skb_bytes(copy), copy.data_len, copy.h) == (b"eadpage", 0, 3)
    assert skb_headroom(copy) == 32
    assert skb_tailroom(copy) >= 16
    free(host, skb, copy)


def test_an_expanded_copy_of_an_emergency_packet_is_charged(host):
    skb = emergency(host)
    usage = host.usage
    copy = skb_copy_expand(host.skbs, skb, 100, 0, GFP_ATOMIC)
    assert copy.emergency
    assert host.usage == usage + 512  # 104 bytes, aligned to 128, and the shared info
    free(host, skb, copy)
    assert host.usage == 0


def test_without_memory_there_is_no_expanded_copy():
    with one_host(patches="none") as host:
        skb = filled(host.skbs, b"data")
        host.hog()
        assert skb_copy_expand(host.skbs, skb, 100, 0, GFP_ATOMIC) is None
        free(host, skb)


def test_a_shared_head_is_cloned_and_the_callers_reference_given_back(host):
    skb = filled(host.skbs, b"data")
    assert skb_share_check(host.skbs, skb, GFP_ATOMIC) is skb
    skb_get(skb)
    clone = skb_share_check(host.skbs, skb, GFP_ATOMIC)
    assert clone is not skb
    assert (skb.users, clone.users, clone.buf is skb.buf) == (1, 1, True)
    free(host, skb, clone)


def test_without_memory_a_shared_packet_is_lost_to_the_caller():
    with one_host(patches="none") as host:
        skb = skb_get(filled(host.skbs, b"data"))
        host.hog()
        assert skb_share_check(host.skbs, skb, GFP_ATOMIC) is None
        assert skb.users == 1
        free(host, skb)


@pytest.mark.parametrize("headroom", [0, 500])
def test_more_headroom_makes_another_packet(host, headroom):
    skb = host.skbs.alloc_skb(64, GFP_ATOMIC)
    skb_reserve(skb, 16)
    skb_put_bytes(skb, b"data")
    other = skb_realloc_headroom(host.skbs, skb, headroom)
    assert skb_bytes(other) == b"data"
    assert other.head != skb.head
    assert skb_headroom(other) >= headroom
    free(host, skb, other)


def test_without_memory_there_is_no_more_headroom():
    with one_host(patches="none") as host:
        skb = filled(host.skbs, b"data")
        host.hog()
        assert skb_realloc_headroom(host.skbs, skb, 4000) is None
        free(host, skb)


def test_copy_on_write_leaves_a_private_packet_alone(host):
    skb = filled(host.skbs, b"data")
    head = skb.head
    assert skb_cow(host.skbs, skb, 0)
    assert skb.head == head
    clone = host.skbs.skb_clone(skb, GFP_ATOMIC)
    assert skb_cow(host.skbs, skb, 0)
    assert skb.head != head == clone.head
    free(host, skb, clone)


def test_copy_on_write_fails_without_memory():
    with one_host(patches="none") as host:
        skb = filled(host.skbs, b"data")
        clone = host.skbs.skb_clone(skb, GFP_ATOMIC)
        host.hog()
        assert not skb_cow(host.skbs, skb, 0)
        assert skb.head == clone.head
        free(host, skb, clone)


def test_copy_on_write_of_an_emergency_packet_is_charged_first(host):
    skb = emergency(host)
    clone = host.skbs.skb_clone(skb, GFP_ATOMIC)
    usage = host.usage
    assert skb_cow(host.skbs, skb, 0)
    assert host.usage == 2 * usage
    free(host, skb, clone)
    assert host.usage == 0
