"""mm: kmem_estimate_pages().

Problem
    The reserve is a number of pages. Those who need one know objects or bytes: so many routes, so
    many bytes of fragments. An estimate that is too low makes the reserve run dry although everybody
    kept to his limit, and the deadlock returns at full load only, where nobody looks for it.

Change
    Three functions beside SLUB, pure arithmetic on the geometry of the caches. C is the number of
    CPUs that are online, 4096 the page size:

        kmem_estimate_pages(s, n)    (ceil(n / objects per slab) + C) << order
                                     without C if a slab holds a single object
        kestimate_single(size, n)    the same for the kmalloc class of that size
        kestimate(bytes)             ceil(2 * bytes / 4096) + the overhead C << order of each of the
                                     eleven kmalloc classes

    The factor of two pays for rounding up to powers of two, the C for a partly used slab that each
    CPU may hold. The overhead is 12 pages per CPU. kestimate(262144) is 140 pages on one CPU, 176 on
    four.

What to watch
    * For every sequence of allocations with at most n live objects on C CPUs, the slab pages in use
      stay within the estimate.
    * It grows with n and with C, and is never below ceil(n * size / 4096).
    * CPUs that come online later are not counted: the number is taken at the time of the call. This
      is what b31b is about.
    * Bytes are a size_t and the answer an unsigned int: a negative count becomes nothing or 2**32 less some (b18b).
    * Off: pages are ceil(bytes / 4096). One object of each class on each of four CPUs, and the
      reserve is short by up to 48 pages.
"""

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
    touches=(
        "kemu.mm.slub_estimate",
        "kemu.mm.slub_estimate.SlubEstimates.kestimate",
        "kemu.mm.slub_estimate.SlubEstimates.kestimate_single",
        "kemu.mm.slub_estimate.SlubEstimates.kmem_estimate_pages",
    ),
    fate=(
        "Renamed in v17 to kmem_alloc_estimate() and kmalloc_estimate_objs() and _bytes(). Not merged: 3.6 "
        "has no reserve of a computed size, the administrator raises min_free_kbytes."
    ),
)
