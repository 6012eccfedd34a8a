"""The interface that the review asked for, ->swapout and ->swapin, beside v14's ->writepage and ->readpage: same scenario, both."""

from __future__ import annotations

import pytest

from kemu.errors import ConfigError
from kemu.machine import MachineConfig
from kemu.mm.page import PG_dirty, PG_private, PG_writeback
from kemu.mm.page_io import SWAP_OPS
from nfs_ground import mounted

PAGES = 40


def page_of(vpn):
    return bytes((vpn,)) * 4096


def cycle(ground):
    """Write pages as root, push each out, and read them back."""
    ground.process(PAGES)
    for vpn in range(PAGES):
        ground.write(vpn, page_of(vpn))
    for vpn in range(PAGES):
        ground.swap_out(vpn)
    return [ground.read(vpn) for vpn in range(PAGES)]


@pytest.mark.parametrize("swap_ops", SWAP_OPS)
@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_every_page_travels_and_comes_back(swap_ops, proto):
    with mounted(swap_ops=swap_ops, proto=proto) as ground:
        ground.swapon()
        assert cycle(ground) == [page_of(vpn) for vpn in range(PAGES)]
        assert ground.machine.vmstat.pswpout == ground.stats.writes == PAGES
        assert ground.machine.vmstat.lost_pages == 0


def test_the_wire_sees_the_same_calls():
    calls = {}
    for swap_ops in SWAP_OPS:
        with mounted(swap_ops=swap_ops) as ground:
            ground.swapon()
            cycle(ground)
            calls[swap_ops] = dict(ground.nfsd.server.counts)
    assert calls["swapout"] == calls["writepage"]


def test_writepage_is_not_asked():
    with mounted(swap_ops="swapout") as ground:
        ground.swapon()
        cycle(ground)
        assert ground.stats.writepage_depth == 0


def lost_by_another_user(swap_ops):
    """Let a task of another uid reclaim a page of the swap file's owner."""
    with mounted(swap_ops=swap_ops, fixes="none") as ground:
        ground.swapon()
        ground.process(4)
        ground.write(0, page_of(1))
        page = ground.isolated(0)
        task = ground.spawn(lambda: ground.shrink(page), uid=1000)
        ground.world.run(until=lambda: task.exit_code is not None or task.state == 0 or ground.sched.tasks.get(task.pid) is None)
        ground.run_for(50_000_000)
        return ground.stats.writes


def test_who_reclaims_does_not_matter_to_swapout():
    # b30b, as posted: only the opener's credential finds a context
    assert lost_by_another_user("writepage") == 0
    assert lost_by_another_user("swapout") == 1


def test_no_reference_of_a_credential_is_lost():
    left = {}
    for swap_ops in SWAP_OPS:
        with mounted(swap_ops=swap_ops, fixes="none") as ground:
            ground.swapon()
            before = ground.mount.auth.references()
            cycle(ground)
            left[swap_ops] = ground.mount.auth.references() - before
    assert left == {"writepage": PAGES, "swapout": 0}  # b30a


def test_patch_30_is_not_needed():
    with mounted(swap_ops="swapout", patches="all,-30") as ground:
        ground.swapon()
        assert cycle(ground) == [page_of(vpn) for vpn in range(PAGES)]


@pytest.mark.parametrize(("fixes", "comes_back"), [("all", True), ("none", False)])
def test_a_page_that_gets_no_request_is_lost_unless_that_is_mended(fixes, comes_back):
    # v15 kept b30c: the page is left clean, and reclaim frees the only copy
    with mounted(swap_ops="swapout", fixes=fixes) as ground:
        write = ground.swapon().f_mapping.a_ops.write
        ground.process(4)
        ground.write(0, page_of(1))
        page = ground.isolated(0)
        write.nfs_writepage_setup = lambda *_: -12
        freed, rest = ground.shrink(page)
        del write.nfs_writepage_setup
        assert bool(freed) is not comes_back
        for kept in rest:
            assert kept.flags & (PG_dirty | PG_writeback | PG_private) == PG_dirty
            ground.machine.reclaim._put_back(rest)
            ground.push_out(kept)
        assert (ground.read(0) == page_of(1)) is comes_back


def test_an_unknown_interface_is_refused():
    with pytest.raises(ConfigError, match="swap_ops 'mmap' is unknown; there are writepage and swapout"):
        MachineConfig(swap_ops="mmap")
