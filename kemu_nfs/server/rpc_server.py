"""The RPC server without I/O: the bytes of a call in, the bytes of its reply out (2.6.23 net/sunrpc/svc.c: svc_process()).

Interface
    * ``RpcServer(programs)``; ``handle(record, now_ns, client)`` gives an ``Answer``, or None when nothing shall be said.
    * ``finish(answer)``: its reply left, so that a duplicate gets the same again. Until then duplicates are dropped.
    * ``crash(lose_unstable)`` and ``restart()``: the end of a life and the beginning of the next.
    * ``nfs_server(clock)``: a server with NFS, MOUNT and one export, ready to be asked.

Rules of this file
    * No bytes whatsoever make it raise. What is no call, or too short to tell whose call it is, is dropped; all else is answered:
      RPC_MISMATCH, AUTH_ERROR, PROG_UNAVAIL, PROG_MISMATCH, PROC_UNAVAIL, GARBAGE_ARGS.
    * What a call takes of the disk is in the answer, ``cost_ns``; who has a clock and a disk lets it pass (nfsd.py). The work
      itself is done when handle() returns.
    * Procedures that are cached (drc.py) are executed once per request. Faults (faults.py) act on execution.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

from kemu_nfs.server.cred import Cred
from kemu_nfs.server.drc import CacheEntry, DuplicateRequestCache
from kemu_nfs.server.faults import CRASH, CRASH_LOSE, DELAY, DROP, DROP_REPLY, ERROR, FaultRule, Faults
from kemu_nfs.server.filetree import FileTree
from kemu_nfs.server.mount_proc import Export, MountProgram
from kemu_nfs.server.nfs3_file import ServerCosts
from kemu_nfs.server.nfs3_proc import Nfs3Program
from kemu_nfs.server.program import Call, Procedure, RpcProgram
from kemu_nfs.server.svc_auth import Authenticator
from kemu_nfs.server.tree import Tree
from kemu_nfs.sunrpc.rpc_const import (
    RPC_AUTH_ERROR,
    RPC_AUTH_NULL,
    RPC_AUTH_TOOWEAK,
    RPC_CALL,
    RPC_GARBAGE_ARGS,
    RPC_LAST_STREAM_FRAGMENT,
    RPC_MISMATCH,
    RPC_MSG_ACCEPTED,
    RPC_MSG_DENIED,
    RPC_PROC_UNAVAIL,
    RPC_PROG_MISMATCH,
    RPC_PROG_UNAVAIL,
    RPC_REPLY,
    RPC_SUCCESS,
    RPC_VERSION,
)
from kemu_nfs.sunrpc.xdr import XDR_FALSE, Packer, Unpacker, XdrError

_CALL_HEAD = struct.Struct("!8I")  # xid CALL rpcvers prog vers proc, flavor and length of the credentials
_ACCEPTED = struct.Struct("!7I")  # mark, xid REPLY ACCEPTED, verifier (NULL, 0), accept_stat
_WORD = struct.Struct("!I")


class Answer:
    """What the server says to one call.

    :param record: the reply as one record-marked fragment; empty if it must not be sent.
    :param cost_ns: what the call takes of the disk; ``delay_ns``: what it takes besides, without occupying the disk.
    :param crash: CRASH or CRASH_LOSE if the power fails now, before the reply.
    """

    __slots__ = ("cost_ns", "crash", "delay_ns", "entry", "record")

    def __init__(self, record: bytes, cost_ns: int = 0, entry: CacheEntry | None = None) -> None:
        self.record = record
        self.cost_ns = cost_ns
        self.entry = entry
        self.delay_ns = 0
        self.crash: str | None = None

    @property
    def reply(self) -> bytes:
        """The reply as a datagram: without the mark."""
        return self.record[4:]


def accepted(xid: int, accept_stat: int, results: bytes = b"") -> bytes:
    """Build the record of an accepted call."""
    mark = RPC_LAST_STREAM_FRAGMENT | (24 + len(results))
    return b"".join((_ACCEPTED.pack(mark, xid, RPC_REPLY, RPC_MSG_ACCEPTED, 0, 0, accept_stat), results))


def denied(xid: int, reject_stat: int, *words: int) -> bytes:
    """Build the record of a denied call."""
    count = 4 + len(words)
    return struct.pack(f"!{count + 1}I", RPC_LAST_STREAM_FRAGMENT | 4 * count, xid, RPC_REPLY, RPC_MSG_DENIED, reject_stat, *words)


class RpcServer:
    """A server of some programs.

    :param programs: their numbers differ.
    :param use_drc: keep a duplicate request cache; without it a request that comes twice is executed twice.
    """

    def __init__(
        self, programs: list[RpcProgram], *, use_drc: bool = True, root_squash: bool = False, all_as: Cred | None = None
    ) -> None:
        self.programs = {program.number: program for program in programs}
        self.use_drc = use_drc
        self.drc = DuplicateRequestCache()
        self.faults = Faults()
        self.auth = Authenticator(root_squash=root_squash, all_as=all_as)
        self.calls = 0
        self.garbage = 0
        self.now_ns = 0
        self.counts: dict[tuple[int, int], int] = {}  # (program, procedure) -> executions

    def handle(self, record: bytes, now_ns: int = 0, client: int = 0) -> Answer | None:
        """Execute one call; ``client`` is the IPv4 address that it came from."""
        self.now_ns = now_ns
        self.calls += 1
        if len(record) < 32:
            self.garbage += 1  # too short for a call's head: not even the xid can be trusted
            return None
        xid, direction, rpcvers, prog, vers, proc, flavor, length = _CALL_HEAD.unpack_from(record)
        if direction != RPC_CALL:
            self.garbage += 1
            return None
        if rpcvers != RPC_VERSION:
            return Answer(denied(xid, RPC_MISMATCH, RPC_VERSION, RPC_VERSION))
        try:
            auth_stat, cred, position = self.auth.authenticate(record, 32, flavor, length)
        except XdrError:
            self.garbage += 1
            return None
        if auth_stat:
            return Answer(denied(xid, RPC_AUTH_ERROR, auth_stat))
        program = self.programs.get(prog)
        if program is None:
            return Answer(accepted(xid, RPC_PROG_UNAVAIL))
        low, high = program.versions
        if not low <= vers <= high:
            return Answer(accepted(xid, RPC_PROG_MISMATCH, struct.pack("!2I", low, high)))
        procedure = program.procedures.get(proc)
        if procedure is None:
            return Answer(accepted(xid, RPC_PROC_UNAVAIL))
        if flavor == RPC_AUTH_NULL and proc and program.needs_cred:
            return Answer(denied(xid, RPC_AUTH_ERROR, RPC_AUTH_TOOWEAK))

        entry: CacheEntry | None = None
        if procedure.cached and self.use_drc:
            key = (client, xid, prog << 8 | vers, proc, zlib.crc32(memoryview(record)[position:]))
            entry = self.drc.lookup(key, now_ns)
            if entry.hits:
                # still being worked at: say nothing, the first one will be answered
                return None if entry.busy or entry.reply is None else Answer(entry.reply)
        if self.faults.rules:
            return self._with_faults(program, proc, procedure, xid, record, position, client, cred, entry)
        counted = prog, proc
        self.counts[counted] = self.counts.get(counted, 0) + 1
        fast = program.fast.get(proc)
        if fast is not None:
            reply = fast(xid, record, position, cred)
            if reply is not None:
                if entry is not None:
                    entry.reply = reply
                return Answer(reply, program.fast_cost_ns, entry)
        return self._execute(procedure, Call(xid, client, cred), record, position, entry)

    def _execute(self, procedure: Procedure, call: Call, record: bytes, position: int, entry: CacheEntry | None) -> Answer:
        """Execute a call the plain way."""
        out = Packer()
        try:
            procedure.run(call, Unpacker(record, position), out)
        except XdrError:
            # decoding precedes every deed, so nothing has happened
            self.garbage += 1
            if entry is not None:
                self.drc.forget(entry)
            return Answer(accepted(call.xid, RPC_GARBAGE_ARGS))
        reply = accepted(call.xid, RPC_SUCCESS, out.bytes())
        if entry is not None:
            entry.reply = reply
        return Answer(reply, call.cost_ns, entry)

    def _with_faults(
        self,
        program: RpcProgram,
        proc: int,
        procedure: Procedure,
        xid: int,
        record: bytes,
        position: int,
        client: int,
        cred: Cred,
        entry: CacheEntry | None,
    ) -> Answer | None:
        """Execute a call the plain way, and let the rules spoil it."""
        rule = self.faults.match(program.number, proc)
        if rule is not None and rule.action in (DROP, ERROR):
            if entry is not None:
                self.drc.forget(entry)
            return None if rule.action == DROP else Answer(accepted(xid, RPC_SUCCESS, self._failure(procedure, rule)))
        counted = program.number, proc
        self.counts[counted] = self.counts.get(counted, 0) + 1
        answer = self._execute(procedure, Call(xid, client, cred), record, position, entry)
        if rule is None:
            return answer
        if rule.action == DELAY:
            answer.delay_ns = rule.value
        elif rule.action == DROP_REPLY:
            answer.record = b""
        elif rule.action in (CRASH, CRASH_LOSE):
            answer.record = b""
            answer.crash = rule.action
        return answer

    def _failure(self, procedure: Procedure, rule: FaultRule) -> bytes:
        """Build the results of a procedure that fails without telling any attributes."""
        return _WORD.pack(rule.value & 0xFFFFFFFF) + XDR_FALSE * procedure.failure_words

    def finish(self, answer: Answer) -> None:
        """Note that the reply left, or was lost on its way out: duplicates get it again."""
        if answer.entry is not None:
            self.drc.finish(answer.entry)

    def restart(self, *, memory_lost: bool = True) -> None:
        """Begin a new life: the write verifier is another, and memory is empty if it was lost."""
        if memory_lost:
            self.drc.clear()
        else:
            self.drc.settle()
        for program in self.programs.values():
            program.reboot()


class NfsServer(RpcServer):
    """A server of NFS and MOUNT on one tree.

    :param tree: the file system; it outlives every crash, except for what was not stable.
    """

    def __init__(
        self,
        tree: Tree,
        *,
        exports: tuple[Export, ...] = (Export(),),
        costs: ServerCosts | None = None,
        rsize: int = 32768,
        read_only: bool = False,
        use_drc: bool = True,
        root_squash: bool = False,
        all_as: Cred | None = None,
    ) -> None:
        self.tree = tree
        self.nfs = Nfs3Program(tree, costs=costs, rsize=rsize, read_only=read_only)
        self.mount = MountProgram(tree, exports)
        super().__init__([self.nfs, self.mount], use_drc=use_drc, root_squash=root_squash, all_as=all_as)

    def crash(self, lose_unstable: bool = True) -> int:
        """Let the power fail and come back; return how many blocks were lost."""
        lost = self.tree.crash(lose_unstable)
        self.restart()
        return lost

    def check(self) -> None:
        """Assert the invariants of all parts."""
        self.tree.check()
        self.drc.check()


def nfs_server(clock: Callable[[], int] = lambda: 0) -> NfsServer:
    """Make a server with one export, /export, as most tests and scenarios want it."""
    return NfsServer(FileTree(clock))
