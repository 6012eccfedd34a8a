"""What every page should contain, kept outside the machine: so that a lost page is an outcome and not a guess.

Interface
    * ``record(mm_id, vpn, data)`` at every write; ``verify(mm_id, vpn, data, where)`` when a page comes back and at every read.
    * ``audit(reader)`` compares every page at the end; ``forget(mm_id)`` when a process leaves.

Rules of this file
    * It sees the machine and is never seen by it: nothing in the kernel decides by it.
    * Contents are immutable and shared, so a page that never left memory is compared by identity.
    * A page is reported lost once: from then on the shadow holds what the process found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kemu.kernel.core import Kernel
from kemu.mm.page import ZERO_PAGE, Page
from kemu.mm.rmap import MmStruct, SwapPte
from kemu.mm.swapops import swp_entry_t
from kemu.mm.vmstat import VmStat

Reader = Callable[[swp_entry_t], bytes | None]


class Shadow:
    """The contents that processes wrote.

    :ivar pages: mm_id -> virtual page number -> bytes.
    :ivar verified: pages that were compared when they came back from swap, or by the audit.
    """

    def __init__(self, kernel: Kernel, vmstat: VmStat) -> None:
        self.judge = kernel.judge
        self.vmstat = vmstat
        self.pages: dict[int, dict[int, bytes]] = {}
        self.verified = 0

    def record(self, mm_id: int, vpn: int, data: bytes) -> None:
        """Note what a process wrote."""
        try:
            self.pages[mm_id][vpn] = data
        except KeyError:
            self.pages[mm_id] = {vpn: data}

    def of(self, mm_id: int) -> dict[int, bytes]:
        """Return the dictionary of one process, for its fault path."""
        return self.pages.setdefault(mm_id, {})

    def verify(self, mm_id: int, vpn: int, data: bytes | None, where: str) -> bool:
        """Compare a page with what was written; a difference is lost data."""
        expected = self.of(mm_id).get(vpn, ZERO_PAGE)
        if data is expected or data == expected:
            return True
        self.pages[mm_id][vpn] = ZERO_PAGE if data is None else data
        self.vmstat.lost_pages += 1
        found = "nothing" if data is None else "zeros" if data == ZERO_PAGE else "other bytes"
        self.judge.report("data_loss", f"{where}: page {vpn} of mm {mm_id} should hold what was written, but holds {found}")
        return False

    def verify_swapped_in(self, mm: MmStruct, vpn: int, page: Page, entry: swp_entry_t) -> bool:
        """Compare a page that has just come back from swap."""
        self.verified += 1
        expected = self.of(mm.mm_id).get(vpn, ZERO_PAGE)
        if page.contents == expected:
            return True
        return self.verify(mm.mm_id, vpn, page.contents, f"swap-in of entry {entry:#x} by {mm.owner.comm}:{mm.owner.pid}")

    def forget(self, mm_id: int) -> None:
        """Drop what a process that has left wrote."""
        self.pages.pop(mm_id, None)

    def audit(self, mms: Iterable[MmStruct], reader: Reader) -> tuple[int, int]:
        """Compare every page of the given processes; return how many were compared and how many were lost.

        :param reader: returns what the swap area holds for an entry: the swap cache's page if there is one, or the device's bytes.
        """
        compared = lost = 0
        for mm in mms:
            for vpn in list(self.of(mm.mm_id)):
                pte = mm.ptes.get(vpn)
                where = f"audit of {mm.owner.comm}:{mm.owner.pid}"
                data: bytes | None = None
                if isinstance(pte, SwapPte):
                    data = reader(pte.entry)
                    where += f", entry {pte.entry:#x}"
                elif pte is not None:
                    data = pte.contents
                compared += 1
                lost += not self.verify(mm.mm_id, vpn, data, where)
        self.verified += compared
        return compared, lost
