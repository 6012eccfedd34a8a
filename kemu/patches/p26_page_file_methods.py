"""mm: methods for teaching filesystems about PG_swapcache pages.

Problem
    A filesystem looks at page->mapping and page->index. For a page in the swap cache the first is the
    address of an anon_vma with its lowest bit set, and the second is the page's place in the process.
    Following the one is an oops. Using the other writes to a wrong place in the file, over another
    page's slot, and nobody notices.

Change
    Helpers that know the difference:

                              ordinary page      swap cache page
        page_file_mapping     page->mapping      the mapping of the area's file
        page_file_index       page->index        offset of the swap entry
        page_offset           index << 12        offset << 12

    So slot k is bytes 4096k to 4096k + 4095 of the file. Slot 0 is the header.

What to watch
    * For pages outside the swap cache they change nothing.
    * Different slots give ranges that do not overlap, and none lies in the first page.
    * The answer does not depend on where the process has the page.
    * With two areas each page gets the mapping of its own.
    * PG_swapcache must not change meanwhile: hold the page lock.
    * page_offset() changes its meaning for all its users in the kernel; v17 takes that back.
    * Off: the raw fields. An oops at bit 0 of the mapping; or, if that is forced, read back another
      slot and find the bytes of this one.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=26,
    name="page_file_methods",
    subject="mm: methods for teaching filesystems about PG_swapcache pages",
    part=4,
    message_id="20071030160915.114257000@chello.nl",
    needs=(),
    wants=("swap_entry_methods",),
    touches=(
        "kemu.mm.swap_info.SwapAreas.page_file_index",
        "kemu.mm.swap_info.SwapAreas.page_file_mapping",
        "kemu.mm.swap_info.SwapAreas.page_offset",
    ),
    fate=(
        "Merged in 3.6 (commit f981c5950fa8, with page_file_offset()). Removed in 2024, when swap pages no "
        "longer came through the paths of the page cache."
    ),
)
