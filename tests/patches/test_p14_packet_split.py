"""Patch 14: pages of received packets go through the network stack's own helpers, which patch 19 can then charge."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.kernel.task import PF_MEMALLOC
from kemu.mm.gfp import _GFP_MEMALLOC, GFP_ATOMIC, PAGE_SIZE
from kemu_net.core.skbuff import MAX_SKB_FRAGS, skb_bytes, skb_headlen
from net_ground import IP_A, MAC_A, MAC_B, ip_packet, one_host, two_hosts, udp_frame

pytestmark = pytest.mark.keeps_skbs("the tests hold skbs in their hands")


@pytest.fixture(params=["all", "all,-14", "all,-19", "none"])
def host(request):
    with one_host(patches=request.param) as host:
        yield host


def test_a_fragment_adds_its_bytes_to_three_lengths(host):
    skb = host.skbs.netdev_alloc_skb(None, 128)
    truesize = skb.truesize
    host.skbs.skb_add_rx_frag(skb, 0, host.skbs.netdev_alloc_page(None), 0, 1000)
    host.skbs.skb_add_rx_frag(skb, 1, host.skbs.netdev_alloc_page(None), 16, 24)
    assert (skb.len, skb.data_len, skb.truesize) == (1024, 1024, truesize + 1024)
    assert skb_headlen(skb) == 0


def test_filling_an_earlier_slot_makes_it_the_last(host):
    skb = host.skbs.netdev_alloc_skb(None, 128)
    pages = [host.skbs.netdev_alloc_page(None) for _ in range(3)]
    for index, page in enumerate(pages[:2]):
        host.skbs.skb_add_rx_frag(skb, index, page, 0, 10)
    host.skbs.skb_add_rx_frag(skb, 0, pages[2], 0, 10)
    assert len(skb.frags) == 1


@pytest.mark.parametrize("index", [1, MAX_SKB_FRAGS, -1])
def test_a_slot_that_leaves_a_hole_is_a_bug(host, index):
    skb = host.skbs.netdev_alloc_skb(None, 128)
    with pytest.raises(KernelBug, match="fragment"):
        host.skbs.skb_add_rx_frag(skb, index, host.skbs.netdev_alloc_page(None), 0, 10)


def test_a_page_is_freed_once_attached_or_not(host):
    skb = host.skbs.netdev_alloc_skb(None, 128)
    attached, loose = host.skbs.netdev_alloc_page(None), host.skbs.netdev_alloc_page(None)
    host.skbs.skb_add_rx_frag(skb, 0, attached, 0, 10)
    host.skbs.netdev_free_page(None, loose)
    host.skbs.kfree_skb(skb)
    assert (attached.count, loose.count) == (0, 0)
    host.page_alloc.check()


def test_without_memory_there_is_no_page_and_no_trace(host):
    host.hog()
    free = host.page_alloc.nr_free_pages()
    assert host.skbs.netdev_alloc_page(None) is None
    assert host.page_alloc.nr_free_pages() == free


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 96)), min_size=1, max_size=8))
def test_linear_part_is_len_minus_data_len(parts):
    with one_host() as host:
        skb = host.skbs.alloc_skb(64, GFP_ATOMIC)
        skb.buf, skb.len = b"h" * 40, 40
        for index, (size, offset) in enumerate(parts):
            page = host.skbs.netdev_alloc_page(None)
            page.contents = bytes(PAGE_SIZE)
            host.skbs.skb_add_rx_frag(skb, index, page, offset, size)
        assert skb_headlen(skb) == 40
        assert len(skb_bytes(skb)) == skb.len
        host.skbs.kfree_skb(skb)
        host.page_alloc.check()


@pytest.mark.parametrize("patches", ["all", "all,-14", "none"])
def test_a_packet_split_card_receives(patches):
    with two_hosts(patches=patches, packet_split=True) as net:
        sk = net.a.socket(7)
        net.flood(udp_frame(b"payload" * 100))
        net.flood(udp_frame(b""))
        net.run(2)
        assert net.a.udp.recvfrom(sk, nonblock=True)[0] == b"payload" * 100
        assert net.a.udp.recvfrom(sk, nonblock=True)[0] == b""


def test_the_payload_lies_in_a_page():
    with two_hosts(packet_split=True) as net:
        sk = net.a.socket(7)
        net.flood(udp_frame(b"p" * 1000))
        net.run(2)
        skb = sk.sk_receive_queue[0]
        assert (skb_headlen(skb), skb.data_len, skb.end) == (8, 1000, 192)


def test_a_jumbo_payload_takes_three_pages():
    with two_hosts(packet_split=True, mtu=9000, ring=32) as net:
        sk = net.a.socket(7)
        net.flood(udp_frame(b"p" * 8900))
        net.run(2)
        assert len(sk.sk_receive_queue[0].frags) == 3
        assert net.a.udp.recvfrom(sk, nonblock=True)[0] == b"p" * 8900


def flooded(patches):
    """A packet-split card at the floor, its ring used up by an ordinary socket; then one frame more."""
    with two_hosts(patches=patches, packet_split=True, ring=32, b={}) as net:
        net.greet()
        net.a.swap_over_network()
        net.a.socket(7)
        net.a.hog()
        net.flood(udp_frame(), 40)
        net.run(10)
        buffers = net.a.nic.rx.buffers
        return len(buffers), sum(bool(page.word_d) for _, pages in buffers for page in pages), net.a.usage


def test_at_the_floor_pages_are_charged():
    buffers, reserve_pages, usage = flooded("all")
    assert buffers == reserve_pages == 32
    assert usage == 32 * (PAGE_SIZE + 512)


def test_without_the_patch_the_ring_is_dry():
    buffers, _, usage = flooded("all,-14")
    assert (buffers, usage) == (0, 0)


def test_without_patch_19_the_ring_is_dry():
    assert flooded("all,-19") == (0, 0, 0)


@pytest.mark.parametrize(("patches", "page_charge"), [("all", PAGE_SIZE), ("all,-14", 0)])
def test_a_page_is_uncharged_if_and_only_if_it_was_charged(patches, page_charge):
    """An emergency head with an ordinary page, copied and expanded: without the patch nobody paid for the page, or gives back."""
    with one_host(patches=patches) as host:
        host.swap_over_network()
        host.hog()
        bystander = host.skbs.netdev_alloc_skb(None, 4000)
        skb = host.skbs.netdev_alloc_skb(None, 1536)
        page = host.page_alloc.alloc_pages(GFP_ATOMIC | _GFP_MEMALLOC, 0)
        page.word_d = 0  # not the reserve's: memory came back
        host.skbs.skb_add_rx_frag(skb, 0, page, 0, 100)
        alone = host.usage - 2048 - page_charge
        assert alone == host.skbs.charged(bystander)
        copy = host.skbs.pskb_copy(skb, GFP_ATOMIC)
        assert copy.emergency
        assert host.usage == alone + 2 * 2048 + page_charge
        assert host.skbs.pskb_expand_head(skb, 64, 0, GFP_ATOMIC) == 0
        assert host.usage == alone + 2 * 2048 + page_charge
        host.skbs.kfree_skb(skb)
        assert host.usage == alone + 2048 + page_charge
        host.skbs.kfree_skb(copy)
        assert (host.usage, page.count) == (alone, 0)
        host.skbs.kfree_skb(bystander)


@pytest.mark.parametrize("how", ["attached", "freed"])
def test_without_the_patch_a_page_of_the_reserve_is_nobodys_charge(how):
    """An entitled task may get one; its tag must not be taken for a charge, neither when it is freed nor when a packet takes it."""
    with one_host(patches="all,-14") as host:
        host.swap_over_network()
        host.hog()
        bystander = host.skbs.netdev_alloc_skb(None, 1536)
        skb = host.skbs.netdev_alloc_skb(None, 128)
        usage = host.usage
        host.task.flags |= PF_MEMALLOC
        page = host.skbs.netdev_alloc_page(None)
        host.task.flags &= ~PF_MEMALLOC
        assert page.word_d
        if how == "freed":
            host.skbs.netdev_free_page(None, page)
        else:
            host.skbs.skb_add_rx_frag(skb, 0, page, 0, 10)
            assert page.word_d == 0
        assert host.usage == usage
        host.skbs.kfree_skb(skb)
        assert (host.usage, page.count) == (host.skbs.charged(bystander), 0)
        host.skbs.kfree_skb(bystander)


def test_a_padded_packet_is_cut_by_the_card():
    with two_hosts(packet_split=True) as net:
        sk = net.a.socket(7)
        frame = MAC_A + MAC_B + b"\x08\x00" + ip_packet(17, udp_frame(b"")[34:42])
        net.flood(frame.ljust(100, b"\0"))
        net.run(1)
        assert net.a.udp.recvfrom(sk, nonblock=True)[0] == b""
        assert IP_A
