"""Mapping files into processes (2.6.23 mm/mmap.c: do_mmap_pgoff(), do_munmap(), do_brk(); mm/msync.c).

Interface
    * :class:`Mmap`: ``mmap(task, file, pages, pgoff, vpn=None, shared=True)`` -> virtual page or -errno,
      ``munmap(task, vpn, pages)``, ``msync(task, vpn, pages)``, ``do_brk(task, pages)``, ``exit_mmap(mm)``.

Rules of this file
    * The heap begins at virtual page 0 and grows upwards; files are mapped above MMAP_BASE, or where the caller says (MAP_FIXED:
      what was mapped there goes; the heap is not touched). All is readable and writable: there is no mprotect().
    * A mapping holds its file open. The last mapping of a file that was closed releases it.
    * munmap() of a part splits the area. Writes that the entries remember go to the pages, not to the disk.
    * What may become anonymous memory is promised first (overcommit.py): the heap and private mappings.
    * Left out: anonymous mappings beside the heap, mremap, mlock, hugetlb, growing stacks.
"""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING, Final

from kemu.kernel import costs
from kemu.kernel.errno import EINVAL, ENODEV, ENOMEM
from kemu.mm.mm_struct import Vma
from kemu.mm.pte import FilePte

if TYPE_CHECKING:
    from kemu.kernel.task import Task
    from kemu.mm.address_space import File
    from kemu.mm.file_io import FileIo
    from kemu.mm.memory import Memory
    from kemu.mm.mm_struct import MmStruct
    from kemu.mm.overcommit import Overcommit

MMAP_BASE: Final = 1 << 32  # above any heap: 16 TiB


class Mmap:
    """The areas of processes.

    :param memory: frees what a private mapping has copied.
    """

    def __init__(self, memory: Memory, overcommit: Overcommit, file_io: FileIo) -> None:
        self.memory = memory
        self.sched = memory.sched
        self.rmap = memory.filemap.file_rmap
        self.overcommit = overcommit
        self.file_io = file_io

    def mmap(self, task: Task, file: File, pages: int, pgoff: int = 0, vpn: int | None = None, *, shared: bool = True) -> int:
        """Map ``pages`` pages of a file from its page ``pgoff`` on; return the first virtual page, or -errno (do_mmap_pgoff()).

        :param vpn: where (MAP_FIXED); None: wherever there is room.
        :param shared: MAP_SHARED: stores change the file. Otherwise MAP_PRIVATE: they change a copy.
        """
        mm: MmStruct = task.mm
        if pages <= 0 or pgoff < 0 or (vpn is not None and vpn < 0):
            return -EINVAL
        if file.f_op is None:
            return -ENODEV
        if vpn is None:
            vpn = max([MMAP_BASE] + [vma.end for vma in mm.vmas])
        elif vpn < mm.brk:
            return -ENOMEM  # the heap would be unmapped there; no program wants that
        else:
            self.munmap(task, vpn, pages)
        if not shared and not self.overcommit.security_vm_enough_memory(pages, mm, admin=task.uid == 0):
            return -ENOMEM
        error = file.f_op.mmap(file)
        if error:
            if not shared:
                self.overcommit.vm_unacct_memory(pages)
            return error
        file.f_count += 1
        self._link(Vma(mm, vpn, pages, file, pgoff, shared))
        return vpn

    def _link(self, vma: Vma) -> None:
        """Put an area among those of its process and of its file (vma_link())."""
        mm = vma.mm
        insort(mm.vmas, vma)
        mm.map_pages += vma.pages
        vma.mapping.i_mmap.append(vma)

    def _unlink(self, vma: Vma) -> None:
        """Take it out again."""
        vma.mm.vmas.remove(vma)
        vma.mm.map_pages -= vma.pages
        vma.mapping.i_mmap.remove(vma)

    def munmap(self, task: Task, vpn: int, pages: int) -> int:
        """Unmap whatever files are mapped in a range: 0 or -EINVAL (do_munmap())."""
        if pages <= 0 or vpn < 0:
            return -EINVAL
        for vma in list(task.mm.vmas):
            first, end = max(vpn, vma.start), min(vpn + pages, vma.end)
            if first < end:
                self._cut(vma, first, end)
        return 0

    def _cut(self, vma: Vma, first: int, end: int) -> None:
        """Take a part out of an area; what is left on either side becomes an area of its own (split_vma())."""
        mm = vma.mm
        self._zap(mm, first, end)
        self._unlink(vma)
        for start, stop in ((vma.start, first), (end, vma.end)):
            if start < stop:
                vma.file.f_count += 1
                self._link(Vma(mm, start, stop - start, vma.file, vma.index_of(start), vma.shared))
        if not vma.shared:
            self.overcommit.vm_unacct_memory(end - first)
        self.file_io.fput(vma.file)

    def _zap(self, mm: MmStruct, first: int, end: int) -> None:
        """Empty a range of the page table (unmap_vmas())."""
        ptes = mm.ptes
        for vpn in range(first, end) if end - first <= len(ptes) else [vpn for vpn in ptes if first <= vpn < end]:
            pte = ptes.get(vpn)
            if pte is None:
                continue
            self.sched.spend(costs.FREE_PAGE)
            if isinstance(pte, FilePte):
                self.rmap.zap_file_pte(mm, vpn, pte)
            else:
                del ptes[vpn]
                self.memory.zap_anon_pte(mm, pte)
                self.memory.shadow.forget_page(mm.mm_id, vpn)

    def msync(self, task: Task, vpn: int, pages: int) -> int:
        """Write what was stored into the files mapped in a range, and wait: 0 or -errno (sys_msync() with MS_SYNC)."""
        unmapped = pages
        result = 0
        for vma in list(task.mm.vmas):
            covered = min(vpn + pages, vma.end) - max(vpn, vma.start)
            if covered > 0:
                unmapped -= covered
                if vma.shared:
                    result = self.file_io.fsync(vma.file) or result
        return result or (-ENOMEM if unmapped else 0)

    def do_brk(self, task: Task, pages: int) -> int:
        """Let a process touch ``pages`` more pages of heap: 0, or -ENOMEM (do_brk())."""
        mm: MmStruct = task.mm
        if any(vma.start < mm.brk + pages for vma in mm.vmas):
            return -ENOMEM
        if not self.overcommit.security_vm_enough_memory(pages, mm, admin=task.uid == 0):
            return -ENOMEM
        mm.brk += pages
        mm.heap_promised += pages
        return 0

    def exit_mmap(self, mm: MmStruct) -> None:
        """Give all areas of a process up; the heap's pages are gone already (exit_mmap())."""
        for vma in list(mm.vmas):
            self._cut(vma, vma.start, vma.end)
        self.overcommit.vm_unacct_memory(mm.heap_promised)
        mm.heap_promised = 0
