"""Patch 19, conservation: whatever is done to packets in whatever order, the reserve's usage is what lives, and nothing stays."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kemu.mm.gfp import GFP_ATOMIC, PAGE_SIZE
from kemu_net.core.skb_copy import skb_copy_expand, skb_cow, skb_realloc_headroom
from kemu_net.core.skb_segment import skb_segment
from kemu_net.core.skb_trim import pskb_pull, pskb_trim, skb_linearize
from kemu_net.core.skbuff import MAX_SKB_FRAGS, skb_bytes, skb_put_bytes, skb_tailroom
from net_ground import one_host

AT = st.integers(0, 999)
COPIES = {
    "skb_clone": lambda skbs, skb: skbs.skb_clone(skb, GFP_ATOMIC),
    "skb_copy": lambda skbs, skb: skbs.skb_copy(skb, GFP_ATOMIC),
    "pskb_copy": lambda skbs, skb: skbs.pskb_copy(skb, GFP_ATOMIC),
    "skb_copy_expand": lambda skbs, skb: skb_copy_expand(skbs, skb, 32, 32, GFP_ATOMIC),
    "skb_realloc_headroom": lambda skbs, skb: skb_realloc_headroom(skbs, skb, 400),
}


def pow2(size: int) -> int:
    return 1 << (size - 1).bit_length()


class Conservation(RuleBasedStateMachine):
    """Packets with what must be in them; memory comes and goes."""

    packets: list[list]

    def __init__(self):
        super().__init__()
        self.context = one_host()
        self.host = self.context.__enter__()
        self.host.swap_over_network()
        self.skbs = self.host.skbs
        self.packets = []  # [skb, the bytes it must hold]
        self.hungry = False

    @initialize(hungry=st.sampled_from([True, True, False]))
    def begin(self, hungry):
        if hungry:
            self.memory_is_gone()

    def pick(self, at):
        return self.packets[at % len(self.packets)]

    @rule(size=st.integers(1, 3000), pages=st.lists(st.integers(1, 500), max_size=3))
    def receive(self, size, pages):
        skb = self.skbs.netdev_alloc_skb(None, size)
        if skb is not None:
            payload = bytes(index % 253 for index in range(min(size, 90)))
            skb_put_bytes(skb, payload)
            self.packets.append([skb, payload])
            for length in pages:
                self.attach_a_page(-1, length)

    @precondition(lambda self: not self.hungry)
    @rule()
    def send(self):
        """A pair of heads, never emergency."""
        skb = self.skbs.alloc_skb(200, GFP_ATOMIC, 1)
        skb_put_bytes(skb, b"to be sent")
        self.packets.append([skb, b"to be sent"])

    @precondition(lambda self: self.packets)
    @rule(at=AT, size=st.integers(1, 500))
    def attach_a_page(self, at, size):
        packet = self.pick(at)
        skb = packet[0]
        if skb.cloned or skb.frag_list is not None or len(skb.frags or ()) == MAX_SKB_FRAGS:
            return  # a driver attaches pages before anybody clones
        page = self.skbs.netdev_alloc_page(None)
        if page is not None:
            page.contents = bytes(range(256)) * 16
            self.skbs.skb_add_rx_frag(skb, len(skb.frags or ()), page, 7, size)
            packet[1] += page.contents[7 : 7 + size]

    @precondition(lambda self: len(self.packets) > 1)
    @rule(at=AT)
    def chain(self, at):
        """Make a packet another's fragment, as reassembly does."""
        packet, child = self.pick(at), self.pick(at + 1)
        skb, last = packet[0], child[0]
        if skb.cloned or skb.frag_list is not None or last.frag_list is not None:
            return
        self.packets.remove(child)
        skb.frag_list = last
        skb.len += last.len
        skb.data_len += last.len
        packet[1] += child[1]

    @precondition(lambda self: self.packets)
    @rule(at=AT, how=st.sampled_from(sorted(COPIES)))
    def copy(self, at, how):
        skb, payload = self.pick(at)
        copy = COPIES[how](self.skbs, skb)
        if copy is not None:
            self.packets.append([copy, payload])

    @precondition(lambda self: self.packets)
    @rule(at=AT, nhead=st.integers(0, 2000))
    def expand(self, at, nhead):
        self.skbs.pskb_expand_head(self.pick(at)[0], nhead, 0, GFP_ATOMIC)

    @precondition(lambda self: self.packets)
    @rule(at=AT)
    def cow(self, at):
        skb = self.pick(at)[0]
        if skb_cow(self.skbs, skb, 16):
            assert skb.shinfo.dataref == 1

    @precondition(lambda self: self.packets)
    @rule(at=AT)
    def linearize(self, at):
        skb = self.pick(at)[0]
        if skb_linearize(self.skbs, skb):
            assert skb_tailroom(skb) >= 0

    @precondition(lambda self: self.packets)
    @rule(at=AT, count=st.integers(0, 700))
    def pull(self, at, count):
        packet = self.pick(at)
        if pskb_pull(self.skbs, packet[0], count):
            packet[1] = packet[1][count:]

    @precondition(lambda self: self.packets)
    @rule(at=AT, length=st.integers(0, 700))
    def trim(self, at, length):
        packet = self.pick(at)
        if pskb_trim(self.skbs, packet[0], length):
            packet[1] = packet[1][:length]

    @precondition(lambda self: self.packets)
    @rule(at=AT, size=st.integers(40, 300))
    def segment(self, at, size):
        skb, payload = self.pick(at)
        pieces = skb_segment(self.skbs, skb, 0, size)
        for index, piece in enumerate(pieces or ()):
            self.packets.append([piece, payload[index * size : (index + 1) * size]])

    @precondition(lambda self: self.packets)
    @rule(at=AT)
    def free(self, at):
        packet = self.pick(at)
        self.packets.remove(packet)
        self.skbs.kfree_skb(packet[0])

    @precondition(lambda self: not self.hungry)
    @rule()
    def memory_is_gone(self):
        self.host.hog()
        self.hungry = True

    @precondition(lambda self: self.hungry)
    @rule()
    def memory_comes_back(self):
        self.host.unhog()
        self.hungry = False

    @invariant()
    def usage_is_what_lives(self):
        areas, pages = {}, set()
        queue = [skb for skb, _ in self.packets]
        while queue:
            skb = queue.pop()
            child = skb.frag_list
            while child is not None:
                queue.append(child)
                child = child.next
            if skb.emergency:
                areas[id(skb.shinfo)] = skb
                pages.update(page.pfn for page, _offset, _size in skb.frags or ())
        data = sum(pow2(skb.end + 312) for skb in areas.values())
        assert self.host.usage == data + PAGE_SIZE * len(pages)
        assert self.skbs.emergency_live == len(areas)

    @invariant()
    def nobody_changed_what_another_sees(self):
        for skb, payload in self.packets:
            assert skb_bytes(skb) == payload
            assert skb.len == len(payload)

    def teardown(self):
        for skb, _ in self.packets:
            self.skbs.kfree_skb(skb)
        assert (self.host.usage, self.skbs.live, self.skbs.emergency_live) == (0, 0, 0)
        self.host.unhog()
        self.context.__exit__(None, None, None)


TestConservation = Conservation.TestCase
TestConservation.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
