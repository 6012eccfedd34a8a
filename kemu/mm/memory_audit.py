"""Looking on at the memory of processes: what each page should hold, and whether tables, pages and counters agree.

Interface: :class:`MemoryAudit`, the upper half of Memory: ``audit(reader, file_reader)``, ``check(mms)``.

Rules of this file
    * Nothing in the kernel calls it.
    * A page in swap is compared with the swap cache's page if there is one, else with what the device or server holds; a page of a
      file with the page cache and, unless it waits to be written, with the disk or server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from kemu.errors import KernelBug
from kemu.mm.address_space import AddressSpace
from kemu.mm.mm_struct import MmStruct
from kemu.mm.page import Page, PG_active, PG_dirty, PG_lru, PG_uptodate, PG_writeback
from kemu.mm.pte import FilePte, PTE_write, SwapPte
from kemu.mm.swap_info import SwapInfo
from kemu.mm.swapops import SWP_OFFSET_MASK, SWP_TYPE_SHIFT, swp_entry_t

if TYPE_CHECKING:
    from kemu.mm.file_fault import FileFault
    from kemu.mm.shadow import Shadow
    from kemu.mm.swap_state import SwapState
    from kemu.mm.swapfile import Swapfile
    from kemu.mm.vmstat import VmStat

SlotReader = Callable[[SwapInfo, int], bytes | None]
FileReader = Callable[[AddressSpace, int], bytes | None]


class MemoryAudit:
    """What a test, a report and the end of a run ask of the memory of processes."""

    mms: dict[int, MmStruct]
    swap_state: SwapState
    swapfile: Swapfile
    shadow: Shadow
    vmstat: VmStat
    file_fault: FileFault

    def audit(self, reader: SlotReader, file_reader: FileReader | None = None) -> tuple[int, int]:
        """Compare every page of every process with its shadow; return how many were compared and how many were lost.

        :param reader: (area, slot) -> what the device or the server holds; asked for pages that are in swap and not cached.
        :param file_reader: (file, page of it) -> what the disk or the server holds; None: files are not compared.
        """

        def contents(entry: swp_entry_t) -> bytes | None:
            page: Page | None = self.swap_state.page_tree.lookup(entry)
            if page is not None and page.flags & (PG_uptodate | PG_writeback | PG_dirty):
                return page.contents
            si = self.swapfile.areas[entry >> SWP_TYPE_SHIFT]
            return None if si is None else reader(si, entry & SWP_OFFSET_MASK)

        compared, lost = self.shadow.audit(self.mms.values(), contents)
        if file_reader is not None:
            of_files = self.shadow.audit_files(file_reader)
            compared, lost = compared + of_files[0], lost + of_files[1]
        return compared, lost

    def check(self, mms: Iterable[MmStruct] | None = None) -> None:
        """Assert that page tables, pages and counters agree."""
        rss = 0
        for mm in self.mms.values() if mms is None else mms:
            present = of_files = 0
            for vpn, pte in mm.ptes.items():
                if isinstance(pte, SwapPte):
                    if not self.swapfile.swap_count(pte.entry):
                        raise KernelBug(f"page {vpn} of {mm!r} is in a free slot {pte.entry:#x}")
                elif isinstance(pte, FilePte):
                    of_files += 1
                    self._check_file_pte(mm, vpn, pte)
                else:
                    present += 1
                    self._check_anon_page(mm, vpn, pte)
            if present != mm.anon_rss or of_files != mm.file_rss:
                raise KernelBug(f"{present} pages of {mm!r} are present, and {of_files} of files")
            rss += present
        if mms is None and rss != self.vmstat.nr_anon_pages:
            raise KernelBug(f"{rss} anonymous pages are mapped, but vmstat counts {self.vmstat.nr_anon_pages}")

    def _check_anon_page(self, mm: MmStruct, vpn: int, page: Page) -> None:
        if page.mapcount != 1 or page.mapping is not mm.anon_vma or page.word_d != vpn or page.count < 1:
            raise KernelBug(f"page {vpn} of {mm!r} does not know that it is mapped there", state=page)
        if page.flags & PG_active and not page.flags & PG_lru and page.count < 2:
            raise KernelBug(f"page {vpn} of {mm!r} is active but on no list and nobody has isolated it", state=page)

    def _check_file_pte(self, mm: MmStruct, vpn: int, pte: FilePte) -> None:
        vma = self.file_fault.find_vma(mm, vpn)
        page = pte.page
        if vma is None or page.mapping is not vma.mapping or page.word_d != vma.index_of(vpn) or not page.mapcount:
            raise KernelBug(f"page {vpn} of {mm!r} maps a page that is not its file's", state=page)
        if pte.flags & PTE_write and not page.flags & PG_dirty and not self.file_fault.between:
            raise KernelBug(f"page {vpn} of {mm!r} can be written without anybody noticing", state=page)
