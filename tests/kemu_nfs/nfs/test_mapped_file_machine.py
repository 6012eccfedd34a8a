"""Property: a file of an NFS mount is used through two openings in every way, and is what a bytearray would be."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.mm.page import PG_referenced
from kemu.mm.pte import FilePte, PTE_young
from kemu_nfs.nfs.commit import FLUSH_SYNC
from nfs_ground import mounted

PAGE = 4096
PAGES = 4
SIZE = PAGES * PAGE - 500

INDEX = st.integers(0, PAGES - 1)
WHO = st.integers(0, 1)
STEP = st.one_of(
    st.tuples(st.just("write"), WHO, st.integers(0, SIZE - 1), st.integers(1, 6000)),
    st.tuples(st.just("read"), WHO, st.integers(0, SIZE), st.integers(1, 9000)),
    st.tuples(st.just("store"), WHO, INDEX),
    st.tuples(st.just("load"), WHO, INDEX),
    st.tuples(st.just("evict"), INDEX),
    st.tuples(st.just("begin")),
    st.tuples(st.just("fsync"), WHO),
    st.tuples(st.just("pdflush")),
)


class Run:
    """The mount, the two openings, and the bytes that the file should hold."""

    def __init__(self, ground):
        self.ground = ground
        self.machine = ground.machine
        assert ground.mount.create("f")
        self.files = [ground.mount.open("f") for _ in range(2)]
        self.model = bytearray(b"at first" * PAGE)[:SIZE]
        assert ground.mount.write(self.files[0], 0, bytes(self.model)) == SIZE
        self.machine.memory.mm_alloc(ground.sched.current)
        self.at = [self.machine.memory.mmap(ground.sched.current, file, PAGES) for file in self.files]
        self.count = 0

    def fresh(self, length):
        self.count += 1
        return (b"%03d-" % self.count * (length // 4 + 1))[:length]

    def write(self, who, offset, length):
        data = self.fresh(min(length, SIZE - offset))
        assert self.machine.memory.file_io.write(self.files[who], offset, data) == len(data)
        self.model[offset : offset + len(data)] = data

    def read(self, who, offset, length):
        assert self.machine.memory.file_io.read(self.files[who], offset, length) == bytes(self.model[offset : offset + length])

    def store(self, who, index):
        data = self.fresh(PAGE)
        self.ground.write(self.at[who] + index, data)
        self.model[index * PAGE : (index + 1) * PAGE] = data[: SIZE - index * PAGE]

    def load(self, who, index):
        expected = bytes(self.model[index * PAGE : (index + 1) * PAGE])
        assert self.ground.read(self.at[who] + index)[: len(expected)] == expected

    def evict(self, index):
        tree = self.files[0].f_mapping.page_tree
        page = tree.lookup(index) if tree is not None else None
        if page is None:
            return
        filemap = self.machine.filemap
        filemap.wait_on_page_locked(page)  # read ahead
        filemap.wait_on_page_writeback(page)
        nfsi = self.files[0].private_data.nfsi
        if nfsi.ncommit:  # what waits for a COMMIT cannot be freed
            assert self.ground.mount.ops.write.commit.nfs_commit_inode(nfsi, FLUSH_SYNC) > 0
        page.flags &= ~PG_referenced
        for pte in self.ground.sched.current.mm.ptes.values():
            if isinstance(pte, FilePte) and pte.page is page:
                pte.flags &= ~PTE_young
        self.ground.push_out(page)

    def begin(self):
        assert self.machine.memory.file_io.write_pages.filemap_fdatawrite(self.files[0].f_mapping) == 0

    def fsync(self, who):
        assert self.machine.memory.file_io.fsync(self.files[who]) == 0
        assert self.ground.file_bytes("f") == bytes(self.model)

    def pdflush(self):
        self.machine.reclaim.wakeup_pdflush(0)
        self.ground.run_for(300_000_000)

    def end(self):
        self.fsync(0)
        data = self.ground.file_bytes("f")
        audit = self.machine.memory.audit(lambda _area, _slot: None, lambda _, index: data[index * PAGE : (index + 1) * PAGE])
        assert audit[1] == 0
        self.machine.memory.exit_mmap(self.ground.sched.current)
        for file in self.files:
            assert self.ground.mount.close(file) == 0
        assert self.ground.mount.umount() == 0
        vmstat = self.machine.vmstat
        assert (vmstat.nr_file_pages, vmstat.nr_dirty, vmstat.nr_writeback, vmstat.nr_file_mapped) == (0, 0, 0, 0)
        self.machine.check()


@given(st.lists(STEP, min_size=5, max_size=30), st.sampled_from([1024, 4096, 32768]))
@settings(max_examples=25, deadline=None)
def test_a_mapped_file_on_a_server_is_what_was_written_to_it(steps, wsize):
    with mounted(wsize=wsize, rsize=wsize) as ground:
        run = Run(ground)
        for name, *args in steps:
            getattr(run, name)(*args)
            ground.check()
        run.end()
