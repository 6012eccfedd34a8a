"""Credentials of AUTH_SYS and their cache (2.6.23 net/sunrpc/auth.c, auth_unix.c; RFC 5531, 8.2).

Interface
    * :class:`UnixAuth`, one per mount: ``lookup_cred(uid, gid, gids)`` returns a credential with one reference more,
      ``put_rpccred`` drops it.
    * ``RpcCred.wire``: credential and null verifier as they stand in every call header. ``AUTH_NULL``: those of a call by nobody.

Rules of this file
    * The cache is a hash by uid. A credential matches if uid, gid and up to 16 groups do. The cache itself counts no reference.
    * A credential that nobody has held for 60 s is freed when the next new one is made.
    * The server may refuse a credential as stale: it is then not up to date until crrefresh(), which for AUTH_SYS has nothing to
      ask. One that is not up to date when its last reference goes is freed at once.
    * ``check_references(expected)`` tells a leak (b30a).
    * The stamp is the time at which the credential was made. The kernel writes the time of each call.
    * Left out: other flavours, the cache's shrinker (it frees no earlier than the 60 s).
"""

from __future__ import annotations

from typing import Final

from kemu.errors import KernelBug
from kemu.kernel.core import Kernel
from kemu.kernel.timer import HZ
from kemu.mm.gfp import GFP_KERNEL
from kemu.mm.slub import Slub
from kemu_nfs.sunrpc.rpc_const import RPC_AUTH_NULL, RPC_AUTH_UNIX, UNX_MAXNODENAME, UNX_NGROUPS
from kemu_nfs.sunrpc.xdr import Packer

UNX_CRED_SIZE: Final = 136  # sizeof(struct unx_cred)
UNX_CRED_EXPIRE: Final = 60 * HZ
RPC_CREDCACHE_NR: Final = 16
AUTH_NULL: Final = bytes(16)  # null credential and null verifier


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
    """``struct rpc_cred`` inside a ``struct unx_cred``: who calls.

    :ivar up_to_date: RPCAUTH_CRED_UPTODATE: the server has not refused it.
    :ivar cr_expire: when its last reference went.
    """

    __slots__ = ("addr", "cr_count", "cr_expire", "gid", "gids", "uid", "up_to_date", "wire")

    def __init__(self, addr: int, uid: int, gid: int, gids: tuple[int, ...], wire: bytes) -> None:
        self.addr = addr
        self.uid = uid
        self.gid = gid
        self.gids = gids
        self.wire = wire
        self.up_to_date = True
        self.cr_count = 0
        self.cr_expire = 0

    def crrefresh(self) -> int:
        """Make it good again (unx_refresh()): 0 or -errno."""
        self.up_to_date = True
        return 0

    def __repr__(self) -> str:
        """Name the owner."""
        return f"<rpc_cred uid={self.uid} gid={self.gid} count={self.cr_count}>"


class UnixAuth:
    """``struct rpc_auth`` of flavour AUTH_UNIX, with its cache."""

    def __init__(self, kernel: Kernel, slub: Slub) -> None:
        self.slub = slub
        self.sched = kernel.sched
        self.machinename = kernel.name
        self._hashtable: list[list[RpcCred]] = [[] for _ in range(RPC_CREDCACHE_NR)]

    def lookup_cred(self, uid: int, gid: int, gids: tuple[int, ...] = ()) -> RpcCred | None:
        """Return a caller's credential with one reference more; None without memory (rpcauth_lookup_credcache(), unx_match())."""
        for cred in self._hashtable[uid % RPC_CREDCACHE_NR]:
            if cred.uid == uid and cred.gid == gid and cred.gids == gids[:UNX_NGROUPS]:
                cred.cr_count += 1
                return cred
        return self._unx_create_cred(uid, gid, gids[:UNX_NGROUPS])

    def _unx_create_cred(self, uid: int, gid: int, gids: tuple[int, ...]) -> RpcCred | None:
        """Make a credential and put it into the cache (unx_create_cred()); may sleep."""
        self._rpcauth_gc_credcache()
        addr = self.slub.kmalloc(UNX_CRED_SIZE, GFP_KERNEL)
        if addr is None:
            return None
        bucket = self._hashtable[uid % RPC_CREDCACHE_NR]
        for cred in bucket:
            if cred.uid == uid and cred.gid == gid and cred.gids == gids:  # somebody made it while this one slept
                self.slub.kfree(addr)
                break
        else:
            packer = Packer()
            packer.pack_uint(RPC_AUTH_UNIX)
            packer.pack_opaque(auth_sys_body(self.sched.jiffies // HZ, self.machinename, uid, gid, gids))
            packer.pack_uint(RPC_AUTH_NULL)
            packer.pack_uint(0)
            cred = RpcCred(addr, uid, gid, gids, packer.bytes())
            bucket.insert(0, cred)
        cred.cr_count += 1
        return cred

    def put_rpccred(self, cred: RpcCred) -> None:
        """Drop a reference (put_rpccred())."""
        if cred.cr_count <= 0:
            raise KernelBug("put_rpccred() of a credential that nobody holds", state=cred)
        cred.cr_count -= 1
        if not cred.cr_count:
            cred.cr_expire = self.sched.jiffies
            if not cred.up_to_date:
                self._crdestroy(cred)

    def _rpcauth_gc_credcache(self) -> None:
        """Free what nobody has held for UNX_CRED_EXPIRE (rpcauth_prune_expired())."""
        expired = self.sched.jiffies - UNX_CRED_EXPIRE
        for cred in self.creds():
            if not cred.cr_count and cred.cr_expire <= expired:
                self._crdestroy(cred)

    def _crdestroy(self, cred: RpcCred) -> None:
        """Take a credential out of the cache and free it."""
        self._hashtable[cred.uid % RPC_CREDCACHE_NR].remove(cred)
        self.slub.kfree(cred.addr)

    def creds(self) -> list[RpcCred]:
        """List the cache."""
        return [cred for bucket in self._hashtable for cred in bucket]

    def references(self) -> int:
        """Count the references that are held."""
        return sum(cred.cr_count for cred in self.creds())

    def check_references(self, expected: int) -> None:
        """Assert that exactly ``expected`` references are held."""
        held = self.references()
        if held != expected:
            raise KernelBug(f"{held} credential references are held, {expected} were expected", state=self.creds())

    def destroy(self) -> None:
        """Free the cache; references that leaked go with it."""
        for cred in self.creds():
            self._crdestroy(cred)
