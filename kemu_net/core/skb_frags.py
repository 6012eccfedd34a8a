"""Pages of received packets: the packet-split receive API (patch 14) and its share of the SKB data reserve (patch 19).

Interface
    SkbFrags.netdev_alloc_page(dev), netdev_free_page(dev, page)    pages for a receive ring
    SkbFrags.skb_add_rx_frag(skb, i, page, off, size)               attach such a page to a packet
    SkbFrags.skb_get_page(skb, page), skb_put_page(skb, page)       a fragment's reference, and the charge that may hang on it

Rules
    * A page of the reserve carries two things in one union word, one after the other: the allocator's ``reserve`` tag until
      skb_add_rx_frag() reads it, then the count of emergency skbs whose fragments it is (``frag_count``). That is why nobody may
      touch the word between allocation and attachment.
    * A charged page is uncharged exactly once: when its counter falls to 0, when a normal skb takes it, or when it is freed
      unattached.
    * The charge is PAGE_SIZE for the whole page whatever part of it is used.
    * A retry that got an ordinary page after all (memory came back between the two tries) gives its charge back at once: the page
      has no tag by which a later free could know.
    * Left out: the parent device's node (one node).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.errors import KernelBug
from kemu.mm.gfp import _GFP_MEMALLOC, _GFP_NOMEMALLOC, _GFP_NOWARN, GFP_ATOMIC, PAGE_SIZE
from kemu_net.core.skbuff import MAX_SKB_FRAGS

if TYPE_CHECKING:
    from kemu.fixes import FixSet
    from kemu.kernel.core import Kernel
    from kemu.mm.page import Page
    from kemu.mm.page_alloc import PageAllocator
    from kemu.patches import PatchSet
    from kemu_net.core.net_reserve import NetReserves
    from kemu_net.core.skbuff import SkBuff


class SkbFrags:
    """The page half of the skb allocator; :class:`~kemu_net.core.skb_alloc.SkbAlloc` is the whole.

    :param net_reserves: who pays for receive memory once normal memory is gone.
    :ivar charge_refused: set whenever a receive allocation failed because its charge was refused; a driver clears and reads it.
    """

    def __init__(self, kernel: Kernel, page_alloc: PageAllocator, net_reserves: NetReserves) -> None:
        self.patched: PatchSet = kernel.patched
        self.fixed: FixSet = kernel.fixed
        self.page_alloc = page_alloc
        self.net_reserves = net_reserves
        self.charge_refused = False

    def netdev_alloc_page(self, dev: object) -> Page | None:
        """Allocate a page for a receive ring (patch 14, ``netdev_alloc_page()``); before it a driver called alloc_page() itself."""
        if not self.patched.packet_split:  # [p14]
            return self.page_alloc.alloc_pages(GFP_ATOMIC, 0)
        return self._netdev_alloc_page(dev, GFP_ATOMIC)

    def _netdev_alloc_page(self, dev: object, gfp: int) -> Page | None:
        """Allocate a receive page: politely, then from the reserve if the charge is granted (``__netdev_alloc_page()``)."""
        if self.patched.skb_alloc_reserve:  # [p19]
            gfp |= _GFP_NOMEMALLOC | _GFP_NOWARN
        page = self.page_alloc.alloc_pages(gfp, 0)
        if self.patched.skb_alloc_reserve and page is None:  # [p19]
            if self.fixed.b19b and not self.net_reserves.sk_memalloc_socks():  # [b19b]
                return None
            page = self._alloc_page_reserve(gfp)
        return page

    def _alloc_page_reserve(self, gfp: int) -> Page | None:
        """Charge one page and take it from the reserve; on failure usage is what it was."""
        if not self.net_reserves.rx_emergency_get(PAGE_SIZE):
            self.charge_refused = True
            return None
        page = self.page_alloc.alloc_pages(gfp & ~(_GFP_NOMEMALLOC | _GFP_NOWARN) | _GFP_MEMALLOC, 0)
        if page is None or not page.word_d:
            self.net_reserves.rx_emergency_put(PAGE_SIZE)
        return page

    def netdev_free_page(self, dev: object, page: Page) -> None:
        """Free a receive page that no packet took (``netdev_free_page()``)."""
        if self.patched.packet_split:  # [p14]
            if self.patched.skb_alloc_reserve and page.word_d:  # [p19]
                self.net_reserves.rx_emergency_put(PAGE_SIZE)
        self.page_alloc.put_page(page)

    def skb_add_rx_frag(self, skb: SkBuff, i: int, page: Page, off: int, size: int) -> None:
        """Make ``page`` fragment ``i`` of a received packet (patch 14, ``skb_add_rx_frag()``).

        The page's reference goes to the skb. len, data_len and truesize grow by the bytes that were received.
        """
        frags = skb.frags
        if frags is None:
            frags = skb.frags = []
        if not 0 <= i < MAX_SKB_FRAGS or i > len(frags):
            raise KernelBug(f"skb_add_rx_frag: fragment {i} of {MAX_SKB_FRAGS} after {len(frags)}", state=skb)
        del frags[i:]
        frags.append((page, off, size))
        skb.len += size
        skb.data_len += size
        skb.truesize += size
        if self.patched.packet_split:  # [p14]
            self._reconcile(skb, page)
        else:
            page.word_d = 0

    def _reconcile(self, skb: SkBuff, page: Page) -> None:
        """Make charge and counter agree for the four pairs of skb and page, each normal or of the reserve."""
        if self.patched.skb_alloc_reserve:  # [p19]
            reserve = page.word_d
            if skb.emergency:
                if not reserve:
                    self.net_reserves.rx_emergency_get_overcommit(PAGE_SIZE)  # the memory is in hand already
                page.word_d = 1
                return
            if reserve:
                self.net_reserves.rx_emergency_put(PAGE_SIZE)
            page.word_d = 0

    def skb_get_page(self, skb: SkBuff, page: Page) -> None:
        """Take one more reference to a fragment's page for ``skb`` (``skb_get_page()``)."""
        page.count += 1
        if self.patched.packet_split:  # [p14]
            if self.patched.skb_alloc_reserve and skb.emergency:  # [p19]
                page.word_d += 1

    def skb_put_page(self, skb: SkBuff, page: Page) -> None:
        """Drop a fragment's page; the last emergency user also gives the charge back (``skb_put_page()``)."""
        if self.patched.packet_split:  # [p14]
            if self.patched.skb_alloc_reserve and skb.emergency:  # [p19]
                page.word_d -= 1
                if page.word_d == 0:
                    self.net_reserves.rx_emergency_put(PAGE_SIZE)
        self.page_alloc.put_page(page)
