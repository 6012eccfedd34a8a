"""A client and a server on one wire."""

from kemu.patches import PatchSet
from kemu_lab.hosts import CLIENT_IP, Pair
from kemu_lab.run_config import RunConfig


def test_the_server_has_none_of_the_patches_and_enough_memory():
    with Pair(RunConfig(mem=16 << 20)) as pair:
        assert pair.server.kernel.patched == PatchSet.none()
        assert pair.client.kernel.patched == PatchSet.all()
        assert pair.server.page_alloc.total_pages > 4 * pair.client.page_alloc.total_pages


def test_a_mounted_file_is_on_the_server():
    with Pair(RunConfig(mem=16 << 20)) as pair:
        assert pair.mount.mount() == 0
        pair.mount.create("file")
        file = pair.mount.open("file")
        assert pair.mount.write(file, 4096, b"hello") == 5

        assert pair.server_bytes("file", 1)[:5] == b"hello"
        assert pair.server_bytes("nosuch", 0) == b""
        pair.mount.close(file)
        assert pair.mount.umount() == 0
        pair.client.check()
        pair.server.check()


def test_foreign_hosts_have_addresses_of_their_own():
    with Pair(RunConfig(mem=16 << 20)) as pair:
        hosts = [pair.frame_generator([(CLIENT_IP, 7)], 1000, 1_000_000) for _ in range(3)]

        assert len({host.mac for host in hosts}) == len({host.ip for host in hosts}) == 3


def test_the_block_ends_the_world():
    with Pair(RunConfig(mem=16 << 20)) as pair:
        world = pair.world

    assert world.dead
