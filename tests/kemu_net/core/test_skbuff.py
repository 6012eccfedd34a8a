"""Socket buffers and their allocator: sizes, sharing, and who frees what when."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.mm.gfp import GFP_ATOMIC, GFP_KERNEL, PAGE_SIZE
from kemu_net.core.skb_alloc import skb_cloned
from kemu_net.core.skbuff import (
    SKB_ALLOC_FCLONE,
    SKB_ALLOC_RX,
    SKB_DATA_ALIGN,
    skb_bytes,
    skb_headlen,
    skb_linear,
    skb_pull,
    skb_push,
    skb_put_bytes,
    skb_trim,
)
from net_ground import one_host


@pytest.fixture
def host():
    with one_host() as host:
        yield host


@pytest.fixture
def skbs(host):
    return host.skbs


def filled(skbs, payload: bytes, flags: int = 0):
    skb = skbs.alloc_skb(len(payload), GFP_ATOMIC, flags)
    skb_put_bytes(skb, payload)
    return skb


def with_page(host, payload: bytes, contents: bytes):
    skb = filled(host.skbs, payload)
    page = host.page_alloc.alloc_pages(GFP_KERNEL, 0)
    page.contents = contents.ljust(PAGE_SIZE, b"\0")
    host.skbs.skb_add_rx_frag(skb, 0, page, 0, len(contents))
    return skb, page


def test_a_head_is_a_256_byte_object(host):
    cache = host.skbs.skbuff_head_cache
    assert (cache.size, cache.objects) == (256, 16)


def test_a_pair_is_a_512_byte_object(host):
    assert host.skbs.skbuff_fclone_cache.size == 512


@pytest.mark.parametrize(("size", "aligned"), [(1, 64), (64, 64), (65, 128), (1552, 1600), (2066, 2112)])
def test_data_is_aligned_to_cache_lines(size, aligned):
    assert SKB_DATA_ALIGN(size) == aligned


def test_a_ring_buffer_of_1536_bytes_is_a_kmalloc_2048(skbs, host):
    skb = skbs.netdev_alloc_skb(None, 1536)
    assert (skb.end, skb.truesize, host.slub.ksize(skb.head)) == (1600, 1832, 2048)


def test_a_ring_buffer_of_2048_bytes_is_a_page(skbs, host):
    skb = skbs.alloc_skb(2066, GFP_ATOMIC)
    assert host.slub.ksize(skb.head) == 4096


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


def test_push_puts_a_header_before_the_data(skbs):
    skb = filled(skbs, b"payload")
    skb_push(skb, b"head")
    assert (skb.len, skb_linear(skb)) == (11, b"headpayload")


def test_pull_refuses_more_than_there_is(skbs):
    skb = filled(skbs, b"1234")
    assert not skb_pull(skb, 5)
    assert skb_pull(skb, 3)
    assert skb_linear(skb) == b"4"


def test_trim_cuts_a_linear_skb(skbs):
    skb = filled(skbs, b"1234")
    skb_trim(skb, 2)
    assert skb_bytes(skb) == b"12"


def test_put_appends_behind_pulled_data(skbs):
    skb = filled(skbs, b"abcd")
    skb_pull(skb, 2)
    skb_put_bytes(skb, b"ef")
    assert skb_linear(skb) == b"cdef"


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


def test_a_fragment_is_read_when_somebody_looks(host):
    skb, page = with_page(host, b"", b"old")
    page.contents = b"new".ljust(PAGE_SIZE, b"\0")
    assert skb_bytes(skb) == b"new"


def test_a_page_without_contents_is_zero(host):
    skb, page = with_page(host, b"x", b"yy")
    page.contents = None
    assert skb_bytes(skb) == b"x\0\0"


def test_headlen_does_not_count_fragments(host):
    skb, _page = with_page(host, b"head", b"body")
    assert (skb.len, skb.data_len, skb_headlen(skb)) == (8, 4, 4)


def test_an_skb_says_what_it_is(skbs):
    assert "len 0" in repr(skbs.alloc_skb(1, GFP_ATOMIC))


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
        free_before = None
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
        assert free_before is None
        for skb in live:
            skbs.kfree_skb(skb)
        names = ["skbuff_head_cache", "skbuff_fclone_cache", *(name for name in host.slub.caches if name.startswith("kmalloc-"))]
        assert [name for name in names if host.in_use(name)] == []
        host.slub.check()
        host.page_alloc.check()
