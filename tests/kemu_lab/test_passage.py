"""One way through the gateway: streams cut anywhere, and which replies are owed."""

from __future__ import annotations

import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu_lab.passage import Passage, Records
from kemu_nfs.server.record_marking import frame

MIB = 1 << 20
fragments_of_a_record = st.lists(st.binary(max_size=40), min_size=1, max_size=3)


def stream_of(records):
    """Write records, each a list of fragments, with their marks."""
    stream = b""
    for fragments in records:
        for number, fragment in enumerate(fragments):
            last = 0x80000000 if number == len(fragments) - 1 else 0
            stream += (last | len(fragment)).to_bytes(4, "big") + fragment
    return stream


@pytest.fixture
def ends():
    near, far = socket.socketpair()
    near.setblocking(False)
    far.settimeout(20)
    with near, far:
        yield Passage(None, near, 10.0), far


@given(st.lists(fragments_of_a_record, max_size=6), st.data())
@settings(max_examples=50, deadline=None)
def test_a_message_is_found_however_the_stream_is_cut(records, data):
    stream = stream_of(records)
    walker = Records()
    xids = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        at = 0
        while at < size:
            whole = walker.whole
            at = walker.walk(stream[:size], at)
            xids += [walker.xid] * (walker.whole - whole)
        stream = stream[size:]
    messages = [b"".join(fragments) for fragments in records]
    assert walker.whole == len(messages)
    assert xids == [message[:4] if len(message) >= 4 else None for message in messages]


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_walked_to_their_end(noise):
    walker = Records()
    at = 0
    while at < len(noise):
        further = walker.walk(noise, at)
        assert further > at
        at = further


@given(st.lists(fragments_of_a_record, min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_replies_are_cut_one_by_one_and_unchanged(records):
    passage = Passage(None, None, 1.0)
    passage.inbox = stream_of(records)
    assert [passage.cut() for _ in records] == [stream_of([record]) for record in records]
    assert passage.inbox == b""


def test_a_reply_is_owed_from_the_calls_end_to_the_replys_end(ends):
    passage, _ = ends
    call, reply = frame(b"xid1 call"), frame(b"xid1 reply")
    assert passage.called(call[:-1]) == 0
    assert not passage.something()
    assert passage.called(call[-1:] + frame(b"xid2")) == 2
    passage.inbox = reply[:-1]
    passage.cut()
    assert passage.owed == {b"xid1", b"xid2"}
    passage.inbox = reply[-1:]
    passage.cut()
    assert passage.owed == {b"xid2"}


@pytest.mark.parametrize("unasked", [b"xid0 reply", b"", b"xi"])
def test_a_reply_that_nobody_asked_for_pays_no_debt(ends, unasked):
    passage, _ = ends
    passage.called(frame(b"xid1"))
    passage.inbox = frame(unasked)
    assert passage.cut() == frame(unasked)
    assert passage.owed == {b"xid1"}


def test_a_call_without_an_xid_is_owed_nothing(ends):
    passage, _ = ends
    assert passage.called(frame(b"abc")) == 1
    assert not passage.something()


def test_a_server_that_speaks_before_it_listens_does_not_stop_the_gateway(ends):
    """Both buffers are full at once: who only writes would wait for ever."""
    passage, far = ends
    spoken, heard = bytes(range(256)) * (MIB // 256), bytearray()

    def speak_first():
        far.sendall(spoken)
        while len(heard) < MIB:
            heard.extend(far.recv(65536))

    thread = threading.Thread(target=speak_first, daemon=True)
    thread.start()
    said = b"call" * (MIB // 4)
    passage.push(said)
    thread.join(20)
    assert bytes(heard) == said
    assert spoken.startswith(passage.inbox) and len(passage.inbox) > MIB // 2


def test_a_server_that_takes_nothing_is_an_error_in_the_end(ends):
    passage, _ = ends
    passage.full_patience = 0.05
    with pytest.raises(OSError, match="takes nothing any more"):
        passage.push(bytes(8 * MIB))


def test_a_server_that_hung_up_is_an_error(ends):
    passage, far = ends
    far.close()
    with pytest.raises(OSError):
        passage.push(bytes(MIB))
