"""Patch 30: a swap page gets a request of its own, and what v14 forgot about failures (b30a to b30e)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.errno import EBADF, EIO, ENOMEM
from kemu.mm.address_space import S_SWAPFILE
from kemu.mm.page import PG_dirty, PG_error, PG_reclaim, PG_writeback
from kemu_nfs.sunrpc.nfs3_const import (
    NFS3ERR_DQUOT,
    NFS3ERR_IO,
    NFS3ERR_JUKEBOX,
    NFS3ERR_NOSPC,
    NFS3ERR_STALE,
    NFS3PROC_WRITE,
    NFS_FILE_SYNC,
)
from nfs_ground import SECOND, mounted, page_bytes


def prepared(**options):
    return mounted(**options)


def swap(ground):
    ground.file = ground.swapon()
    ground.process()
    return ground


@pytest.fixture
def ground():
    with mounted() as g:
        yield swap(g)


@pytest.fixture
def faithful():
    with mounted(fixes="none") as g:
        yield swap(g)


def test_off_success_without_a_write_and_old_bytes_come_back():
    with mounted(patches="all,-30") as ground:
        swap(ground)
        ground.write(0, page_bytes(0))
        ground.swap_out(0)
        assert ground.stats.writes == 0
        assert ground.machine.vmstat.pswpout == 1, "the machine believes that it was written"
        assert ground.read(0) == bytes(4096)
        assert ground.kernel.judge.outcome == "data_loss"


def test_on_one_write_per_page_and_the_bytes_come_back(ground):
    for vpn in range(10):
        ground.write(vpn, page_bytes(vpn))
        ground.swap_out(vpn)
    assert ground.stats.writes == 10
    assert [ground.read(vpn) for vpn in range(10)] == [page_bytes(vpn) for vpn in range(10)]
    ground.check()


def test_success_leaves_writeback_set_or_the_data_on_the_server(ground):
    for vpn in range(20):
        ground.write(vpn, page_bytes(vpn))
        page = ground.pageout(vpn)
        slot = page.private & 0xFFFF
        on_server = ground.file_bytes("swap")[slot * 4096 : slot * 4096 + 4096] == page_bytes(vpn)
        assert page.flags & PG_writeback or on_server
        assert not page.flags & PG_dirty


def test_ordinary_files_need_nothing_of_this():
    with mounted(patches="all,-30") as ground:
        ground.mount.create("f")
        file = ground.mount.open("f")
        ground.mount.write_buffered(file, 0, b"plain")
        assert ground.mount.fsync(file) == 0
        assert ground.file_bytes("f") == b"plain"


# b30a, b30b


def test_b30a_every_page_leaks_a_reference(faithful):
    before = faithful.mount.auth.references()
    for vpn in range(10):
        faithful.write(vpn, page_bytes(vpn))
        faithful.swap_out(vpn)
    assert faithful.mount.auth.references() == before + 10


def test_b30a_mended_none(ground):
    before = ground.mount.auth.references()
    for vpn in range(10):
        ground.write(vpn, page_bytes(vpn))
        ground.swap_out(vpn)
    ground.mount.auth.check_references(before)


def reclaim_as(ground, uid):
    """Let a task of another user reclaim a page of ours; return the page."""
    ground.write(0, page_bytes(0))
    page = ground.isolated(0)
    results = []
    writepage = ground.mount.ops.write.nfs_writepage
    ground.mount.ops.write.nfs_writepage = lambda page_, wbc: results.append(writepage(page_, wbc)) or results[-1]

    def reclaimer():
        for _ in range(3):
            freed, rest = ground.shrink(page)
            if freed:
                return
            for kept in rest:
                ground.machine.filemap.wait_on_page_writeback(kept)
        ground.machine.reclaim._put_back(rest)

    ground.spawn(reclaimer, uid=uid)
    ground.run_for(SECOND)
    return page, results


def test_b30b_reclaim_by_another_user_is_ebadf_and_the_page_is_lost():
    with mounted(fixes="all,-b30b,-b30c") as ground:
        swap(ground)
        _, results = reclaim_as(ground, 1000)
        assert results == [-EBADF]
        assert ground.stats.writes == 0
        assert ground.read(0) == bytes(4096)
        assert ground.kernel.judge.outcome == "data_loss"


def test_b30b_alone_mended_it_is_written_for_whoever_reclaims():
    with mounted(fixes="b30b") as ground:
        swap(ground)
        _, results = reclaim_as(ground, 1000)
        assert results == [0]
        assert ground.read(0) == page_bytes(0)


def test_b30b_root_succeeds_either_way(faithful):
    _, results = reclaim_as(faithful, 0)
    assert results == [0]
    assert faithful.read(0) == page_bytes(0)


# b30c


@pytest.mark.parametrize(("fixes", "kept"), [("all", True), ("all,-b30c", False)])
def test_b30c_an_error_before_the_flush(fixes, kept):
    with mounted(fixes=fixes) as ground:
        swap(ground)
        ground.mount.ops.write.nfs_writepage_setup = lambda *_: -ENOMEM
        ground.write(0, page_bytes(0))
        page = ground.pageout(0)
        assert bool(page.flags & PG_dirty) is kept
        assert page.flags & PG_error
        if kept:
            assert not page.flags & PG_reclaim
            del ground.mount.ops.write.nfs_writepage_setup
            ground.push_out(page)
            assert ground.read(0) == page_bytes(0)
            ground.check()


def test_b30c_lost_means_lost():
    with mounted(fixes="all,-b30c") as ground:
        swap(ground)
        ground.mount.ops.write.nfs_writepage_setup = lambda *_: -ENOMEM
        ground.write(0, page_bytes(0))
        ground.swap_out(0)
        assert ground.read(0) != page_bytes(0)
        assert ground.kernel.judge.outcome == "data_loss"


def test_b30c_no_memory_for_a_credential_is_such_an_error():
    with mounted() as ground:
        swap(ground)
        ground.mount.auth.lookup_cred = lambda _uid, _gid: None
        ground.write(0, page_bytes(0))
        page = ground.pageout(0)
        assert page.flags & PG_dirty


# b30d


def test_b30d_a_page_that_leaves_before_the_flag_is_set_is_lost(faithful):
    faithful.file.inode.i_flags &= ~S_SWAPFILE  # the window between WRITEOK and the end of swapon
    faithful.write(0, page_bytes(0))
    faithful.swap_out(0)
    faithful.file.inode.i_flags |= S_SWAPFILE
    assert faithful.stats.writes == 0
    assert faithful.read(0) != page_bytes(0)


@pytest.mark.parametrize(("fixes", "window"), [("all", False), ("all,-b30d", True)])
def test_b30d_the_window(fixes, window):
    with mounted(fixes=fixes) as ground:
        file = ground.mount.make_swapfile("swap", 100)
        seen = []
        ground.sched.preemption_point = lambda label: seen.append(file.inode.is_swapfile) if "WRITEOK" in label else None
        ground.machine.swapfile.swapon(file)
        assert seen == [not window]


# b30e


@pytest.mark.parametrize("status", [NFS3ERR_IO, NFS3ERR_NOSPC, NFS3ERR_DQUOT, NFS3ERR_STALE])
def test_b30e_an_error_of_the_server_loses_the_page(status):
    with mounted(fixes="all,-b30e") as ground:
        swap(ground)
        ground.faults.error(NFS3PROC_WRITE, status)
        ground.write(0, page_bytes(0))
        page = ground.pageout(0)
        ground.wait_for_calls()
        assert page.flags & PG_error
        assert not page.flags & (PG_dirty | PG_writeback), "clean: reclaim will free it"
        ground.push_out(page)
        assert ground.read(0) != page_bytes(0)


@pytest.mark.parametrize("status", [NFS3ERR_IO, NFS3ERR_NOSPC, NFS3ERR_DQUOT, NFS3ERR_STALE])
def test_b30e_mended_the_page_is_dirty_again_and_goes_out_later(ground, status):
    ground.faults.error(NFS3PROC_WRITE, status)
    ground.write(0, page_bytes(0))
    page = ground.pageout(0)
    ground.wait_for_calls()
    assert page.flags & PG_dirty
    assert not page.flags & PG_reclaim
    ground.push_out(page)
    assert ground.read(0) == page_bytes(0)
    assert ground.stats.write_errors == 1
    ground.check()


@pytest.mark.parametrize(("fixes", "dirty"), [("all", True), ("all,-b30e", False)])
def test_b30e_a_connect_worker_without_memory(fixes, dirty):
    with mounted(fixes=fixes) as ground:
        swap(ground)
        create = ground.stack.tcp.sock_create
        ground.stack.tcp.sock_create = lambda: None
        ground.mount.xprt.xprt_force_close()
        ground.run_for(SECOND)
        ground.write(0, page_bytes(0))
        page = ground.pageout(0)
        ground.wait_for_calls()
        assert ground.stats.write_errors == 1
        assert ground.file.private_data.error == -EIO
        assert bool(page.flags & PG_dirty) is dirty
        ground.stack.tcp.sock_create = create


# -- (b): never a clean page without a copy on the server


def clean_without_a_copy(ground, vpns):
    """List the pages that reclaim has freed or would free, though the server does not have their bytes."""
    data = ground.file_bytes("swap")
    lost = []
    for vpn in vpns:
        entry = ground.sched.current.mm.ptes[vpn].entry
        page = ground.machine.swap_state.page_tree.lookup(entry)
        if page is None or not page.flags & (PG_dirty | PG_writeback):
            slot = entry & 0xFFFF
            if data[slot * 4096 : slot * 4096 + 4096] != page_bytes(vpn):
                lost.append(vpn)
    return lost


def outcomes(fixes, failures):
    """Swap pages out, one for each entry of ``failures``, with what that entry says going wrong; return how many are lost."""
    with mounted(fixes=fixes) as ground:
        swap(ground)
        write, modules = ground.mount.ops.write, ground.mount.modules
        for vpn, failure in enumerate(failures):
            ground.write(vpn, page_bytes(vpn))
            if failure == "setup":
                write.nfs_writepage_setup = lambda *_: -ENOMEM
            elif failure == "writedata":
                modules.writedata_alloc = lambda: None
            elif failure == "cred":
                ground.mount.auth.lookup_cred = lambda *_: None
            elif failure is not None:
                ground.faults.error(NFS3PROC_WRITE, failure)
            ground.pageout(vpn)
            for part, name in ((write, "nfs_writepage_setup"), (modules, "writedata_alloc"), (ground.mount.auth, "lookup_cred")):
                vars(part).pop(name, None)
            ground.wait_for_calls()
        lost = clean_without_a_copy(ground, range(len(failures)))
        if fixes == "all":
            for vpn in range(len(failures)):
                assert ground.read(vpn) == page_bytes(vpn)
            ground.check()
        return lost


FAILURES = [None, "setup", "writedata", "cred", NFS3ERR_IO, NFS3ERR_NOSPC, NFS3ERR_STALE]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(FAILURES), min_size=1, max_size=8))
def test_mended_no_failure_leaves_a_clean_page_without_a_copy(failures):
    assert outcomes("all", failures) == []


@pytest.mark.parametrize(
    ("failure", "lost"), [(None, False), ("setup", True), ("cred", True), (NFS3ERR_IO, True), ("writedata", False)], ids=str
)
def test_in_v14_which_failures_lose_a_page(failure, lost):
    """Only without memory for the WRITE itself v14 keeps the page dirty (patch 27's own path), if for ever."""
    assert outcomes("none", [None, failure, None]) == ([1] if lost else [])


def test_a_busy_server_is_no_failure(faithful):
    faithful.faults.error(NFS3PROC_WRITE, NFS3ERR_JUKEBOX)
    faithful.write(0, page_bytes(0))
    page = faithful.pageout(0)
    assert page.flags & PG_writeback
    begin = faithful.sched.now
    faithful.wait_for_calls()
    assert faithful.sched.now - begin > 5 * SECOND
    assert not page.flags & (PG_writeback | PG_error)
    assert faithful.file_bytes("swap")[(page.private & 0xFFFF) * 4096 :][:4096] == page_bytes(0)


def test_a_server_that_writes_half_of_a_page_is_asked_for_the_rest(faithful):
    faithful.nfsd.server.nfs.rsize = 2048
    for vpn in range(3):
        faithful.write(vpn, page_bytes(vpn))
        faithful.swap_out(vpn)
    assert [faithful.read(vpn) for vpn in range(3)] == [page_bytes(vpn) for vpn in range(3)]
    assert faithful.stats.short_writes == 3


# -- (d), (e)


def test_one_request_and_one_write_whole_and_stable(ground):
    seen = []
    init = ground.mount.client.rpc_init_task

    def noted(flags, proc, argp, *rest):
        seen.append((proc.name, argp.count, argp.stable))
        return init(flags, proc, argp, *rest)

    ground.mount.client.rpc_init_task = noted
    nfsi = ground.file.private_data.nfsi
    for vpn in range(3):
        ground.write(vpn, page_bytes(vpn))
        ground.pageout(vpn)
    assert nfsi.npages == 3 == len(nfsi.nfs_page_tree)
    ground.wait_for_calls()
    assert seen == [("WRITE", 4096, NFS_FILE_SYNC)] * 3
    assert ground.stats.commits == 0


# -- what is seen of the cause


def test_b30a_the_leak_grows_with_every_page_and_goes_with_the_mount(faithful):
    auth = faithful.mount.auth
    counts = []
    for vpn in range(4):
        faithful.write(vpn, page_bytes(vpn))
        faithful.swap_out(vpn)
        counts.append(auth.references())
    assert counts == list(range(counts[0], counts[0] + 4))


def test_b30a_also_an_error_leaks_one():
    with mounted(fixes="all,-b30a,-b30b") as ground:
        swap(ground)
        before = ground.mount.auth.references()
        _, results = reclaim_as(ground, 1000)
        assert results == [-EBADF] * 3, "the page stays dirty, so that he tries again"
        assert ground.mount.auth.references() == before + 3


def test_b30c_says_what_happened(ground):
    ground.mount.ops.write.nfs_writepage_setup = lambda *_: -ENOMEM
    ground.write(0, page_bytes(0))
    ground.pageout(0)
    assert any("Write error -12 on swapfile" in text for _, _, text in ground.kernel.printk.buffer)
    del ground.mount.ops.write.nfs_writepage_setup


def test_b30e_the_error_stays_with_the_swap_files_opening(faithful):
    faithful.faults.error(NFS3PROC_WRITE, NFS3ERR_NOSPC)
    faithful.write(0, page_bytes(0))
    faithful.pageout(0)
    faithful.wait_for_calls()
    assert faithful.file.private_data.error == -28


def test_off_the_page_is_never_under_writeback():
    with mounted(patches="all,-30") as ground:
        swap(ground)
        ground.write(0, page_bytes(0))
        page = ground.isolated(0)
        seen = []
        set_writeback = ground.machine.filemap.set_page_writeback
        ground.machine.filemap.set_page_writeback = lambda p: seen.append(p) or set_writeback(p)
        freed, _ = ground.shrink(page)
        assert freed == 1, "at the first look, for it seems clean"
        assert seen == []
