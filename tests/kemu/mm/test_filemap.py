"""Locks, writeback and the page cache (mm/filemap.py)."""

from __future__ import annotations

import pytest

from file_ground import file_ground
from kemu.errors import KernelBug
from kemu.kernel.errno import EEXIST, EIO, ENOENT, ENOMEM
from kemu.lib.radix_tree import TAG_DIRTY, TAG_WRITEBACK
from kemu.mm.address_space import AddressSpace, Inode, WritebackControl
from kemu.mm.backing_dev import BDI_CAP_NO_ACCT_DIRTY, BackingDev
from kemu.mm.gfp import GFP_KERNEL
from kemu.mm.page import PG_dirty, PG_locked, PG_lru, PG_private, PG_reclaim, PG_uptodate, PG_writeback
from swap_ground import DiskOps, RamDisk, page_bytes, swap_ground


@pytest.fixture
def ground():
    with swap_ground(kswapd=False) as g:
        yield g


@pytest.fixture
def page(ground):
    return ground.pa.alloc_page(GFP_KERNEL)


@pytest.fixture
def mapping(ground):
    disk = RamDisk(ground)
    disk.blocks.update({i: page_bytes(i) for i in range(20)})
    inode = Inode(ino=1, size=20 * 4096)
    return AddressSpace(inode, DiskOps(disk, ground), BackingDev(ground.congestion, "disk"))


def test_a_lock_is_had_once(ground, page):
    assert ground.filemap.trylock_page(page)
    assert not ground.filemap.trylock_page(page)
    ground.filemap.unlock_page(page)
    ground.filemap.lock_page(page)
    assert page.flags & PG_locked


def test_unlocking_an_unlocked_page_is_an_oops(ground, page):
    with pytest.raises(KernelBug, match="not locked"):
        ground.filemap.unlock_page(page)


def test_who_waits_for_a_lock_gets_it_when_it_is_free(ground, page):
    ground.filemap.lock_page(page)
    ground.world.post(1_000_000, lambda _: ground.filemap.unlock_page(page), None)
    ground.filemap.lock_page(page)
    assert page.flags & PG_locked
    assert ground.sched.now >= 1_000_000
    assert not ground.filemap._waiters


def test_several_waiters_get_the_lock_one_after_the_other(ground, page):
    got = []

    def body():
        ground.filemap.lock_page(page)
        got.append(ground.task.comm)
        ground.sched.usleep(1000)
        ground.filemap.unlock_page(page)

    ground.filemap.lock_page(page)
    tasks = [ground.sched.spawn(f"t{i}", body) for i in range(3)]
    ground.sched.usleep(1000)
    ground.filemap.unlock_page(page)
    ground.run(*tasks)
    assert sorted(got) == ["t0", "t1", "t2"]
    assert not ground.filemap._waiters


def test_writeback_is_counted_and_waited_for(ground, page):
    assert not ground.filemap.set_page_writeback(page)
    assert ground.filemap.set_page_writeback(page)
    assert ground.vmstat.nr_writeback == 1
    ground.world.post(1_000_000, lambda _: ground.filemap.end_page_writeback(page), None)
    ground.filemap.wait_on_page_writeback(page)
    assert not page.flags & PG_writeback
    assert ground.vmstat.nr_writeback == 0


def test_ending_a_writeback_that_is_not_there_is_an_oops(ground, page):
    with pytest.raises(KernelBug, match="not under writeback"):
        ground.filemap.end_page_writeback(page)


def test_the_end_of_writeback_is_progress_and_rotates_what_reclaim_wants(ground, page):
    other = ground.pa.alloc_page(GFP_KERNEL)
    ground.lru.lru_cache_add(other)
    ground.lru.lru_cache_add(page)
    ground.filemap.set_page_writeback(page)
    page.flags |= PG_reclaim
    ground.sched.usleep(5000)
    ground.filemap.end_page_writeback(page)
    assert list(page.zone.inactive) == [page, other]
    assert not page.flags & (PG_reclaim | PG_writeback)
    assert ground.judge.last_ns >= 5000


def test_a_waiter_can_be_explained_up_to_who_does_the_io(ground, page):
    ground.filemap.writeback_owner = lambda _page: ("sleep", None)
    ground.task.why = ("writeback", page)
    assert "writeback of page" in ground.judge.explain(ground.task)
    assert "time to pass" in ground.judge.explain(ground.task)
    ground.task.why = ("page lock", page)
    assert "lock of page" in ground.judge.explain(ground.task)
    ground.task.why = None


