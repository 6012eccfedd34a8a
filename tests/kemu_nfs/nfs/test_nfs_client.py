"""What a machine's mounts share, and a mount's queue."""

from __future__ import annotations

import pytest

from kemu.mm.backing_dev import WRITE
from kemu_nfs.nfs.nfs_client import nfs_block_size, nfs_congestion_kb
from nfs_ground import mounted, page_bytes


@pytest.mark.parametrize(("mib", "kb"), [(64, 8192), (128, 11584), (256, 16384), (1024, 32768), (1 << 20, 256 * 1024)])
def test_the_congestion_limit_grows_with_the_root_of_memory(mib, kb):
    assert nfs_congestion_kb(mib << 8) == pytest.approx(kb, abs=64)


@pytest.mark.parametrize(("asked", "got"), [(0, 4096), (1000, 4096), (1024, 1024), (32768, 32768), (1 << 30, 1 << 20)])
def test_transfer_sizes_are_fitted(asked, got):
    assert nfs_block_size(asked) == got


def test_a_queue_is_congested_above_its_limit_and_clear_below_three_quarters():
    with mounted() as ground:
        server = ground.mount.server
        server.congestion_on, server.congestion_off = 8, 6
        for _ in range(8):
            server.writeback_begins()
        assert not server.bdi.congested(WRITE)
        server.writeback_begins()
        assert server.bdi.congested(WRITE)
        for _ in range(3):
            server.writeback_ends()
        assert server.bdi.congested(WRITE)
        server.writeback_ends()
        assert not server.bdi.congested(WRITE)


def test_a_page_under_io_names_its_call_and_the_call_what_it_waits_for():
    with mounted() as ground:
        ground.swapon()
        ground.process()
        ground.write(0, page_bytes(0))
        page = ground.pageout(0)
        explainers = ground.kernel.judge.explainers
        kind, task = ground.machine.filemap.writeback_owner(page)
        assert kind == "rpc"
        text, link = explainers[kind](task)
        assert "WRITE" in text
        ground.run_for(50_000)
        text, link = explainers[kind](task)
        assert "waits for its reply" in text
        assert link == ("reply", ground.stack.nic)
        ground.machine.filemap.wait_on_page_writeback(page)
        assert ground.machine.filemap.writeback_owner(page) is None


def test_counters_come_from_mounts_and_transports():
    with mounted() as ground:
        ground.swapon()
        ground.process()
        for vpn in range(4):
            ground.write(vpn, page_bytes(vpn))
            ground.swap_out(vpn)
        for vpn in range(4):
            assert ground.read(vpn) == page_bytes(vpn)
        stats = ground.stats
        assert (stats.writes, stats.writes_outstanding, stats.reads_outstanding) == (4, 0, 0)
        assert stats.reads == 5, "the header and four pages"
        assert (stats.retransmissions, stats.reconnects) == (0, 0)
        ground.check()
