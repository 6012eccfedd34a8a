"""Look at a pair of machines from outside: public counters, invariants, the result object at the end. Nothing in them changes."""

from __future__ import annotations

from collections.abc import Callable

from kemu.block import disk as block
from kemu.mm.swap_info import SwapInfo
from kemu_lab.hosts import Pair
from kemu_lab.procfs import write_tree
from kemu_lab.result import Nfs, Pages, Reclaim, Reserve, RunResult
from kemu_lab.run_config import RunConfig

TRESPASS_EVERY = 25  # samples


class Observer:
    """What is remembered of a run while it goes on.

    :ivar touched: pages that processes wrote, at the end of the load.
    :ivar trespassers: the most normal packets that were seen in the reserve at once; 0 is an invariant of the full series.
    :ivar disks: the client's disks, also those that are pulled at the end.
    :ivar story: the sentence for a run that survived.
    """

    def __init__(self, config: RunConfig, pair: Pair) -> None:
        self.config = config
        self.pair = pair
        self.touched = 0
        self.trespassers = 0
        self.cred_references = 0
        self.retransmissions = self.reconnects = 0
        self.samples = 0
        self.disks: list[block.Disk] = []
        self.reserve = Reserve()
        self.story = ""

    @property
    def swapped_out(self) -> int:
        """Read pswpout of the client's /proc/vmstat."""
        return self.pair.client.vmstat.pswpout

    def sample(self) -> None:
        """Note the reserve's size; now and then count normal packets that lie in it, which means to look at all packets."""
        self.samples += 1
        if self.samples % TRESPASS_EVERY == 0:
            self.trespassers = max(self.trespassers, self.pair.client_net.trespassers())
        emergency = sum(zone.pages_emerg for zone in self.pair.client.page_alloc.zones)
        self.reserve.pages_emerg = max(self.reserve.pages_emerg, emergency)
        self.reserve.limit_bytes = max(self.reserve.limit_bytes, self.pair.client_net.net_reserves.net_skb_reserve.limit)

    def line(self) -> str:
        """Give the counters that a person watches."""
        vmstat, free = self.pair.client.vmstat, self.pair.client.page_alloc.nr_free_pages()
        return f"out {vmstat.pswpout} in {vmstat.pswpin} free {free}  t {self.pair.world.now / 1e9:.1f} s"

    def end_of_load(self, read_slot: Callable[[SwapInfo, int], bytes | None]) -> None:
        """Compare every page with its shadow, wherever it is, and note what of the reserve is in use.

        :param read_slot: what the server holds for a slot of an area; asked for pages that are nowhere else.
        """
        client = self.pair.client
        shadow = client.shadow
        self.touched = sum(map(len, shadow.pages.values())) + sum(map(len, shadow.files.values()))
        self.reserve.end_of_load_bytes = self.pair.client_net.net_reserves.net_skb_reserve.usage
        self.cred_references = self.pair.mount.auth.references()
        nfs = self.pair.mount.stats
        self.retransmissions, self.reconnects = nfs.retransmissions, nfs.reconnects  # a mount takes them along when it goes
        client.memory.audit(read_slot)

    def after_quiesce(self) -> None:
        """Note what is left, and report it if anything is."""
        reserve = self.reserve
        reserve.left_bytes = self.pair.client_net.net_reserves.net_skb_reserve.usage
        reserve.leaked_pages = self.pair.client.reserves.root.pages
        if reserve.left_bytes or reserve.leaked_pages:
            bytes_, pages = reserve.left_bytes, reserve.leaked_pages
            reason = f"after quiesce {bytes_} bytes of the SKB data reserve are charged and {pages} pages held back"
            self.pair.world.judge.report("leak", reason)

    def result(self) -> RunResult:
        """Put everything into the object that a run tells."""
        pair, config = self.pair, self.config
        client, judge = pair.client, pair.world.judge
        vmstat, stats, nfs = client.vmstat, pair.client_net.stats, pair.mount.stats
        lived = judge.outcome in (None, "survived")
        result = RunResult(
            scenario=config.scenario,
            seed=config.seed,
            patches=list(config.patches.numbers),
            dropped=list(config.patches.dropped),
            fixes=list(config.fixes.ids),
            command=config.command,
            swap=config.swap or "nfs",
            mem_pages=config.mem // 4096,
            outcome="survived" if lived else judge.outcome or "survived",
            also=list(judge.also),
            reason="; ".join(filter(None, [self.story, "" if lived else judge.reason])),
            chain=list(judge.chain()),
            virtual_ns=pair.world.now,
        )
        if lived:
            judge.report("survived", self.story)
        self.reserve.trespassers = self.trespassers
        self.reserve.peak_bytes = pair.client_net.net_reserves.peak_usage
        result.reserve = self.reserve
        result.pages = Pages(
            self.touched or sum(len(pages) for pages in client.shadow.pages.values()),
            vmstat.pswpout,
            vmstat.pswpin,
            client.shadow.verified,
            vmstat.lost_pages,
        )
        result.net.rx_frames, result.net.tx_frames = stats.rx_frames, stats.tx_frames
        result.net.retransmits, result.net.emergency_skbs = stats.retransmits, stats.emergency_skbs
        result.net.drops = dict(stats.drops)
        result.net.gates = stats.gates
        result.reclaim = Reclaim(vmstat.kswapd_wakes, vmstat.allocstall, vmstat.throttled, vmstat.mempool_sleeps, vmstat.oom_kills)
        retransmissions = max(nfs.retransmissions, self.retransmissions)
        result.nfs = Nfs(nfs.writes, nfs.reads, retransmissions, max(nfs.reconnects, self.reconnects), self.cred_references)
        for disk in self.disks:
            result.disk.writes += disk.writes
            result.disk.reads += disk.reads
            result.disk.merged += disk.queue.merged
        result.history = pair.world.history.hexdigest()
        if config.proc is not None:
            write_tree(client.proc, config.proc)
        return result
