"""Page faults, and the memory of processes (2.6.23 mm/memory.c).

Interface
    * ``write_page(task, vpn, data)``, ``read_page(task, vpn)``: what user code does; they fault as often as they must.
    * ``mm_alloc(task)``, ``do_brk(task, pages)``, ``exit_mmap(task)``; ``handle_mm_fault(mm, vpn, write)``.
    * ``audit(reader, file_reader)``, ``check()``: those of memory_audit.py.
    * ``mmap``, ``munmap``, ``msync``: those of mmap.py. Faults on mapped files are in file_fault.py.

Rules of this file
    * An anonymous page has one page table entry, there is no fork: so a write to one needs a copy never, and a page that comes back
      from swap stays in the swap cache with its slot until the area is half full.
    * A write to a page of the swap cache sets the entry's dirty bit; unmapping hands it to the page. A page may be written while it
      is under writeback: it goes out again later.
    * Page tables take no memory here.
"""

from __future__ import annotations

from kemu.errors import KernelBug
from kemu.kernel import costs
from kemu.kernel.core import Kernel
from kemu.kernel.task import Task
from kemu.mm.file_fault import FileFault
from kemu.mm.file_io import FileIo
from kemu.mm.gfp import _GFP_ZERO, GFP_HIGHUSER_MOVABLE
from kemu.mm.memory_audit import MemoryAudit
from kemu.mm.mm_struct import MmStruct
from kemu.mm.mmap import Mmap
from kemu.mm.overcommit import Overcommit
from kemu.mm.page import ZERO_PAGE, Page, PG_swapcache, PG_uptodate
from kemu.mm.pte import PTE_BITS, FilePte, PTE_dirty, PTE_write, PTE_young, SwapPte
from kemu.mm.readahead import Readahead
from kemu.mm.rmap import page_add_anon_rmap
from kemu.mm.shadow import Shadow
from kemu.mm.swap_state import SwapState
from kemu.mm.swapfile import Swapfile
from kemu.mm.swapops import swp_entry_t
from kemu.mm.unuse import Unuse
from kemu.mm.vm_fault import VM_FAULT_ERROR, VM_FAULT_MAJOR, VM_FAULT_OOM, VM_FAULT_SIGBUS, VM_FAULT_SIGSEGV

__all__ = ["VM_FAULT_ERROR", "VM_FAULT_MAJOR", "VM_FAULT_OOM", "VM_FAULT_SIGBUS", "VM_FAULT_SIGSEGV", "Memory"]


