"""Turning files and devices into swap areas, and back (2.6.23 mm/swapfile.c: sys_swapon(), sys_swapoff()).

Interface
    * ``swapon(file, priority=…)``, ``swapoff(file)``: 0 or -errno; both block.
    * All of :class:`SwapAreas`: slots, and which area a page belongs to.

Rules of this file
    * How an area finds its blocks: a block device is one extent; a file with ->swapfile is none of our business (patch 25); any
      other file is asked for every block, and a hole is -EINVAL.
    * ->swapfile(mapping, 1) is followed by ->swapfile(mapping, 0) on every later failure, and after the last page has come back.
    * S_SWAPFILE, which tells the file system to keep its hands off, is set last, when pages may already be on their way out: patch
      30 asks for it in ->writepage, so a page that leaves in between is lost (b30d).
    * Left out: swap tokens, SWAP_FLAG_PREFER's encoding, hibernation.
"""

from __future__ import annotations

from typing import Protocol

from kemu.kernel import costs
from kemu.kernel.core import Kernel
from kemu.kernel.errno import EBUSY, EINVAL, ENOMEM, EPERM
from kemu.kernel.task import PF_SWAPOFF
from kemu.mm.address_space import S_SWAPFILE, AddressSpace, File, Inode
from kemu.mm.filemap import Filemap
from kemu.mm.gfp import PAGE_SHIFT
from kemu.mm.swap_header import read_header
from kemu.mm.swap_info import SWP_ACTIVE, SWP_FILE, SWP_WRITEOK, SwapAreas, SwapInfo
from kemu.mm.swap_map import SwapMap
from kemu.mm.swapops import MAX_SWAPFILES


class Unuser(Protocol):
    """Who can bring an area's pages back to their processes (unuse.py)."""

    def vm_enough_memory(self, pages: int) -> bool:
        """Tell whether so many pages may be asked for at all."""

    def try_to_unuse(self, si: SwapInfo) -> int:
        """Read everything back; return 0 or -errno."""


