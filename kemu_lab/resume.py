"""``kemu resume``: boot a client anew, give it what a snapshot holds, and let the main job go on against the same server.

Interface: :func:`resume_command`; :func:`resume`, which gives the result.

Rules of this file
    * The file was checked when it was read (snapshot_file.py). What is wrong only together with the options or the server is found
      before a process runs, and said in one sentence. The swap file becomes ours, to be removed at the end, only after the last
      of these refusals: who named a wrong file or a wrong directory loses nothing.
    * The swap file is activated as swapon activates any: its header stands where mkswap put it. The slots of the processes are then
      claimed, so that no page is written over another.
    * From there on the story is that of the main job, to its end: every page is compared, swapoff, and nothing may be left.
"""

from __future__ import annotations

import json
import shlex
import time
from errno import errorcode
from typing import Any

import attrs

from kemu.errors import ConfigError, KernelBug
from kemu.mm import mm_image
from kemu.mm.address_space import File
from kemu_lab.hosts import CLIENT_IP, Pair
from kemu_lab.numbers import whole_number
from kemu_lab.program_data import MAX_SEED, check_state, from_data
from kemu_lab.programs import FillThenRead
from kemu_lab.progress import Watch, watcher
from kemu_lab.report import print_report
from kemu_lab.result import RunResult
from kemu_lab.run_config import MAX_CPUS, RunConfig
from kemu_lab.scenarios.main_job import PAGE_SIZE, MainJob
from kemu_lab.snapshot import EVENTS, FRAMES, show
from kemu_lab.snapshot_file import Snapshot, read_file
from kemu_lab.swap_home import NfsHome

REPLAY_MAC = bytes.fromhex("0200000000ff")
REPLAY_GAP_NS = 30_000
SETTLE_NS = 50_000_000


class ResumedHome(NfsHome):
    """The swap file of the run before."""

    def __init__(self, pair: Pair, snapshot: Snapshot) -> None:
        super().__init__(pair, snapshot.swap_pages)
        self.name = snapshot.swap_file

    def swap_on(self) -> File | str:
        """Mount the export and use the file as it is."""
        pair = self.pair
        error = pair.mount.mount()
        if error:
            raise KernelBug(f"mount failed: {errorcode[-error]}")
        file = pair.mount.open(self.name)
        if isinstance(file, int):
            raise ConfigError(f"the server has no swap file {self.name!r}: {errorcode[-file]}")
        if file.inode.size != self.pages << 12:
            raise ConfigError(f"the swap file {self.name!r} has {file.inode.size >> 12} pages, the snapshot's had {self.pages}")
        error = pair.client.swapfile.swapon(file)
        if error:
            raise ConfigError(f"swapon of {self.name!r} was refused: {errorcode[-error]}")
        return file


class Replay:
    """A host that sends again the datagrams that nobody had read."""

    mac = REPLAY_MAC

    def deliver(self, time: int, frame: bytes) -> None:
        """Take no notice."""


