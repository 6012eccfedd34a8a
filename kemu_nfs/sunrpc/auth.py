"""Credentials of AUTH_SYS (2.6.23 net/sunrpc/auth.c, auth_unix.c; RFC 5531, 8.2).

Interface
    * :class:`UnixAuth`, one per mount: ``lookup_cred(uid, gid)`` returns a credential with one reference more, ``put_rpccred``
      drops it.
    * ``RpcCred.wire``: credential and null verifier as they stand in every call header.

Rules of this file
    * One credential per (uid, gid), kept in the cache whether or not somebody holds it: the cache itself counts no reference.
    * ``check_references(expected)`` tells a leak (b30a).
    * Left out: supplementary groups, other flavours, the cache's shrinker.
"""

from __future__ import annotations

from typing import Final

from kemu.errors import KernelBug
from kemu.kernel.core import Kernel
from kemu.mm.gfp import GFP_KERNEL
from kemu.mm.slub import Slub
from kemu_nfs.sunrpc.rpc_const import RPC_AUTH_NULL, RPC_AUTH_UNIX, UNX_MAXNODENAME
from kemu_nfs.sunrpc.xdr import Packer

UNX_CRED_SIZE: Final = 136  # sizeof(struct unx_cred)


def auth_sys_body(stamp: int, machinename: str, uid: int, gid: int, gids: tuple[int, ...] = ()) -> bytes:
    """Write an authsys_parms."""
    packer = Packer()
    packer.pack_uint(stamp & 0xFFFFFFFF)
    packer.pack_opaque(machinename.encode()[:UNX_MAXNODENAME])
    packer.pack_uint(uid)
    packer.pack_uint(gid)
    packer.pack_uint(len(gids))
    for group in gids:
        packer.pack_uint(group)
    return packer.bytes()


class RpcCred:
    """``struct rpc_cred``: who calls."""

    __slots__ = ("addr", "cr_count", "gid", "uid", "wire")

    def __init__(self, addr: int, uid: int, gid: int, wire: bytes) -> None:
        self.addr = addr
        self.uid = uid
        self.gid = gid
        self.wire = wire
        self.cr_count = 0

    def __repr__(self) -> str:
        """Name the owner."""
        return f"<rpc_cred uid={self.uid} gid={self.gid} count={self.cr_count}>"


class UnixAuth:
    """``struct rpc_auth`` of flavour AUTH_UNIX, with its cache."""

    def __init__(self, kernel: Kernel, slub: Slub) -> None:
        self.slub = slub
        self.machinename = kernel.name
        self._creds: dict[tuple[int, int], RpcCred] = {}

    def lookup_cred(self, uid: int, gid: int) -> RpcCred | None:
        """Return the credential of (uid, gid) with one reference more; None without memory (rpcauth_lookupcred())."""
        cred = self._creds.get((uid, gid))
        if cred is None:
            addr = self.slub.kmalloc(UNX_CRED_SIZE, GFP_KERNEL)
            if addr is None:
                return None
            packer = Packer()
            packer.pack_uint(RPC_AUTH_UNIX)
            packer.pack_opaque(auth_sys_body(0, self.machinename, uid, gid))
            packer.pack_uint(RPC_AUTH_NULL)
            packer.pack_uint(0)
            cred = self._creds[(uid, gid)] = RpcCred(addr, uid, gid, packer.bytes())
        cred.cr_count += 1
        return cred

    def put_rpccred(self, cred: RpcCred) -> None:
        """Drop a reference."""
        if cred.cr_count <= 0:
            raise KernelBug("put_rpccred() of a credential that nobody holds", state=cred)
        cred.cr_count -= 1

    def references(self) -> int:
        """Count the references that are held."""
        return sum(cred.cr_count for cred in self._creds.values())

    def check_references(self, expected: int) -> None:
        """Assert that exactly ``expected`` references are held."""
        held = self.references()
        if held != expected:
            raise KernelBug(f"{held} credential references are held, {expected} were expected", state=list(self._creds.values()))

    def destroy(self) -> None:
        """Free the cache; references that leaked go with it."""
        for cred in self._creds.values():
            self.slub.kfree(cred.addr)
        self._creds.clear()
