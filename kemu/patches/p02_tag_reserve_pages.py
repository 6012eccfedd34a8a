"""mm: tag reseve pages.

Problem
    Once a page is allocated, nobody can tell whether it was taken from above the watermarks or from
    the reserve. But only reserve memory is rationed, so those who hand pages on have to know: SLUB
    (03), before it gives the other objects of the page to just anybody, and packet-split receive
    (14, 19), which must decide whether to charge.

Change
    get_page_from_freelist() writes page->reserve on each success: whether this attempt carried
    ALLOC_NO_WATERMARKS. One store, the only work that the series adds to the fast path.

    The field shares its place with page->index and SLUB's freelist pointer. The tag is right from
    the allocation until the first of these is written, and not a moment longer: whoever wants it
    reads it at once.

What to watch
    * The tag tells of the attempt, not of the level. NO_WATERMARKS is tried only after two attempts
      that respected the marks, so at that moment the two are the same; an entitled caller who was
      served by the first attempt gets an untagged page.
    * It is set anew by every allocation: nothing of the page's earlier life shows through.
    * Of a block of several pages only the first is tagged.
    * Tagging never changes which page is returned.
    * Off: the tag reads 0 here. In the kernel it would be stale data, usually not zero. One entitled
      allocation followed by a burst of ordinary kmallocs then empties the slab page that was taken
      from the reserve.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=2,
    name="tag_reserve_pages",
    subject="mm: tag reseve pages",
    part=1,
    message_id=None,
    needs=(),
    wants=("emergency_pool",),
    touches=("kemu.mm.slow_path.SlowPath.get_page_from_freelist",),
    fate=(
        "The ancestor of page->pfmemalloc of 3.6, a bool in the same union; SLUB of 3.6 keeps it as a page "
        "flag. Since 4.3 it is encoded in the index. Earlier postings stored a page rank of the opposite "
        "sense, where 0 meant the reserve."
    ),
)
