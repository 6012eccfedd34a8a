"""MOUNT: which paths give a handle, to whom, and the lists for people."""

from __future__ import annotations

import pytest

from kemu.errors import ConfigError
from kemu_nfs.server.cred import Cred
from kemu_nfs.server.filetree import FileTree
from kemu_nfs.server.mount_proc import MAX_MOUNTS, Export, MountProgram
from kemu_nfs.server.rpc_server import NfsServer
from kemu_nfs.sunrpc.nfs3_const import MNT3ERR_ACCES, MNT3ERR_NAMETOOLONG, MNT3ERR_NOENT, MNT3ERR_NOTDIR
from nfs_speaker import Client


def status(client, path):
    return client.status(1, client.opaque(path), prog=100005)


def test_mnt_gives_a_handle_that_nfs_takes(client):
    results = client.call(1, client.opaque(b"/export"), prog=100005)
    assert results.unpack_uint() == 0
    assert client.getattr(results.unpack_opaque()).type == 2
    assert (results.unpack_uint(), results.unpack_uint()) == (1, 1)
    results.done()


def test_a_directory_below_an_export_can_be_mounted(client, root):
    below = client.mkdir(root, b"below")
    assert client.mnt(b"/export/below") == below
    assert client.mnt(b"//export/./below/") == below


def test_what_is_in_no_export_is_refused(client, server):
    server.tree.make_dir("/secret")
    for path in (b"/secret", b"/", b"", b"/export/..", b"/export/../secret", b"/exports"):
        assert status(client, path) == MNT3ERR_ACCES


def test_dotdot_within_an_export_is_fine(client, root):
    client.mkdir(root, b"a")
    assert client.mnt(b"/export/a/../a/..") == root


@pytest.mark.usefixtures("swapfile")
def test_what_is_not_there_or_no_directory(client):
    assert status(client, b"/export/nothing") == MNT3ERR_NOENT
    assert status(client, b"/export/swapfile") == MNT3ERR_NOTDIR
    assert status(client, b"/export/swapfile/x") == MNT3ERR_NOTDIR


def test_hosts_are_asked():
    tree = FileTree(lambda: 0)
    server = NfsServer(tree, exports=(Export("/a", hosts=(0x0A000001,)), Export("/a/b", hosts=())))
    for path, address, expected in ((b"/a", 0x0A000001, 0), (b"/a", 0x0A000002, 13), (b"/a/b", 0x0A000001, 13)):
        from_path = b"\0\0\0" + bytes([len(path)]) + path + bytes(-len(path) % 4)
        head = bytes.fromhex("00000001 00000000 00000002 000186a5 00000003 00000001 0000000000000000 0000000000000000")
        reply = server.handle(head + from_path, 0, address).reply
        assert int.from_bytes(reply[24:28], "big") == expected


def test_the_list_of_mounts_follows_mnt_umnt_and_umntall(client):
    def dump():
        results = client.call(2, prog=100005)
        entries = []
        while results.unpack_bool():
            entries.append((results.unpack_opaque(), results.unpack_opaque()))
        results.done()
        return entries

    client.mnt()
    client.mnt()
    assert dump() == [(b"10.0.0.1", b"/export")]
    assert client.call(3, client.opaque(b"/export"), prog=100005).remaining() == 0
    assert dump() == []
    client.mnt()
    client.call(4, prog=100005)
    assert dump() == []


def test_export_lists_paths_and_hosts(client, server):
    server.mount.exports = (Export("/export"), Export("/two", hosts=(0x0A000002,)))
    results = client.call(5, prog=100005)
    assert (results.unpack_bool(), results.unpack_opaque(), results.unpack_bool()) == (True, b"/export", False)
    assert (results.unpack_bool(), results.unpack_opaque(), results.unpack_bool()) == (True, b"/two", True)
    assert (results.unpack_opaque(), results.unpack_bool(), results.unpack_bool()) == (b"10.0.0.2", False, False)
    results.done()


def test_mount_asks_for_no_credentials(client):
    assert client.status(1, client.opaque(b"/export"), prog=100005, auth=client.words(0, 0, 0, 0)) == 0


def test_a_relative_export_is_refused():
    with pytest.raises(ConfigError, match="absolute"):
        MountProgram(FileTree(lambda: 0), (Export("export"),))


def test_an_export_may_have_another_name_than_its_place():
    tree = FileTree(lambda: 0)
    server = NfsServer(tree, exports=(Export("/export", at="/data/swap"), Export("/all", at="/")))
    client = Client(server)
    assert client.mnt(b"/export") == client.mnt(b"/all/data/swap") == tree.lookup_path("/data/swap").handle
    assert client.lookup(client.mnt(b"/export"), b"..") == client.mnt(b"/export")
    assert status(client, b"/data/swap") == MNT3ERR_ACCES
    server.check()


def test_a_path_is_not_walked_through_files_or_links(client, server, root):
    client.create(root, b"f")
    server.tree.symlink(server.tree.lookup_path("/export"), b"l", b"/", 0o777, Cred(0, 0))
    assert status(client, b"/export/f/x") == MNT3ERR_NOTDIR
    assert status(client, b"/export/l") == status(client, b"/export/l/export") == MNT3ERR_NOTDIR


def test_a_name_of_a_path_may_not_be_longer_than_a_name(client):
    assert status(client, b"/export/" + b"n" * 256) == MNT3ERR_NAMETOOLONG


def test_the_list_of_mounts_is_bounded(client, server):
    for _ in range(MAX_MOUNTS + 10):
        client.address += 1
        client.mnt()
    assert len(server.mount.mounts) == MAX_MOUNTS


def test_an_export_path_with_a_nul_is_refused():
    with pytest.raises(ConfigError, match="absolute path"):
        MountProgram(FileTree(lambda: 0), (Export("/a\0b"),))