def test_dirty_pages_of_files_are_counted_those_of_swap_are_not(ground, mapping):
    page = ground.filemap.find_or_create_page(mapping, 0)
    assert ground.filemap.set_page_dirty(page)
    assert not ground.filemap.set_page_dirty(page)
    assert ground.vmstat.nr_dirty == 1
    assert ground.filemap.clear_page_dirty_for_io(page)
    assert not ground.filemap.clear_page_dirty_for_io(page)
    assert ground.vmstat.nr_dirty == 0
    mapping.backing_dev_info.capabilities = BDI_CAP_NO_ACCT_DIRTY
    ground.filemap.set_page_dirty(page)
    assert ground.vmstat.nr_dirty == 0


def test_a_page_without_an_address_space_can_be_dirty(ground, page):
    assert ground.filemap.set_page_dirty(page)
    assert page.flags & PG_dirty and ground.vmstat.nr_dirty == 0


def test_reading_fills_the_cache_once(ground, mapping):
    page = ground.filemap.read_mapping_page(mapping, 3, None)
    again = ground.filemap.read_mapping_page(mapping, 3, None)
    assert page is again and page.contents == page_bytes(3)
    assert page.count == 3 and page.flags & PG_lru
    assert mapping.nrpages == 1 == ground.vmstat.nr_file_pages
    for _ in range(2):
        ground.lru.put_page(page)
    ground.check()


def test_a_failed_read_is_eio(ground, mapping, monkeypatch):
    def readpage(_file, page):
        ground.filemap.unlock_page(page)
        return 0

    monkeypatch.setattr(mapping.a_ops, "readpage", readpage, raising=False)
    assert ground.filemap.read_mapping_page(mapping, 1, None) == -EIO


def test_the_same_index_cannot_be_added_twice(ground, mapping, page):
    assert ground.filemap.add_to_page_cache(page, mapping, 0, GFP_KERNEL) == 0
    other = ground.pa.alloc_page(GFP_KERNEL)
    assert ground.filemap.add_to_page_cache(other, mapping, 0, GFP_KERNEL) == -EEXIST
    assert ground.sched.in_atomic() is False


def test_without_nodes_nothing_is_added(ground, mapping, page, monkeypatch):
    monkeypatch.setattr(ground.nodes, "preload", lambda _gfp: -ENOMEM)
    assert ground.filemap.add_to_page_cache(page, mapping, 0, GFP_KERNEL) == -ENOMEM
    assert ground.filemap.find_or_create_page(mapping, 1) is None
    assert ground.filemap.read_mapping_page(mapping, 1, None) == -ENOMEM


def test_truncation_frees_the_pages(ground, mapping):
    before = ground.vmstat.pgfree
    for index in range(10):
        page = ground.filemap.read_mapping_page(mapping, index, None)
        ground.filemap.set_page_dirty(page)
        ground.lru.put_page(page)
    assert ground.filemap.truncate_inode_pages(mapping, 4) == 0
    assert mapping.nrpages == 4
    assert ground.filemap.truncate_inode_pages(mapping) == 0
    assert mapping.nrpages == 0 == ground.vmstat.nr_file_pages == ground.vmstat.nr_dirty
    assert ground.vmstat.pgfree - before >= 10
    ground.check()


def test_truncation_leaves_a_page_with_private_data_and_says_so(ground, mapping):
    page = ground.filemap.read_mapping_page(mapping, 0, None)
    page.flags |= PG_private
    assert ground.filemap.truncate_inode_pages(mapping) == -ENOENT
    assert mapping.nrpages == 1


def test_truncation_of_a_file_that_was_never_read(ground, mapping):
    assert ground.filemap.truncate_inode_pages(mapping) == 0


def test_a_page_truncated_while_we_waited_is_not_found(ground, mapping):
    page = ground.filemap.read_mapping_page(mapping, 0, None)
    ground.filemap.lock_page(page)

    def truncate(_):
        ground.filemap.remove_from_page_cache(page)
        ground.filemap.unlock_page(page)
        ground.lru.put_page(page)

    ground.world.post(1_000_000, truncate, None)
    assert ground.filemap.find_lock_page(mapping, 0) is None


