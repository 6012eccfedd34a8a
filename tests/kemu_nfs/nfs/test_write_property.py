"""Whatever happens between writes, reclaim, pdflush, crashes and errors: what fsync has promised is on the server's disk."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.mm.address_space import WritebackControl
from kemu.mm.page import PG_active, PG_dirty, PG_locked, PG_lru, PG_referenced, PG_writeback
from kemu_nfs.sunrpc.nfs3_const import NFS3ERR_IO, NFS3ERR_JUKEBOX, NFS3ERR_NOSPC, NFS3PROC_COMMIT, NFS3PROC_WRITE
from nfs_ground import PAGE, SECOND, mounted

PAGES = 6

PLAIN = ("write", "write", "write", "fsync", "read", "reclaim", "pdflush", "pdflush", "time", "reboot", "crash", "busy")


def steps(seed, *, errors):
    """Draw what happens. A list of steps drawn by Hypothesis varies too little: restarts between WRITE and COMMIT became rare."""
    rng = random.Random(seed)
    drawn = []
    for _ in range(rng.randrange(5, 25)):
        name = rng.choice(PLAIN + ("error", "error") * errors)
        calls = rng.choice([NFS3PROC_WRITE, NFS3PROC_COMMIT])
        drawn.append(
            {
                "write": (name, rng.randrange(PAGES * PAGE), rng.randrange(1, 2 * PAGE), rng.randrange(256)),
                "read": (name, rng.randrange(PAGES)),
                "reclaim": (name, rng.randrange(PAGES)),
                "pdflush": (name, rng.random() < 0.5, rng.choice([0, 50_000, None, None])),
                "time": (name, rng.choice([1_000_000, 40 * SECOND])),
                "reboot": (name, rng.random() < 0.7),
                "crash": (name, rng.random() < 0.5),
                "busy": (name, calls),
                "error": (name, calls, rng.choice([NFS3ERR_IO, NFS3ERR_NOSPC])),
            }.get(name, (name,))
        )
    return drawn


class Writer:
    """A program that writes one file, and what the file should be."""

    def __init__(self, ground):
        self.ground = ground
        ground.mount.create("f")
        self.file = ground.mount.open("f")
        self.io = ground.machine.memory.file_io
        self.model = bytearray()
        self.failed = False

    def do(self, name, *args):
        getattr(self, name)(*args)

    def write(self, pos, size, byte):
        data = bytes([byte]) * size
        self._put(pos, data)
        self.model.extend(bytes(max(0, pos + size - len(self.model))))
        self.model[pos : pos + size] = data

    def _put(self, pos, data):
        while data:
            done = self.io.write(self.file, pos, data)
            if done < 0:
                self.failed = True
                self.io.fsync(self.file)
                continue
            pos += done
            data = data[done:]

    def fsync(self):
        self.failed = bool(self.io.fsync(self.file)) or self.failed

    def read(self, index):
        data = self.io.read(self.file, index * PAGE, PAGE)
        assert self.failed or self.ground.faults.rules or data == bytes(self.model[index * PAGE : index * PAGE + PAGE])

    def reclaim(self, index):
        tree = self.file.f_mapping.page_tree
        page = tree.lookup(index) if tree is not None else None
        if page is None or page.flags & (PG_locked | PG_writeback) or not page.flags & PG_lru:
            return
        self.ground.isolate(page)
        page.flags &= ~(PG_active | PG_referenced)
        _, rest = self.ground.shrink(page)
        self.ground.machine.reclaim._put_back(rest)

    def pdflush(self, kupdate, ns):
        """Write some pages without a COMMIT; let so much time pass, or all that the WRITEs need."""
        self.ground.mount.ops.writepages(self.file.f_mapping, WritebackControl(3, for_kupdate=kupdate))
        if ns is None:
            self.ground.wait_for_calls()
        else:
            self.ground.run_for(ns)

    def time(self, ns):
        self.ground.run_for(ns)

    def reboot(self, lose):
        """Let the server forget without losing a connection."""
        self.ground.nfsd.server.tree.crash(lose)
        self.ground.nfsd.server.nfs.reboot()

    def crash(self, lose):
        self.ground.nfsd.crash(lose_unstable=lose, reboot_ns=SECOND)

    def error(self, proc, status):
        self.ground.faults.error(proc, status)

    def busy(self, proc):
        self.ground.faults.error(proc, NFS3ERR_JUKEBOX)

    def finish(self):
        """Write again what may have failed, as a program has to that was told of an error; then all must be there."""
        ground = self.ground
        errors = any(rule.value != NFS3ERR_JUKEBOX for rule in ground.faults.rules)
        ground.faults.rules.clear()
        self.fsync()
        if self.failed:
            assert errors, "nobody made an error"
            self._put(0, bytes(self.model))
        assert self.io.fsync(self.file) == 0
        nothing_is_left(ground, self.file)
        assert ground.file_bytes("f") == bytes(self.model)
        ground.nfsd.server.tree.crash(True)
        assert ground.file_bytes("f") == bytes(self.model), "on the disk"


def nothing_is_left(ground, file):
    vmstat, server, stats, nfsi = ground.machine.vmstat, ground.mount.server, ground.stats, file.private_data.nfsi
    assert (vmstat.nr_writeback, vmstat.nr_dirty, vmstat.nr_unstable) == (0, 0, 0)
    assert (server.writeback, server.unstable, stats.writes_outstanding, stats.commits_outstanding) == (0, 0, 0, 0)
    assert (nfsi.npages, nfsi.ncommit) == (0, 0)
    assert not any(page.flags & (PG_dirty | PG_writeback) for _, page in file.f_mapping.page_tree.items())
    modules = ground.mount.modules
    assert [ground.machine.slub.objects_in_use(cache) for cache in (modules.page_cache, modules.wdata_cache)] == [0, 0]
    ground.mount.ops.write.commit.check(nfsi)
    ground.check()


def run(drawn, **options):
    with mounted(**options) as ground:
        writer = Writer(ground)
        writer.write(0, 100, 1)
        for step in drawn:
            writer.do(*step)
        writer.finish()
        assert ground.mount.close(writer.file) == 0
        assert ground.mount.umount() == 0
        ground.check()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1 << 32), st.sampled_from([1024, 4096, 32768]))
def test_what_was_written_is_on_the_servers_disk_after_fsync(seed, wsize):
    run(steps(seed, errors=False), wsize=wsize)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1 << 32), st.sampled_from([1024, 4096, 32768]))
def test_after_errors_too_if_who_was_told_writes_again(seed, wsize):
    run(steps(seed, errors=True), wsize=wsize)
