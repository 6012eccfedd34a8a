"""NFS inodes, and their requests by page (2.6.23 fs/nfs/inode.c; the request tree from fs/nfs/write.c; patches 28, 29).

Interface
    * :class:`NfsInode`. :class:`NfsInodes`: ``nfs_fhget``, ``nfs_clear_inode``, ``nfs_page_find_request_locked``,
      ``nfs_inode_add_request``, ``nfs_inode_remove_request``; all of :class:`AttrCache` (attr_cache.py) and :class:`OpenContexts`
      (open_context.py).

Rules of this file
    * A request is in the inode's radix tree under its page index from add to remove; the tree holds one reference.
    * Of an ordinary page PG_private and page.private lead to the request as well. Of a swap cache page page.private is the swap
      entry: patch 29 leaves both alone and looks the request up in the tree. The base overwrites the entry with a pointer.
    * Patch 28 (page_file_mapping() and page_file_index() in place of page->mapping and page->index) stands in the three helpers at
      the end; about twenty sites use them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.errors import KernelBug
from kemu.kernel.errno import EEXIST
from kemu.lib.radix_tree import RadixTree
from kemu.mm.address_space import AddressSpace, Inode
from kemu.mm.gfp import _GFP_NOWARN, GFP_ATOMIC, GFP_KERNEL, PAGE_SHIFT, PAGE_SIZE
from kemu.mm.page import Page, PG_private, PG_swapcache
from kemu_nfs.nfs.attr_cache import NFS_INO_INVALID_ATTR, NFS_INO_INVALID_DATA, AttrCache, nfs_size_to_loff_t
from kemu_nfs.nfs.nfs3xdr import Fattr3, encode_fh
from kemu_nfs.nfs.nfs_client import NfsModule, NfsServer
from kemu_nfs.nfs.open_context import FMODE_READ, FMODE_WRITE, NfsOpenContext, OpenContexts

if TYPE_CHECKING:
    from kemu_nfs.nfs.pagelist import NfsPage
    from kemu_nfs.nfs.unlink import SillyName

__all__ = ["FMODE_READ", "FMODE_WRITE", "NFS_INO_INVALID_DATA", "NfsInode", "NfsInodes", "NfsOpenContext"]

NFS_PAGE_TAG_COMMIT: Final = 1  # tag of a request that the server has, but not on stable storage


class NfsInode:
    """``struct nfs_inode``.

    :ivar fh_wire: the handle as it stands in calls.
    :ivar attr: the 84 bytes of its attributes; empty until a reply has brought some.
    :ivar read_cache_jiffies: when the call began that brought or confirmed them. :ivar last_updated: when they came.
    :ivar attrtimeo: for how many jiffies they are good. :ivar attrtimeo_timestamp: since when that is so.
    :ivar stale: NFS_INO_STALE: the handle is no longer this file's.
    :ivar access: answers of ACCESS by uid and gid: (bits asked, bits granted, when).
    :ivar silly: the name under which a file lives on that was removed while it was open.
    :ivar npages: requests in the tree.
    :ivar ncommit: of these, how many wait for a COMMIT and are in nobody's hands.
    """

    __slots__ = (
        "access",
        "addr",
        "attr",
        "attrtimeo",
        "attrtimeo_timestamp",
        "cache_validity",
        "fh",
        "fh_wire",
        "inode",
        "last_updated",
        "mapping",
        "ncommit",
        "nfs_page_tree",
        "npages",
        "open_files",
        "read_cache_jiffies",
        "server",
        "silly",
        "stale",
    )

    def __init__(self, addr: int, inode: Inode, server: NfsServer, fh: bytes, tree: RadixTree) -> None:
        self.addr = addr
        self.inode = inode
        self.server = server
        self.fh = fh
        self.fh_wire = encode_fh(fh)
        self.attr = b""
        self.cache_validity = 0
        self.read_cache_jiffies = 0
        self.last_updated = 0
        self.attrtimeo = 0
        self.attrtimeo_timestamp = 0
        self.stale = False
        self.access: dict[tuple[int, int], tuple[int, int, int]] = {}
        self.silly: SillyName | None = None
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


class NfsInodes(AttrCache, OpenContexts):
    """What is done with inodes.

    :ivar by_address: requests of ordinary pages by the address that page.private holds.
    """

    def __init__(self, module: NfsModule) -> None:
        super().__init__(module)
        self.slub = module.slub
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
        if attr is None:
            nfsi.cache_validity = NFS_INO_INVALID_ATTR
            return nfsi
        nfsi.attr = attr
        nfsi.read_cache_jiffies = nfsi.last_updated = nfsi.attrtimeo_timestamp = self.sched.jiffies
        nfsi.attrtimeo = self.min_attrtimeo(nfsi)
        inode.size = nfs_size_to_loff_t(attr)
        return nfsi

    def nfs_clear_inode(self, nfsi: NfsInode) -> None:
        """Free an inode that nobody uses (nfs_clear_inode(), nfs_destroy_inode())."""
        if nfsi.npages or nfsi.open_files:
            raise KernelBug("an NFS inode in use is freed", state=nfsi)
        self.filemap.truncate_inode_pages(nfsi.mapping)
        self.module.fs_writeback.drop_inode(nfsi.inode)
        self.slub.kmem_cache_free(self.module.inode_cache, nfsi.addr)

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