def test_page_mapping_of_anonymous_and_swap_pages(ground, mapping):
    mm = ground.process()
    page = ground.filemap.read_mapping_page(mapping, 0, None)
    assert ground.filemap.page_mapping(page) is mapping
    page.mapping = mm.anon_vma
    assert ground.filemap.page_mapping(page) is None
    page.mapping = mapping
    assert page.flags & PG_uptodate


# -- pages of files that somebody uses


@pytest.fixture
def files():
    with file_ground() as g:
        g.process()
        g.f = g.file(pages=8)
        g.memory.file_io.read(g.f, 0, 8 * 4096)
        yield g


def test_invalidating_drops_what_is_clean_and_idle(files):
    mapping = files.f.f_mapping
    at = files.mmap(files.f)
    files.load(at)  # mapped
    files.memory.file_io.write(files.f, 4096, page_bytes(1, 1))  # dirty
    files.cached(files.f, 2).count += 1  # somebody's
    files.filemap.lock_page(files.cached(files.f, 3))
    assert files.filemap.invalidate_mapping_pages(mapping) == 4
    assert [i for i in range(8) if files.cached(files.f, i) is not None] == [0, 1, 2, 3]
    files.filemap.unlock_page(files.cached(files.f, 3))
    files.cached(files.f, 2).count -= 1
    files.check()


def test_truncating_unmaps_and_forgets_what_was_stored(files):
    at = files.mmap(files.f)
    files.store(at + 1, page_bytes(1, 1))
    files.filemap.truncate_inode_pages(files.f.f_mapping)
    assert (files.vmstat.nr_dirty, files.vmstat.nr_file_mapped, files.f.f_mapping.nrpages) == (0, 0, 0)
    assert files.load(at + 1) != page_bytes(1, 1)  # not lost: given up
    assert files.judge.outcome is None


def test_a_mapped_page_does_not_leave_its_file(files):
    files.load(files.mmap(files.f))
    with pytest.raises(KernelBug, match="mapped leaves its file"):
        files.filemap.remove_from_page_cache(files.cached(files.f, 0))


def test_a_page_that_leaves_dirty_is_no_longer_counted(files):
    files.memory.file_io.write(files.f, 0, page_bytes(0, 1))
    page = files.cached(files.f, 0)
    files.filemap.lock_page(page)
    files.filemap.remove_from_page_cache(page)
    assert files.vmstat.nr_dirty == 0
    files.filemap.unlock_page(page)
    files.machine.lru.put_page(page)


@pytest.mark.parametrize("field", ["word_d", "mapping", "count"])
def test_check_mapping_sees_a_page_that_does_not_know_where_it_is(files, field):
    page = files.cached(files.f, 3)
    held = getattr(page, field)
    setattr(page, field, {"word_d": 4, "mapping": None, "count": 0}[field])
    with pytest.raises(KernelBug, match="does not know its file"):
        files.filemap.check_mapping(files.f.f_mapping)
    setattr(page, field, held)


@pytest.mark.parametrize("flag", [PG_dirty, PG_writeback])
def test_check_mapping_sees_a_flag_without_its_tag(files, flag):
    page = files.cached(files.f, 3)
    page.flags |= flag
    with pytest.raises(KernelBug, match="tag"):
        files.filemap.check_mapping(files.f.f_mapping)
    page.flags &= ~flag


def test_tags_follow_a_page_through_its_write(files):
    tree = files.f.f_mapping.page_tree
    files.memory.file_io.write(files.f, 0, page_bytes(0, 1))
    assert (tree.tag_get(0, TAG_DIRTY), tree.tag_get(0, TAG_WRITEBACK)) == (True, False)
    files.memory.file_io.write_pages.filemap_fdatawrite(files.f.f_mapping)
    assert (tree.tag_get(0, TAG_DIRTY), tree.tag_get(0, TAG_WRITEBACK)) == (False, True)
    files.memory.file_io.write(files.f, 0, page_bytes(0, 2))
    assert (tree.tag_get(0, TAG_DIRTY), tree.tag_get(0, TAG_WRITEBACK)) == (True, True)
    files.filemap.wait_on_page_writeback(files.cached(files.f, 0))
    assert (tree.tag_get(0, TAG_DIRTY), tree.tag_get(0, TAG_WRITEBACK)) == (True, False)


