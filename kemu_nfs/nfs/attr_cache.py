"""The attribute cache of NFS inodes: how long it holds, and what a reply does to it (2.6.24 fs/nfs/inode.c; patch 29).

Interface
    * :class:`AttrTimeouts`: acregmin, acregmax, acdirmin, acdirmax of a mount, in jiffies.
    * :class:`AttrCache`, a part of NfsInodes: ``nfs_revalidate_inode``, ``nfs_revalidate_mapping``, ``nfs_refresh_inode`` and its
      relatives for replies of calls that changed something, ``nfs_zap_caches``, ``nfs_zap_mapping``.

Rules of this file
    * Attributes stay the 84 bytes that the server sent. They are good for ``attrtimeo`` jiffies from the start of the call that
      brought them; each time they are found unchanged after that, attrtimeo doubles, up to the maximum. A change sets it back.
    * Weak cache consistency: what the server says of the time before our call tells whether only we have changed the file. Then
      nothing is invalidated. A server that says nothing of before a WRITE is believed to have seen nobody else.
    * A reply to a call that began before the last full update is only compared (nfs_check_inode_attributes()): it may make us ask
      again, it never puts older attributes in the place of newer ones.
    * With requests outstanding the local size counts: a smaller size at the server is older than our writes.
    * Another fileid, or another type of file, behind the same handle: the inode is stale, for good (-ESTALE). So is one whose
      GETATTR says ESTALE, but for directories: they may be looked up again.
    * The cached pages go when somebody uses the file next, dirty ones after they were written (invalidate_inode_pages2()). Of a
      swap file they never go (patch 29).
    * Left out: delegations, ACLs, access times as such, one revalidation at a time (two tasks may ask the same twice).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from kemu.kernel.errno import EIO, ESTALE
from kemu.kernel.timer import HZ
from kemu_nfs.nfs.nfs3proc import Nfs3Calls
from kemu_nfs.nfs.nfs3xdr import PROC_GETATTR, Nfs3Result
from kemu_nfs.sunrpc.nfs3_const import NF3DIR, NF3LNK, NF3REG

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.filemap import Filemap
    from kemu_nfs.nfs.inode import NfsInode
    from kemu_nfs.nfs.nfs_client import NfsModule

NFS_INO_INVALID_ATTR: Final = 0x0001  # cached attributes are invalid
NFS_INO_INVALID_DATA: Final = 0x0002  # cached data is older than the server's
NFS_INO_INVALID_ATIME: Final = 0x0004
NFS_INO_INVALID_ACCESS: Final = 0x0008  # cached answers of ACCESS are invalid
NFS_INO_REVAL_PAGECACHE: Final = 0x0020  # ask the server before cached pages are used
NFS_INO_REVAL_FORCED: Final = 0x0040

_CHANGED: Final = NFS_INO_INVALID_ATTR | NFS_INO_REVAL_PAGECACHE  # what our own call leaves behind, unless its reply settles it
_SETTLED: Final = ~(NFS_INO_INVALID_ATTR | NFS_INO_INVALID_ATIME | NFS_INO_REVAL_FORCED | NFS_INO_REVAL_PAGECACHE)

LLONG_MAX: Final = (1 << 63) - 1
_DIR: Final = NF3DIR.to_bytes(4, "big")
_CACHED_TYPES: Final = (NF3REG.to_bytes(4, "big"), _DIR, NF3LNK.to_bytes(4, "big"))


@attrs.frozen
class AttrTimeouts:
    """How long attributes are good, in jiffies; all 0 is ``noac``."""

    acregmin: int = 3 * HZ
    acregmax: int = 60 * HZ
    acdirmin: int = 30 * HZ
    acdirmax: int = 60 * HZ


def nfs_size_to_loff_t(attr: bytes) -> int:
    """Return the size in a server's attributes, as far as a loff_t can say it."""
    return min(int.from_bytes(attr[20:28], "big"), LLONG_MAX - 1)