class Memory(MemoryAudit):
    """The processes' side of a machine's memory.

    :param swap_state: where pages come back from.
    :param swapfile: is handed the walk that empties an area.
    :param shadow: knows what each page should hold.
    :ivar mms: every process's memory, by its number.
    :ivar last_error: VM_FAULT_* of the last read_page() that returned None.
    """

    def __init__(self, kernel: Kernel, swap_state: SwapState, swapfile: Swapfile, shadow: Shadow) -> None:
        self.kernel = kernel
        self.sched = kernel.sched
        self.swap_state = swap_state
        self.swapfile = swapfile
        self.filemap = swap_state.filemap
        self.lru = swap_state.lru
        self.page_alloc = swap_state.page_alloc
        self.vmstat = swap_state.vmstat
        self.shadow = shadow
        self.mms: dict[int, MmStruct] = {}
        self.last_error = 0
        self._next_id = 1
        self._judge = kernel.judge
        self.overcommit = Overcommit(kernel, self.page_alloc, swapfile)
        self.vm_enough_memory = self.overcommit.may_commit
        self.readahead = Readahead(kernel, self.filemap)
        self.filemap.forget_file = shadow.forget_file
        self.file_io = FileIo(kernel, self.filemap, self.readahead, shadow)
        self.file_fault = FileFault(self, self.readahead)
        areas = Mmap(self, self.overcommit, self.file_io)
        self.mmap = areas.mmap
        self.munmap = areas.munmap
        self.msync = areas.msync
        self.do_brk = areas.do_brk
        self._areas = areas
        swapfile.unuse = Unuse(kernel, swap_state, self.mms, shadow, self.vm_enough_memory)

    @property
    def overcommit_memory(self) -> int:
        """vm.overcommit_memory."""
        return self.overcommit.overcommit_memory

    @overcommit_memory.setter
    def overcommit_memory(self, mode: int) -> None:
        self.overcommit.overcommit_memory = mode

    # -- user code ---------------------------------------------------------------------------------------------------------------

    def write_page(self, task: Task, vpn: int, data: bytes) -> int:
        """Replace the contents of a page; return 0 or VM_FAULT_* that user code does not survive."""
        mm: MmStruct = task.mm
        page = mm.ptes.get(vpn)
        while page.__class__ is not Page or not page.flags & PTE_write:
            if page.__class__ is FilePte and page.flags & PTE_write:
                self.file_fault.store(page, data)
                return 0
            error = self.handle_mm_fault(mm, vpn, True)
            if error & VM_FAULT_ERROR:
                return error & VM_FAULT_ERROR
            page = mm.ptes.get(vpn)
        page.flags |= PTE_young | PTE_dirty
        page.contents = data
        self.shadow.record(mm.mm_id, vpn, data)
        return 0

    def read_page(self, task: Task, vpn: int) -> bytes | None:
        """Return the contents of a page, or None where user code does not survive reading it."""
        mm: MmStruct = task.mm
        page = mm.ptes.get(vpn)
        while page.__class__ is not Page:
            if page.__class__ is FilePte:
                return self.file_fault.load(mm, page)
            error = self.handle_mm_fault(mm, vpn, False) & VM_FAULT_ERROR
            if error:
                self.last_error = error
                return None
            page = mm.ptes.get(vpn)
        page.flags |= PTE_young
        self.shadow.verify(mm.mm_id, vpn, page.contents, "read by user code")
        return page.contents

    # -- faults ------------------------------------------------------------------------------------------------------------------

    def handle_mm_fault(self, mm: MmStruct, vpn: int, write: bool) -> int:
        """Make a page present, and writable if it is to be written; return VM_FAULT_*. The access is tried again afterwards."""
        self.vmstat.pgfault += 1
        self.sched.spend(costs.PAGE_FAULT)
        pte = mm.ptes.get(vpn)
        if pte is None:
            result = self._do_anonymous_page(mm, vpn) if vpn < mm.brk else self.file_fault.do_fault(mm, vpn, write)
        elif isinstance(pte, SwapPte):
            result = self._do_swap_page(mm, vpn, pte, write)
        elif isinstance(pte, Page):
            result = self._do_wp_page(mm, vpn, pte) if write else 0
        else:
            result = self.file_fault.do_wp_page(mm, vpn, pte) if write else 0
        if result & VM_FAULT_MAJOR:
            mm.maj_flt += 1
        else:
            mm.min_flt += 1
        if not result & VM_FAULT_ERROR:
            self._judge.progress()
        return result

    def _do_anonymous_page(self, mm: MmStruct, vpn: int) -> int:
        """Give a page of zeros (do_anonymous_page())."""
        if vpn < 0:
            return VM_FAULT_SIGSEGV
        page = self.page_alloc.alloc_pages(GFP_HIGHUSER_MOVABLE | _GFP_ZERO, 0)
        if page is None:
            return VM_FAULT_OOM
        page.contents = ZERO_PAGE
        self.map_new_page(mm, vpn, page)
        return 0

    def map_new_page(self, mm: MmStruct, vpn: int, page: Page) -> None:
        """Map a fresh page, zeros or a copy, for writing."""
        page.flags |= PG_uptodate | PTE_young | PTE_dirty | PTE_write
        self._map(mm, vpn, page)
        self.lru.lru_cache_add_active(page)

    def _map(self, mm: MmStruct, vpn: int, page: Page) -> None:
        """Put a page into the page table; its reference becomes the entry's."""
        page_add_anon_rmap(page, mm, vpn)
        mm.ptes[vpn] = page
        mm.anon_rss += 1
        self.vmstat.nr_anon_pages += 1

    def _do_swap_page(self, mm: MmStruct, vpn: int, pte: SwapPte, write: bool) -> int:
        """Bring a page back from the swap cache or its slot (do_swap_page())."""
        entry = pte.entry
        result = 0
        page = self.swap_state.lookup_swap_cache(entry)
        if page is None:
            self.swap_state.swapin_readahead(entry)
            page = self.swap_state.read_swap_cache_async(entry)
            if page is None:
                return VM_FAULT_OOM if mm.ptes.get(vpn) is pte else 0
            result = VM_FAULT_MAJOR
            self.vmstat.pgmajfault += 1
        self.lru.mark_page_accessed(page)
        self.filemap.lock_page(page)
        if mm.ptes.get(vpn) is not pte or not page.flags & PG_uptodate:
            if mm.ptes.get(vpn) is pte:
                result |= VM_FAULT_SIGBUS
            self.filemap.unlock_page(page)
            self.lru.put_page(page)
            return result
        self._map_swapped_in(mm, vpn, page, entry, write)
        self.filemap.unlock_page(page)
        return result

    def _map_swapped_in(self, mm: MmStruct, vpn: int, page: Page, entry: swp_entry_t, write: bool) -> None:
        """Map a locked, uptodate page of the swap cache in place of its entry."""
        self.shadow.verify_swapped_in(mm, vpn, page, entry)
        page.flags |= PTE_young
        if write and self.swap_state.can_share_swap_page(page):
            page.flags |= PTE_dirty | PTE_write
        self._map(mm, vpn, page)
        self.swap_state.areas.swap_free(entry)
        if self.swap_state.areas.vm_swap_full():
            self.swap_state.remove_exclusive_swap_page(page)

    def _do_wp_page(self, mm: MmStruct, vpn: int, page: Page) -> int:
        """Let a present page be written: it has no other user, so never by a copy (do_wp_page())."""
        page.count += 1
        self.filemap.lock_page(page)
        if mm.ptes.get(vpn) is page and self.swap_state.can_share_swap_page(page):
            page.flags |= PTE_young | PTE_dirty | PTE_write
        self.filemap.unlock_page(page)
        self.lru.put_page(page)
        return 0

    # -- address spaces ----------------------------------------------------------------------------------------------------------

    def mm_alloc(self, task: Task) -> MmStruct:
        """Give a task memory of its own, empty."""
        mm = MmStruct(self._next_id, task)
        self._next_id += 1
        self.mms[mm.mm_id] = mm
        task.mm = mm
        return mm

    def exit_mmap(self, task: Task) -> None:
        """Free all memory of a process: pages, slots, shadow (exit_mmap(), zap_pte_range())."""
        mm: MmStruct | None = task.mm
        if mm is None:
            return
        self._areas.exit_mmap(mm)
        while mm.ptes:
            vpn, pte = mm.ptes.popitem()
            self.zap_anon_pte(mm, pte)
            if not vpn & 31:
                self.sched.spend(costs.FREE_PAGE * 32)
        task.mm = None
        del self.mms[mm.mm_id]
        self.shadow.forget(mm.mm_id)

    def zap_anon_pte(self, mm: MmStruct, pte: Page | SwapPte | FilePte) -> None:
        """Let go of what stood in the page table, with its slot (zap_pte_range())."""
        if isinstance(pte, SwapPte):
            self.swap_state.free_swap_and_cache(pte.entry)
        elif isinstance(pte, Page):
            self._zap_page(mm, pte)
        else:
            raise KernelBug(f"a page of a file is left in {mm!r}, and its area is gone", state=pte)

    def _zap_page(self, mm: MmStruct, page: Page) -> None:
        """Unmap a page of a process that leaves; its slot goes too if it is not on its way out (free_page_and_swap_cache())."""
        page.flags &= ~PTE_BITS
        page.mapcount = 0
        mm.anon_rss -= 1
        self.vmstat.nr_anon_pages -= 1
        if page.flags & PG_swapcache and self.filemap.trylock_page(page):
            self.swap_state.remove_exclusive_swap_page(page)
            self.filemap.unlock_page(page)
        self.lru.put_page(page)
