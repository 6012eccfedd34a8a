"""Bad input, the server's side: any call gets an answer of the protocol's, and what was refused changed nothing."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu_nfs.server.record_marking import RecordReader, frame
from kemu_nfs.sunrpc.nfs3_const import NFS3_PROC_NAMES, NFS3ERR_NOTDIR
from nfs_home import NfsHome
from nfs_speaker import opaque, right_args, words

MAX = 0xFFFFFFFF

# After the status of a failure (RFC 1813): w is wcc_data, a is post_op_attr.
FAILURES = {
    1: "", 2: "w", 3: "a", 4: "a", 5: "a", 6: "a", 7: "w", 8: "w", 9: "w", 10: "w", 11: "w", 12: "w", 13: "w", 14: "ww", 15: "aw",
    16: "a", 17: "a", 18: "a", 19: "a", 20: "a", 21: "w",
}  # fmt: skip


class Home(NfsHome):
    """A server that is told nonsense."""

    def send(self, record):
        """Return the reply of a call, checked as a message."""
        answer = self.server.handle(record, 0, 1)
        if answer is None:
            return None
        self.server.finish(answer)
        reply = answer.reply
        kind, stat = struct.unpack_from("!II", reply, 4)
        assert reply[:4] == record[:4]
        assert kind == 1 and stat in (0, 1)
        if stat == 1:
            assert struct.unpack_from("!I", reply, 12)[0] in (0, 1)
        else:
            assert reply[12:20] == bytes(8)  # the verifier
            assert struct.unpack_from("!I", reply, 20)[0] in (0, 1, 2, 3, 4)
        return reply


def did_something(reply):
    """Tell whether a call was accepted, executed and did not fail."""
    return reply is not None and reply[8:12] == bytes(4) and reply[20:24] == bytes(4) and reply[24:28] in (bytes(4), b"")


@pytest.mark.parametrize("proc", sorted(FAILURES))
def test_a_failure_has_the_shape_that_the_rfc_gives_it(proc):
    """For a handle that is not ours without attributes, for one of the wrong kind with them."""
    home = Home()
    for folder, file in ((bytes(32), bytes(32)), (home.file, home.folder), (home.folder, home.folder)):
        results = home.client.call(proc, right_args(proc, folder, file, b"inner" if proc in (8, 9, 10, 11) else b"nothing"))
        if results.unpack_uint() == 0:
            continue  # GETATTR and its like take any object
        for kind in FAILURES[proc]:
            _, attributes = results.wcc() if kind == "w" else (None, results.attributes())
            assert (attributes is None) == (folder == bytes(32))
        results.done()
    assert home.client.status(3, opaque(home.file) + opaque(b"x")) == NFS3ERR_NOTDIR


@pytest.mark.parametrize("proc", range(22))
def test_a_call_that_is_cut_anywhere_changes_nothing(proc):
    home = Home()
    record = home.client.record(proc, right_args(proc, home.folder, home.file))
    for cut in range(len(record)):
        before = home.snapshot()
        reply = home.send(record[:cut])
        assert proc == 0 or not did_something(reply), (NFS3_PROC_NAMES[proc], cut)
        assert home.snapshot() == before
    home.server.check()


numbers = st.sampled_from([0, 1, 2, 3, 5, 7, 64, 255, 256, 0x7FFFFFFF, 0x80000000, MAX - 3, MAX])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 21), st.lists(st.tuples(st.integers(0, 60), numbers), min_size=1, max_size=3), st.binary(max_size=8))
def test_any_word_may_be_anything_and_what_is_refused_changes_nothing(proc, changes, tail):
    """Every field in turn: XID, direction, versions, program, flavors, lengths of 2**32-1, discriminants, sizes."""
    home = Home()
    record = bytearray(home.client.record(proc, right_args(proc, home.folder, home.file)) + tail)
    for place, value in changes:
        at = 4 * place % (len(record) // 4 * 4)
        record[at : at + 4] = value.to_bytes(4, "big")
    before = home.snapshot()
    reply = home.send(bytes(record))
    if not did_something(reply):
        assert home.snapshot() == before
    home.server.check()
    assert home.client.read(home.file, 0, 4)[0] is not None  # it still serves


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 7), st.lists(st.tuples(st.integers(0, 30), numbers), max_size=2), st.binary(max_size=40))
def test_mount_takes_anything(proc, changes, path):
    home = Home()
    record = bytearray(home.client.record(proc, opaque(path), prog=100005))
    for place, value in changes:
        at = 4 * place % (len(record) // 4 * 4)
        record[at : at + 4] = value.to_bytes(4, "big")
    before = home.snapshot()
    home.send(bytes(record))
    assert home.snapshot() == before
    home.server.check()


@pytest.mark.parametrize("length", [MAX, MAX - 3, 0x80000000, 1 << 24, 65, 33])
def test_a_length_of_4_gigabytes_takes_no_memory(length):
    home = Home()
    before = home.snapshot()
    for proc in range(1, 22):
        reply = home.send(home.client.record(proc, words(length) + bytes(40)))
        assert struct.unpack_from("!I", reply, 20)[0] == 4 or struct.unpack_from("!I", reply, 24)[0]
    for proc in (1, 3):
        assert struct.unpack_from("!I", home.send(home.client.record(proc, words(length), prog=100005)), 20)[0] == 4
    assert home.snapshot() == before


def test_strange_numbers_get_the_answers_of_rfc_5531():
    home = Home()
    head = home.client.auth
    cases = [
        (words(5, 0, 2, 100000, 2, 3) + head, words(5, 1, 0, 0, 0, 1)),
        (words(5, 0, 2, 100003, 4, 1) + head, words(5, 1, 0, 0, 0, 2, 3, 3)),
        (words(5, 0, 2, 100005, 1, 1) + head, words(5, 1, 0, 0, 0, 2, 3, 3)),
        (words(5, 0, 2, 100003, 3, MAX) + head, words(5, 1, 0, 0, 0, 3)),
        (words(5, 0, 2, 100003, 3, 1) + head + words(MAX), words(5, 1, 0, 0, 0, 4)),
        (words(5, 0, MAX, 100003, 3, 1) + head, words(5, 1, 1, 0, 2, 2)),
        (words(5, 0, 2, 100003, 3, 1, 6, 0, 0, 0), words(5, 1, 1, 1, 1)),
        (words(5, 0, 2, 100003, 3, 1, 1, MAX) + bytes(500), words(5, 1, 1, 1, 1)),
        (words(5, 0, 2, 100003, 3, 1, 0, 0, 0, 0), words(5, 1, 1, 1, 5)),
        (words(5, 1, 2, 100003, 3, 1) + head, None),
        (words(5, 2, 2, 100003, 3, 1) + head, None),
        (words(5, 0, 2), None),
    ]
    for record, wanted in cases:
        assert home.send(record) == wanted


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.one_of(st.binary(max_size=40), st.just(None), numbers.map(lambda n: n.to_bytes(4, "big"))), max_size=8), st.data()
)
def test_a_stream_of_anything_gives_calls_or_breaks(pieces, data):
    """Wrong marks, records that are too long, calls between them: the reader breaks or goes on, holding no more than its limit."""
    home = Home()
    call = frame(home.client.record(0))
    stream = b"".join(call if piece is None else piece for piece in pieces)
    reader = RecordReader(4096)
    position = 0
    while position < len(stream):
        step = data.draw(st.integers(1, 64))
        for record in reader.feed(stream[position : position + step]):
            assert len(record) <= 4096
            home.send(record)
        assert reader.pending <= 4096 + 64 + 4
        position += step
    if reader.broken is not None:
        assert reader.feed(call) == []
        assert reader.pending == 0