class AttrCache:
    """What is done with the attributes of inodes.

    :ivar timeouts: the mount's; mount.py sets them.
    """

    def __init__(self, module: NfsModule) -> None:
        self.module = module
        self.kernel: Kernel = module.kernel
        self.patched = module.patched
        self.fixed = module.fixed
        self.sched = module.sched
        self.filemap: Filemap = module.filemap
        self.stats = module.stats
        self.timeouts = AttrTimeouts()

    # -- how good they are -----------------------------------------------------------------------------------------------------

    def min_attrtimeo(self, nfsi: NfsInode) -> int:
        """Return for how long attributes are good at first (NFS_MINATTRTIMEO())."""
        return self.timeouts.acdirmin if nfsi.attr[:4] == _DIR else self.timeouts.acregmin

    def _max_attrtimeo(self, nfsi: NfsInode) -> int:
        return self.timeouts.acdirmax if nfsi.attr[:4] == _DIR else self.timeouts.acregmax

    def nfs_attribute_timeout(self, nfsi: NfsInode) -> bool:
        """Tell whether the attributes are too old to be believed (nfs_attribute_timeout())."""
        if not nfsi.attrtimeo:
            return True
        return not 0 <= self.sched.jiffies - nfsi.read_cache_jiffies <= nfsi.attrtimeo

    def nfs_zap_caches(self, nfsi: NfsInode) -> None:
        """Believe nothing that is cached (nfs_zap_caches())."""
        nfsi.attrtimeo = self.min_attrtimeo(nfsi)
        nfsi.attrtimeo_timestamp = self.sched.jiffies
        nfsi.cache_validity |= NFS_INO_INVALID_ATTR | NFS_INO_INVALID_ACCESS
        if nfsi.attr[:4] in _CACHED_TYPES:
            nfsi.cache_validity |= NFS_INO_INVALID_DATA | NFS_INO_REVAL_PAGECACHE

    def nfs_zap_mapping(self, nfsi: NfsInode) -> None:
        """Do not believe the cached pages, if there are any (nfs_zap_mapping())."""
        if nfsi.mapping.nrpages:
            nfsi.cache_validity |= NFS_INO_INVALID_DATA

    def nfs_invalidate_inode(self, nfsi: NfsInode) -> None:
        """Give an inode up: its handle is another file's now (nfs_invalidate_inode())."""
        nfsi.stale = True
        self.nfs_zap_caches(nfsi)

    def nfs_mark_stale(self, nfsi: NfsInode) -> None:
        """Take note that a READ was answered with ESTALE (nfs_readpage_result(), nfs_mark_for_revalidate())."""
        nfsi.stale = True
        nfsi.cache_validity |= NFS_INO_INVALID_ATTR | NFS_INO_INVALID_ACCESS | NFS_INO_REVAL_PAGECACHE

    # -- asking the server -----------------------------------------------------------------------------------------------------

    def revalidate_now(self, nfsi: NfsInode) -> int:
        """Ask the server for the attributes: 0 or -errno (__nfs_revalidate_inode())."""
        if nfsi.stale:
            return -ESTALE
        start = self.sched.jiffies
        result = Nfs3Calls(self.module, nfsi.server).call(PROC_GETATTR, nfsi.fh_wire)
        if isinstance(result, int):
            if result == -ESTALE:
                self.nfs_zap_caches(nfsi)
                nfsi.stale = nfsi.attr[:4] != _DIR
            return result
        assert result.fattr is not None
        return self._update_inode(nfsi, result.fattr, None, start)

    def nfs_revalidate_inode(self, nfsi: NfsInode) -> int:
        """Ask the server, unless what is cached is still good: 0 or -errno (nfs_revalidate_inode())."""
        if nfsi.attr and not nfsi.cache_validity & NFS_INO_INVALID_ATTR and not self.nfs_attribute_timeout(nfsi):
            return -ESTALE if nfsi.stale else 0
        return self.revalidate_now(nfsi)

    def nfs_revalidate_mapping(self, nfsi: NfsInode) -> int:
        """Drop cached pages that are older than the server's data: 0 or -errno (nfs_revalidate_mapping_nolock())."""
        if self.patched.nfs_no_revalidate and nfsi.inode.is_swapfile:  # [p29]
            return 0
        if nfsi.cache_validity & NFS_INO_REVAL_PAGECACHE or nfsi.stale or self.nfs_attribute_timeout(nfsi):
            error = self.revalidate_now(nfsi)
            if error < 0:
                return error
        if nfsi.cache_validity & NFS_INO_INVALID_DATA:
            return self._invalidate_mapping(nfsi)
        return 0

    def _invalidate_mapping(self, nfsi: NfsInode) -> int:
        """Drop all cached pages (nfs_invalidate_mapping_nolock()).

        A page that waits for a COMMIT cannot be dropped. The base fails with -EIO then; later kernels commit first, and so do we.
        """
        if nfsi.mapping.nrpages:
            assert nfsi.server.a_ops is not None
            error = nfsi.server.a_ops.write.nfs_wb_all(nfsi) if nfsi.npages else 0
            error = error or self.filemap.invalidate_inode_pages2(nfsi.mapping)
            if error < 0:
                return error
        nfsi.cache_validity &= ~NFS_INO_INVALID_DATA
        self.stats.invalidations += 1
        return 0

    # -- attributes that come with replies ---------------------------------------------------------------------------------------

    def nfs_refresh_inode(self, nfsi: NfsInode, result: Nfs3Result, start: int | None = None) -> int:
        """Take attributes that came with a reply: 0 or -errno (nfs_refresh_inode()).

        :param start: the jiffy at which the call began. Who does not know it leaves the order of replies to the server's ctime.
        """
        attr = result.fattr
        if attr is None:
            return 0
        old = nfsi.attr
        if start is None:
            start = self.sched.jiffies
            newer = attr[76:84] >= old[76:84]
        else:
            newer = start > nfsi.last_updated or not old
        same = attr == old or (attr[:60] == old[:60] and attr[68:] == old[68:])  # all but the access time, as most READs say
        if same and int.from_bytes(attr[20:28], "big") == nfsi.inode.size:
            nfsi.read_cache_jiffies = start
            if newer:
                self._settle(nfsi, attr)
            elif attr[60:68] != old[60:68]:
                nfsi.cache_validity |= NFS_INO_INVALID_ATIME
            return 0
        if newer:
            return self._update_inode(nfsi, attr, result.pre_op, start)
        return self._check_inode_attributes(nfsi, attr, result.pre_op, start)

    def nfs_post_op_update_inode(self, nfsi: NfsInode, result: Nfs3Result, start: int | None = None) -> int:
        """Take the attributes after a call that changed the file, if the server gives them (nfs_post_op_update_inode())."""
        nfsi.cache_validity |= _CHANGED | (NFS_INO_INVALID_DATA if nfsi.attr[:4] == _DIR else 0)
        return self.nfs_refresh_inode(nfsi, result, start)

    def nfs_post_op_update_inode_force_wcc(self, nfsi: NfsInode, result: Nfs3Result, start: int) -> int:
        """Take the attributes after a WRITE (nfs_post_op_update_inode_force_wcc()).

        Most WRITEs, all of swap among them, change nothing but the times: that is seen with a few looks at the bytes.
        """
        attr = result.fattr
        old = nfsi.attr
        if attr is None or not old:
            return self.nfs_post_op_update_inode(nfsi, result, start)
        before = result.pre_op
        if before is None:
            before = result.pre_op = nfsi.inode.size.to_bytes(8, "big") + old[68:84]
        only_times = attr[:28] == old[:28] and attr[52:60] == old[52:60] and before[8:] == old[68:84]
        if not only_times or int.from_bytes(attr[20:28], "big") != nfsi.inode.size:
            return self.nfs_post_op_update_inode(nfsi, result, start)
        nfsi.read_cache_jiffies = start
        if start > nfsi.last_updated:
            self._settle(nfsi, attr)
        else:
            nfsi.attr = attr
            nfsi.cache_validity |= _CHANGED
        return 0

    def _settle(self, nfsi: NfsInode, attr: bytes) -> None:
        """Take attributes that make nothing invalid."""
        nfsi.attr = attr
        nfsi.cache_validity &= _SETTLED
        nfsi.last_updated = now = self.sched.jiffies
        if now - nfsi.attrtimeo_timestamp > nfsi.attrtimeo:
            self._grow_attrtimeo(nfsi, now)

    def _grow_attrtimeo(self, nfsi: NfsInode, now: int) -> None:
        """Trust attributes for longer that did not change."""
        nfsi.attrtimeo = min(2 * nfsi.attrtimeo, self._max_attrtimeo(nfsi))
        nfsi.attrtimeo_timestamp = now

    def _is_same_object(self, nfsi: NfsInode, attr: bytes) -> bool:
        """Compare fileid and type with what we know."""
        old = nfsi.attr
        return not old or (attr[52:60] == old[52:60] and attr[:4] == old[:4])

    def _update_inode(self, nfsi: NfsInode, attr: bytes, before: bytes | None, start: int) -> int:
        """Put new attributes in the place of the old ones, and find out what is no longer good (nfs_update_inode())."""
        if not self._is_same_object(nfsi, attr):
            if attr[52:60] != nfsi.attr[52:60]:
                expected, got = (int.from_bytes(data[52:60], "big") for data in (nfsi.attr, attr))
                self.kernel.printk.ratelimited(
                    "nfs fileid",
                    f"NFS: server {nfsi.server.name} error: fileid changed, expected fileid {expected:#x}, got {got:#x}",
                    "err",
                )
            self.nfs_invalidate_inode(nfsi)
            return -ESTALE
        old = nfsi.attr or attr
        now = self.sched.jiffies
        nfsi.read_cache_jiffies = start
        nfsi.last_updated = now
        nfsi.cache_validity &= _SETTLED
        nfsi.attr = attr
        invalid = self._compare_sizes(nfsi, attr, before)
        mtime, ctime = (before[8:16], before[16:24]) if before is not None else (b"", b"")
        if mtime == old[68:76]:
            if attr[:4] == _DIR:
                nfsi.cache_validity |= NFS_INO_INVALID_DATA
        elif attr[68:76] != old[68:76]:
            invalid |= NFS_INO_INVALID_ATTR | NFS_INO_INVALID_DATA
        if ctime != old[76:84] and attr[76:84] != old[76:84]:
            invalid |= NFS_INO_INVALID_ATTR | NFS_INO_INVALID_ACCESS
        if attr[4:8] != old[4:8] or attr[12:20] != old[12:20]:  # mode; uid and gid
            invalid |= NFS_INO_INVALID_ATTR | NFS_INO_INVALID_ACCESS
        if invalid & NFS_INO_INVALID_ATTR or not nfsi.attrtimeo_timestamp:
            nfsi.attrtimeo = self.min_attrtimeo(nfsi)
            nfsi.attrtimeo_timestamp = now
        elif now - nfsi.attrtimeo_timestamp > nfsi.attrtimeo:
            self._grow_attrtimeo(nfsi, now)
        if attr[:4] not in _CACHED_TYPES:
            invalid &= ~NFS_INO_INVALID_DATA
        nfsi.cache_validity |= invalid & ~NFS_INO_INVALID_ATTR
        return 0

    def _compare_sizes(self, nfsi: NfsInode, attr: bytes, before: bytes | None) -> int:
        """Take the server's size, unless requests of ours are still to make the file longer; return what is invalid by it."""
        inode = nfsi.inode
        size = nfs_size_to_loff_t(attr)
        if before is not None and not nfsi.npages and int.from_bytes(before[:8], "big") == inode.size:
            inode.size = size
        if size != inode.size and (not nfsi.npages or size > inode.size):
            inode.size = size
            return NFS_INO_INVALID_ATTR | NFS_INO_INVALID_DATA
        return 0

    def _check_inode_attributes(self, nfsi: NfsInode, attr: bytes, before: bytes | None, start: int) -> int:
        """Compare attributes that may be older than ours, and ask again later if they differ (nfs_check_inode_attributes())."""
        if not self._is_same_object(nfsi, attr):
            return -EIO
        inode = nfsi.inode
        if before is not None:  # nfs_wcc_update_inode()
            old = nfsi.attr
            mtime = attr[68:76] if before[8:16] == old[68:76] else old[68:76]
            ctime = attr[76:84] if before[16:24] == old[76:84] else old[76:84]
            nfsi.attr = old[:68] + mtime + ctime
            if not nfsi.npages and int.from_bytes(before[:8], "big") == inode.size:
                inode.size = nfs_size_to_loff_t(attr)
                nfsi.attr = nfsi.attr[:20] + attr[20:28] + nfsi.attr[28:]
        old = nfsi.attr
        if attr[68:76] != old[68:76] or (not nfsi.npages and nfs_size_to_loff_t(attr) != inode.size):
            nfsi.cache_validity |= NFS_INO_INVALID_ATTR | NFS_INO_REVAL_PAGECACHE
        if attr[4:8] != old[4:8] or attr[12:20] != old[12:20]:
            nfsi.cache_validity |= NFS_INO_INVALID_ATTR | NFS_INO_INVALID_ACCESS
        if attr[8:12] != old[8:12]:
            nfsi.cache_validity |= NFS_INO_INVALID_ATTR
        if attr[60:68] != old[60:68]:
            nfsi.cache_validity |= NFS_INO_INVALID_ATIME
        nfsi.read_cache_jiffies = start
        return 0
