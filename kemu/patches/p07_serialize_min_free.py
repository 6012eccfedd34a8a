"""mm: serialize access to min_free_kbytes.

Problem
    Changing min_free_kbytes recomputes three marks in every zone. The sysctl handler and memory
    hotplug may do so at the same time. If two passes interleave, one zone ends up with the marks of
    the first and the next zone with those of the second, and it stays so until somebody writes the
    value again. Patch 08 brings a third caller, and a frequent one: every swapon and swapoff.

Change
    The old body becomes __setup_per_zone_pages_min(). setup_per_zone_pages_min() takes a new spin
    lock, min_free_lock, with interrupts off, and calls it. A pass reads its inputs inside the lock,
    so whoever finishes last leaves marks that belong together. Booting calls the unlocked form.

What to watch
    * When all concurrent callers are done, the marks of all zones follow from one single pair of
      min_free_kbytes and var_free_kbytes, and it is the pair written last.
    * The integer itself is written outside the lock. A pass may see the new value one call early,
      which does no harm: its writer is about to make a pass of its own.
    * The lock comes before zone->lru_lock and never after it.
    * With one caller nothing changes.
    * Off, with a scheduler that is allowed to switch between two zones: two tasks, two values, mixed
      marks. Without such a schedule nothing is to be seen, which is why races live long.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=7,
    name="serialize_min_free",
    subject="mm: serialize access to min_free_kbytes",
    part=1,
    message_id=None,
    needs=(),
    wants=("emergency_pool",),
    touches=("kemu.mm.min_free.MinFree.setup_per_zone_pages_min",),
    fate=(
        "Merged for 3.5 on the way of the contiguous memory allocator (commit cfd3da1e49bb), as "
        "setup_per_zone_wmarks() and __setup_per_zone_wmarks()."
    ),
)
