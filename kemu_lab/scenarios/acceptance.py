"""The acceptance test: what the author of the series says he ran, and what a machine with the full series must outlive.

The story (scale 1: 128 MiB of memory)
    1. The client mounts the export and swaps to a file on it. Sixty sleepers bind a UDP socket each.
    2. Four processes of half the memory each: two with anonymous memory, two with a file of the same export mapped (MAP_SHARED).
       Each writes all its pages in order, twice.
    3. Other hosts send: a background of 20 frames/s all the time, and now and then a flood of 2 s, of UDP or of fragments.
    4. When the fastest process is half-way, the server goes away for 15 minutes, and comes back. Floods come then, too.
    5. The processes end their work. Anonymous pages are compared with their shadows; the processes sync, unmap and leave; the files
       are compared with what the server has; swapoff; nothing may be left.

The three phases are told apart in the report: steady, outage, recovery. An outage is waiting, not death: the judge's clock stands
still while the server is held back. One that never returns is watched for an hour and ends as ``waiting``.
"""

from __future__ import annotations

from errno import errorcode

from kemu.errors import Deadlock, KernelBug
from kemu.kernel.cpu import Event
from kemu.kernel.errno import ENOMEM
from kemu.kernel.task import Task
from kemu.mm.address_space import AddressSpace, File
from kemu.mm.process import SIGKILL
from kemu_lab.acceptance_options import scale_of
from kemu_lab.contents import FileFill, Pattern
from kemu_lab.hosts import CLIENT_IP, Pair
from kemu_lab.observe import Observer
from kemu_lab.phases import PhaseMeter
from kemu_lab.programs import CycleWriter, SleepingReader
from kemu_lab.progress import Watch
from kemu_lab.result import Acceptance, RunResult
from kemu_lab.run_config import RunConfig
from kemu_lab.swap_home import swap_home
from kemu_lab.traffic import FLOOD_RATE, ForeignHosts
from kemu_net.ipv4.udp import UdpSock
from kemu_nfs.sunrpc.nfs3_const import NFS3PROC_READ, NFS3PROC_WRITE
from kemu_nfs.sunrpc.rpc_const import NFS_PROGRAM
from kemu_nfs.sunrpc.xs_connect import XsTcpConnect

PAGE_SIZE = 4096
CYCLES = 2
PROCESSES = 4
ANONYMOUS = 2
SOCKETS = 60
BACKGROUND_SOCKETS = 6
FLOOD_GROUPS = 3
FIRST_PORT = 40000
SLEEPER_PAGES = 4
FLOODS_AT = (1, 2, 4, 5)  # sixths of the fastest process's work; the outage begins after three
OUTAGE_FLOODS_AT = (1, 10)  # fifteenths of the outage
KINDS = {"mixed": ["udp-flood", "fragments"], "udp-flood": ["udp-flood"], "fragments": ["fragments"], "none": []}
SAMPLE_NS = 2_000_000
QUIET_SAMPLE_NS = 1_000_000_000  # while nothing moves
NEVER_NS = 3600 * 10**9  # how long a server that never returns is waited for
RING_NS = 300_000_000
SETTLE_NS = 2_000_000_000
AWAY = "the server is away"
SURVIVED = "every page of memory, swap and files is right, and nothing is left of the reserve's use"
NO_MEMORY = (128 + SIGKILL, ENOMEM)  # exit codes of processes for which there was none


def scenario(config: RunConfig, watch: Watch) -> RunResult:
    """Run the acceptance test and return what it tells."""
    job = AcceptanceTest(config, watch)
    with job.pair:
        job.run()
        return job.result()


