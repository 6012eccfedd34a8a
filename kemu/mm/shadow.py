"""What every page should contain, kept outside the machine: so that a lost page is an outcome and not a guess.

Interface
    * ``record(mm_id, vpn, data)`` at every write; ``verify(mm_id, vpn, data, where)`` when a page comes back and at every read.
    * ``audit(reader)`` compares every page at the end; ``forget(mm_id)`` when a process leaves, ``forget_page`` of an area.
    * ``record_file(mapping, index, data)``, ``verify_file``, ``audit_files(reader)``, ``forget_file(mapping, first)``: the same for
      pages of files, whoever wrote them here.

Rules of this file
    * It sees the machine and is never seen by it: nothing in the kernel decides by it.
    * Contents are immutable and shared, so a page that never left memory is compared by identity.
    * A page is reported lost once: from then on the shadow holds what the process found.
    * Of a file's last page only what lies below its end counts. What other hosts write to a file on a server is not known here: who
      lets them must say forget_file().
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha256

from kemu.kernel.core import Kernel
from kemu.mm.address_space import AddressSpace
from kemu.mm.gfp import PAGE_SHIFT, PAGE_SIZE
from kemu.mm.mm_struct import MmStruct
from kemu.mm.page import ZERO_PAGE, Page, PG_dirty, PG_uptodate, PG_writeback
from kemu.mm.pte import FilePte, SwapPte
from kemu.mm.swapops import swp_entry_t
from kemu.mm.vmstat import VmStat

Reader = Callable[[swp_entry_t], bytes | None]


class Digest:
    """What a page should contain, known by its sha256 alone: of a page that another boot has swapped out."""

    __slots__ = ("sha256",)

    def __init__(self, digest: bytes) -> None:
        self.sha256 = digest

    def __eq__(self, other: object) -> bool:
        """Compare with the bytes of a page."""
        return isinstance(other, bytes) and sha256(other).digest() == self.sha256

    def __hash__(self) -> int:
        """Hash as what it is."""
        return hash(self.sha256)


class Shadow:
    """The contents that processes wrote.

    :ivar pages: mm_id -> virtual page number -> bytes, or a :class:`Digest`.
    :ivar files: file -> page of it -> bytes.
    :ivar verified: pages that were compared when they came back from swap, or by the audit.
    """

    def __init__(self, kernel: Kernel, vmstat: VmStat) -> None:
        self.judge = kernel.judge
        self.vmstat = vmstat
        self.pages: dict[int, dict[int, bytes | Digest]] = {}
        self.files: dict[AddressSpace, dict[int, bytes]] = {}
        self.verified = 0

    def record(self, mm_id: int, vpn: int, data: bytes) -> None:
        """Note what a process wrote."""
        try:
            self.pages[mm_id][vpn] = data
        except KeyError:
            self.pages[mm_id] = {vpn: data}

    def of(self, mm_id: int) -> dict[int, bytes | Digest]:
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
                    data = pte.page.contents if isinstance(pte, FilePte) else pte.contents
                compared += 1
                lost += not self.verify(mm.mm_id, vpn, data, where)
        self.verified += compared
        return compared, lost

    # -- files -----------------------------------------------------------------------------------------------------------------

    def forget_page(self, mm_id: int, vpn: int) -> None:
        """Drop what a process wrote to a page that it has unmapped."""
        self.of(mm_id).pop(vpn, None)

    def record_file(self, mapping: AddressSpace, index: int, data: bytes) -> None:
        """Note what a page of a file holds after a write."""
        self.files.setdefault(mapping, {})[index] = data

    def write_file(self, mapping: AddressSpace, index: int, offset: int, piece: bytes, contents: bytes, *, uptodate: bool) -> None:
        """Note a write of a part of a page; what the rest holds is known only if the page was uptodate or noted before."""
        pages = self.files.setdefault(mapping, {})
        if uptodate or len(piece) == PAGE_SIZE:
            pages[index] = contents
        elif index in pages:
            old = pages[index]
            pages[index] = old[:offset] + piece + old[offset + len(piece) :]

    def cut_file_page(self, mapping: AddressSpace, index: int, kept: int) -> None:
        """Note that the rest of a page became zeros: the file was cut there."""
        pages = self.files.get(mapping, {})
        if index in pages:
            pages[index] = pages[index][:kept].ljust(PAGE_SIZE, b"\0")

    def forget_file(self, mapping: AddressSpace, first: int = 0) -> None:
        """Drop what was written to a file from a page on: it was cut, or somebody else has written it."""
        kept = {index: data for index, data in self.files.pop(mapping, {}).items() if index < first}
        if kept:
            self.files[mapping] = kept

    def verify_file(self, mapping: AddressSpace, index: int, data: bytes | None, where: str) -> bool:
        """Compare a page of a file with what was written there, if anything was; a difference is lost data."""
        expected = self.files.get(mapping, {}).get(index)
        if expected is None or data is expected:
            return True
        self.verified += 1
        size = mapping.host.size if mapping.host is not None else 0
        valid = max(0, min(PAGE_SIZE, size - (index << PAGE_SHIFT)))
        found = ZERO_PAGE if data is None else data
        if data is not None and found[:valid] == expected[:valid]:
            return True
        self.files[mapping][index] = found
        self.vmstat.lost_pages += 1
        kind = "nothing" if data is None else "zeros" if data == ZERO_PAGE else "other bytes"
        name = f"inode {mapping.host.ino}" if mapping.host is not None else "a file"
        self.judge.report("data_loss", f"{where}: page {index} of {name} should hold what was written, but holds {kind}")
        return False

    def audit_files(self, reader: Callable[[AddressSpace, int], bytes | None]) -> tuple[int, int]:
        """Compare every page of a file that was written with the page cache and, unless it waits to be written, with the disk.

        :param reader: (file, page of it) -> what the disk or the server holds.
        """
        compared = lost = 0
        for mapping, pages in list(self.files.items()):
            for index in list(pages):
                page: Page | None = mapping.page_tree.lookup(index) if mapping.page_tree is not None else None
                good = True
                if page is not None and page.flags & (PG_uptodate | PG_dirty | PG_writeback):
                    good = self.verify_file(mapping, index, page.contents, "audit of the page cache")
                if good and (page is None or not page.flags & (PG_dirty | PG_writeback)):
                    good = self.verify_file(mapping, index, reader(mapping, index), "audit of the disk or server")
                compared += 1
                lost += not good
        return compared, lost
