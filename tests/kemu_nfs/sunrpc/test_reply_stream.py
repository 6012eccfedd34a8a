"""Replies out of a TCP stream, however it is cut and whatever it says."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu_nfs.sunrpc.reply_stream import MAX_FRAGMENT, READ_FRAGHDR, STREAM_STATES, ReplyStream
from kemu_nfs.sunrpc.rpc_task import RpcRqst

LIMIT = 100


class Waiting:
    """A transport's table of calls that wait."""

    def __init__(self, *xids: int) -> None:
        self.recv = {}
        self.replies = []
        for xid in xids:
            req = RpcRqst()
            req.rq_xid = xid
            req.rq_task = type("Task", (), {"tk_proc": type("Proc", (), {"limit": LIMIT})})
            self.recv[xid] = req
        self.stream = ReplyStream(self, self.complete)

    def complete(self, req, reply) -> None:
        del self.recv[req.rq_xid]
        self.replies.append((req.rq_xid, reply))


def record(message: bytes, *cuts: int) -> bytes:
    """Mark a message, as several fragments if it is cut."""
    ends = [*cuts, len(message)]
    start = 0
    parts = []
    for end in ends:
        part = message[start:end]
        last = 0x80000000 if end == len(message) else 0
        parts.append(struct.pack("!I", last | len(part)) + part)
        start = end
    return b"".join(parts)


def message(xid: int, size: int = 24) -> bytes:
    return xid.to_bytes(4, "big") + bytes(i & 255 for i in range(size))


def feed(waiting: Waiting, data: bytes, cuts: list[int]) -> None:
    start = 0
    for cut in sorted({min(cut, len(data)) for cut in cuts} | {len(data)}):
        if cut > start:
            waiting.stream.feed(data[start:cut])
            start = cut


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 70), min_size=1, max_size=5), st.lists(st.integers(0, 400), max_size=12))
def test_replies_arrive_whole_and_in_order_however_the_stream_is_cut(sizes, cuts):
    messages = [message(xid, size) for xid, size in enumerate(sizes)]
    waiting = Waiting(*range(len(sizes)))
    feed(waiting, b"".join(map(record, messages)), cuts)
    assert [reply for _, reply in waiting.replies] == messages
    assert waiting.stream.broken is None


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 60), st.lists(st.integers(4, 56), max_size=3), st.lists(st.integers(0, 100), max_size=12))
def test_fragments_of_one_reply_are_joined(size, fragment_ends, cuts):
    text = message(9, size)
    ends = [end for end in sorted(set(fragment_ends)) if end % 4 == 0 and end <= len(text) - 4]
    waiting = Waiting(9)
    feed(waiting, record(text, *ends), cuts)
    assert waiting.replies == [(9, text)]


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=8))
def test_garbage_raises_nothing_and_keeps_nothing_it_should_not(data, cuts):
    waiting = Waiting(1, 2, 3)
    feed(waiting, data, cuts)
    assert all(len(reply) <= LIMIT for _, reply in waiting.replies)


@pytest.mark.parametrize("length", [0, 3, MAX_FRAGMENT + 1, 0x7FFFFFFF])
def test_a_fragment_too_short_or_too_long_breaks_the_stream(length):
    waiting = Waiting(1)
    waiting.stream.feed(struct.pack("!I", 0x80000000 | length))
    assert str(length) in waiting.stream.broken
    waiting.stream.feed(record(message(1)))
    assert waiting.replies == []


def test_a_reply_to_nobody_is_skipped():
    waiting = Waiting(1)
    waiting.stream.feed(record(message(77, 40)) + record(message(1)))
    assert waiting.replies == [(1, message(1))]
    assert waiting.stream.skipped == 44


def test_of_a_reply_longer_than_its_call_wants_only_the_beginning_is_kept():
    waiting = Waiting(1, 2)
    waiting.stream.feed(record(message(1, 500)) + record(message(2)))
    assert waiting.replies == [(1, message(1, 500)[:LIMIT]), (2, message(2))]


def test_a_reply_whose_call_ended_meanwhile_is_dropped():
    waiting = Waiting(1)
    data = record(message(1))
    waiting.stream.feed(data[:12])
    del waiting.recv[1]
    waiting.stream.feed(data[12:])
    assert waiting.replies == []
    assert waiting.stream.broken is None


def test_a_new_connection_begins_at_the_start_of_a_record():
    waiting = Waiting(1)
    waiting.stream.feed(record(message(1))[:10])
    waiting.stream.reset()
    waiting.stream.feed(record(message(1)))
    assert waiting.replies == [(1, message(1))]


def test_the_second_copy_of_a_reply_is_to_nobody():
    waiting = Waiting(1)
    waiting.stream.feed(record(message(1)) * 2)
    assert len(waiting.replies) == 1


def test_a_stream_may_be_cut_at_every_byte():
    data = record(message(1, 8)) + record(message(77, 12)) + record(message(2, 20), 8, 16)
    for cut in range(len(data) + 1):
        waiting = Waiting(1, 2)
        feed(waiting, data, [cut])
        assert waiting.replies == [(1, message(1, 8)), (2, message(2, 20))], cut
        assert waiting.stream.skipped == 16


def test_a_call_that_ended_while_its_reply_came_frees_its_slot_for_another():
    waiting = Waiting(1)
    waiting.stream.feed(record(message(1, 40))[:20])
    req = waiting.recv.pop(1)
    req.clear()
    waiting.stream.feed(record(message(1, 40))[20:])
    assert waiting.replies == []
    assert waiting.stream.state == READ_FRAGHDR


def test_of_many_fragments_no_more_is_kept_than_the_call_wants():
    waiting = Waiting(1, 2)
    text = message(1, 4 * LIMIT)
    waiting.stream.feed(record(text, *range(8, len(text), 8)))
    waiting.stream.feed(record(message(2)))
    assert waiting.replies == [(1, text[:LIMIT]), (2, message(2))]


def test_the_table_of_states_leads_back_to_the_beginning_from_everywhere():
    assert all(then in STREAM_STATES for state in STREAM_STATES.values() for then in state.then)
    for number in STREAM_STATES:
        seen, todo = {number}, [number]
        while todo:
            for then in STREAM_STATES[todo.pop()].then:
                if then not in seen:
                    seen.add(then)
                    todo.append(then)
        assert READ_FRAGHDR in seen


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 150), st.integers(0, 40)), max_size=6), st.binary(max_size=12))
def test_every_step_of_every_stream_is_in_the_table(records, garbage):
    waiting = Waiting(1, 2)
    data = b"".join(record(message(xid, size), *(cut for cut in [4 * cut] if 4 <= cut <= size)) for xid, size, cut in records)
    before = READ_FRAGHDR
    for byte in data + garbage:
        if waiting.stream.broken:
            break
        waiting.stream.feed(bytes((byte,)))
        after = waiting.stream.state
        assert after == before or after in STREAM_STATES[before].then, (before, after)
        before = after