def test_a_page_given_back_by_its_writer_is_dirty_again_and_counted_as_skipped(files):
    page = files.cached(files.f, 0)
    wbc = WritebackControl(10)
    assert files.filemap.redirty_page_for_writepage(wbc, page)
    assert wbc.pages_skipped == 1
    assert page.flags & PG_dirty


def test_taking_the_dirty_bit_takes_the_mark_of_reclaim_too(files):
    files.memory.file_io.write(files.f, 0, page_bytes(0, 1))
    page = files.cached(files.f, 0)
    page.flags |= PG_reclaim
    assert files.filemap.clear_page_dirty_for_io(page)
    assert not page.flags & (PG_reclaim | PG_dirty)
    files.filemap.set_page_dirty(page)


def test_a_page_that_is_dirty_again_before_its_write_begins_keeps_its_tag(files):
    page = files.cached(files.f, 0)
    files.filemap.set_page_dirty(page)
    files.filemap.lock_page(page)
    files.filemap.clear_page_dirty_for_io(page)
    files.filemap.set_page_dirty(page)
    files.filemap.set_page_writeback(page)
    assert files.f.f_mapping.page_tree.tag_get(0, TAG_DIRTY)
    files.filemap.end_page_writeback(page)
    files.filemap.unlock_page(page)
    files.check()


# -- invalidate_inode_pages2()


class Launderers:
    """Methods of a file system whose pages have private data; ``refuse`` makes them fail."""

    def __init__(self, ops, filemap):
        self._ops = ops
        self._filemap = filemap
        self.refuse = 0
        self.laundered = []
        self.cut = []

    def __getattr__(self, name):
        return getattr(self._ops, name)

    def launder_page(self, page):
        self.laundered.append(page.word_d)
        self._filemap.cancel_dirty_page(page)
        return self.refuse

    def invalidatepage(self, page, offset):
        self.cut.append((page.word_d, offset))
        page.flags &= ~PG_private

    def releasepage(self, page, gfp):
        return False


@pytest.fixture
def launderers(ground, mapping):
    mapping.a_ops = Launderers(mapping.a_ops, ground.filemap)
    return mapping.a_ops


def cached(ground, mapping, index, flags=0):
    page = ground.filemap.read_mapping_page(mapping, index, None)
    page.flags |= flags
    ground.lru.put_page(page)
    return page


def test_every_page_goes_dirty_ones_after_they_were_written(ground, mapping, launderers):
    for index in range(20):
        page = cached(ground, mapping, index)
        if index % 5 == 0:
            ground.filemap.set_page_dirty(page)
    assert ground.filemap.invalidate_inode_pages2(mapping) == 0
    assert launderers.laundered == [0, 5, 10, 15]
    assert mapping.nrpages == 0 == ground.vmstat.nr_dirty
    ground.check()


def test_what_cannot_be_written_stays_and_the_error_is_told(ground, mapping, launderers):
    launderers.refuse = -5
    ground.filemap.set_page_dirty(cached(ground, mapping, 3))
    cached(ground, mapping, 4)
    assert ground.filemap.invalidate_inode_pages2(mapping) == -5
    assert [index for index, _ in mapping.page_tree.items()] == [3]


@pytest.mark.usefixtures("launderers")
def test_a_page_with_private_data_stays(ground, mapping):
    page = cached(ground, mapping, 0, PG_private)
    assert ground.filemap.invalidate_inode_pages2(mapping) == -EIO
    assert page.mapping is mapping


def test_a_dirty_page_of_a_file_system_that_cannot_launder_stays(ground, mapping):
    ground.filemap.set_page_dirty(cached(ground, mapping, 0))
    assert ground.filemap.invalidate_inode_pages2(mapping) == -EIO
    assert mapping.nrpages == 1


def test_truncation_tells_the_file_system_of_private_data(ground, mapping, launderers):
    cached(ground, mapping, 1, PG_private)
    assert ground.filemap.truncate_inode_pages(mapping) == 0
    assert launderers.cut == [(1, 0)]
    assert mapping.nrpages == 0


def test_what_was_written_before_is_forgotten_with_the_pages(ground, mapping):
    told = []
    ground.filemap.forget_file = lambda *args: told.append(args)
    cached(ground, mapping, 0)
    assert ground.filemap.invalidate_inode_pages2(mapping) == 0
    assert told == [(mapping, 0)]
