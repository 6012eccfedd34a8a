"""An emulated machine whose server keeps its files in a real directory: what is swapped out lies on the disk."""

from __future__ import annotations

import pytest

from kemu_lab.real_tree import RealTree
from kemu_nfs.server.mount_proc import Export
from nfs_ground import PAGE, SECOND, nfs_ground, page_bytes

PAGES = 24


@pytest.fixture
def tree(tmp_path):
    tree = RealTree(str(tmp_path), durable=False, keep_undo=True)
    yield tree
    tree.check()
    tree.close()


def test_pages_go_to_a_real_file_and_come_back(tree, tmp_path):
    with nfs_ground(server={"tree": tree, "exports": (Export("/export", at="/"),)}) as ground:
        assert ground.mount.mount() == 0
        ground.swapon(64)
        ground.process(PAGES)
        for vpn in range(PAGES):
            ground.write(vpn, page_bytes(vpn))
        slots = {vpn: ground.swap_out(vpn) for vpn in range(PAGES)}
        on_disk = (tmp_path / "swap").read_bytes()
        pages = {on_disk[at : at + PAGE] for at in range(0, len(on_disk), PAGE)}
        assert {page_bytes(vpn) for vpn in slots} <= pages
        assert [ground.read(vpn) for vpn in range(PAGES)] == [page_bytes(vpn) for vpn in range(PAGES)]
        ground.check()


def test_an_outage_between_out_and_in_changes_nothing(tree):
    with nfs_ground(server={"tree": tree, "exports": (Export("/export", at="/"),)}) as ground:
        assert ground.mount.mount() == 0
        ground.swapon(64)
        ground.process(PAGES)
        for vpn in range(PAGES):
            ground.write(vpn, page_bytes(vpn))
            ground.swap_out(vpn)
        ground.nfsd.stop()
        ground.run_for(10 * SECOND)
        ground.nfsd.start()
        ground.run_for(10 * SECOND)
        assert [ground.read(vpn) for vpn in range(PAGES)] == [page_bytes(vpn) for vpn in range(PAGES)]
        ground.check()
