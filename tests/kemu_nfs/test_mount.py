"""A mount: names, files, swap files, and the way out."""

from __future__ import annotations

import pytest

from hostile_server import everything
from kemu.errors import ConfigError
from kemu.kernel.errno import EACCES, EBUSY, EEXIST, EINVAL, ENOENT
from kemu.mm.swap_header import read_header
from kemu_nfs.mount import NfsMount
from kemu_nfs.mount_options import mount_options
from kemu_nfs.server.nfsd import Nfsd
from nfs_ground import CLIENT_IP, PAGE, SECOND, SERVER_IP, mounted, nfs_ground, page_bytes


@pytest.fixture
def ground():
    with mounted() as g:
        yield g
        g.check()


def test_a_mount_knows_the_root_and_the_servers_sizes(ground):
    assert ground.mount.server.rsize == ground.mount.server.wsize == 32768
    assert ground.mount.getattr(ground.mount.root).ftype == 2
    assert ground.mount.mount() == -EINVAL, "once is enough"


@pytest.mark.parametrize("export", ["/nothing", "", "/"])
def test_what_is_not_exported_cannot_be_mounted(export):
    with nfs_ground(export=export) as ground:
        assert ground.mount.mount() in (-ENOENT, -EACCES)
        assert ground.mount.root is None


def test_an_unknown_protocol_is_refused_in_one_sentence(ground):
    with pytest.raises(ConfigError, match="sctp"):
        NfsMount(ground.machine, ground.stack, SERVER_IP, proto="sctp", modules=ground.mount.modules)


def test_sizes_may_be_asked_for_but_not_more_than_the_server_has():
    with mounted(rsize=8192, wsize=1 << 20) as ground:
        assert ground.mount.server.rsize == 8192
        assert ground.mount.server.wsize == 32768


def test_files_are_made_found_and_removed(ground):
    made = ground.mount.create("a", guarded=True)
    assert ground.mount.lookup("a") is made, "one inode per handle"
    assert ground.mount.create("a", guarded=True) == -EEXIST
    assert ground.mount.create("a") is made
    assert ground.mount.lookup("b") == -ENOENT == ground.mount.open("b")
    assert ground.mount.remove("a") == 0
    assert ground.mount.lookup("a") == -ENOENT == ground.mount.remove("a")


def test_paths_lead_through_directories(ground):
    ground.nfsd.server.tree.make_dir("/export/sub/deep")
    made = ground.mount.create("sub/deep/f")
    assert ground.mount.lookup("/sub//deep/f") is made
    assert ground.mount.create("nowhere/f") == -ENOENT


def test_a_size_is_set_and_pages_beyond_it_go(ground):
    nfsi = ground.mount.create("f")
    file = ground.mount.open("f")
    ground.mount.write_buffered(file, 0, page_bytes(0) * 3)
    assert ground.mount.setattr(nfsi, size=PAGE) == 0
    assert nfsi.inode.size == PAGE == ground.mount.getattr(nfsi).size
    assert ground.machine.filemap.find_get_page(nfsi.mapping, 2) is None
    assert ground.file_bytes("f") == page_bytes(0)


def test_commit_returns_the_verifier_that_changes_with_a_crash(ground):
    ground.mount.create("data")
    file = ground.mount.open("data")
    assert ground.mount.write(file, 0, b"x" * 5000) == 5000

    first = ground.mount.commit(file)
    again = ground.mount.commit(file, 4096, 904)

    assert len(first) == 8
    assert again == first
    ground.nfsd.server.crash()
    assert ground.mount.commit(file) != first


def test_a_swap_file_has_its_size_and_a_header(ground):
    file = ground.mount.make_swapfile("swap", 100)
    assert file.inode.size == 100 * PAGE
    assert read_header(ground.file_bytes("swap")[:PAGE]) == (99, ())
    assert ground.machine.swapfile.swapon(file) == 0
    assert ground.mount.umount() == -EINVAL, "not while it is swapped to"
    assert ground.machine.swapfile.swapoff(file) == 0
    assert ground.mount.umount() == 0