class AcceptanceTest:
    """One run of the story."""

    def __init__(self, config: RunConfig, watch: Watch) -> None:
        self.config = config
        self.options = config.acceptance
        self.watch = watch
        self.contents = FileFill(config.fill) if config.fill is not None else Pattern(config.seed)
        self.pair = Pair(config)
        self.home = swap_home(config, self.pair)
        self.observer = Observer(config, self.pair)
        self.meter = PhaseMeter(self.pair)
        self.told = Acceptance(
            scale=scale_of(config.mem),
            process_pages=config.mem // 2 // PAGE_SIZE,
            **{name: getattr(self.options, name) for name in ("uid", "proto", "traffic", "outage_how", "outage_ns")},
        )
        ports = [FIRST_PORT + number for number in range(SOCKETS)]
        flooded = ports[BACKGROUND_SOCKETS:]
        groups = [flooded[number::FLOOD_GROUPS] for number in range(FLOOD_GROUPS)]
        self.ports = ports
        self.hosts = ForeignHosts(self.pair, KINDS[self.options.traffic], ports[:BACKGROUND_SOCKETS], groups)
        self.sockets: list[UdpSock] = []
        self.tasks: list[Task] = []
        self.workers: list[Task] = []
        self.programs: list[CycleWriter] = []
        self.files: dict[str, File] = {}
        self.swap_file: File | None = None
        self.over = self.timed = False
        self.phase = ""
        self.goal: int | None = None
        self.floods_at = [self.total() // PROCESSES * share // 6 for share in FLOODS_AT]
        self.moved_before = 0
        self._event: Event

    def run(self) -> None:
        """Tell the story, until the judge ends it."""
        judge = self.pair.world.judge
        try:
            self.swap_on()
            self.start_processes()
            self.load()
            if judge.stopped or not self.all_done():
                return
            self.observer.end_of_load(self.home.read_slot)
            if not judge.stopped:
                self.quiesce()
        except Deadlock as error:  # a system call of the story itself never returned
            judge.report("hung_task", str(error))

    # ---- 1 and 2: swap, sockets, processes

    def swap_on(self) -> None:
        """Make a swap area and use it; a refusal is part of the story."""
        area = self.home.swap_on()
        if isinstance(area, str):
            self.observer.story = area
            self.pair.client.kernel.printk(area)
        else:
            self.swap_file = area

    def start_processes(self) -> None:
        """Start the sleepers with their sockets, and when all of them sleep, the four that work."""
        client, udp, uid = self.pair.client, self.pair.client_net.udp, self.options.uid
        for port in self.ports:
            sk = udp.sock_create()
            assert sk is not None
            udp.bind(sk, CLIENT_IP, port)
            self.sockets.append(sk)
        sleepers = [SleepingReader(SLEEPER_PAGES, self.contents) for _ in self.sockets]
        for number, sleeper in enumerate(sleepers):
            self.tasks.append(client.processes.spawn(f"reader{number}", sleeper, uid=uid))
        self.pair.world.run(until=lambda: all(sleeper.asleep for sleeper in sleepers))
        owners: list[File | None] = [None] * ANONYMOUS
        owners += [self.make_file(f"data{number}") for number in range(PROCESSES - ANONYMOUS)]
        for number, file in enumerate(owners):
            name = f"anon{number}" if file is None else f"mapped{number - ANONYMOUS}"
            program = CycleWriter(self.told.process_pages, CYCLES, self.contents, number + 1, file)
            self.programs.append(program)
            self.workers.append(client.processes.spawn(name, program, uid=uid))
        self.tasks += self.workers

    def make_file(self, name: str) -> File:
        """Make a file that everybody may write, and open it as who will map it."""
        mount, init = self.pair.mount, self.pair.client.kernel.init
        nfsi = mount.create(name, mode=0o666)
        error = nfsi if isinstance(nfsi, int) else mount.setattr(nfsi, size=self.told.process_pages * PAGE_SIZE)
        init.uid = self.options.uid  # as seteuid(2)
        file = error or mount.open(name)
        init.uid = 0
        if isinstance(file, int):
            raise KernelBug(f"{name} could not be made: {errorcode[-file]}")
        self.files[name] = file
        return file

    # ---- 3 and 4: the load, the floods, the outage

    def load(self) -> None:
        """Let the processes work; in the middle take the server away."""
        with_outage = self.options.outage_ns != 0
        self.hosts.begin()
        self.meter.begin("steady", self.position())
        self.work("steady", goal=self.total() // PROCESSES // 2 if with_outage else None)
        if with_outage and not self.stopped():
            self.outage()
        if not self.stopped():
            self.work("recovery")
        self.meter.end()
        self.hosts.end()

    def stopped(self) -> bool:
        """Tell whether there is nothing to go on with: a verdict, a dead process, or the work is done."""
        return self.pair.world.judge.outcome is not None or self.a_worker_died() or self.all_done()

    def outage(self) -> None:
        """Take the server away, let time pass, bring it back."""
        pair, told, length = self.pair, self.told, self.options.outage_ns
        self.meter.begin("outage", self.position())
        told.away_ns = pair.world.now
        pair.world.judge.hold(AWAY)
        pair.stop_server(self.options.outage_how)
        passed = 0
        for share in OUTAGE_FLOODS_AT:
            until = (length or NEVER_NS) * share // 15
            self.work("outage", for_ns=until - passed)
            passed = until
            if self.stopped():
                return
            self.hosts.flood()
        self.work("outage", for_ns=(length or NEVER_NS) - passed)
        if self.stopped():
            return
        if length is None:
            self.waited_for_nothing()
            return
        pair.start_server()
        pair.world.judge.release(AWAY)
        told.back_ns = pair.world.now
        self.moved_before = self.pages_moved()
        self.meter.begin("recovery", self.position())

    def waited_for_nothing(self) -> None:
        """Say that the server did not return."""
        reason = f"the server did not return within {NEVER_NS // 10**9} s; no process died, and none went on"
        self.pair.world.judge.report("waiting", reason)

    def work(self, name: str, *, goal: int | None = None, for_ns: int | None = None) -> None:
        """Let time pass, and look at the counters now and then.

        :param goal: touches of the fastest process at which to stop, None: stop when all have done their work.
        :param for_ns: stop after so long instead.
        """
        world = self.pair.world
        self.phase, self.goal, self.timed = name, goal, for_ns is not None
        self.over = False
        self._sample(None)
        world.run(until=lambda: self.over, for_ns=for_ns)
        self._event.cancel()

    def _sample(self, _: object) -> None:
        """Take one sample, and say when the next one is due."""
        world = self.pair.world
        self.look(self.position())
        if not self.timed:
            fastest = max([program.position for program in self.programs])
            if self.floods_at and fastest >= self.floods_at[0]:
                self.floods_at.pop(0)
                self.hosts.flood()
            self.over = self.a_worker_died() or (self.all_done() if self.goal is None else fastest >= self.goal)
        quiet = self.timed and not self.hosts.flooding
        self._event = world.post(world.now + (QUIET_SAMPLE_NS if quiet else SAMPLE_NS), self._sample)

    def look(self, position: int) -> None:
        """Look at the counters."""
        self.observer.sample()
        self.meter.sample(position)
        self.watch.update(self.phase, position, self.total(), self.observer.line)
        if self.told.back_ns is not None and self.told.first_page_ns is None and self.pages_moved() > self.moved_before:
            self.told.first_page_ns = self.pair.world.now

    def pages_moved(self) -> int:
        """Count the WRITEs and READs that the server has done."""
        counts = self.pair.rpc_server.counts
        return counts.get((NFS_PROGRAM, NFS3PROC_WRITE), 0) + counts.get((NFS_PROGRAM, NFS3PROC_READ), 0)

    def position(self) -> int:
        """Count the touches of all processes."""
        return sum([program.position for program in self.programs])

    def total(self) -> int:
        """Count the touches of the whole work."""
        return CYCLES * PROCESSES * self.told.process_pages

    def all_done(self) -> bool:
        """Tell whether all processes have done their work and are alive."""
        return all(program.done for program in self.programs) and not self.a_worker_died()

    def a_worker_died(self) -> bool:
        """Tell whether one of the four has died."""
        return any(worker.exit_code is not None for worker in self.workers)

    # ---- 5: compare, wake, leave

    def quiesce(self) -> None:
        """Let everybody sync, unmap and leave; compare the files; swapoff; let the NIC's ring go round once."""
        pair = self.pair
        client, world = pair.client, pair.world
        for task in self.tasks:
            client.kernel.sched.wake_up_process(task)
        world.run(until=lambda: all(task.exit_code is not None for task in self.tasks))
        if world.judge.stopped:
            return
        for sk in self.sockets:
            pair.client_net.udp.close(sk)
        self.close_files()
        if self.swap_file is not None:
            error = client.swapfile.swapoff(self.swap_file)
            if error:
                raise KernelBug(f"swapoff failed: {errorcode[-error]}")
        frames = pair.frame_generator([(CLIENT_IP, FIRST_PORT)], FLOOD_RATE, RING_NS)
        frames.start(world.now)
        world.run(until=lambda: not frames.running)
        self.home.leave()
        world.run(for_ns=SETTLE_NS)
        if not world.judge.stopped:
            self.observer.after_quiesce()
            self.observer.story = self.observer.story or SURVIVED
            client.check()
            pair.client_net.check()

    def close_files(self) -> None:
        """Close the files, and compare every page that was written with what the server has."""
        pair = self.pair
        names = {file.f_mapping: name for name, file in self.files.items()}

        def on_server(mapping: AddressSpace, index: int) -> bytes | None:
            return pair.server_bytes(names[mapping], index)

        for name, file in self.files.items():
            error = pair.mount.close(file)
            if error:
                pair.client.kernel.printk(f"{name}: close: {errorcode[-error]}")
        self.told.file_pages_compared, _ = pair.client.shadow.audit_files(on_server)

    def result(self) -> RunResult:
        """Put everything into the object that a run tells."""
        told, mount = self.told, self.pair.mount
        self.meter.end()  # a call of the story itself may never have returned
        self.say_who_died()
        result = self.observer.result()
        result.phases = self.meter.done
        result.reserve.peak_bytes = max(result.reserve.peak_bytes, self.meter.reserve_peak)
        result.acceptance = told
        connector = mount.xprt.connector
        if told.away_ns is not None and isinstance(connector, XsTcpConnect):
            told.connects_ns = [at for at in connector.attempts if at >= told.away_ns]
        for at, _, text in self.pair.client.kernel.printk.buffer:
            if text.startswith("nfs: server"):
                told.messages.append(f"[{at / 1e9:12.6f}] {text}")
        told.foreign_frames = self.hosts.sent
        return result

    def say_who_died(self) -> None:
        """Report a process that did not end by itself: no memory for its fault, or a page that could not be read."""
        judge = self.pair.world.judge
        for task in self.tasks:
            if task.exit_code and judge.outcome is None:
                died = f"{task.comm}:{task.pid} ended with {task.exit_code}"
                judge.report("oom_kill" if task.exit_code in NO_MEMORY else "data_loss", died)
