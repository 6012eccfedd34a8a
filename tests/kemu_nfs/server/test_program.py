"""What the server asks of a program: any table of procedures can be served, beside NFS and MOUNT."""

from __future__ import annotations

import struct

import pytest

from kemu_nfs.server.cred import Cred
from kemu_nfs.server.program import Call, Procedure
from kemu_nfs.server.rpc_server import RpcServer
from nfs_speaker import Client

ECHO, SUM = 1, 2


class Echo:
    """A program of one's own, versions 2 to 4."""

    number = 200_000
    versions = (2, 4)
    needs_cred = False
    fast_cost_ns = 5

    def __init__(self):
        self.procedures = {
            0: Procedure("NULL", self.null),
            ECHO: Procedure("ECHO", self.echo),
            SUM: Procedure("SUM", self.sum, True),
        }
        self.fast = {}
        self.ran = []
        self.boots = 0

    def null(self, call, args, out):
        pass

    def echo(self, call, args, out):
        out.pack_opaque(args.unpack_opaque(100))
        call.cost_ns = 7

    def sum(self, call, args, out):
        numbers = args.unpack_uint(), args.unpack_uint()
        self.ran.append((call.client, call.cred.uid, numbers))
        out.pack_uint(sum(numbers))

    def reboot(self):
        self.boots += 1


@pytest.fixture
def program():
    return Echo()


@pytest.fixture
def caller(program):
    caller = Client(RpcServer([program]), uid=500)
    caller.ask = lambda proc, args=b"", **how: caller.call(proc, args, prog=200_000, vers=how.pop("vers", 3), **how)
    return caller


def test_a_procedure_decodes_acts_and_encodes(caller):
    assert caller.ask(ECHO, caller.opaque(b"abc")).unpack_opaque() == b"abc"
    assert caller.cost_ns == 7


def test_a_procedure_is_told_who_calls(caller, program):
    caller.ask(SUM, caller.words(2, 3))
    assert program.ran == [(caller.address, 500, (2, 3))]


def test_a_cached_procedure_runs_once_per_request(caller, program):
    record = caller.record(SUM, caller.words(2, 3), prog=200_000, vers=3)
    assert caller.send(record) == caller.send(record)
    assert len(program.ran) == 1


def test_versions_are_a_range(caller):
    for vers in (2, 3, 4):
        assert caller.ask(0, vers=vers).remaining() == 0
    reply = caller.send(caller.record(0, prog=200_000, vers=5, xid=1))
    assert struct.unpack("!8I", reply) == (1, 1, 0, 0, 0, 2, 2, 4)


def test_a_fast_way_is_asked_first_and_may_decline(caller, program):
    asked = []

    def fast(_xid, record, position, _cred):
        asked.append(record[position:])
        return

    program.fast[ECHO] = fast
    assert caller.ask(ECHO, caller.opaque(b"abcd")).unpack_opaque() == b"abcd"
    assert asked == [caller.opaque(b"abcd")]


def test_programs_are_told_of_a_new_life(caller, program):
    caller.server.restart()
    assert program.boots == 1


def test_a_call_begins_free_of_cost():
    call = Call(1, 2, Cred(3, 4))
    assert (call.xid, call.client, call.cred, call.cost_ns) == (1, 2, Cred(3, 4), 0)
