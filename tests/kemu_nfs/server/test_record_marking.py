"""Record marking: however the stream is cut, the same messages come out."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kemu_nfs.server.record_marking import MAX_FRAGMENTS, RecordReader, frame


def fragment(data, *, last):
    return ((0x80000000 if last else 0) | len(data)).to_bytes(4, "big") + data


def test_a_record_that_comes_alone_comes_out():
    assert RecordReader(100).feed(frame(b"hello")) == [b"hello"]


def test_several_records_at_once():
    reader = RecordReader(100)
    assert reader.feed(frame(b"one") + frame(b"two") + frame(b"three")[:6]) == [b"one", b"two"]
    assert reader.pending == 6
    assert reader.feed(frame(b"three")[6:]) == [b"three"]
    assert reader.pending == 0


def test_fragments_are_joined():
    stream = fragment(b"a", last=False) + fragment(b"", last=False) + fragment(b"bc", last=True)
    assert RecordReader(100).feed(stream) == [b"abc"]


def test_an_empty_record_is_a_record():
    assert RecordReader(100).feed(frame(b"")) == [b""]


def test_an_oversized_record_breaks_the_reader():
    reader = RecordReader(10)
    assert reader.feed(frame(b"ok") + frame(b"x" * 11) + frame(b"never")) == [b"ok"]
    assert "allowed are 10 bytes" in reader.broken
    assert reader.feed(frame(b"more")) == []
    assert reader.pending == 0


def test_an_oversized_record_is_noticed_from_its_head_alone():
    reader = RecordReader(10)
    reader.feed(b"\xff\xff\xff\xff")
    assert reader.broken


def test_the_sum_of_the_fragments_counts():
    reader = RecordReader(10)
    reader.feed(fragment(b"x" * 6, last=False) + fragment(b"x" * 6, last=True))
    assert reader.broken


def test_a_stream_of_empty_fragments_ends():
    reader = RecordReader(10)
    reader.feed(fragment(b"", last=False) * (MAX_FRAGMENTS + 1))
    assert reader.broken


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.integers(1, 30), max_size=30), st.booleans())
def test_the_way_it_is_cut_does_not_matter(messages, cuts, split):
    stream = b"".join(
        fragment(message[:7], last=False) + fragment(message[7:], last=True) if split else frame(message) for message in messages
    )
    reader = RecordReader(100)
    out = []
    for cut in cuts:
        out += reader.feed(stream[:cut])
        stream = stream[cut:]
    out += reader.feed(stream)
    assert out == messages
    assert reader.pending == 0
    assert not reader.broken


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=10))
def test_no_stream_makes_it_raise_or_hold_more_than_its_limit(chunks):
    reader = RecordReader(64)
    for chunk in chunks:
        for message in reader.feed(chunk):
            assert len(message) <= 64
        assert reader.pending <= 64 + 4 + 50
