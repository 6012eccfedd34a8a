"""Allocating, cloning and copying socket buffers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.kernel.errno import ENOMEM
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.skb_alloc import skb_cloned
from kemu_net.core.skbuff import SKB_ALLOC_FCLONE, SKB_ALLOC_RX, skb_bytes, skb_linear, skb_pull, skb_push
from net_ground import filled, one_host, with_page

pytestmark = pytest.mark.keeps_skbs("the tests hold skbs in their hands")


@pytest.fixture
def host():
    with one_host() as host:
        yield host


@pytest.fixture
def skbs(host):
    return host.skbs


def test_a_head_is_a_256_byte_object(host):
    cache = host.skbs.skbuff_head_cache
    assert (cache.size, cache.objects) == (256, 16)


def test_a_pair_is_a_512_byte_object(host):
    assert host.skbs.skbuff_fclone_cache.size == 512


def test_a_ring_buffer_of_1536_bytes_is_a_kmalloc_2048(skbs, host):
    skb = skbs.netdev_alloc_skb(None, 1536)
    assert (skb.end, skb.truesize, host.slub.ksize(skb.head)) == (1600, 1832, 2048)


def test_a_ring_buffer_of_2048_bytes_is_a_page(skbs, host):
    skb = skbs.alloc_skb(2066, GFP_ATOMIC)
    assert host.slub.ksize(skb.head) == 4096


def test_a_clone_shares_data_and_counts_itself(skbs, host):
    skb = filled(skbs, b"data")
    clone = skbs.skb_clone(skb, GFP_ATOMIC)
    assert clone.head == skb.head
    assert clone.buf is skb.buf
    assert skb_cloned(skb) and skb_cloned(clone)
    skbs.kfree_skb(skb)
    assert host.in_use("kmalloc-512") == 1
    skbs.kfree_skb(clone)
    assert host.in_use("kmalloc-512") == 0


def test_a_header_pushed_on_a_clone_is_not_seen_by_the_original(skbs):
    skb = filled(skbs, b"data")
    clone = skbs.skb_clone(skb, GFP_ATOMIC)
    skb_push(clone, b"h")
    assert skb_linear(skb) == b"data"


def test_a_clone_has_no_owner(skbs):
    skb = filled(skbs, b"data")
    skb.sk, skb.destructor = object(), print
    clone = skbs.skb_clone(skb, GFP_ATOMIC)
    assert (clone.sk, clone.destructor) == (None, None)


def test_the_clone_of_a_pair_takes_no_object(skbs, host):
    skb = filled(skbs, b"data", SKB_ALLOC_FCLONE)
    clone = skbs.skb_clone(skb, GFP_ATOMIC)
    assert host.in_use("skbuff_head_cache") == 0
    assert clone.addr == skb.addr + 232


def test_the_second_clone_of_a_pair_is_an_ordinary_one(skbs, host):
    skb = filled(skbs, b"data", SKB_ALLOC_FCLONE)
    skbs.skb_clone(skb, GFP_ATOMIC)
    skbs.skb_clone(skb, GFP_ATOMIC)
    assert host.in_use("skbuff_head_cache") == 1


def test_a_freed_companion_serves_again(skbs, host):
    skb = filled(skbs, b"data", SKB_ALLOC_FCLONE)
    skbs.kfree_skb(skbs.skb_clone(skb, GFP_ATOMIC))
    skbs.skb_clone(skb, GFP_ATOMIC)
    assert host.in_use("skbuff_head_cache") == 0


@pytest.mark.parametrize("original_first", [True, False])
def test_a_pair_is_freed_by_its_second_half(skbs, host, original_first):
    skb = filled(skbs, b"data", SKB_ALLOC_FCLONE)
    clone = skbs.skb_clone(skb, GFP_ATOMIC)
    first, second = (skb, clone) if original_first else (clone, skb)
    skbs.kfree_skb(first)
    assert host.in_use("skbuff_fclone_cache") == 1
    skbs.kfree_skb(second)
    assert host.in_use("skbuff_fclone_cache") == 0
    assert skbs.live == 0


def test_a_receive_buffer_is_never_a_pair(skbs):
    with pytest.raises(KernelBug, match="never an fclone"):
        skbs.alloc_skb(1, GFP_ATOMIC, SKB_ALLOC_FCLONE | SKB_ALLOC_RX)


def test_a_copy_is_linear(host):
    skb, page = with_page(host, b"head", b"body")
    copy = host.skbs.skb_copy(skb, GFP_ATOMIC)
    assert (skb_bytes(copy), copy.data_len, page.count) == (b"headbody", 0, 1)


def test_a_pskb_copy_shares_pages(host):
    skb, page = with_page(host, b"head", b"body")
    copy = host.skbs.pskb_copy(skb, GFP_ATOMIC)
    assert (skb_bytes(copy), page.count) == (b"headbody", 2)
    host.skbs.kfree_skb(skb)
    host.skbs.kfree_skb(copy)
    assert page.count == 0


def test_expand_gives_a_clone_data_of_its_own(host):
    skb, page = with_page(host, b"head", b"body")
    clone = host.skbs.skb_clone(skb, GFP_ATOMIC)
    assert host.skbs.skb_unclone(clone, GFP_ATOMIC) == 0
    assert clone.head != skb.head
    assert not skb_cloned(clone)
    assert page.count == 2
    host.skbs.kfree_skb(skb)
    assert skb_bytes(clone) == b"headbody"
    host.skbs.kfree_skb(clone)
    assert page.count == 0


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["alloc", "pair", "page", "clone", "copy", "pcopy", "expand", "free"]),
        st.integers(0, 1 << 16),
    ),
    max_size=40,
)


@settings(max_examples=30, deadline=None)
@given(OPERATIONS)
def test_whatever_is_done_all_memory_comes_back(operations):
    with one_host() as host:
        skbs = host.skbs
        live = []
        for kind, choice in operations:
            if kind == "alloc":
                live.append(filled(skbs, b"z" * (choice % 3000)))
            elif kind == "pair":
                live.append(filled(skbs, b"z" * (choice % 1500), SKB_ALLOC_FCLONE))
            elif kind == "page":
                live.append(with_page(host, b"h" * 40, b"b" * (choice % 4096))[0])
            elif live:
                skb = live[choice % len(live)]
                before = skb_bytes(skb)
                if kind == "clone":
                    live.append(skbs.skb_clone(skb, GFP_ATOMIC))
                elif kind == "copy":
                    live.append(skbs.skb_copy(skb, GFP_ATOMIC))
                elif kind == "pcopy":
                    live.append(skbs.pskb_copy(skb, GFP_ATOMIC))
                elif kind == "expand":
                    assert skbs.pskb_expand_head(skb, 16, 16, GFP_ATOMIC) == 0
                else:
                    live.remove(skb)
                    skbs.kfree_skb(skb)
                    continue
                assert skb_bytes(live[-1] if kind != "expand" else skb) == before
            assert skbs.live == len(live)
        for skb in live:
            skbs.kfree_skb(skb)
        names = ["skbuff_head_cache", "skbuff_fclone_cache", *(name for name in host.slub.caches if name.startswith("kmalloc-"))]
        assert [name for name in names if host.in_use(name)] == []
        host.slub.check()
        host.page_alloc.check()


@pytest.mark.parametrize("flags", [0, SKB_ALLOC_FCLONE, SKB_ALLOC_RX])
def test_a_head_without_data_goes_back(skbs, host, flags):
    host.slub.kmalloc = lambda *_args: None
    assert skbs.alloc_skb(100, GFP_ATOMIC, flags) is None
    assert (host.in_use("skbuff_head_cache"), host.in_use("skbuff_fclone_cache"), skbs.live) == (0, 0, 0)


def test_without_memory_a_copy_is_none_and_the_packet_as_it_was(host):
    skb, page = with_page(host, b"head", b"body")
    host.slub.kmem_cache_alloc = lambda *_args: None
    assert [make(skb, GFP_ATOMIC) for make in (host.skbs.skb_clone, host.skbs.skb_copy, host.skbs.pskb_copy)] == [None] * 3
    assert (page.count, skb.shinfo.dataref, skb_cloned(skb), host.skbs.live) == (1, 1, False, 1)


@pytest.mark.parametrize("patches", ["all", "all,-19"])
def test_without_memory_expansion_fails_and_changes_nothing(patches):
    with one_host(patches=patches) as host:
        skb, page = with_page(host, b"head", b"body")
        before = (skb.head, skb.end, skb.truesize, skb.frags, page.count)
        host.slub.kmalloc = lambda *_args: None
        assert host.skbs.pskb_expand_head(skb, 16, 16, GFP_ATOMIC) == -ENOMEM
        assert (skb.head, skb.end, skb.truesize, skb.frags, page.count) == before


def test_a_failed_expansion_of_an_emergency_packet_gives_its_charge_back(host):
    host.swap_over_network()
    skb = filled(host.skbs, b"data")
    assert host.net_reserves.rx_emergency_get(skb.end)
    skb.emergency = 1
    host.skbs.emergency_live += 1
    before = host.usage
    host.slub.kmalloc = lambda *_args: None
    assert host.skbs.pskb_expand_head(skb, 16, 16, GFP_ATOMIC) == -ENOMEM
    assert host.usage == before
    host.skbs.kfree_skb(skb)
    assert (host.usage, host.skbs.emergency_live) == (0, 0)


def test_whose_data_nobody_shares_keeps_it(skbs):
    skb = filled(skbs, b"data")
    head = skb.head
    assert skbs.skb_unclone(skb, GFP_ATOMIC) == 0
    assert skb.head == head
    skbs.kfree_skb(skbs.skb_clone(skb, GFP_ATOMIC))
    assert skbs.skb_unclone(skb, GFP_ATOMIC) == 0  # marked as cloned, but the clone is gone
    assert skb.head == head


def test_a_copy_of_a_pulled_packet_keeps_its_offsets(skbs):
    skb = filled(skbs, b"headpayload")
    skb.nh, skb.h = 0, 4
    skb_pull(skb, 4)
    for copy in (skbs.skb_copy(skb, GFP_ATOMIC), skbs.pskb_copy(skb, GFP_ATOMIC)):
        assert (skb_bytes(copy), copy.buf, copy.h, copy.len) == (b"payload", b"headpayload", 4, 7)


def test_a_fragment_list_is_shared_by_copy_and_expansion(host):
    skbs = host.skbs
    skb, child = filled(skbs, b"head"), filled(skbs, b"tail")
    skb.frag_list = child
    skb.len += 4
    skb.data_len += 4
    copy = skbs.pskb_copy(skb, GFP_ATOMIC)
    assert skbs.pskb_expand_head(skb, 0, 64, GFP_ATOMIC) == 0
    assert skb_bytes(skb) == skb_bytes(copy) == b"headtail"
    assert child.users == 2
    skbs.kfree_skb(skb)
    assert skb_bytes(copy) == b"headtail"
    skbs.kfree_skb(copy)
    assert (skbs.live, host.in_use("skbuff_head_cache")) == (0, 0)
