"""Who calls: AUTH_NULL and AUTH_SYS on the server's side (2.6.23 net/sunrpc/svcauth_unix.c).

Interface
    * ``Authenticator.authenticate(record, position)``: judge credentials and verifier.

Rules of this file
    * A credential that was read once is known by its bytes, without the stamp: a client sends the same one with every call.
    * Left out: RPCSEC_GSS and AUTH_SHORT.
"""

from __future__ import annotations

from kemu_nfs.server.cred import Cred
from kemu_nfs.sunrpc.rpc_const import (
    RPC_AUTH_BADCRED,
    RPC_AUTH_BADVERF,
    RPC_AUTH_NULL,
    RPC_AUTH_OK,
    RPC_AUTH_UNIX,
    RPC_MAX_AUTH_SIZE,
    UNX_MAXNODENAME,
    UNX_NGROUPS,
)
from kemu_nfs.sunrpc.xdr import Unpacker, XdrError

NOBODY = 65534
ANONYMOUS = Cred(NOBODY, NOBODY)
CACHE_LIMIT = 256

_NO_VERIFIER = bytes(8)  # AUTH_NULL, no body


def parse_auth_unix(body: bytes) -> Cred:
    """Read the body of an AUTH_SYS credential; XdrError if it is malformed."""
    args = Unpacker(body)
    args.unpack_uint()  # the stamp
    args.unpack_opaque(UNX_MAXNODENAME)
    uid = args.unpack_uint()
    gid = args.unpack_uint()
    count = args.unpack_uint()
    if count > UNX_NGROUPS:
        raise XdrError(f"{count} groups, allowed are {UNX_NGROUPS}")
    return Cred(uid, gid, tuple([args.unpack_uint() for _ in range(count)]))


class Authenticator:
    """The credentials that one server has seen.

    :param root_squash: treat root of a client as nobody.
    :param all_as: treat everybody as this one.
    """

    def __init__(self, *, root_squash: bool = False, all_as: Cred | None = None) -> None:
        self.root_squash = root_squash
        self.all_as = all_as
        self._known: dict[bytes, Cred] = {}

    def authenticate(self, record: bytes, position: int, flavor: int, length: int) -> tuple[int, Cred, int]:
        """Judge the credentials whose body begins at ``position``: auth_stat, who it is, and where the arguments begin.

        XdrError if the record ends before the verifier does: there is nobody to answer to.
        """
        if length > RPC_MAX_AUTH_SIZE:
            return RPC_AUTH_BADCRED, ANONYMOUS, 0
        end = position + length + (-length & 3)
        if record[end : end + 8] != _NO_VERIFIER:
            verifier = Unpacker(record, end)
            verifier.unpack_uint()
            verifier.unpack_opaque(RPC_MAX_AUTH_SIZE)
            return RPC_AUTH_BADVERF, ANONYMOUS, 0
        if flavor == RPC_AUTH_UNIX:
            key = record[position + 4 : position + length]
            cred = self._known.get(key)
            if cred is None:
                try:
                    cred = parse_auth_unix(record[position : position + length])
                except XdrError:
                    return RPC_AUTH_BADCRED, ANONYMOUS, 0
                if self.all_as is not None:
                    cred = self.all_as
                elif self.root_squash and cred.uid == 0:
                    cred = ANONYMOUS
                if len(self._known) >= CACHE_LIMIT:
                    self._known.clear()
                self._known[key] = cred
            return RPC_AUTH_OK, cred, end + 8
        if flavor == RPC_AUTH_NULL and length == 0:
            return RPC_AUTH_OK, ANONYMOUS, end + 8
        return RPC_AUTH_BADCRED, ANONYMOUS, 0
