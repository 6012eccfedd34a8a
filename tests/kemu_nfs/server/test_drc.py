"""The duplicate request cache: executed once, answered as often as asked, bounded."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu_nfs.server.drc import EXPIRE_NS, MAX_REPLY, DuplicateRequestCache
from kemu_nfs.sunrpc.nfs3_const import NFS3_OK


def key(xid):
    return 1, xid, 2, 3, 4


def test_a_duplicate_in_progress_is_dropped(client, server, root):
    record = client.record(9, client.opaque(root) + client.opaque(b"d") + client.sattr())
    first = server.handle(record, 0, 1)
    assert server.handle(record, 0, 1) is None
    assert server.drc.dropped == 1
    server.finish(first)
    assert server.handle(record, 0, 1).record == first.record


def test_a_duplicate_that_was_answered_gets_the_same_bytes(client, server, root):
    client.create(root, b"f")
    record = client.record(12, client.opaque(root) + client.opaque(b"f"))
    first = client.send(record)
    assert client.send(record) == first
    assert first[24:28] == b"\0\0\0\0"
    assert client.cost_ns == 0
    assert server.drc.replayed == 1


def test_an_old_write_that_comes_late_does_not_undo_a_newer_one(client, swapfile):
    old = client.record(7, client.write_args(swapfile, 0, b"1" * 4096))
    client.send(old)
    client.write(swapfile, 0, b"2" * 4096)
    client.send(old)
    assert client.read(swapfile, 0, 4096)[0] == b"2" * 4096


def test_without_the_cache_it_does(client, server, swapfile):
    server.use_drc = False
    old = client.record(7, client.write_args(swapfile, 0, b"1" * 4096))
    client.send(old)
    client.write(swapfile, 0, b"2" * 4096)
    client.send(old)
    assert client.read(swapfile, 0, 4096)[0] == b"1" * 4096


def test_the_same_xid_with_other_arguments_or_of_another_client_is_another_request(client, swapfile):
    client.send(client.record(7, client.write_args(swapfile, 0, b"1" * 4096), xid=9))
    client.send(client.record(7, client.write_args(swapfile, 0, b"2" * 4096), xid=9))
    assert client.read(swapfile, 0, 4096)[0] == b"2" * 4096
    client.address += 1
    client.send(client.record(7, client.write_args(swapfile, 0, b"1" * 4096), xid=9))
    assert client.read(swapfile, 0, 4096)[0] == b"1" * 4096


def test_reading_is_not_cached(client, server, swapfile):
    for proc in (1, 3, 6, 16):
        assert not server.nfs.procedures[proc].cached
    record = client.record(1, client.opaque(swapfile), xid=4)
    first = client.send(record)
    client.write(swapfile, 0, b"x")
    assert client.send(record) != first


def test_garbage_is_not_remembered(client, server, root):
    bad = client.record(9, client.opaque(root) + client.opaque(b"d"), xid=9)
    client.send(bad)
    assert server.drc.entries == {}


def test_a_restart_forgets(client, server, root):
    client.create(root, b"f")
    record = client.record(12, client.opaque(root) + client.opaque(b"f"))
    assert client.send(record)[24:28] == NFS3_OK.to_bytes(4, "big")
    server.crash()
    assert client.send(record)[24:28] == b"\0\0\0\2"


def test_the_oldest_answer_goes_first():
    cache = DuplicateRequestCache(3)
    entries = [cache.lookup(key(xid)) for xid in range(3)]
    for xid in (1, 0, 2):
        entries[xid].reply = b""
        cache.finish(entries[xid])
    cache.lookup(key(9))
    assert [entry[1] for entry in cache.entries] == [0, 2, 9]


def test_what_is_in_progress_never_goes():
    cache = DuplicateRequestCache(2)
    busy = [cache.lookup(key(xid)) for xid in range(3)]
    cache.check()
    assert [cache.lookup(key(xid)) for xid in range(3)] == busy


def test_finishing_twice_or_after_a_restart_does_no_harm():
    cache = DuplicateRequestCache()
    entry = cache.lookup(key(1))
    entry.reply = b"r"
    cache.clear()
    cache.finish(entry)
    assert cache.entries == {}
    again = cache.lookup(key(1))
    cache.forget(entry)
    assert cache.entries[key(1)] is again


def test_an_answer_that_is_missing_is_noticed():
    cache = DuplicateRequestCache()
    cache.finish(cache.lookup(key(1)))
    with pytest.raises(KernelBug, match="without an answer"):
        cache.check()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("lff"), st.integers(0, 8)), max_size=60))
def test_every_request_is_executed_once_while_it_is_remembered(steps):
    cache = DuplicateRequestCache(4)
    busy = {}
    for what, xid in steps:
        if what == "l":
            entry = cache.lookup(key(xid))
            assert (entry.hits == 0) == (xid not in busy and entry.reply is None)
            if entry.hits == 0:
                busy[xid] = entry
        elif xid in busy:
            busy[xid].reply = b"%d" % xid
            cache.finish(busy.pop(xid))
        cache.check()
        assert all(key(xid) in cache.entries for xid in busy)


def test_an_answer_is_given_again_for_two_minutes(client, server, root):
    client.create(root, b"f")
    record = client.record(12, client.opaque(root) + client.opaque(b"f"))
    first = server.handle(record, 0, 1)
    server.finish(first)
    assert server.handle(record, EXPIRE_NS, 1).record == first.record
    later = server.handle(record, EXPIRE_NS + 1, 1)
    assert later.reply[24:28] == b"\0\0\0\2"  # NOENT: it was executed again


def test_what_is_in_progress_does_not_age():
    cache = DuplicateRequestCache()
    entry = cache.lookup(key(1), 0)
    assert cache.lookup(key(1), 10 * EXPIRE_NS) is entry


def test_a_reply_that_is_too_long_is_not_kept():
    cache = DuplicateRequestCache()
    entry = cache.lookup(key(1))
    entry.reply = bytes(MAX_REPLY + 1)
    cache.finish(entry)
    assert cache.entries == {}


def test_every_cached_procedure_answers_within_the_limit(client, server, root):
    """Otherwise a duplicate of it would be executed twice."""
    handle = client.create(root, b"f")
    longest = 0
    for proc, procedure in server.nfs.procedures.items():
        if procedure.cached:
            name = client.opaque(b"n%d" % proc)
            tail = {
                2: client.sattr(mode=1) + client.words(0),
                7: struct.pack("!QII", 0, 4, 2) + client.opaque(b"abcd"),
                8: name + client.words(0) + client.sattr(),
                9: name + client.sattr(),
                10: name + client.sattr() + client.opaque(b"t" * 1024),
                11: name + client.words(7) + client.sattr(),
                14: client.opaque(b"f") + client.opaque(root) + client.opaque(b"g"),
                15: client.opaque(root) + name,
            }.get(proc, name)
            subject = client.opaque(handle if proc in (2, 7, 15) else root)
            longest = max(longest, len(client.send(client.record(proc, subject + tail))))
    assert longest + 4 <= MAX_REPLY


def test_the_end_of_a_service_settles_what_is_in_progress():
    cache = DuplicateRequestCache()
    executed, begun = cache.lookup(key(1)), cache.lookup(key(2))
    executed.reply = b"answer"
    cache.settle()
    assert cache.lookup(key(1)).reply == b"answer"
    assert cache.lookup(key(2)) is not begun
    cache.check()
