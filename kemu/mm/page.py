"""``struct page``: one frame of memory, and its flags (include/linux/mm_types.h, page-flags.h of 2.6.23-mm1).

Interface
    * :class:`Page`, made by ``PageAllocator.pfn_to_page`` when a frame is first touched, never elsewhere, and kept from then on.
    * ``PG_*`` are masks, not bit numbers; hot code tests ``page.flags & PG_dirty``. ``PageDirty(page)``, ``SetPageDirty``,
      ``ClearPageDirty`` for the rest.
    * :func:`page_count`, :func:`get_page`, :func:`compound_head`, :func:`virt_to_pfn`.

Rules of this file
    * Fields that are one C union are one slot: words A, B and D below. What one user leaves there, the next one reads. SLUB's
      ``slab`` and a tail's ``first_page`` are one pointer long, as ``private`` is: they lie on it and leave ``mapping`` alone.
    * ``mapcount`` counts from 0 where C's ``_mapcount`` counts from -1; so does ``inuse`` in the same slot.
    * ``reserve`` is an int, so on a 64-bit machine it overwrites half of ``index`` only. The half that stays is 0 in every index
      below 2**32 pages; here the whole slot is written.
    * Page and its functions carry no patch guards.
    * Left out: zone and node bits in ``flags`` (``page.zone`` is a pointer), virtual addresses of highmem pages, the page table
      lock on word B, the order on word B of a free block (the free lists know it).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from kemu.errors import KernelBug
from kemu.mm.gfp import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from kemu.mm.mmzone import Zone

PAGE_OFFSET: Final = 0xFFFF810000000000  # where x86_64 of 2.6.23 maps all memory
ZERO_PAGE: Final = bytes(PAGE_SIZE)  # the shared contents of every page that is all zeros

PG_locked: Final = 1 << 0
PG_error: Final = 1 << 1
PG_referenced: Final = 1 << 2
PG_uptodate: Final = 1 << 3
PG_dirty: Final = 1 << 4
PG_lru: Final = 1 << 5
PG_active: Final = 1 << 6
PG_slab: Final = 1 << 7
PG_owner_priv_1: Final = 1 << 8
PG_checked: Final = PG_owner_priv_1  # file systems
PG_arch_1: Final = 1 << 9
PG_reserved: Final = 1 << 10
PG_private: Final = 1 << 11
PG_writeback: Final = 1 << 12
PG_compound: Final = 1 << 14
PG_swapcache: Final = 1 << 15
PG_mappedtodisk: Final = 1 << 16
PG_reclaim: Final = 1 << 17
PG_readahead: Final = PG_reclaim  # of pages that are read; PG_reclaim is of pages that are written
PG_buddy: Final = 1 << 19
PG_uncached: Final = 1 << 31  # 64-bit machines only

PG_tail: Final = PG_compound | PG_reclaim  # the kernel's PG_head_tail_mask: a tail of a compound page has both

_FLAG_NAMES: Final[dict[int, str]] = {
    PG_locked: "locked",
    PG_error: "error",
    PG_referenced: "referenced",
    PG_uptodate: "uptodate",
    PG_dirty: "dirty",
    PG_lru: "lru",
    PG_active: "active",
    PG_slab: "slab",
    PG_owner_priv_1: "owner_priv_1",
    PG_arch_1: "arch_1",
    PG_reserved: "reserved",
    PG_private: "private",
    PG_writeback: "writeback",
    PG_compound: "compound",
    PG_swapcache: "swapcache",
    PG_mappedtodisk: "mappedtodisk",
    PG_reclaim: "reclaim",
    PG_buddy: "buddy",
    PG_uncached: "uncached",
}


def _member(slot: str, doc: str) -> property:
    """Make a member of a union: another name for a slot."""

    def read(page: Page) -> Any:
        return getattr(page, slot)

    def write(page: Page, value: object) -> None:
        setattr(page, slot, value)

    return property(read, write, doc=doc)


class Page:
    """``struct page``.

    :ivar count: ``_count``: references; 0 on the free lists.
    :ivar mapcount: word A: page table entries that map it | SLUB ``inuse``.
    :ivar private: word B: whatever PG_private or PG_swapcache say (a swap entry's value) | SLUB ``slab`` | ``first_page`` of a
        compound tail.
    :ivar mapping: word C: the address space, or the AnonVma of an anonymous page.
    :ivar word_d: word D, one slot: ``index`` | SLUB ``freelist`` | ``reserve`` (patch 02) | ``frag_count`` (patch 19).
    :ivar order: order of a block of more than one page, in its head.
    :ivar contents: the bytes of a user page, immutable, replaced on write; None where nobody looks at them.
    :ivar lru: the LRU list that holds the page, or None.
    """

    __slots__ = ("contents", "count", "flags", "lru", "mapcount", "mapping", "order", "pfn", "private", "word_d", "zone")

    def __init__(self, pfn: int, zone: Zone) -> None:
        self.pfn = pfn
        self.zone = zone
        self.flags = 0
        self.count = 0
        self.mapcount = 0
        self.private: Any = 0
        self.mapping: Any = None
        self.word_d: Any = 0
        self.order = 0
        self.contents: bytes | None = None
        self.lru: Any = None

    @property
    def address(self) -> int:
        """The virtual address of the frame (page_address())."""
        return PAGE_OFFSET + (self.pfn << PAGE_SHIFT)

    # The other members of the unions. Hot code says mapcount, private and word_d.
    inuse = _member("mapcount", "SLUB: objects in use, on word A.")
    slab = _member("private", "SLUB: the cache of a slab page, on word B.")
    first_page = _member("private", "The head of a compound page, on word B of its tails.")
    index = _member("word_d", "Offset in the mapping; virtual linear index of an anonymous page.")
    freelist = _member("word_d", "SLUB: free objects of a slab page.")
    reserve = _member("word_d", "Patch 02: true if the page was handed out without watermarks.")
    frag_count = _member("word_d", "Patch 19: charged fragments that live in the page.")

    def __repr__(self) -> str:
        """Show what an oops would print."""
        return (
            f"<Page pfn={self.pfn:#x} count={self.count} mapcount={self.mapcount} flags={decode_page_flags(self.flags)} "
            f"mapping={type(self.mapping).__name__} private={self.private!r} word_d={self.word_d!r}>"
        )


def page_count(page: Page) -> int:
    """Return the references to a page, those to its head for a tail (include/linux/mm.h: page_count)."""
    return compound_head(page).count


def get_page(page: Page) -> None:
    """Take a reference (include/linux/mm.h: get_page)."""
    if page.flags & PG_tail == PG_tail:
        page = page.private  # first_page
    if page.count <= 0:
        raise KernelBug("get_page() of a free page", page)
    page.count += 1


def compound_head(page: Page) -> Page:
    """Return the head of a compound page, or the page itself (include/linux/mm.h: compound_head)."""
    if page.flags & PG_tail == PG_tail:
        head: Page = page.private  # first_page
        return head
    return page


def virt_to_pfn(address: int) -> int:
    """Return the frame that a lowmem address lies in."""
    return (address - PAGE_OFFSET) >> PAGE_SHIFT


def decode_page_flags(flags: int) -> str:
    """Write page flags by name.

    >>> decode_page_flags(PG_locked | PG_dirty)
    'locked|dirty'
    """
    return "|".join(name for mask, name in _FLAG_NAMES.items() if flags & mask) or "0"


_Test = Callable[[Page], bool]
_Change = Callable[[Page], None]


def _accessors(mask: int) -> tuple[_Test, _Change, _Change]:
    """Make PageX, SetPageX and ClearPageX of one flag."""

    def test(page: Page) -> bool:
        return page.flags & mask != 0

    def put(page: Page) -> None:
        page.flags |= mask

    def clear(page: Page) -> None:
        page.flags &= ~mask

    return test, put, clear


PageLocked, SetPageLocked, ClearPageLocked = _accessors(PG_locked)
PageError, SetPageError, ClearPageError = _accessors(PG_error)
PageReferenced, SetPageReferenced, ClearPageReferenced = _accessors(PG_referenced)
PageUptodate, SetPageUptodate, ClearPageUptodate = _accessors(PG_uptodate)
PageDirty, SetPageDirty, ClearPageDirty = _accessors(PG_dirty)
PageLRU, SetPageLRU, ClearPageLRU = _accessors(PG_lru)
PageActive, SetPageActive, ClearPageActive = _accessors(PG_active)
PageSlab, SetPageSlab, ClearPageSlab = _accessors(PG_slab)
PagePrivate, SetPagePrivate, ClearPagePrivate = _accessors(PG_private)
PageWriteback, SetPageWriteback, ClearPageWriteback = _accessors(PG_writeback)
PageCompound, SetPageCompound, ClearPageCompound = _accessors(PG_compound)
PageSwapCache, SetPageSwapCache, ClearPageSwapCache = _accessors(PG_swapcache)
PageMappedToDisk, SetPageMappedToDisk, ClearPageMappedToDisk = _accessors(PG_mappedtodisk)
PageReclaim, SetPageReclaim, ClearPageReclaim = _accessors(PG_reclaim)
