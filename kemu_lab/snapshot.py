"""``kemu snapshot``: run the main job up to a point, let the client come to rest, and write it to a file.

Interface: :func:`snapshot_command`; :func:`take_snapshot`, which gives the :class:`Snapshot`.

Rules of this file
    * A quiet point: every process stands between two steps or sleeps, kernel threads stand at the top of their loops, and nothing
      is in flight: no call, no writeback, no frame in the NIC. It is waited for in virtual time, with an end.
    * The client is stopped there and never goes on: neither swapoff nor umount, so the server keeps the pages. Only a server that
      outlives the run makes sense (``--server``, ``--server-dir``).
    * Connections, caches and slabs are not written down: the next boot makes them anew. Datagrams that nobody has read are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Any

from kemu.errors import ConfigError
from kemu.mm import mm_image
from kemu.mm.page import ZERO_PAGE
from kemu_lab.program_data import to_data
from kemu_lab.progress import Watch, watcher
from kemu_lab.scenarios.main_job import FIRST_PORT, MainJob
from kemu_lab.snapshot_file import ProcessImage, Snapshot, check_target, encode, write_file
from kemu_lab.swap_home import SWAP_FILE

if TYPE_CHECKING:
    from kemu.mm.page import Page
    from kemu_lab.run_config import RunConfig
    from kemu_net.core.skbuff import SkBuff

REST_NS = 60_000_000_000
STEP_NS = 10_000_000
MAX_AT_PAGES = 1 << 24
MAX_AT_NS = 24 * 3600 * 10**9
EVENTS = ("pswpin", "pswpout", "pgfault", "pgmajfault", "kswapd_wakes", "allocstall", "throttled", "mempool_sleeps", "oom_kills")
FRAMES = ("rx_frames", "tx_frames", "retransmits", "emergency_skbs")


class SnapshotJob(MainJob):
    """The main job, stopped in the middle.

    :param at_pages: pages out after which it stops; ``at_ns``: or the virtual time at which it does.
    """

    def __init__(self, config: RunConfig, watch: Watch, *, at_pages: int | None, at_ns: int | None) -> None:
        super().__init__(config, watch)
        self.at_pages = at_pages
        self.at_ns = at_ns

    def load_is_over(self) -> bool:
        """Stop at the point that was asked for, too."""
        if self.at_ns is not None and self.pair.world.now >= self.at_ns:
            return True
        if self.at_pages is not None and self.observer.swapped_out >= self.at_pages:
            return True
        return super().load_is_over()

    def take(self) -> Snapshot:
        """Run up to the point, come to rest, and write everything down."""
        judge = self.pair.world.judge
        self.swap_on()
        if self.swap_file is None:
            raise ConfigError(f"there is nothing to write down: {self.observer.story}")
        self.start_processes()
        self.load()
        if judge.stopped or self.worker.exit_code is not None:
            raise ConfigError(f"there is nothing to write down: {judge.reason or 'the process has left'}")
        self.come_to_rest()
        return self._describe()

    def come_to_rest(self) -> None:
        """Hold the processes, and let what is under way come to its end."""
        world = self.pair.world
        self.pair.client.processes.freeze()
        end = world.now + REST_NS
        while why := self.busy():
            if world.now >= end or world.judge.stopped:
                raise ConfigError(f"the client does not come to rest: {why}")
            world.run(for_ns=STEP_NS)

    def busy(self) -> str:
        """Say what is still under way, or nothing."""
        client, mount, nic = self.pair.client, self.pair.mount, self.pair.client_net.nic
        for task in client.processes.running:
            if not client.processes.at_rest(task):
                return f"{task.comm}:{task.pid} is in the middle of something"
        vmstat = client.vmstat
        if vmstat.nr_writeback or vmstat.nr_dirty or vmstat.nr_unstable:
            return f"{vmstat.nr_writeback} pages are under writeback, {vmstat.nr_dirty + vmstat.nr_unstable} wait for it"
        if len(mount.xprt.free) != len(mount.xprt.slots):
            return "a call waits for its reply"
        if nic.rx.incoming or nic.rx.done or nic.tx_pending:
            return "frames are in the NIC"
        for task in self.pair.world.judge.stuck_tasks():
            if task.kernel is client.kernel:
                return f"{task.comm}:{task.pid} works"
        return ""

    # ---- writing down

    def _describe(self) -> Snapshot:
        """Put everything into the object that a file holds."""
        assert self.swap_file is not None
        client = self.pair.client
        vmstat, stats, nfs = client.vmstat, self.pair.client_net.stats, self.pair.mount.stats
        counters = {name: getattr(vmstat, name) for name in EVENTS}
        counters |= {name: getattr(stats, name) for name in FRAMES}
        counters |= {"writes": nfs.writes, "reads": nfs.reads, "verified": client.shadow.verified}
        return Snapshot(
            run=run_options(self.config),
            clock_ns=self.pair.world.now,
            swap_file=SWAP_FILE,
            swap_pages=self.swap_file.inode.size >> 12,
            processes=self._processes(),
            sockets=[(FIRST_PORT + n, [whole_frame(skb) for skb in sk.sk_receive_queue]) for n, sk in enumerate(self.sockets)],
            story={"next_burst": self.next_burst},
            counters=counters,
        )

    def _processes(self) -> list[ProcessImage]:
        """Write the processes down, by pid."""
        client = self.pair.client
        rank: dict[Page, int] = {}
        for zone in client.page_alloc.zones:
            for page in chain(zone.inactive, zone.active):
                rank[page] = len(rank)
        images = []
        for task in client.processes.running:
            if task.mm.vmas:
                raise ConfigError(f"{task.comm}:{task.pid} maps a file, which a snapshot cannot carry")
            program = task.data["program"]
            image = mm_image.take(task.mm, client.swap_state, client.shadow, rank)
            for vpn, data in image.resident:  # what is carried is believed from now on
                if not client.shadow.verify(task.mm.mm_id, vpn, data, f"snapshot of {task.comm}:{task.pid}"):
                    raise ConfigError(f"there is nothing to write down: {client.kernel.judge.reason}")
            asleep = not client.processes.is_frozen(task)
            images.append(ProcessImage(task.comm, task.uid, to_data(program), asleep, image))
        return images


def run_options(config: RunConfig) -> dict[str, Any]:
    """Give the options of a run as resume reads them."""
    return {
        "scenario": config.scenario,
        "mem": config.mem,
        "cpus": config.cpus,
        "seed": config.seed,
        "patches": str(config.patches),
        "fixes": str(config.fixes),
        "loss": repr(config.loss),
        "latency_ns": config.latency_ns,
        "mtu": config.mtu,
        "nic": config.nic,
        "fill": config.fill,
        "swap_ops": config.swap_ops,
    }


def whole_frame(skb: SkBuff) -> bytes:
    """Give a received packet as it came in."""
    pieces = [skb.buf]
    for page, offset, size in skb.frags or ():
        pieces.append((page.contents or ZERO_PAGE)[offset : offset + size])
    return b"".join(pieces)


def take_snapshot(
    config: RunConfig, watch: Watch, keep: Callable[[Snapshot], None], *, at_pages: int | None, at_ns: int | None
) -> Snapshot:
    """Run the main job to the point, give the client as it is there to ``keep``, and return it.

    The swap file is left behind only after ``keep`` has returned: without a snapshot nobody could use it.
    """
    if config.server is None and config.server_dir is None:
        raise ConfigError("a snapshot needs a server that outlives it: --server-dir DIR or --server URL")
    if config.scenario != "main" or config.swap == "disk" or config.trace is not None:
        raise ConfigError("snapshots are of the scenario main, swapping to nfs, without --trace")
    if (at_pages is None) == (at_ns is None):
        raise ConfigError("say when: --at-pages N, or --at TIME")
    job = SnapshotJob(config, watch, at_pages=at_pages, at_ns=at_ns)
    with job.pair:
        snapshot = job.take()
        keep(snapshot)
        job.pair.far.leave_behind(SWAP_FILE)
        return snapshot


def snapshot_command(
    config: RunConfig, output: str, *, at_pages: int | None, at_ns: int | None, force: bool, as_json: bool, quiet: bool
) -> int:
    """Take a snapshot, write it, and say what is in it; whether it may be written there is asked before anything runs."""
    check_target(output, force=force)
    with watcher(show=not (as_json or quiet)) as watch:
        snapshot = take_snapshot(
            config, watch, lambda taken: write_file(output, encode(taken), force=force), at_pages=at_pages, at_ns=at_ns
        )
    show(snapshot, output, as_json=as_json)
    return 0


def show(snapshot: Snapshot, name: str, *, as_json: bool) -> None:
    """Print what is in a snapshot."""
    facts = {
        "file": name,
        "run": snapshot.run,
        "virtual_ns": snapshot.clock_ns,
        "swap": {"file": snapshot.swap_file, "pages": snapshot.swap_pages},
        "processes": len(snapshot.processes),
        "pages_carried": sum(len(process.mm.resident) for process in snapshot.processes),
        "pages_in_swap": sum(len(process.mm.swapped) for process in snapshot.processes),
        "sockets": len(snapshot.sockets),
        "datagrams": sum(len(frames) for _, frames in snapshot.sockets),
        "counters": snapshot.counters,
    }
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    print(f"{name}: the main job of {snapshot.run.get('mem', 0) >> 20} MiB, at {snapshot.clock_ns / 1e9:.3f} s")
    print(
        f"  {facts['processes']} processes, {facts['pages_carried']} pages carried, {facts['pages_in_swap']} left in the swap file"
    )
    print(f"  {facts['sockets']} sockets with {facts['datagrams']} datagrams that nobody has read")
