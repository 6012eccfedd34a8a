"""The main job: a machine with too little memory swaps, over NFS or to a disk, while other hosts send frames that nobody reads.

The story
    1. The client gets a swap area and calls swapon: a file on the export that it mounts, or a disk of its own (swap_home.py).
    2. Sixty tasks bind a UDP socket each, fill a little memory, and sleep.
    3. One process writes twice the machine's memory, page by page, and then reads random pages of it (or follows a trace).
    4. Each time reclaim has written another few thousand pages, a burst of foreign frames comes for the sleepers' sockets. Their
       owners cannot read: they sleep, and what they need to go on has been swapped out.
    5. Every page is compared with its shadow. Then everybody wakes, reads its own memory, and leaves; swapoff; nothing may be left.

The numbers are those at which memory decides, and not the processor: a server that takes 1 ms for a write, frames at least three
times as fast as its replies, sockets that are not yet full when the pressure begins. The scenario sees public counters only.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import errorcode

from kemu.errors import Deadlock, KernelBug
from kemu.kernel.task import Task
from kemu.mm.address_space import File
from kemu_lab.contents import FileFill, Pattern, read_input
from kemu_lab.hosts import CLIENT_IP, Pair
from kemu_lab.lackey import parse_trace
from kemu_lab.observe import Observer
from kemu_lab.programs import FillThenRead, FollowTrace, SleepingReader
from kemu_lab.progress import Watch
from kemu_lab.result import RunResult
from kemu_lab.run_config import RunConfig
from kemu_lab.swap_home import swap_home
from kemu_net.ipv4.udp import UdpSock

PAGE_SIZE = 4096
READS = 3000
SOCKETS = 60
FIRST_PORT = 40000
SLEEPER_PAGES = 4
BURST_NS = 300_000_000
BURST_RATE = 5000  # frames per second
FIRST_BURST = 1000  # pages out
NEXT_BURST = 3000  # pages out between the begin of two bursts
SAMPLE_NS = 2_000_000
SURVIVED = "every page came back as it was written, and nothing is left of the reserve's use"
SETTLE_NS = 2_000_000_000


def scenario(config: RunConfig, watch: Watch) -> RunResult:
    """Run the main job and return what it tells."""
    job = MainJob(config, watch)
    with job.pair:
        job.run()
        return job.observer.result()


class MainJob:
    """One run of the story."""

    def __init__(self, config: RunConfig, watch: Watch) -> None:
        self.config = config
        self.watch = watch
        self.contents = FileFill(config.fill) if config.fill is not None else Pattern(config.seed)
        self.program = self._program()
        self.pair = Pair(config)
        self.home = swap_home(config, self.pair)
        self.observer = Observer(config, self.pair)
        self.observer.disks += [self.home.disk] if self.home.disk is not None else []
        self.sockets: list[UdpSock] = []
        self.tasks: list[Task] = []
        self.worker: Task
        self.swap_file: File | None = None
        self.next_burst = FIRST_BURST

    def _program(self) -> FillThenRead | FollowTrace:
        """Choose what the big process does; a trace is read before anything boots."""
        if self.config.trace is not None:
            return FollowTrace(parse_trace(read_input(self.config.trace, "--trace"), self.config.trace), self.contents)
        return FillThenRead(2 * self.config.mem // PAGE_SIZE, READS, self.contents, self.config.seed)

    def run(self) -> None:
        """Tell the story, until the judge ends it."""
        judge = self.pair.world.judge
        try:
            self.swap_on()
            self.start_processes()
            self.load()
            if judge.stopped or self.worker.exit_code is not None:
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
        """Start the sleepers with their sockets, and when all of them sleep, the process that needs too much."""
        client, udp = self.pair.client, self.pair.client_net.udp
        for number in range(SOCKETS):
            sk = udp.sock_create()
            assert sk is not None
            udp.bind(sk, CLIENT_IP, FIRST_PORT + number)
            self.sockets.append(sk)
        sleepers = [SleepingReader(SLEEPER_PAGES, self.contents) for _ in self.sockets]
        for number, sleeper in enumerate(sleepers):
            self.tasks.append(client.processes.spawn(f"reader{number}", sleeper))
        self.pair.world.run(until=lambda: all(sleeper.asleep for sleeper in sleepers))
        self.worker = client.processes.spawn("worker", self.program)
        self.tasks.append(self.worker)

    # ---- 3 and 4: the load and the bursts

    def load(self) -> None:
        """Let the worker work, watch it, and send a burst whenever reclaim has come far enough."""
        world = self.pair.world
        generator = self.pair.frame_generator([(CLIENT_IP, FIRST_PORT + n) for n in range(SOCKETS)], BURST_RATE, BURST_NS)

        def burst() -> None:
            if self.observer.swapped_out >= self.next_burst:
                self.next_burst += NEXT_BURST
                generator.start(world.now)

        self.work(until=self.load_is_over, also=burst)
        generator.stop()

    def work(
        self, until: Callable[[], bool] | None = None, for_ns: int | None = None, also: Callable[[], None] | None = None
    ) -> None:
        """Let time pass, and look at the counters now and then."""
        world = self.pair.world
        sampling = True

        def sample(_: object) -> None:
            if not sampling:
                return
            self.observer.sample()
            self.watch.update("load", self.program.position, self.program.total, self.observer.line)
            if also is not None:
                also()
            world.post(world.now + SAMPLE_NS, sample)

        world.post(world.now + SAMPLE_NS, sample)
        world.run(until=until, for_ns=for_ns)
        sampling = False

    def load_is_over(self) -> bool:
        """Tell whether the process has done its work, or has died."""
        return self.program.done or self.worker.exit_code is not None

    # ---- 5: compare, wake, leave

    def quiesce(self) -> None:
        """Wake everybody, let them read and leave, swapoff, and let the NIC's ring go round once."""
        pair = self.pair
        client, world = pair.client, pair.world
        for task in self.tasks:
            client.kernel.sched.wake_up_process(task)
        world.run(until=lambda: all(task.exit_code is not None for task in self.tasks))
        if world.judge.stopped:
            return
        for sk in self.sockets:
            pair.client_net.udp.close(sk)
        if self.swap_file is not None:
            error = client.swapfile.swapoff(self.swap_file)
            if error:
                raise KernelBug(f"swapoff failed: {errorcode[-error]}")
        frames = pair.frame_generator([(CLIENT_IP, FIRST_PORT)], BURST_RATE, BURST_NS)
        frames.start(world.now)
        world.run(until=lambda: not frames.running)
        self.home.leave()
        world.run(for_ns=SETTLE_NS)
        if not world.judge.stopped:
            self.observer.after_quiesce()
            self.observer.story = self.observer.story or SURVIVED
            client.check()
            pair.client_net.check()