class Swapfile(SwapAreas):
    """``sys_swapon()`` and ``sys_swapoff()`` over the table of areas.

    :param filemap: reads an area's header.
    :ivar unuse: handed over by Memory; without it swapoff() can only give up areas that are empty.
    """

    def __init__(self, kernel: Kernel, filemap: Filemap) -> None:
        super().__init__(kernel)
        self.filemap = filemap
        self.unuse: Unuser | None = None
        self.least_priority = 0

    # -- swapon ------------------------------------------------------------------------------------------------------------------

    def swapon(self, file: File, *, pages: int | None = None, priority: int | None = None) -> int:
        """Use a file or block device for swap.

        :param pages: an upper limit for what the header says.
        :param priority: higher is used first; None: below all areas that are there.
        """
        inode = file.inode
        mapping = file.f_mapping
        if inode.is_swapfile or self._area_of(mapping) is not None:
            return -EBUSY
        kind = next((kind for kind, si in enumerate(self.areas) if si is None), len(self.areas))
        if kind >= MAX_SWAPFILES:
            return -EPERM
        si = SwapInfo(kind, swap_file=file, bdev=inode.i_bdev)
        self.areas[kind : kind + 1] = [si]
        error = self._read_swap_header(si, file, pages)
        if not error:
            error = min(self.setup_swap_extents(si), 0)
        if not error and not si.pages:
            self.kernel.printk("Empty swap-file", level="warning")
            error = -EINVAL
        if error:
            self.destroy_swap_extents(si)
            self.areas[kind] = None
            return error
        self._enable(si, inode, priority)
        return 0

    def _read_swap_header(self, si: SwapInfo, file: File, limit: int | None) -> int:
        """Read the first page and make the slot map that it describes."""
        page = self.filemap.read_mapping_page(file.f_mapping, 0, file)
        if isinstance(page, int):
            return page
        header = read_header(page.contents or b"")
        self.filemap.lru.put_page(page)
        if isinstance(header, str):
            self.kernel.printk(header, level="err")
            return -EINVAL
        last_page, bad = header
        max_slots = last_page if limit is None else min(last_page, limit)
        if file.inode.size and max_slots > file.inode.size >> PAGE_SHIFT:
            self.kernel.printk("Swap area shorter than signature indicates", level="warning")
            return -EINVAL
        if max_slots < 2:
            self.kernel.printk("Empty swap-file", level="warning")
            return -EINVAL
        si.map = SwapMap(max_slots)
        for offset in bad:
            if offset < max_slots:
                si.map.mark_bad(offset)
                si.map.pages -= 1
        return 0

    def setup_swap_extents(self, si: SwapInfo) -> int:
        """Find out where the slots lie; return the number of extents or -errno."""
        assert si.swap_file is not None
        assert si.map is not None
        mapping = si.swap_file.f_mapping
        if si.swap_file.inode.is_block:
            return si.add_swap_extent(0, si.max, 0)
        if self.patched.swap_file_aops and mapping.a_ops.swapfile is not None:  # [p25]
            error = mapping.a_ops.swapfile(mapping, 1)
            if error:
                return error
            si.flags |= SWP_FILE
            return si.add_swap_extent(0, si.max, 0)
        return self._bmap_extents(si, mapping)

    def _bmap_extents(self, si: SwapInfo, mapping: AddressSpace) -> int:
        """Ask the file system for every block of the file; blocks are pages here."""
        assert si.map is not None
        extents = 0
        for page_no in range(si.max):
            block = mapping.a_ops.bmap(mapping, page_no)
            if not block:
                self.kernel.printk("swapon: swapfile has holes", level="err")
                return -EINVAL
            extents += si.add_swap_extent(page_no, 1, block)
            self.sched.spend(costs.SWAP_ENTRY)
        return extents

    def destroy_swap_extents(self, si: SwapInfo) -> None:
        """Forget the extents; tell a file system that carried the area (patch 25)."""
        si.extents.clear()
        si._starts.clear()
        if self.patched.swap_file_aops and si.flags & SWP_FILE:  # [p25]
            assert si.swap_file is not None
            si.flags &= ~SWP_FILE
            mapping = si.swap_file.f_mapping
            assert mapping.a_ops.swapfile is not None
            mapping.a_ops.swapfile(mapping, 0)

    def _enable(self, si: SwapInfo, inode: Inode, priority: int | None) -> None:
        """Let reclaim use the area: the last part of sys_swapon(), with its window between WRITEOK and S_SWAPFILE."""
        if priority is None:
            self.least_priority -= 1
            priority = self.least_priority
        si.prio = priority
        if self.patched.nfs_swap_writepage:  # [p30]
            if self.fixed.b30d:  # [b30d]
                self._set_swapfile(inode)
        if self.patched.swap_file_aops:  # [p25]
            si.flags |= SWP_WRITEOK
        else:
            si.flags = SWP_ACTIVE
        self.nr_swap_pages += si.pages
        self.total_swap_pages += si.pages
        self._insert(si)
        size, span = (pages << (PAGE_SHIFT - 10) for pages in (si.pages, self._span(si)))
        where = f"Priority:{si.prio} extents:{len(si.extents)} across:{span}k"
        self.kernel.printk(f"Adding {size}k swap on {_name(si.swap_file)}.  {where}")
        self.sched.spend(costs.SYSCALL)
        self.sched.preemption_point("swapon: between WRITEOK and S_SWAPFILE")
        self._set_swapfile(inode)

    def _span(self, si: SwapInfo) -> int:
        """Return over how many blocks of the device the slots are spread, the header's apart."""
        if si.swap_file is None or si.swap_file.inode.is_block or si.flags & SWP_FILE:
            return si.pages
        ends = [(block + (not first), block + length) for first, length, block in si.extents if first or length > 1]
        return max(end for _, end in ends) - min(begin for begin, _ in ends)

    def _set_swapfile(self, inode: Inode) -> None:
        if not inode.is_block:
            inode.i_flags |= S_SWAPFILE

    def _area_of(self, mapping: AddressSpace) -> SwapInfo | None:
        """Return the area that lies in a file."""
        for si in self.areas:
            if si is not None and si.swap_file is not None and si.swap_file.f_mapping is mapping:
                return si
        return None

    def _insert(self, si: SwapInfo) -> None:
        """Put an area into the list: before the first one whose priority is not higher; allocation starts at the head again."""
        order = self._by_prio
        index = next((i for i, other in enumerate(order) if si.prio >= other.prio), len(order))
        order.insert(index, si)
        self._next = 0

    # -- swapoff -----------------------------------------------------------------------------------------------------------------

    def swapoff(self, file: File) -> int:
        """Read everything back and stop using an area."""
        mapping = file.f_mapping
        si = self._area_of(mapping)
        if si is None or si.flags & SWP_ACTIVE != SWP_ACTIVE:
            return -EINVAL
        if self.unuse is not None and not self.unuse.vm_enough_memory(si.pages):
            return -ENOMEM
        self._by_prio.remove(si)
        self._next = 0
        self.nr_swap_pages -= si.pages
        self.total_swap_pages -= si.pages
        si.flags &= ~SWP_WRITEOK
        error = self._unuse(si)
        if error:
            self._insert(si)
            self.nr_swap_pages += si.pages
            self.total_swap_pages += si.pages
            si.flags |= SWP_WRITEOK
            return error
        self.destroy_swap_extents(si)
        si.swap_file = None
        si.map = None
        si.flags = 0
        self.areas[si.type] = None
        if not file.inode.is_block:
            file.inode.i_flags &= ~S_SWAPFILE
        return 0

    def _unuse(self, si: SwapInfo) -> int:
        """Bring the area's pages back, as one whom the OOM killer takes first."""
        if not si.inuse_pages:
            return 0
        if self.unuse is None:
            return -EBUSY
        task = self.sched.current
        task.flags |= PF_SWAPOFF
        error = self.unuse.try_to_unuse(si)
        task.flags &= ~PF_SWAPOFF
        return error


def _name(file: File | None) -> str:
    """Return the path that a person would type."""
    if file is None:
        return "?"
    return f"/dev/{file.inode.i_bdev.name}" if file.inode.is_block else file.f_path or f"inode {file.inode.ino}"
