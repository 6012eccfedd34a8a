"""RPC dispatch: every way to be refused, and that no bytes make the server raise."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kemu_nfs.server.rpc_server import nfs_server


def reply_words(client, record):
    reply = client.send(record)
    return struct.unpack(f"!{len(reply) // 4}I", reply)


def test_an_unknown_program(client):
    assert reply_words(client, client.record(0, prog=100000, xid=5)) == (5, 1, 0, 0, 0, 1)


def test_a_version_out_of_range_tells_the_range(client):
    for vers in (2, 4):
        assert reply_words(client, client.record(0, vers=vers, xid=5)) == (5, 1, 0, 0, 0, 2, 3, 3)


def test_an_unknown_procedure(client):
    assert reply_words(client, client.record(22, xid=5)) == (5, 1, 0, 0, 0, 3)
    assert reply_words(client, client.record(6, prog=100005, xid=5)) == (5, 1, 0, 0, 0, 3)


def test_another_rpc_version(client):
    record = bytearray(client.record(0, xid=5))
    record[11] = 3
    assert reply_words(client, bytes(record)) == (5, 1, 1, 0, 2, 2)


def test_arguments_that_cannot_be_read(client, server):
    assert reply_words(client, client.record(1, b"\0\0\0\x41", xid=5)) == (5, 1, 0, 0, 0, 4)
    assert server.garbage == 1


@pytest.mark.parametrize(
    ("auth", "stat"),
    [
        (struct.pack("!4I", 0, 0, 0, 0), 5),  # nobody may use NFS without a name
        (struct.pack("!4I", 6, 0, 0, 0), 1),  # RPCSEC_GSS
        (struct.pack("!4I", 1, 0, 0, 0), 1),  # an empty AUTH_SYS
        (struct.pack("!5I", 0, 4, 0, 0, 0), 1),  # AUTH_NULL with a body
        (struct.pack("!9I", 1, 20, 0, 0, 0, 0, 17, 0, 0), 1),  # 17 groups
        (struct.pack("!2I", 1, 401) + bytes(412), 1),  # too long
        (struct.pack("!10I", 1, 20, 0, 0, 0, 0, 0, 0, 4, 0), 3),  # a verifier with a body
    ],
)
def test_credentials_that_are_refused(client, auth, stat):
    assert reply_words(client, client.record(1, xid=5, auth=auth)) == (5, 1, 1, 1, stat)


def test_a_reply_is_not_answered(client, server):
    assert client.send(struct.pack("!8I", 5, 1, 2, 100003, 3, 0, 0, 0)) is None
    assert server.garbage == 1


def test_the_mark_of_a_reply_tells_its_length(client, server, root):
    for proc in range(22):
        answer = server.handle(client.record(proc, client.opaque(root) + bytes(64)))
        assert int.from_bytes(answer.record[:4], "big") == 0x80000000 | len(answer.reply)
        assert len(answer.reply) % 4 == 0


def test_root_may_be_squashed(client, server, root):
    server.auth.root_squash = True
    server.tree.by_handle[root].mode = 0o777
    client.auth = client.auth_unix(0, 0, (1,))
    assert client.getattr(client.create(root, b"f")).uid == 65534


def test_known_credentials_are_bounded(client, server):
    for uid in range(600):
        client.call(0, auth=client.auth_unix(uid))
    assert len(server.auth._known) <= 256


SERVER = nfs_server()


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300))
@example(b"")
def test_arbitrary_bytes_never_raise(data):
    SERVER.handle(data, 0, 1)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 25),
    st.sampled_from([(100003, 3), (100005, 3), (100003, 2), (7, 1)]),
    st.binary(max_size=200),
    st.booleans(),
)
def test_a_right_head_with_any_arguments_is_answered_and_never_raises(speaker, proc, program, args, with_handle):
    if with_handle:
        args = speaker.opaque(SERVER.tree.make_dir("/export").handle) + args
    answer = SERVER.handle(speaker.record(proc, args, prog=program[0], vers=program[1]), 0, 1)
    assert answer is not None
    SERVER.finish(answer)
    SERVER.check()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 21), st.integers(0, 400), st.integers(0, 255), st.integers(0, 400))
def test_truncated_and_bent_requests_never_raise(speaker, proc, cut, value, place):
    root = speaker.opaque(SERVER.tree.make_dir("/export").handle)
    name = speaker.opaque(b"name")
    tail = {
        2: speaker.sattr(mode=1, size=5, mtime=3) + speaker.words(1, 2, 3),
        7: struct.pack("!QII", 0, 8, 2) + speaker.opaque(b"12345678"),
        8: name + speaker.words(0) + speaker.sattr(mode=5),
        10: name + speaker.sattr() + speaker.opaque(b"to"),
        11: name + speaker.words(3) + speaker.sattr() + speaker.words(1, 2),
        14: name + root + name,
        15: root + name,
    }.get(proc, name + bytes(20))
    record = speaker.record(proc, root + tail)
    SERVER.handle(record[:cut], 0, 1)
    bent = bytearray(record)
    bent[place % len(bent)] = value
    SERVER.handle(bytes(bent), 0, 1)
    SERVER.check()


def test_garbage_changes_nothing(client, server, root):
    """Decoding precedes every deed: a request that is cut anywhere leaves the tree as it was."""
    whole = client.record(8, client.opaque(root) + client.opaque(b"new") + client.words(0) + client.sattr(mode=0o600))
    for cut in range(len(whole)):
        answer = server.handle(whole[:cut], 0, 1)
        assert answer is None or answer.reply[-4:] != b"\0\0\0\0"
    assert server.tree.by_handle[root].entries == {}
