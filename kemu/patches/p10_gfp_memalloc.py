"""mm: __GFP_MEMALLOC."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=10,
    name="gfp_memalloc",
    subject="mm: __GFP_MEMALLOC",
    part=1,
    message_id="20071030160912.533392000@chello.nl",
    needs=(),
    wants=("gfp_to_alloc_flags", "tag_reserve_pages", "slub_reserve"),
)
