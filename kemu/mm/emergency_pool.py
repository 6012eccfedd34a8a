"""An absolute floor under free memory, resizable at run time: patch 08.

pages_min is no floor: GFP_ATOMIC may go to 3/8 of it. The emergency pool is a number of pages that no ALLOC_* discount erodes; only
ALLOC_NO_WATERMARKS goes below. Its share per zone, ``zone.pages_emerg``, stands in the marks (min_free.py, mmzone.py).

Interface: :meth:`EmergencyPool.adjust_memalloc_reserve`.

Rules of this file
    * var_free_mutex is held over the probe, which may reclaim for long.
    * The probe is GFP_KERNEL of order 0: it fails only for a caller that is PF_MEMALLOC or TIF_MEMDIE, or by injection.
    * One probe per node, each by that node's whole zonelist: a full node borrows from the others, so a probe shows that some node
      has a page above the new marks, no more.
    * With the patch off nothing changes and 0 is returned: charges are accepted, and nothing backs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.errors import KemuError, KernelBug
from kemu.kernel.errno import ENOMEM
from kemu.kernel.spinlock import Mutex
from kemu.mm.gfp import GFP_KERNEL, PAGE_SIZE
from kemu.mm.min_free import MinFree

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.page_alloc import PageAllocator


class EmergencyPool:
    """The pool's size, and how it changes."""

    def __init__(self, kernel: Kernel, min_free: MinFree, page_alloc: PageAllocator) -> None:
        self.kernel = kernel
        self.patched = kernel.patched
        self.min_free = min_free
        self.page_alloc = page_alloc
        self.var_free_mutex = Mutex(kernel, "var_free_mutex")

    def adjust_memalloc_reserve(self, pages: int) -> int:
        """Add ``pages``, which may be negative; 0, or -ENOMEM with everything as it was (adjust_memalloc_reserve)."""
        if not self.patched.emergency_pool:  # [p08]
            return 0
        self.var_free_mutex.mutex_lock(("memory", self.page_alloc))
        if self.min_free.var_free_kbytes + pages * (PAGE_SIZE >> 10) < 0:
            self.var_free_mutex.mutex_unlock()
            raise KernelBug(f"emergency pool of {self.min_free.var_free_kbytes} kB is reduced by {-pages} pages")
        self._adjust(pages)
        ret = 0
        if pages > 0 and not self._probe(pages):
            self._adjust(-pages)
            ret = -ENOMEM
        else:
            self.kernel.printk(f"Emergency reserve: {self.min_free.var_free_kbytes}", "debug")
        self.var_free_mutex.mutex_unlock()
        return ret

    def _adjust(self, pages: int) -> None:
        """Change the size and all marks (__adjust_memalloc_reserve)."""
        self.min_free.var_free_kbytes += pages * (PAGE_SIZE >> 10)
        self.min_free.setup_per_zone_pages_min()

    def _probe(self, pages: int) -> bool:
        """Test the limits; a probe that ends in a panic, or never, leaves no trace of the ``pages`` and of the mutex."""
        try:
            return self._test_reserve_limits()
        except KemuError:
            self._adjust(-pages)
            self.var_free_mutex.mutex_unlock()
            raise

    def _test_reserve_limits(self) -> bool:
        """Let kswapd free what the new marks ask for, and see whether a page per node can still be had (test_reserve_limits)."""
        page_alloc = self.page_alloc
        if page_alloc.reclaim is not None:
            for zone in page_alloc.zones:
                page_alloc.reclaim.wakeup_kswapd(zone, 0)
        for node in page_alloc.nodes:
            page = page_alloc.alloc_pages_node(node.node_id, GFP_KERNEL)
            if page is None:
                return False
            page_alloc.free_pages(page)
        return True
