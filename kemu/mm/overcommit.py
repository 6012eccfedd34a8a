"""How much memory may be promised (2.6.23 mm/mmap.c: __vm_enough_memory(), include/linux/mman.h: vm_acct_memory()).

Interface
    * :class:`Overcommit`: ``security_vm_enough_memory(pages)`` promises or refuses; ``vm_unacct_memory(pages)`` takes back;
      ``may_commit(pages)`` only asks; ``vm_committed_space`` (Committed_AS), ``commit_limit()`` (CommitLimit).
    * sysctl vm.overcommit_memory, vm.overcommit_ratio.

Rules of this file
    * Only what may become anonymous is promised: the heap and private mappings. A shared mapping is its file's.
    * Mode 0 guesses from what is there and could be had, and refuses only what is out of all proportion: it looks at each request
      alone, never at the sum. Mode 1 promises everything. Mode 2 keeps the sum of promises below a limit.
    * The last 3 % are root's (CAP_SYS_ADMIN). In mode 2, 3 % of a process's own size are left to the others.
    * Every promise is counted, in each mode; only mode 2 looks at the sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.mm_struct import MmStruct
    from kemu.mm.page_alloc import PageAllocator
    from kemu.mm.swap_info import SwapAreas

OVERCOMMIT_GUESS: Final = 0
OVERCOMMIT_ALWAYS: Final = 1
OVERCOMMIT_NEVER: Final = 2


class Overcommit:
    """What a machine has promised to its processes.

    :ivar overcommit_memory: OVERCOMMIT_*.
    :ivar overcommit_ratio: mode 2: per cent of memory that may be promised beside swap.
    :ivar vm_committed_space: pages promised.
    """

    def __init__(self, kernel: Kernel, page_alloc: PageAllocator, areas: SwapAreas) -> None:
        self.page_alloc = page_alloc
        self.vmstat = page_alloc.vmstat
        self.areas = areas
        self.overcommit_memory = OVERCOMMIT_GUESS
        self.overcommit_ratio = 50
        self.vm_committed_space = 0
        kernel.sysctl.register("vm.overcommit_memory", lambda: self.overcommit_memory, self._set_memory)
        kernel.sysctl.register("vm.overcommit_ratio", lambda: self.overcommit_ratio, self._set_ratio)

    def _set_memory(self, mode: int) -> None:
        self.overcommit_memory = mode

    def _set_ratio(self, percent: int) -> None:
        self.overcommit_ratio = percent

    def security_vm_enough_memory(self, pages: int, mm: MmStruct | None = None, *, admin: bool = True) -> bool:
        """Promise so many pages to a process, or refuse (__vm_enough_memory()).

        :param admin: CAP_SYS_ADMIN: the caller may have the last 3 %.
        """
        self.vm_committed_space += pages
        mode = self.overcommit_memory
        if mode == OVERCOMMIT_ALWAYS:
            enough = True
        elif mode == OVERCOMMIT_GUESS:
            enough = self._guess(pages, admin)
        else:
            enough = self.vm_committed_space < self._allowed(mm, admin)
        if not enough:
            self.vm_committed_space -= pages
        return enough

    def vm_unacct_memory(self, pages: int) -> None:
        """Take a promise back."""
        self.vm_committed_space -= pages

    def may_commit(self, pages: int, *, admin: bool = True) -> bool:
        """Tell whether so many pages would be promised now, as swapoff asks for its area's pages."""
        enough = self.security_vm_enough_memory(pages, admin=admin)
        if enough:
            self.vm_unacct_memory(pages)
        return enough

    def _guess(self, pages: int, admin: bool) -> bool:
        """Count what could be had: page cache, swap, slabs that shrink; then also what is free above the reserves."""
        vmstat = self.vmstat
        free = vmstat.nr_file_pages + self.areas.nr_swap_pages + vmstat.nr_slab_reclaimable
        if not admin:
            free -= free // 32
        if free > pages:
            return True
        left = self.page_alloc.nr_free_pages() - self.page_alloc.totalreserve_pages
        if left <= 0:
            return False
        if not admin:
            left -= left // 32
        return free + left > pages

    def commit_limit(self) -> int:
        """Return how much may be promised in mode 2 (CommitLimit of /proc/meminfo)."""
        return self.page_alloc.total_pages * self.overcommit_ratio // 100 + self.areas.total_swap_pages

    def _allowed(self, mm: MmStruct | None, admin: bool) -> int:
        """Return the limit for one process."""
        allowed = self.page_alloc.total_pages * self.overcommit_ratio // 100
        if not admin:
            allowed -= allowed // 32
        allowed += self.areas.total_swap_pages
        if mm is not None:
            allowed -= mm.total_vm // 32
        return allowed
