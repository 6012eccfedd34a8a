"""Faults: each kind does what it says, as often as it says."""

from __future__ import annotations

import pytest

from kemu.errors import ConfigError
from kemu_nfs.server.faults import CRASH_LOSE, Faults
from kemu_nfs.sunrpc.nfs3_const import NFS3ERR_IO, NFS_UNSTABLE


def test_a_delay_is_told_and_does_not_occupy_the_disk(client, server, swapfile):
    server.faults.delay(7, 5_000_000)
    answer = server.handle(client.record(7, client.write_args(swapfile, 0, b"x")))
    assert (answer.delay_ns, answer.cost_ns) == (5_000_000, 1_000_000)
    server.finish(answer)


def test_an_error_is_answered_without_doing_anything(client, server, swapfile):
    server.faults.error(7, NFS3ERR_IO)
    results = client.call(7, client.write_args(swapfile, 0, b"x"))
    assert results.unpack_uint() == NFS3ERR_IO
    assert results.wcc() == (None, None)
    results.done()
    assert client.getattr(swapfile).size == 0


@pytest.mark.parametrize(("proc", "length"), [(1, 0), (3, 4), (6, 4), (7, 8), (14, 16), (15, 12), (21, 8)])
def test_an_error_has_the_shape_of_its_procedure(client, server, proc, length):
    server.faults.error(proc, NFS3ERR_IO)
    assert client.call(proc).remaining() == 4 + length


def test_a_dropped_request_can_be_sent_again(client, server, swapfile):
    rule = server.faults.drop(7)
    record = client.record(7, client.write_args(swapfile, 0, b"x"))
    assert client.send(record) is None
    assert client.getattr(swapfile).size == 0
    assert client.send(record)[24:28] == b"\0\0\0\0"
    assert rule.met == 1


def test_a_dropped_reply_leaves_the_deed_done_and_remembered(client, server, root):
    server.faults.drop(9, reply=True)
    record = client.record(9, client.opaque(root) + client.opaque(b"d") + client.sattr())
    assert client.send(record) == b""
    assert client.send(record)[24:28] == b"\0\0\0\0"
    assert server.drc.replayed == 1


def test_a_crash_is_told_with_its_kind(client, server, swapfile):
    server.faults.crash(7)
    answer = server.handle(client.record(7, client.write_args(swapfile, 0, b"x", NFS_UNSTABLE)))
    assert (answer.record, answer.crash) == (b"", CRASH_LOSE)
    server.crash(lose_unstable=True)
    assert client.getattr(swapfile).size == 0


def test_rules_wait_and_wear_out(client, server, root):
    rule = server.faults.error(1, NFS3ERR_IO, after=2, times=2)
    statuses = [client.status(1, client.opaque(root)) for _ in range(6)]
    assert statuses == [0, 0, NFS3ERR_IO, NFS3ERR_IO, 0, 0]
    assert rule.met == 2


def test_rules_can_last_for_ever_and_mean_all(client, server, root):
    server.faults.error(None, NFS3ERR_IO, times=None)
    assert [client.status(proc, client.opaque(root)) for proc in (1, 19, 18, 1)] == [NFS3ERR_IO] * 4
    assert client.status(1, client.opaque(b"/export"), prog=100005) == 0


def test_a_duplicate_meets_no_fault(client, server, root):
    record = client.record(9, client.opaque(root) + client.opaque(b"d") + client.sattr())
    first = client.send(record)
    rule = server.faults.error(9, NFS3ERR_IO)
    assert client.send(record) == first
    assert rule.met == 0


@pytest.mark.parametrize("bad", [{"after": -1}, {"times": 0}])
def test_senseless_rules_are_refused(bad):
    with pytest.raises(ConfigError):
        Faults().delay(7, 1, **bad)
