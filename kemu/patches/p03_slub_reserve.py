"""mm: slub: add knowledge of reserve pages.

Problem
    An entitled caller who wants 32 bytes makes SLUB take a whole page from the reserve: 128 objects.
    The other 127 wait in the cpu slab, and the next ordinary callers take them as if memory were
    plentiful. The reserve is spent on long-lived objects that nobody rationed.

Change
    Each cpu slab remembers the tag of its page: c->reserve, read from page->reserve (02) before the
    freelist pointer overwrites it. Only the slow path changes. When the cpu slab is a reserve slab:

    * A caller who is not entitled (01) gets nothing of it, nor of the partial list: the page
      allocator is asked for a new page. If that succeeds memory is above the marks again, and the
      tag of the new page, 0, takes over; if not, the answer is NULL and nothing has changed.
    * An entitled caller gets exactly one object, by the path that debugging uses. The lockless
      freelist stays empty, so the next caller must come through the slow path and be asked again.

What to watch
    * The receive path lives on this. A receive buffer of 1536 bytes is an object of kmalloc-2048,
      four to a slab of two pages. Without 03 the three others become ordinary, uncharged packets
      that rest in ordinary sockets, and the reserve drains into them.
    * With the tag set the cpu freelist is empty, always.
    * n objects for entitled callers cost at most ceil(n / objects per slab) reserve slabs.
    * With enough memory the sequence of addresses is the same as without the patch.
    * An ordinary caller pays one attempt at the page allocator for each object while the tag stands.
    * The tag belongs to the slot of a CPU, not to the page. Two holes follow: b03a and b03b.
    * Off: 127 objects of kmalloc-32 leak per reserve page.
"""

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
    touches=(
        "kemu.mm.slub.Slub._load_freelist",
        "kemu.mm.slub.Slub._prefer_cpu_slab",
        "kemu.mm.slub.Slub._slab_alloc",
        "kemu.mm.slub.Slub.check",
        "kemu.mm.slub_pages.SlubPages._get_partial_node",
        "kemu.mm.slub_pages.SlubPages._new_slab",
    ),
    fate=(
        "v15 tests the tag first and adds SLAB. Merged in spirit in 3.6 (commit 072bb0aa5e06, with a faster "
        "path in 5091b74a95d4), where the page itself carries the mark and an unentitled caller makes SLUB "
        "put the cpu slab away."
    ),
)
