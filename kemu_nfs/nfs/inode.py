"""NFS inodes: attributes, open contexts, requests by page (2.6.23 fs/nfs/inode.c; the request tree from fs/nfs/write.c; patch 29).

Interface
    * :class:`NfsInode`, :class:`NfsOpenContext`.
    * :class:`NfsInodes`: ``nfs_fhget``, ``nfs_refresh_inode``, ``nfs_revalidate_mapping``, ``nfs_find_open_context``,
      ``nfs_page_find_request_locked``, ``nfs_inode_add_request``, ``nfs_inode_remove_request``.

Rules of this file
    * A request is in the inode's radix tree under its page index from add to remove; the tree holds one reference.
    * Of an ordinary page PG_private and page.private lead to the request as well. Of a swap cache page page.private is the swap
      entry: patch 29 leaves both alone and looks the request up in the tree. The base overwrites the entry with a pointer.
    * Patch 28 (page_file_mapping() and page_file_index() in place of page->mapping and page->index) stands in the three helpers at
      the end; about twenty sites use them.
    * Attributes stay the 84 bytes that the server sent. Data changed by others invalidates the page cache when somebody asks, never
      that of a swap file (patch 29).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.errors import KernelBug
from kemu.kernel.errno import EEXIST
from kemu.lib.radix_tree import RadixTree
from kemu.mm.address_space import AddressSpace, Inode
from kemu.mm.gfp import _GFP_NOWARN, GFP_ATOMIC, GFP_KERNEL, PAGE_SHIFT, PAGE_SIZE
from kemu.mm.page import Page, PG_private, PG_swapcache
from kemu_nfs.nfs.nfs3xdr import Fattr3, Nfs3Result, encode_fh
from kemu_nfs.nfs.nfs_client import SIZEOF_OPEN_CONTEXT, NfsModule, NfsServer

if TYPE_CHECKING:
    from kemu_nfs.nfs.pagelist import NfsPage
    from kemu_nfs.sunrpc.auth import RpcCred

FMODE_READ: Final = 1
FMODE_WRITE: Final = 2

NFS_PAGE_TAG_COMMIT: Final = 1  # tag of a request that the server has, but not on stable storage

NFS_INO_INVALID_DATA: Final = 0x0002  # cached data is older than the server's


class NfsOpenContext:
    """``struct nfs_open_context``: one opening of a file, and whose credential it uses."""

    __slots__ = ("addr", "count", "cred", "error", "mode", "nfsi")

    def __init__(self, addr: int, nfsi: NfsInode, cred: RpcCred, mode: int) -> None:
        self.addr = addr
        self.nfsi = nfsi
        self.cred = cred
        self.mode = mode
        self.count = 1
        self.error = 0

    def __repr__(self) -> str:
        """Name the opener."""
        return f"<nfs_open_context of inode {self.nfsi.inode.ino} {self.cred!r} mode={self.mode} count={self.count}>"


class NfsInode:
    """``struct nfs_inode``.

    :ivar fh_wire: the handle as it stands in calls.
    :ivar attr: the 84 bytes of its attributes.
    :ivar npages: requests in the tree.
    :ivar ncommit: of these, how many wait for a COMMIT and are in nobody's hands.
    """

    __slots__ = (
        "addr",
        "attr",
        "cache_validity",
        "fh",
        "fh_wire",
        "inode",
        "mapping",
        "ncommit",
        "nfs_page_tree",
        "npages",
        "open_files",
        "server",
    )

    def __init__(self, addr: int, inode: Inode, server: NfsServer, fh: bytes, tree: RadixTree) -> None:
        self.addr = addr
        self.inode = inode
        self.server = server
        self.fh = fh
        self.fh_wire = encode_fh(fh)
        self.attr = b""
        self.cache_validity = 0
        self.nfs_page_tree = tree
        self.npages = 0
        self.ncommit = 0
        self.open_files: list[NfsOpenContext] = []
        self.mapping: AddressSpace

    @property
    def fattr(self) -> Fattr3:
        """The attributes, for people."""
        return Fattr3.read(self.attr)

    def __repr__(self) -> str:
        """Name the file."""
        return f"<nfs_inode {self.inode.ino} size={self.inode.size} npages={self.npages} i_flags={self.inode.i_flags:#x}>"


class NfsInodes:
    """What is done with inodes.

    :ivar by_address: requests of ordinary pages by the address that page.private holds.
    """

    def __init__(self, module: NfsModule) -> None:
        self.module = module
        self.kernel = module.kernel
        self.patched = module.patched
        self.fixed = module.fixed
        self.slub = module.slub
        self.filemap = module.filemap
        self.swapfile = module.swapfile
        self.by_address: dict[int, NfsPage] = {}
        self.tree_gfp = GFP_ATOMIC | _GFP_NOWARN if self.patched.nfs_radix_nowarn else GFP_ATOMIC  # [p33]

    # -- inodes and contexts ---------------------------------------------------------------------------------------------------

    def nfs_fhget(self, server: NfsServer, fh: bytes, attr: bytes | None) -> NfsInode | None:
        """Make the inode of a handle (nfs_fhget()); None without memory."""
        addr = self.slub.kmem_cache_alloc(self.module.inode_cache, GFP_KERNEL)
        if addr is None:
            return None
        assert server.a_ops is not None
        inode = Inode(ino=Fattr3.read(attr).fileid if attr else 0)
        nfsi = NfsInode(addr, inode, server, fh, RadixTree(self.tree_gfp, self.module.radix_nodes))
        nfsi.mapping = AddressSpace(inode, server.a_ops, server.bdi)
        inode.private = nfsi
        self.module.fs_writeback.new_inode(server.sb, inode)
        if attr is not None:
            nfsi.attr = attr
            inode.size = int.from_bytes(attr[20:28], "big")
        return nfsi

    def nfs_clear_inode(self, nfsi: NfsInode) -> None:
        """Free an inode that nobody uses (nfs_clear_inode(), nfs_destroy_inode())."""
        if nfsi.npages or nfsi.open_files:
            raise KernelBug("an NFS inode in use is freed", state=nfsi)
        self.filemap.truncate_inode_pages(nfsi.mapping)
        self.module.fs_writeback.drop_inode(nfsi.inode)
        self.slub.kmem_cache_free(self.module.inode_cache, nfsi.addr)

    def nfs_open(self, nfsi: NfsInode, uid: int, gid: int, mode: int) -> NfsOpenContext | None:
        """Make an open context with the opener's credential (nfs_open(), alloc_nfs_open_context()); None without memory."""
        auth = nfsi.server.auth
        cred = auth.lookup_cred(uid, gid)
        if cred is None:
            return None
        addr = self.slub.kmalloc(SIZEOF_OPEN_CONTEXT, GFP_KERNEL)
        if addr is None:
            auth.put_rpccred(cred)
            return None
        ctx = NfsOpenContext(addr, nfsi, cred, mode)
        nfsi.open_files.append(ctx)
        return ctx

    def put_nfs_open_context(self, ctx: NfsOpenContext) -> None:
        """Drop a reference; the last one closes (put_nfs_open_context())."""
        ctx.count -= 1
        if ctx.count:
            return
        ctx.nfsi.open_files.remove(ctx)
        ctx.nfsi.server.auth.put_rpccred(ctx.cred)
        self.slub.kfree(ctx.addr)

    def nfs_find_open_context(self, nfsi: NfsInode, cred: RpcCred | None, mode: int) -> NfsOpenContext | None:
        """Find an opening with this very credential, or any if None, and at least this mode; take a reference."""
        for ctx in nfsi.open_files:
            if (cred is None or ctx.cred is cred) and ctx.mode & mode == mode:
                ctx.count += 1
                return ctx
        return None

    # -- attributes ------------------------------------------------------------------------------------------------------------

    def nfs_refresh_inode(self, nfsi: NfsInode, result: Nfs3Result) -> None:
        """Take attributes that came with a reply (nfs_refresh_inode(), nfs_post_op_update_inode()).

        If the file was, before our call, not what we knew, somebody else changed it. Replies may overtake each other; attributes
        older than ours are ignored.
        """
        attr = result.fattr
        if attr is None:
            return
        old = nfsi.attr
        if attr == old:
            return
        if old:
            if attr[76:84] < old[76:84]:
                return  # ctime went back
            before = result.pre_op
            known = old[20:28] + old[68:84]
            changed = before is not None and before != known and not nfsi.npages  # else our own calls in flight explain it
            if changed or (before is None and attr[20:28] + attr[68:76] != known[:16]):
                nfsi.cache_validity |= NFS_INO_INVALID_DATA
        nfsi.attr = attr
        size = int.from_bytes(attr[20:28], "big")
        if size != nfsi.inode.size and not nfsi.npages:
            nfsi.inode.size = size

    def nfs_revalidate_mapping(self, nfsi: NfsInode) -> int:
        """Drop cached pages that are older than the server's data (nfs_revalidate_mapping_nolock())."""
        if self.patched.nfs_no_revalidate and nfsi.inode.is_swapfile:  # [p29]
            return 0
        if nfsi.cache_validity & NFS_INO_INVALID_DATA:
            nfsi.cache_validity &= ~NFS_INO_INVALID_DATA
            self.module.stats.invalidations += 1
            self.filemap.truncate_inode_pages(nfsi.mapping)
        return 0

    # -- requests --------------------------------------------------------------------------------------------------------------

    def nfs_page_find_request_locked(self, nfsi: NfsInode, page: Page) -> NfsPage | None:
        """Find the request of a page and take a reference (nfs_page_find_request_locked())."""
        req: NfsPage | None = None
        if self.patched.nfs_no_revalidate and page.flags & PG_swapcache:  # [p29]
            req = nfsi.nfs_page_tree.lookup(self.page_index(page))
        if req is None and page.flags & PG_private:
            req = self.by_address.get(page.private)
        if req is not None:
            req.wb_count += 1
        return req

    def nfs_inode_add_request(self, nfsi: NfsInode, req: NfsPage) -> int:
        """Put a request into the tree and, but for swap pages since patch 29, behind its page: 0 or -ENOMEM."""
        error = nfsi.nfs_page_tree.insert(req.wb_index, req)
        if error == -EEXIST:
            raise KernelBug(f"kernel BUG: a second request for page {req.wb_index} of an inode", state=req)
        if error:
            return error
        page = req.wb_page
        behind_page = True
        if self.patched.nfs_no_revalidate and page.flags & PG_swapcache:  # [p29]
            behind_page = False
        if behind_page:
            page.flags |= PG_private
            page.private = req.addr
            self.by_address[req.addr] = req
        nfsi.npages += 1
        req.wb_count += 1
        return 0

    def nfs_inode_remove_request(self, req: NfsPage) -> None:
        """Undo it (nfs_inode_remove_request()); the caller drops the tree's reference."""
        nfsi = req.wb_context.nfsi
        page = req.wb_page
        behind_page = True
        if self.patched.nfs_no_revalidate and page.flags & PG_swapcache:  # [p29]
            behind_page = False
        if behind_page:
            page.private = 0
            page.flags &= ~PG_private
            self.by_address.pop(req.addr, None)
        nfsi.nfs_page_tree.delete(req.wb_index)
        nfsi.npages -= 1

    # -- patch 28 --------------------------------------------------------------------------------------------------------------

    def page_mapping(self, page: Page) -> AddressSpace:
        """Return the file that holds a page. The base takes page->mapping, which of a swap page is an anon_vma: oops at ->host."""
        mapping: AddressSpace = self.swapfile.page_file_mapping(page) if self.patched.nfs_swapcache else page.mapping  # [p28]
        return mapping

    def page_index(self, page: Page) -> int:
        """Return which page of its file it is."""
        index: int = self.swapfile.page_file_index(page) if self.patched.nfs_swapcache else page.word_d  # [p28]
        return index

    def nfs_page_length(self, page: Page) -> int:
        """Return how many bytes of the file are in the page (nfs_page_length())."""
        host = self.page_mapping(page).host
        size = host.size if host is not None else 0
        if size <= 0:
            return 0
        index = self.page_index(page)
        last = (size - 1) >> PAGE_SHIFT
        if index < last:
            return PAGE_SIZE
        return ((size - 1) & (PAGE_SIZE - 1)) + 1 if index == last else 0

    def check(self, nfsi: NfsInode) -> None:
        """Assert that tree, counts and pages of an inode agree."""
        nfsi.nfs_page_tree.check()
        if len(nfsi.nfs_page_tree) != nfsi.npages:
            raise KernelBug(f"{len(nfsi.nfs_page_tree)} requests are in the tree, {nfsi.npages} are counted", state=nfsi)
        for index, req in nfsi.nfs_page_tree.items():
            if req.wb_index != index or req.wb_count < 1:
                raise KernelBug("a request in the wrong place, or without references", state=req)
        unstable = sum(1 for _ in nfsi.nfs_page_tree.items(0, NFS_PAGE_TAG_COMMIT))
        if unstable != nfsi.ncommit:
            raise KernelBug(f"{unstable} requests are tagged for a COMMIT, {nfsi.ncommit} are counted", state=nfsi)