def test_umount_writes_what_is_left_and_leaves_nothing(ground):
    slub, modules = ground.machine.slub, ground.mount.modules
    ground.mount.create("f")
    file = ground.mount.open("f")
    ground.mount.write_buffered(file, 0, b"left")
    assert ground.mount.umount() == 0
    assert ground.file_bytes("f") == b"left"
    for cache in (modules.page_cache, modules.wdata_cache, modules.rdata_cache, modules.inode_cache):
        assert slub.objects_in_use(cache) == 0
    ground.run_for(120 * SECOND)
    assert ground.nfsd.connections == []
    assert not ground.mount.xprt.connected


def test_a_mount_can_be_repeated_and_memory_does_not_shrink():
    with nfs_ground() as ground:
        used = []
        modules = ground.mount.modules
        for _ in range(3):
            mount = NfsMount(ground.machine, ground.stack, SERVER_IP, modules=modules)
            assert mount.mount() == 0
            assert mount.umount() == 0
            ground.run_for(130 * SECOND)
            used.append(ground.machine.page_alloc.nr_free_pages())
        assert used[1] - used[2] <= 4


def test_two_mounts_of_one_machine_share_rpciod_and_caches(ground):
    second = NfsMount(ground.machine, ground.stack, SERVER_IP, modules=ground.mount.modules)
    assert second.mount() == 0
    assert second.modules.rpc is ground.mount.modules.rpc
    ground.mount.create("f")
    file = second.open("f")
    assert second.write(file, 0, b"two") == 3
    assert ground.mount.read(ground.mount.open("f"), 0, 10) == b"two"
    assert second.umount() == 0


def test_a_client_can_be_its_own_machine_only(ground):
    assert ground.mount.server_ip != CLIENT_IP


def test_calls_are_made_as_who_runs(ground):
    ground.nfsd.server.tree.make_dir("/export/open", mode=0o777)
    made = []
    ground.spawn(lambda: made.append(ground.mount.create("open/mine")), uid=500)
    ground.run_for(SECOND)
    assert ground.mount.getattr(made[0]).uid == 500


def test_a_soft_mount_of_a_dead_server_fails():
    with nfs_ground(soft=True) as ground:
        ground.nfsd.stop()
        ground.run_for(SECOND)
        assert ground.mount.mount() < 0


def test_the_whole_thing_gives_the_same_history_twice():
    def run():
        with mounted(seed=7) as ground:
            ground.swapon()
            ground.process()
            for vpn in range(10):
                ground.write(vpn, page_bytes(vpn))
                ground.swap_out(vpn)
            for vpn in range(10):
                assert ground.read(vpn) == page_bytes(vpn)
            return ground.world.history.hexdigest()

    assert run() == run()


