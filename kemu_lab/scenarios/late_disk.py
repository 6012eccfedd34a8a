"""A late disk: somebody else's disk keeps all bios while reclaim needs one (patch 04).

The story
    1. The client swaps to sda. A process fills most of the memory; nothing has been swapped yet.
    2. sdb, a disk that has nothing to do with swap, stops answering. A leaky driver takes what memory GFP_ATOMIC can get, and
       somebody who wipes sdb sends bios with zeros until there are no more, neither in the slab nor in fs_bio_set's pool, which all
       disks share. None of them comes back before sdb answers.
    3. The process goes on, so reclaim must write to sda, for which it needs a bio. With patch 04 it takes one from the reserve at
       once. Without, it sleeps in mempool_alloc(), 5 s at a time, and the machine with it, until sdb answers.
    4. sdb answers, the driver gives its memory back, the process ends its work, and nothing may be left.

A mempool guarantees that its elements come back. It does not say when.
"""

from __future__ import annotations

import attrs

from kemu.block.bio import Bio
from kemu.errors import ConfigError
from kemu.mm.backing_dev import WRITE
from kemu.mm.gfp import _GFP_NOWARN, GFP_ATOMIC, GFP_KERNEL
from kemu.mm.hog import AtomicHog
from kemu.mm.page import get_page
from kemu_lab.progress import Watch
from kemu_lab.result import RunResult
from kemu_lab.run_config import RunConfig
from kemu_lab.scenarios.main_job import MainJob

PAGE_SIZE = 4096
LATE_S = 12  # two naps and a bit
FREE_SHARE = 4  # the trouble begins when a quarter of memory is left
WIPED_BYTES = 64 << 20
SECTORS_PER_PAGE = 8


def scenario(config: RunConfig, watch: Watch) -> RunResult:
    """Run the story and return what it tells."""
    if config.swap == "nfs":
        raise ConfigError("late-disk swaps to a disk of the client's own; leave --swap out")
    job = LateDisk(attrs.evolve(config, swap="disk"), watch)
    with job.pair:
        job.run()
        return job.observer.result()


class LateDisk(MainJob):
    """The main job on a local disk, with another trouble instead of foreign frames."""

    def load(self) -> None:
        """Fill memory, let sdb be late for a while, and go on to the end."""
        client, judge = self.pair.client, self.pair.world.judge
        free_enough = self.config.mem // PAGE_SIZE // FREE_SHARE
        self.work(until=lambda: client.page_alloc.nr_free_pages() < free_enough or self.load_is_over())

        sdb = client.add_disk("sdb", WIPED_BYTES)
        sdb.stall()
        judge.hold("sdb is late")
        hog = AtomicHog(client.slub)
        self.wipe(hog)
        out, naps = client.vmstat.pswpout, client.vmstat.mempool_sleeps
        self.work(for_ns=LATE_S * 10**9)
        out, naps = client.vmstat.pswpout - out, client.vmstat.mempool_sleeps - naps
        went = f"{out} pages went to sda, and reclaim slept {naps} times for a bio"
        self.observer.story = f"while sdb was late for {LATE_S} s, {went}"

        sdb.resume()
        judge.release("sdb is late")
        hog.release()
        self.work(until=self.load_is_over)
        client.remove_disk(sdb)

    def wipe(self, hog: AtomicHog) -> None:
        """Send zeros to sdb with what bios there are, once memory has gone."""
        client = self.pair.client
        bios = client.bios
        zeros = client.page_alloc.alloc_page(GFP_KERNEL)
        assert zeros is not None
        hog.hog()
        sector = 0
        while (bio := bios.bio_alloc(GFP_ATOMIC | _GFP_NOWARN, 1)) is not None:
            bio.bi_bdev = client.disks["sdb"]
            bio.bi_sector = sector
            bio.add_page(zeros)
            get_page(zeros)
            bio.bi_end_io = self.wiped
            bios.submit_bio(WRITE, bio)
            sector += SECTORS_PER_PAGE
        client.page_alloc.put_page(zeros)

    def wiped(self, bio: Bio, _error: int) -> None:
        """End one of the bios."""
        self.pair.client.page_alloc.put_page(bio.bi_io_vec[0][0])
        self.pair.client.bios.bio_put(bio)
