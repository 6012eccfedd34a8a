"""mm: slub: add knowledge of reserve pages."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=3,
    name="slub_reserve",
    subject="mm: slub: add knowledge of reserve pages",
    part=1,
    message_id="20071030160910.813944000@chello.nl",
    needs=(),
    wants=("gfp_to_alloc_flags", "tag_reserve_pages", "gfp_memalloc"),
)
