"""Looking on at the memory of processes (mm/memory_audit.py); what concerns anonymous pages is in test_memory.py."""

from __future__ import annotations

import pytest

from file_ground import mapped_file_ground, page_bytes
from kemu.errors import KernelBug
from kemu.mm.pte import FilePte, PTE_write


@pytest.fixture
def files():
    with mapped_file_ground() as g:
        yield g


def test_check_sees_a_file_page_that_can_be_written_unnoticed(files):
    page = files.cached(files.f, 0)
    files.memory.file_io.fsync(files.f)
    files.mm.ptes[files.at].flags |= PTE_write
    with pytest.raises(KernelBug, match="without anybody noticing"):
        files.memory.check()
    files.mm.ptes[files.at].flags &= ~PTE_write
    assert page.mapcount == 1


def test_check_sees_an_entry_that_leads_to_another_page(files):
    files.load(files.at + 1)
    entry = files.mm.ptes[files.at]
    entry.page, held = files.cached(files.f, 1), entry.page
    with pytest.raises(KernelBug, match="not its file's"):
        files.memory.check()
    entry.page = held


def test_check_sees_a_wrong_count_of_file_pages(files):
    files.mm.file_rss += 1
    with pytest.raises(KernelBug, match="and 1 of files"):
        files.memory.check()
    files.mm.file_rss -= 1


def test_an_entry_without_its_area_is_an_oops_when_the_process_leaves(files):
    vma = files.mm.vmas.pop()
    with pytest.raises(KernelBug, match="its area is gone"):
        files.memory.exit_mmap(files.task)
    files.mm.vmas.append(vma)
    files.mm.ptes[files.at] = FilePte(files.cached(files.f, 0), 0)


def test_the_audit_compares_files_with_their_disk(files):
    assert files.memory.audit(lambda _area, _slot: None) == (1, 0)
    assert files.audit() == (2, 0)  # dirty: the page cache is compared
    files.memory.file_io.fsync(files.f)
    assert files.audit() == (2, 0)
    files.disk.blocks[files.fs.bmap(files.f.f_mapping, 0)] = page_bytes(9, 9)
    assert files.audit() == (2, 1)
    assert files.judge.outcome == "data_loss"


def test_a_page_that_is_wrong_in_the_cache_is_lost_once(files):
    files.memory.file_io.fsync(files.f)
    files.cached(files.f, 0).contents = page_bytes(9, 9)
    assert files.audit() == (2, 1)
    assert files.vmstat.lost_pages == 1
