"""Property: two processes read, write, store, sync and lose their pages to reclaim, and a file is what a bytearray would be."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from file_ground import PAGE, FileGround, page_bytes, pages_of
from kemu.mm.pte import FilePte

PAGES = 5
SIZE = PAGES * PAGE - 1000  # the last page is not whole


class FilePages(RuleBasedStateMachine):
    """The machine, and the bytes that the file should hold."""

    @initialize(sparse=st.booleans(), latency=st.sampled_from([0, 50_000, 3_000_000]))
    def boot(self, sparse, latency):
        self.ground = FileGround(latency_ns=latency)
        self.file = self.ground.file(size=SIZE, sparse=sparse)
        written = b"".join(page_bytes(i) for i in range(PAGES))[:SIZE]
        self.model = bytearray(SIZE) if sparse else bytearray(written)
        self.private = {}
        ground = self.ground
        self.tasks = [ground.task, ground.sched.spawn("other", lambda: None)]
        for task in self.tasks:
            ground.process(task=task)
        self.at = ground.mmap(self.file, task=self.tasks[0])
        assert ground.mmap(self.file, task=self.tasks[1]) == self.at
        self.own = ground.mmap(self.file, shared=False, task=self.tasks[0])
        self.count = 0

    def page(self, seed):
        self.count += 1
        return bytes([seed, self.count % 256]) * (PAGE // 2)

    @rule(offset=st.integers(0, SIZE - 1), length=st.integers(1, 2 * PAGE), seed=st.integers(0, 255))
    def write(self, offset, length, seed):
        data = (self.page(seed) * 2)[: min(length, SIZE - offset)]
        assert self.ground.memory.file_io.write(self.file, offset, data) == len(data)
        self.model[offset : offset + len(data)] = data

    @rule(offset=st.integers(0, SIZE + 100), length=st.integers(1, 3 * PAGE))
    def read(self, offset, length):
        assert self.ground.memory.file_io.read(self.file, offset, length) == bytes(self.model[offset : offset + length])

    @rule(who=st.integers(0, 1), index=st.integers(0, PAGES - 1), seed=st.integers(0, 255))
    def store(self, who, index, seed):
        data = self.page(seed)
        assert self.ground.store(self.at + index, data, task=self.tasks[who]) == 0
        self.model[index * PAGE : (index + 1) * PAGE] = data[: SIZE - index * PAGE]

    @rule(who=st.integers(0, 1), index=st.integers(0, PAGES - 1))
    def load(self, who, index):
        expected = bytes(self.model[index * PAGE : (index + 1) * PAGE])
        assert self.ground.load(self.at + index, task=self.tasks[who])[: len(expected)] == expected

    @rule(index=st.integers(0, PAGES - 2), seed=st.integers(0, 255))
    def store_privately(self, index, seed):
        data = self.page(seed)
        assert self.ground.store(self.own + index, data) == 0
        self.private[index] = data

    @rule(index=st.integers(0, PAGES - 2))
    def load_privately(self, index):
        expected = self.private.get(index, bytes(self.model[index * PAGE : (index + 1) * PAGE]))
        assert self.ground.load(self.own + index) == expected

    @rule()
    def fsync(self):
        assert self.ground.memory.file_io.fsync(self.file) == 0
        on_disk = b"".join(self.ground.on_disk(self.file, i) for i in range(PAGES))
        assert on_disk[:SIZE] == bytes(self.model)

    @rule()
    def start_writing(self):
        self.ground.memory.file_io.write_pages.filemap_fdatawrite(self.file.f_mapping)

    @rule(index=st.integers(0, PAGES - 1))
    def reclaim(self, index):
        page = self.ground.cached(self.file, index)
        if page is not None:
            self.ground.reclaim_page(page)

    @rule(indices=st.sets(st.integers(0, PAGES - 1), min_size=1))
    def evict(self, indices):
        """Reclaim pages until they are gone."""
        for page in [self.ground.cached(self.file, index) for index in sorted(indices)]:
            if page is not None:
                self.ground.forget_use(page)
                assert self.ground.reclaim_page(page, tries=4)

    @rule(ms=st.sampled_from([1, 100, 40_000]))
    def let_time_pass(self, ms):
        self.ground.world.run(for_ns=ms * 1_000_000)

    @rule()
    def drop_caches(self):
        self.ground.kernel.sysctl.write("vm.drop_caches", "1")

    @rule(who=st.integers(0, 1))
    def map_again(self, who):
        """Unmap a part in the middle, and map it again."""
        task = self.tasks[who]
        assert self.ground.memory.munmap(task, self.at + 1, 2) == 0
        assert self.ground.mmap(self.file, 2, 1, self.at + 1, task=task) == self.at + 1

    @invariant()
    def everything_agrees(self):
        if hasattr(self, "ground"):
            self.ground.check()
            for page in pages_of(self.file.f_mapping):
                entries = [pte for mm in self.ground.memory.mms.values() for pte in mm.ptes.values() if _maps(pte, page)]
                assert len(entries) == page.mapcount

    def teardown(self):
        if hasattr(self, "ground"):
            self.fsync()
            assert self.ground.audit()[1] == 0
            self.ground.leave()
            self.ground.machine.shutdown()


def _maps(pte, page):
    return isinstance(pte, FilePte) and pte.page is page


@pytest.mark.parametrize("steps", [40])
def test_a_file_is_what_was_written_to_it(steps):
    run_state_machine_as_test(
        FilePages,
        settings=settings(
            max_examples=50, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
        ),
    )