class ResumedJob(MainJob):
    """The main job from where a snapshot was taken."""

    def __init__(self, config: RunConfig, watch: Watch, snapshot: Snapshot, where: str) -> None:
        self.snapshot = snapshot
        self.where = where
        super().__init__(config, watch)
        self.home = ResumedHome(self.pair, snapshot)
        self.next_burst = snapshot.story.get("next_burst", self.next_burst)

    def _program(self) -> Any:
        """Make all programs anew; the worker's is the one with a working set."""
        self.programs = [
            from_data(process.program, self.contents, self.config.seed, self.where) for process in self.snapshot.processes
        ]
        for process, program in zip(self.snapshot.processes, self.programs, strict=True):
            check_state(program, process, self.where)
        carried = sum(len(process.mm.resident) for process in self.snapshot.processes)
        if carried * PAGE_SIZE >= self.config.mem:
            raise ConfigError(f"{self.where} cannot be resumed: it carries {carried} pages, which its memory could not hold")
        workers = [program for program in self.programs if isinstance(program, FillThenRead)]
        if len(workers) != 1:
            raise ConfigError(f"{self.where} cannot be resumed: the main job has one worker, not {len(workers)}")
        return workers[0]

    def swap_on(self) -> None:
        """Let the clock come to where it was, and use the swap file again."""
        world = self.pair.world
        if self.snapshot.clock_ns > world.now:
            world.run(for_ns=self.snapshot.clock_ns - world.now)
        super().swap_on()

    def start_processes(self) -> None:
        """Give the client its sockets, processes and memory back; nobody runs before everything is there."""
        client = self.pair.client
        self._open_sockets()
        client.processes.freeze()
        for process, program in zip(self.snapshot.processes, self.programs, strict=True):
            task = client.processes.spawn(process.comm, program, uid=process.uid, asleep=process.asleep)
            self.tasks.append(task)
            if program is self.program:
                self.worker = task
            error = mm_image.restore(client.memory, client.swapfile, task, process.mm)
            if error:
                raise ConfigError(f"{self.where} cannot be resumed: the memory of {process.comm} cannot be had ({error})")
        at_rest = client.processes.at_rest
        self.pair.world.run(until=lambda: all(at_rest(task) for task in self.tasks))  # who sleeps can be woken from now on
        self._add_counters()
        self.pair.far.adopt(self.snapshot.swap_file)
        client.processes.thaw()

    def _open_sockets(self) -> None:
        """Bind the sockets, and send what they had not read once more."""
        pair = self.pair
        udp, world, wire = pair.client_net.udp, pair.world, pair.wire
        for port, _ in self.snapshot.sockets:
            sk = udp.sock_create()
            assert sk is not None
            udp.bind(sk, CLIENT_IP, port)
            self.sockets.append(sk)
        host = Replay()
        wire.attach(host)
        for _, frames in self.snapshot.sockets:
            for frame in frames:
                wire.transmit(host, frame, world.now)
                world.run(for_ns=REPLAY_GAP_NS)
        world.run(for_ns=SETTLE_NS)

    def _add_counters(self) -> None:
        """Go on counting from where the first half ended."""
        pair, counters = self.pair, self.snapshot.counters
        for names, counted in ((EVENTS, pair.client.vmstat), (FRAMES, pair.client_net.stats)):
            for name in names:
                setattr(counted, name, getattr(counted, name) + counters.get(name, 0))
        stats = pair.mount.modules.stats
        stats.writes += counters.get("writes", 0)
        stats.reads += counters.get("reads", 0)
        pair.client.shadow.verified += counters.get("verified", 0)


def options_of(snapshot: Snapshot, where: str) -> RunConfig:
    """Read the options that the snapshot's run had."""
    run = snapshot.run
    texts: dict[str, Any] = {key: run.get(key) for key in ("patches", "fixes", "loss", "nic", "swap_ops")}
    numbers = {key: run.get(key) for key in ("mem", "cpus", "seed", "latency_ns", "mtu")}
    fill = run.get("fill")
    sound = all(isinstance(text, str) for text in texts.values()) and all(type(number) is int for number in numbers.values())
    if not sound or run.get("scenario") != "main" or not (fill is None or isinstance(fill, str)):
        raise ConfigError(f"{where} cannot be resumed: the options of its run cannot be read")
    try:
        return RunConfig.parse(
            "main",
            mem=str(numbers["mem"]),
            cpus=whole_number(str(numbers["cpus"]), "cpus", 1, MAX_CPUS),
            seed=whole_number(str(numbers["seed"]), "seed", 0, MAX_SEED),
            latency=f"{numbers['latency_ns']}ns",
            mtu=str(numbers["mtu"]),
            fill=fill,
            trace=None,
            **texts,
        )
    except ConfigError as error:
        raise ConfigError(f"{where} cannot be resumed: {error}") from None


def resume(config: RunConfig, watch: Watch, snapshot: Snapshot, where: str) -> RunResult:
    """Go on to the end and return what the run tells."""
    if config.server is None and config.server_dir is None:
        raise ConfigError("say where the server is: --server-dir DIR or --server URL")
    job = ResumedJob(config, watch, snapshot, where)
    with job.pair:
        job.run()
        result = job.observer.result()
    return attrs.evolve(result, command=shlex.join(["kemu", "resume", where, *config.server_words]))


def resume_command(path: str, *, server: dict[str, Any], as_json: bool, quiet: bool, show_only: bool) -> int:
    """Read a snapshot and go on, or only show it; return the exit status."""
    snapshot = read_file(path)
    if show_only:
        options_of(snapshot, path)
        show(snapshot, path, as_json=as_json)
        return 0
    config = attrs.evolve(options_of(snapshot, path), **server)
    began = time.perf_counter()
    with watcher(show=not (as_json or quiet)) as watch:
        result = resume(config, watch, snapshot, path)
    result.wall_seconds = round(time.perf_counter() - began, 3)
    if as_json:
        print(json.dumps(result.as_json(), indent=1))
    else:
        print_report(result, quiet=quiet)
    return 0 if result.lived else 1
