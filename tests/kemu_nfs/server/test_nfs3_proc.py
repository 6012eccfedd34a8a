"""The table as a whole: every procedure is there, and the fast ways say what the plain ones say."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu_nfs.server.cred import Cred
from kemu_nfs.server.filetree import FileTree
from kemu_nfs.server.nfs3_proc import Nfs3Program
from kemu_nfs.server.rpc_server import NfsServer
from kemu_nfs.sunrpc.nfs3_const import NFS3_PROC_NAMES, NFS3ERR_BADHANDLE, NFS3ERR_STALE


def test_all_22_procedures_stand_under_their_names(server):
    assert tuple(procedure.name for procedure in server.nfs.procedures.values()) == NFS3_PROC_NAMES


def test_null_answers_without_credentials(client):
    assert client.call(0, auth=client.words(0, 0, 0, 0)).remaining() == 0


@pytest.mark.parametrize("proc", range(1, 22))
def test_a_handle_that_was_never_ours_is_bad_and_one_of_a_removed_file_is_stale(client, root, proc):
    gone = client.create(root, b"gone")
    assert client.status(12, client.opaque(root) + client.opaque(b"gone")) == 0
    name = client.opaque(b"x")
    after = {
        2: client.sattr() + client.words(0),
        3: name,
        4: client.words(63),
        6: struct.pack("!QI", 0, 10),
        7: struct.pack("!QII", 0, 1, 2) + client.opaque(b"a"),
        8: name + client.words(0) + client.sattr(),
        9: name + client.sattr(),
        10: name + client.sattr() + client.opaque(b"target"),
        11: name + client.words(7) + client.sattr(),
        12: name,
        13: name,
        14: name + client.opaque(root) + name,
        15: client.opaque(root) + name,
        16: bytes(16) + client.words(4096),
        17: bytes(16) + client.words(4096, 4096),
        21: struct.pack("!QI", 0, 0),
    }.get(proc, b"")
    assert client.status(proc, client.opaque(gone) + after) == NFS3ERR_STALE
    for bad in (b"", b"x", b"kemu", b"\xff" * 32, bytes(64), gone[:-1] + b"\1"):
        assert client.status(proc, client.opaque(bad) + after) == NFS3ERR_BADHANDLE


# Requests that are near to what the fast ways take, and some that are not.
offsets = st.sampled_from([0, 4096, 8192, 12288, 1, 4095, 100, (1 << 63) - 4096, (1 << 63), (1 << 64) - 4096])
sizes = st.sampled_from([4096, 4096, 4096, 8192, 0, 1, 5, 4095, 4097, 32768, 36864])
requests = st.one_of(
    st.tuples(st.just(1), st.sampled_from(["file", "dir", "link", "bad"])),
    st.tuples(st.just(6), st.sampled_from(["file", "file", "file", "dir", "link", "bad"]), offsets, sizes),
    st.tuples(
        st.just(7),
        st.sampled_from(["file", "file", "file", "dir", "link", "bad"]),
        offsets,
        sizes,
        st.sampled_from([0, 1, 2, 2, 3]),
        st.sampled_from([0, 0, 0, 4, -1]),
        st.integers(1, 255),
    ),
    st.tuples(st.just(21), st.just("file")),
)


def arguments(client, handles, request):
    proc = request[0]
    args = client.opaque(handles[request[1]])
    if proc == 6:
        args += struct.pack("!QI", request[2], request[3])
    elif proc == 7:
        _, _, offset, size, stable, wrong, fill = request
        args += struct.pack("!QII", offset, max(0, size + wrong), stable) + client.opaque(bytes([fill]) * size)
    elif proc == 21:
        args += struct.pack("!QI", 0, 0)
    return args


@settings(max_examples=50, deadline=None)
@given(st.lists(requests, max_size=12), st.sampled_from([0, 500, 600]), st.sampled_from([b"", b"tail"]))
def test_the_fast_ways_equal_the_plain_ones(speaker, list_of_requests, uid, tail):
    sides = []
    for fast in (True, False):
        time = [0]
        tree = FileTree(lambda time=time: time[0])
        server = NfsServer(tree)
        if not fast:
            server.nfs.fast.clear()
        file = tree.make_file("/export/file", 10000, mode=0o640, uid=500, gid=100)
        folder = tree.make_dir("/export/dir")
        _, link = tree.symlink(folder, b"link", b"target", 0o777, Cred(0, 0))
        handles = {"file": file.handle, "dir": folder.handle, "link": link.handle, "bad": bytes(32)}
        sides.append((server, handles, time, file))
    for number, request in enumerate(list_of_requests):
        answers = []
        for server, handles, time, _ in sides:
            time[0] += 1_234_567_890
            record = speaker.record(
                request[0], arguments(speaker, handles, request) + tail, xid=number, auth=speaker.auth_unix(uid, 7)
            )
            answer = server.handle(record, time[0], 1)
            server.finish(answer)
            answers.append((answer.record, answer.cost_ns))
        assert answers[0] == answers[1]
        fast_file, plain_file = sides[0][3], sides[1][3]
        assert fast_file.blocks == plain_file.blocks
        assert fast_file.undo == plain_file.undo
        assert (fast_file.size, fast_file.stable_size) == (plain_file.size, plain_file.stable_size)
        sides[0][0].check()
        sides[1][0].check()


def test_the_fast_ways_are_taken(client, server, swapfile, monkeypatch):
    """Without this, the test above could compare the plain way with itself."""

    def refuse(*_):
        raise AssertionError

    for proc in (1, 6, 7):
        procedure = server.nfs.procedures[proc]
        monkeypatch.setitem(server.nfs.procedures, proc, type(procedure)(procedure.name, refuse, procedure.cached))
    client.getattr(swapfile)
    client.write(swapfile, 4096, b"a" * 4096)
    client.read(swapfile, 4096, 4096)


def test_use_fast_off_leaves_the_plain_way():
    assert Nfs3Program(FileTree(lambda: 0), use_fast=False).fast == {}


def test_a_page_is_one_object_from_the_record_to_the_tree(server, client, swapfile):
    client.write(swapfile, 8192, b"p" * 4096)
    inode = server.tree.by_handle[swapfile]
    assert inode.read_data(8192, 4096) is inode.blocks[2]
