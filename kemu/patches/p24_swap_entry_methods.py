"""mm: prepare swap entry methods for use in page methods.

Problem
    A page in the swap cache carries its swap entry in page->private. The helpers of 26 have to decode
    it from mm.h, but the decoders live in a header that includes mm.h. Nothing fails at run time; but
    without a way from the page to its swap area, the I/O path cannot tell which area, the disk or the
    file on the server, a page belongs to.

Change
    swp_entry(), swp_type() and swp_offset() move to swap.h, get_swap_info_struct() is exported, and
    page_swap_info(page) gives the area of a swap cache page. An entry has its type in the top five
    bits and its offset in the rest.

What to watch
    * Type and offset survive the round trip, for types below 32.
    * page_swap_info() of a page that is not in the swap cache is a BUG.
    * It takes no lock. The caller must hold the page lock, or the page may leave the swap cache under
      his hands: Nick Piggin's question in the review, for all users of the helpers.
    * Existing users see no change.
    * It takes two areas to see anything: a disk and a file, slots chosen at random. Off, every page is
      said to belong to the first area, and goes to the wrong device.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=24,
    name="swap_entry_methods",
    subject="mm: prepare swap entry methods for use in page methods",
    part=4,
    message_id="20071030160914.849009000@chello.nl",
    needs=(),
    wants=(),
    touches=("kemu.mm.swap_info.SwapAreas.page_swap_info",),
    fate=("Folded into its neighbours from v16 on. page_swap_info() is in 3.6; swp_swap_info() is its heir today."),
)
