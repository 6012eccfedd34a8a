"""The anonymous memory of a process as data, to be written down at a quiet point and put into another boot.

Interface
    * ``take(mm, swap_state, shadow, rank)`` -> :class:`MmImage`.
    * ``restore(memory, areas, task, image)``: into the empty memory of a task; -EINVAL if a slot that it names is not free.

Rules of this file
    * A page is carried with its contents, or left where it is: in a slot of a swap area, known here by its sha256. A page that the
      swap cache holds and that was changed since it was written is carried, and gives up its slot; so the cache is never carried.
    * Pages of files are not carried: at a quiet point they are clean.
    * Slots are claimed first, then the pages are stored as the process itself would store them, the coldest first: reclaim may push
      some out again while the last come in.
    * No kernel function: 2.6.23 had no checkpoint of processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING

import attrs

from kemu.kernel.errno import EINVAL
from kemu.mm.page import ZERO_PAGE, Page, PG_dirty
from kemu.mm.pte import SwapPte
from kemu.mm.shadow import Digest

if TYPE_CHECKING:
    from kemu.kernel.task import Task
    from kemu.mm.memory import Memory
    from kemu.mm.mm_struct import MmStruct
    from kemu.mm.shadow import Shadow
    from kemu.mm.swap_info import SwapAreas
    from kemu.mm.swap_state import SwapState
    from kemu.mm.swapops import swp_entry_t


@attrs.define
class MmImage:
    """The heap of one process.

    :ivar brk: its size in pages.
    :ivar resident: (virtual page, 4096 bytes), the coldest first.
    :ivar swapped: (virtual page, entry, sha256 of what the page should contain).
    """

    brk: int
    resident: list[tuple[int, bytes]] = attrs.Factory(list)
    swapped: list[tuple[int, swp_entry_t, bytes]] = attrs.Factory(list)


def take(mm: MmStruct, swap_state: SwapState, shadow: Shadow, rank: Mapping[Page, int]) -> MmImage:
    """Write the memory of a process down.

    :param rank: the place of each page on the LRU lists, the coldest first.
    """
    image = MmImage(mm.brk)
    expected = shadow.of(mm.mm_id)
    resident: list[tuple[int, int, bytes]] = []
    for vpn, pte in mm.ptes.items():
        if isinstance(pte, SwapPte):
            cached: Page | None = swap_state.page_tree.lookup(pte.entry)
            if cached is not None and cached.flags & PG_dirty:
                resident.append((rank.get(cached, 0), vpn, cached.contents or ZERO_PAGE))
                continue
            known = expected.get(vpn, ZERO_PAGE)
            digest = known.sha256 if isinstance(known, Digest) else sha256(known).digest()
            image.swapped.append((vpn, pte.entry, digest))
        elif isinstance(pte, Page):
            resident.append((rank.get(pte, 0), vpn, pte.contents or ZERO_PAGE))
    resident.sort()
    image.resident = [(vpn, data) for _, vpn, data in resident]
    image.swapped.sort()
    return image


def restore(memory: Memory, areas: SwapAreas, task: Task, image: MmImage) -> int:
    """Fill the empty memory of a task: 0, -errno of brk(), or a positive fault that no process survives.

    The caller has made sure that no page stands twice in the image; a slot that cannot be claimed is -EINVAL.
    """
    mm: MmStruct = task.mm
    error = memory.do_brk(task, image.brk)
    if error:
        return error
    expected = memory.shadow.of(mm.mm_id)
    for vpn, entry, digest in image.swapped:
        if not areas.claim(entry):
            return -EINVAL
        mm.ptes[vpn] = SwapPte(entry)
        expected[vpn] = Digest(digest)
    for vpn, data in image.resident:
        fault = memory.write_page(task, vpn, data)
        if fault:
            return fault
    return 0