@pytest.mark.parametrize(("asked", "used"), [(1, 4096), (1024, 1024), (5000, 4096), (8191, 4096), (1 << 30, 32768)])
def test_sizes_are_powers_of_two_from_1024_on(asked, used):
    with mounted(options=mount_options(f"rsize={asked},wsize={asked}")) as ground:
        assert (ground.mount.server.rsize, ground.mount.server.wsize) == (used, used)
        assert ground.mount.server.bdi.ra_pages == max(used // PAGE, 1) * 15
        file = ground.mount.open("f") if not isinstance(ground.mount.create("f"), int) else None
        ground.mount.write_buffered(file, 0, page_bytes(0) + page_bytes(1))
        ground.mount.fsync(file)
        ground.machine.filemap.truncate_inode_pages(file.f_mapping)
        assert ground.machine.memory.file_io.read(file, 0, 2 * PAGE) == page_bytes(0) + page_bytes(1)
        ground.check()


def test_mounting_asks_for_no_more_than_it_needs(ground):
    asked = {number: count for (program, number), count in ground.nfsd.server.counts.items() if program == 100003}
    assert asked == {19: 1, 20: 1}, "FSINFO, which brings the root's attributes, and PATHCONF"
    assert ground.nfsd.server.counts[100005, 1] == 1


def test_how_full_the_server_is(ground):
    before = ground.mount.statfs()
    ground.mount.create("f")
    file = ground.mount.open("f")
    ground.mount.write(file, 0, bytes(PAGE * 4))
    after = ground.mount.statfs()
    assert before.fbytes - after.fbytes == 4 * PAGE
    assert after.tbytes == before.tbytes


def test_an_open_file_makes_the_mount_busy(ground):
    ground.mount.create("f")
    file = ground.mount.open("f")
    assert ground.mount.umount(close_files=False) == -EBUSY
    ground.mount.close(file)
    assert ground.mount.umount(close_files=False) == 0


@pytest.mark.parametrize("text", ["sync", "noac"])
def test_a_synchronous_mount_writes_at_once(text):
    with mounted(options=mount_options(text)) as ground:
        ground.mount.create("f")
        file = ground.mount.open("f")
        assert ground.machine.memory.file_io.write(file, 0, b"now") == 3
        assert ground.file_bytes("f") == b"now"
        ground.check()


def test_owner_and_mode_are_set(ground):
    nfsi = ground.mount.create("f")
    assert ground.mount.setattr(nfsi, mode=0o640, uid=5, gid=6) == 0
    attributes = ground.mount.getattr(nfsi)
    assert (attributes.mode, attributes.uid, attributes.gid) == (0o640, 5, 6)


def test_a_cut_in_the_middle_of_a_page_leaves_zeros_behind_it(ground):
    nfsi = ground.mount.create("f")
    file = ground.mount.open("f")
    file_io = ground.machine.memory.file_io
    file_io.write(file, 0, page_bytes(0) + page_bytes(1))
    assert ground.mount.setattr(nfsi, size=100) == 0
    assert ground.mount.setattr(nfsi, size=PAGE) == 0
    assert file_io.read(file, 0, 2 * PAGE) == page_bytes(0)[:100].ljust(PAGE, b"\0")
    assert ground.stats.invalidations == 0, "the change was ours"


def test_stat_writes_first_for_the_times(ground):
    nfsi = ground.mount.create("f")
    file = ground.mount.open("f")
    ground.mount.write_buffered(file, 0, b"12345")
    assert ground.mount.getattr(nfsi, refresh=False).size == 0
    assert ground.mount.stat(nfsi).size == 5


def test_a_file_that_is_swapped_to_is_not_written_by_write(ground):
    file = ground.swapon()
    assert ground.mount.write_buffered(file, PAGE, b"no") == -EBUSY
    assert ground.machine.memory.file_io.write(file, PAGE, b"no") == -EBUSY
    assert ground.machine.swapfile.swapoff(file) == 0
    assert ground.mount.write_buffered(file, PAGE, b"yes") == 3


def test_options_reach_the_transport():
    with mounted(options=mount_options("timeo=20,retrans=7")) as ground:
        timeout = ground.mount.xprt.timeout
        assert (timeout.initval, timeout.retries) == (500, 7)


def test_a_mount_over_udp_reads_and_writes_32_kib_in_fragments():
    with nfs_ground(options=mount_options("udp")) as ground:
        ground.nfsd.stop()
        ground.run_for(SECOND)
        ground.nfsd = Nfsd(
            ground.server_machine.kernel, ground.server_stack.tcp, ground.nfsd.server, SERVER_IP, udp=ground.server_stack.udp
        )
        ground.nfsd.start()
        assert ground.mount.mount() == 0
        assert ground.mount.server.rsize == ground.mount.server.wsize == 32768
        ground.mount.create("f")
        file = ground.mount.open("f")
        data = b"".join(page_bytes(i) for i in range(40))
        file_io = ground.machine.memory.file_io
        assert file_io.write(file, 0, data) == len(data)
        assert file_io.fsync(file) == 0
        ground.machine.filemap.truncate_inode_pages(file.f_mapping)
        assert file_io.read(file, 0, len(data)) == data
        assert ground.mount.umount() == 0
        ground.check()


def objects(ground):
    """Objects in use by cache; routes and neighbours outlive the connection, nodes of trees are kept for the next insert."""
    ground.machine.radix_nodes.drain()
    slub = ground.machine.slub
    kept = ("arp_cache", "ip_dst_cache")
    return {cache.name: used for cache in slub.caches.values() if (used := slub.objects_in_use(cache)) and cache.name not in kept}


def test_a_whole_life_of_a_mount_leaves_no_object():
    with nfs_ground() as ground:
        before = objects(ground)
        assert ground.mount.mount() == 0
        everything(ground)
        file = ground.swapon()
        mm = ground.process()
        for vpn in range(10):
            ground.write(vpn, page_bytes(vpn))
            ground.swap_out(vpn)
        assert ground.machine.swapfile.swapoff(file) == 0
        assert len(mm.ptes) == 10
        assert ground.mount.remove("swap") == 0
        assert ground.mount.umount() == 0
        ground.run_for(400 * SECOND)
        assert objects(ground) == before
        ground.check()
