"""mm: kmem_estimate_pages()."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=5,
    name="kmem_estimate_pages",
    subject="mm: kmem_estimate_pages()",
    part=1,
    message_id="20071030160911.281698000@chello.nl",
    needs=(),
    wants=(),
)
