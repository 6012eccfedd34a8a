"""Dirty inodes, and writing them (2.6.23 fs/fs-writeback.c, fs/drop_caches.c, fs/sync.c).

Interface
    * :class:`FsWriteback`: ``add_super(sb)``, ``remove_super(sb)``, ``new_inode(sb, inode)``, ``drop_inode(inode)``;
      ``mark_inode_dirty(inode, flags)``; ``writeback_inodes(wbc)``; ``sync()``; sysctl vm.drop_caches.

Rules of this file
    * An inode is on one of two lists of its super block, or clean: s_dirty in the order in which inodes became dirty, s_io those
      that a writer works through. A writer refills s_io from s_dirty, and stops at the first inode that became dirty after he came.
    * One writer at a time writes an inode (I_LOCK). Who syncs waits for that; others write what pages they can and leave it dirty.
    * pdflush threads keep off a queue that another of them works on.
    * An inode whose pages were not all written is dirty again: for the periodic flush it keeps its age, else it goes to the end.
    * sync(2) wakes pdflush and writes itself. An inode that pdflush has finished with meanwhile is on no list any more, and its
      writes are not waited for; fsync() waits always.
    * An inode without a super block is in nobody's list: what is behind it (the block device itself, tests) writes by itself.
    * Left out: inodes that leave memory: an inode lives as long as its file system is mounted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.errors import KernelBug
from kemu.kernel.task import PF_FLUSHER
from kemu.kernel.wait import WaitQueue
from kemu.lib.radix_tree import TAG_DIRTY
from kemu.mm.address_space import (
    I_DIRTY,
    I_DIRTY_DATASYNC,
    I_DIRTY_PAGES,
    I_DIRTY_SYNC,
    I_LOCK,
    WB_SYNC_ALL,
    WB_SYNC_HOLD,
    Inode,
    SuperBlock,
    WritebackControl,
)
from kemu.mm.backing_dev import BDI_CAP_NO_WRITEBACK, WRITE

if TYPE_CHECKING:
    from collections import OrderedDict

    from kemu.kernel.core import Kernel
    from kemu.mm.address_space import AddressSpace
    from kemu.mm.dirty_balance import DirtyBalance
    from kemu.mm.filemap import Filemap
    from kemu.mm.shrink_slab import ShrinkSlab
    from kemu.mm.write_pages import WritePages


class FsWriteback:
    """The dirty inodes of a machine.

    :param balance: is told when an inode becomes dirty.
    :ivar supers: mounted file systems, in the order of mounting.
    """

    def __init__(self, kernel: Kernel, filemap: Filemap, write_pages: WritePages, balance: DirtyBalance) -> None:
        self.sched = kernel.sched
        self.filemap = filemap
        self.vmstat = filemap.vmstat
        self.write_pages = write_pages
        self.balance = balance
        self.shrink_slab: ShrinkSlab | None = None
        self.supers: list[SuperBlock] = []
        self.dropped = 0  # sysctl_drop_caches: what was asked for last
        self._inode_wait = WaitQueue("I_LOCK")
        kernel.judge.explainers["inode"] = _explain
        kernel.sysctl.register("vm.drop_caches", lambda: self.dropped, self._drop_caches)

    def add_super(self, sb: SuperBlock) -> None:
        """Note a mounted file system."""
        self.supers.append(sb)

    def remove_super(self, sb: SuperBlock) -> None:
        """Forget a file system that is unmounted; its inodes have left."""
        if sb.s_dirty or sb.s_io:
            raise KernelBug(f"{sb.name} is unmounted, and has dirty inodes", state=sb)
        self.supers.remove(sb)

    def new_inode(self, sb: SuperBlock, inode: Inode) -> None:
        """Note an inode of a file system."""
        inode.i_sb = sb
        sb.s_inodes[inode] = None

    def drop_inode(self, inode: Inode) -> None:
        """Forget an inode that leaves memory; its pages are gone."""
        if inode.i_list is not None:
            del inode.i_list[inode]
            inode.i_list = None
        if inode.i_sb is not None:
            inode.i_sb.s_inodes.pop(inode, None)
            inode.i_sb = None
        inode.i_state &= ~I_DIRTY

    # -- becoming dirty ----------------------------------------------------------------------------------------------------------

    def mark_inode_dirty(self, inode: Inode, flags: int) -> None:
        """Note that an inode, or a page of it, has changed (__mark_inode_dirty())."""
        if inode.i_state & flags == flags or inode.i_sb is None:
            return
        was_dirty = inode.i_state & I_DIRTY
        inode.i_state |= flags
        if inode.i_state & I_LOCK:
            return  # who writes it puts it where it belongs
        if not was_dirty:
            inode.dirtied_when = self.sched.jiffies
            self._move(inode, inode.i_sb.s_dirty)
        self.balance.inode_became_dirty()

    def _move(self, inode: Inode, where: OrderedDict[Inode, None], *, oldest: bool = False) -> None:
        """Put an inode on a list: as its youngest, or as its oldest."""
        if inode.i_list is not None:
            del inode.i_list[inode]
        where[inode] = None
        inode.i_list = where
        if oldest:
            where.move_to_end(inode, last=False)

    def some_inode_is_dirty(self) -> bool:
        """Tell whether a writer would find anything."""
        return any(sb.s_dirty or sb.s_io for sb in self.supers)

    # -- writing -----------------------------------------------------------------------------------------------------------------

    def writeback_inodes(self, wbc: WritebackControl) -> None:
        """Write dirty inodes of all file systems, the one mounted last first, until ``nr_to_write`` is used up."""
        for sb in list(reversed(self.supers)):
            if sb.s_dirty or sb.s_io:
                self._sync_sb_inodes(sb, wbc)
            if wbc.nr_to_write <= 0:
                break

    def _sync_sb_inodes(self, sb: SuperBlock, wbc: WritebackControl) -> None:
        """Write dirty inodes of one file system, oldest first (sync_sb_inodes())."""
        start = self.sched.jiffies
        if not wbc.for_kupdate or not sb.s_io:
            for inode in list(sb.s_dirty):
                self._move(inode, sb.s_io)
        pdflush = self.sched.current.flags & PF_FLUSHER
        while sb.s_io:
            inode = next(iter(sb.s_io))
            mapping: AddressSpace = inode.i_mapping
            bdi = mapping.backing_dev_info
            if bdi is None or bdi.capabilities & BDI_CAP_NO_WRITEBACK:
                self._move(inode, sb.s_dirty)
                break
            if wbc.nonblocking and bdi.congested(WRITE):
                wbc.encountered_congestion = True
                break
            if wbc.bdi is not None and bdi is not wbc.bdi:
                break
            if inode.dirtied_when > start:
                break
            if wbc.older_than_this is not None and inode.dirtied_when > wbc.older_than_this:
                break
            if pdflush:
                if bdi.pdflush:
                    break  # another thread works on this queue
                bdi.pdflush = True
            skipped = wbc.pages_skipped
            self._writeback_single_inode(inode, wbc)
            if wbc.sync_mode == WB_SYNC_HOLD and inode.i_sb is sb:
                inode.dirtied_when = self.sched.jiffies  # clean or not: sync(2) comes again, to wait
                self._move(inode, sb.s_dirty)
            if pdflush:
                bdi.pdflush = False
            if wbc.pages_skipped != skipped and inode.i_list is not None:
                self._move(inode, sb.s_dirty)
            self.sched.cond_resched()
            if wbc.nr_to_write <= 0:
                break

    def _writeback_single_inode(self, inode: Inode, wbc: WritebackControl) -> int:
        """Write an inode, or only pages of it while somebody else does (__writeback_single_inode())."""
        assert inode.i_sb is not None
        if inode.i_state & I_LOCK:
            if wbc.sync_mode != WB_SYNC_ALL:
                self._move(inode, inode.i_sb.s_dirty)
                return self.write_pages.do_writepages(inode.i_mapping, wbc)
            self.sched.wait_event(self._inode_wait, lambda: not inode.i_state & I_LOCK, ("inode", inode))
        return self._sync_single_inode(inode, wbc)

    def _sync_single_inode(self, inode: Inode, wbc: WritebackControl) -> int:
        """Write an inode's pages and then itself; put it where it belongs (__sync_single_inode())."""
        mapping: AddressSpace = inode.i_mapping
        sb = inode.i_sb
        assert sb is not None
        wait = wbc.sync_mode == WB_SYNC_ALL
        dirty = inode.i_state & I_DIRTY
        inode.i_state = inode.i_state & ~I_DIRTY | I_LOCK
        result = self.write_pages.do_writepages(mapping, wbc)
        if dirty & (I_DIRTY_SYNC | I_DIRTY_DATASYNC) and sb.write_inode is not None:
            error = sb.write_inode(inode, wait)
            result = result or error
        if wait:
            error = self.write_pages.filemap_fdatawait(mapping)
            result = result or error
        inode.i_state &= ~I_LOCK
        if inode.i_sb is not None:
            self._requeue(inode, sb, wbc)
        self.sched.wake_up_all(self._inode_wait)
        return result

    def _requeue(self, inode: Inode, sb: SuperBlock, wbc: WritebackControl) -> None:
        """Decide whether an inode that was written is clean."""
        mapping: AddressSpace = inode.i_mapping
        if not inode.i_state & I_DIRTY and mapping.page_tree is not None and mapping.page_tree.tagged(TAG_DIRTY):
            inode.i_state |= I_DIRTY_PAGES  # not all pages were written
            if not wbc.for_kupdate:
                inode.dirtied_when = self.sched.jiffies
            self._move(inode, sb.s_dirty, oldest=wbc.for_kupdate)
        elif inode.i_state & I_DIRTY:
            self._move(inode, sb.s_dirty)  # somebody has changed it meanwhile
        elif inode.i_list is not None:
            del inode.i_list[inode]
            inode.i_list = None

    # -- sync(2), drop_caches ------------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Write everything and wait (do_sync()): start it all first, then go through it again and wait."""
        self.balance.wakeup_pdflush(0)
        for sync_mode in (WB_SYNC_HOLD, WB_SYNC_ALL):
            for sb in list(self.supers):
                dirty = self.vmstat.nr_dirty + self.vmstat.nr_unstable
                nr_to_write = 2 * dirty + len(sb.s_inodes)
                self._sync_sb_inodes(sb, WritebackControl(nr_to_write + nr_to_write // 2, sync_mode=sync_mode))

    def _drop_caches(self, what: int) -> None:
        """Drop clean page cache (1), slab objects (2), or both (3): drop_pagecache(), drop_slab()."""
        self.dropped = what
        if what & 1:
            for sb in list(self.supers):
                for inode in list(sb.s_inodes):
                    self.filemap.invalidate_mapping_pages(inode.i_mapping)
        if what & 2 and self.shrink_slab is not None:
            while self.shrink_slab(1000, 0xD0, 1000) > 10:
                pass

    # -- invariants --------------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert that lists and inodes agree, and that the counters are the sums of all files."""
        dirty = mapped = 0
        for sb in self.supers:
            for inode in sb.s_inodes:
                on_list = inode.i_list is not None
                if on_list and inode.i_list is not sb.s_dirty and inode.i_list is not sb.s_io:
                    raise KernelBug(f"{inode!r} is on a list of another file system")
                if inode.i_state & I_DIRTY and not inode.i_state & I_LOCK and not on_list:
                    raise KernelBug(f"{inode!r} is dirty and not on a list of dirty inodes: nobody would write it")
                of_inode = self.filemap.check_mapping(inode.i_mapping)
                dirty += of_inode[0]
                mapped += of_inode[1]
        if dirty > self.vmstat.nr_dirty or mapped > self.vmstat.nr_file_mapped:
            raise KernelBug(
                f"{dirty} pages of files are dirty and {mapped} mapped, but vmstat counts {self.vmstat.nr_dirty} "
                f"and {self.vmstat.nr_file_mapped}"
            )


def _explain(inode: Inode) -> tuple[str, None]:
    """Say what one who syncs waits for."""
    return f"somebody else who writes inode {inode.ino}", None
