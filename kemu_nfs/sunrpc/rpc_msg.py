"""The envelope of ONC RPC (RFC 5531): headers of calls and replies, on the client's side.

Interface
    * ``call_header(xid, prog, vers, proc, cred_wire)``: bytes of a call up to its arguments.
    * ``decode_reply(data)``: (0, offset of the results), or (a reason, 0); see REPLY_*.

Rules of this file
    * No bytes raise anything: what cannot be read is REPLY_GARBAGE.
"""

from __future__ import annotations

import struct
from typing import Final

from kemu_nfs.sunrpc.rpc_const import (
    RPC_AUTH_BADCRED,
    RPC_AUTH_BADVERF,
    RPC_AUTH_ERROR,
    RPC_AUTH_REJECTEDCRED,
    RPC_AUTH_REJECTEDVERF,
    RPC_AUTH_TOOWEAK,
    RPC_CALL,
    RPC_GARBAGE_ARGS,
    RPC_MAX_AUTH_SIZE,
    RPC_MISMATCH,
    RPC_MSG_ACCEPTED,
    RPC_PROC_UNAVAIL,
    RPC_PROG_MISMATCH,
    RPC_PROG_UNAVAIL,
    RPC_REPLY,
    RPC_SYSTEM_ERR,
    RPC_VERSION,
)

REPLY_OK: Final = 0
REPLY_GARBAGE: Final = 1  # not a reply, or cut off
REPLY_DENIED_VERSION: Final = 2
REPLY_DENIED_AUTH: Final = 3  # for a reason that is none of the next three
REPLY_PROG_UNAVAIL: Final = 4
REPLY_PROG_MISMATCH: Final = 5
REPLY_PROC_UNAVAIL: Final = 6
REPLY_GARBAGE_ARGS: Final = 7
REPLY_SYSTEM_ERR: Final = 8
REPLY_AUTH_STALE: Final = 9  # a credential or verifier that must be made anew
REPLY_AUTH_GARBLED: Final = 10  # one that the server could not read
REPLY_AUTH_TOOWEAK: Final = 11
REPLY_ODD: Final = 12  # not a multiple of four bytes, or refused for a reason that does not exist

_CALL = struct.Struct("!IIIIII")
_REPLY = struct.Struct("!IIIIII")  # xid, type, stat, verifier flavour, verifier length, accept_stat
_UINT = struct.Struct("!I")

_ACCEPT: Final = {
    RPC_PROG_UNAVAIL: REPLY_PROG_UNAVAIL,
    RPC_PROG_MISMATCH: REPLY_PROG_MISMATCH,
    RPC_PROC_UNAVAIL: REPLY_PROC_UNAVAIL,
    RPC_GARBAGE_ARGS: REPLY_GARBAGE_ARGS,
    RPC_SYSTEM_ERR: REPLY_SYSTEM_ERR,
}
_AUTH: Final = {
    RPC_AUTH_REJECTEDCRED: REPLY_AUTH_STALE,
    RPC_AUTH_REJECTEDVERF: REPLY_AUTH_STALE,
    RPC_AUTH_BADCRED: REPLY_AUTH_GARBLED,
    RPC_AUTH_BADVERF: REPLY_AUTH_GARBLED,
    RPC_AUTH_TOOWEAK: REPLY_AUTH_TOOWEAK,
}
_NULL_VERIFIER: Final = (RPC_REPLY, RPC_MSG_ACCEPTED, 0, 0, 0)


def call_header(xid: int, prog: int, vers: int, proc: int, cred_wire: bytes) -> bytes:
    """Write a call up to its arguments."""
    return _CALL.pack(xid, RPC_CALL, RPC_VERSION, prog, vers, proc) + cred_wire


def decode_reply(data: bytes) -> tuple[int, int]:
    """Judge a reply's envelope (call_verify()): (REPLY_OK, offset of the results), or (what is wrong, 0)."""
    size = len(data)
    if size >= 24 and not size & 3 and _REPLY.unpack_from(data)[1:] == _NULL_VERIFIER:
        return REPLY_OK, 24
    if size & 3:
        return REPLY_ODD, 0
    if size < 12:
        return REPLY_GARBAGE, 0
    _, mtype, stat = struct.unpack_from("!III", data)
    if mtype != RPC_REPLY:
        return REPLY_GARBAGE, 0
    if stat != RPC_MSG_ACCEPTED:
        return _denied(data, size), 0
    if size < 20:
        return REPLY_GARBAGE, 0
    length = _UINT.unpack_from(data, 16)[0]
    offset = 20 + length + (-length & 3)
    if length > RPC_MAX_AUTH_SIZE or offset + 4 > size:
        return REPLY_GARBAGE, 0
    accept = _UINT.unpack_from(data, offset)[0]
    if accept == 0:
        return REPLY_OK, offset + 4
    return _ACCEPT.get(accept, REPLY_GARBAGE), 0


def _denied(data: bytes, size: int) -> int:
    """Judge a refusal, which may be cut off."""
    if size < 16:
        return REPLY_GARBAGE
    reject = _UINT.unpack_from(data, 12)[0]
    if reject != RPC_AUTH_ERROR:
        return REPLY_DENIED_VERSION if reject == RPC_MISMATCH else REPLY_ODD
    if size < 20:
        return REPLY_GARBAGE
    return _AUTH.get(_UINT.unpack_from(data, 16)[0], REPLY_DENIED_AUTH)
