"""Whether a world is alive, and if not, what it died of.

Interface: ``progress()``; ``hold(reason)`` and ``release(reason)``; ``report(outcome, reason)``; ``closed_probes``; ``explainers``;
``outcome``, ``reason``, ``also``, ``chain()``, ``stopped``.

Rules of this file
    * A machine that waits for a dead server is not dead. Progress is: a page's writeback ends, reclaim gives a page to a task, a
      fault returns, a task leaves the kernel, an RPC completes, a connection changes state. Timers, retransmissions and scans are
      not.
    * The clock stops while the scenario holds something back, and starts anew when the last obstacle ends.
    * 120 virtual seconds without progress: a warning in khungtaskd's words. 2.6.23 had none; khungtaskd came with 2.6.30.
    * ``deadlock``: all closed_probes name a reason at every check of five virtual seconds in which nothing progressed (two periods
      of the NIC's watchdog), and some task is stuck. ``hung_task``: 720 virtual seconds without progress with some task stuck.
    * A task is stuck if it waits uninterruptibly for something named, other than time or a client; or if it runs and gets nowhere
      (ksoftirqd, which works for foreign frames too, does not count).
    * Several outcomes: the first of PRECEDENCE is the outcome, the rest is in ``also``. Those of FATAL end the run.
    * The check comes every virtual second, between two choices of the hub. It is no event and keeps nothing alive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kemu.errors import ConfigError
from kemu.kernel.cpu import FOREVER
from kemu.kernel.history import OUTCOME
from kemu.kernel.task import TASK_RUNNING, TASK_UNINTERRUPTIBLE, Task, Why

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.hub import Hub
    from kemu.kernel.spinlock import Mutex

PRECEDENCE = ("oops", "panic", "data_loss", "deadlock", "hung_task", "oom_kill", "leak", "waiting", "survived")
FATAL = frozenset({"oops", "panic", "data_loss", "deadlock", "hung_task"})

CHECK_NS = 1_000_000_000
DEADLOCK_NS = 5_000_000_000
WARN_NS = 120_000_000_000
HUNG_NS = 720_000_000_000

#: Kinds of waiting that are nobody's fault: for time, for a client, for work.
PATIENT_KINDS = frozenset({"sleep", "server", "socket"})
#: How many links of a chain are followed, and how many chains are told.
MAX_LINKS = 16
MAX_CHAINS = 8

Explainer = "Callable[[Any], tuple[str, Why | None]]"


class Judge:
    """The judge of one world.

    :ivar last_ns: when something progressed last.
    :ivar closed_probes: each gives the reason why its layer can never go on by itself, or None.
    :ivar explainers: per kind of waiting a function from what is waited for to a text and the next link.
    """

    def __init__(self, world: Hub) -> None:
        self._world = world
        self.last_ns = 0
        self.next_check = CHECK_NS
        self.stopped = False
        self.warnings = 0
        self.closed_probes: list[Callable[[], str | None]] = []
        self.explainers: dict[str, Callable[[Any], tuple[str, Why | None]]] = {
            "task": _explain_task,
            "sleep": _explain_sleep,
            "mutex": _explain_mutex,
        }
        self._reports: dict[str, str] = {}
        self._chain: list[str] = []
        self._holds: dict[str, int] = {}
        self._closed_since = FOREVER
        self._warned = False

    # ---- what others tell

    def progress(self) -> None:
        """Take note that something went forward."""
        self.last_ns = self._world.running.now

    def hold(self, reason: str) -> None:
        """Stop the clock: the scenario holds something back."""
        self._holds[reason] = self._holds.get(reason, 0) + 1

    def release(self, reason: str) -> None:
        """Take an obstacle away; with the last one the clock starts anew."""
        left = self._holds.get(reason, 0) - 1
        if left > 0:
            self._holds[reason] = left
            return
        self._holds.pop(reason, None)
        if not self._holds:
            self._start_anew(self._world.now)

    def report(self, outcome: str, reason: str) -> None:
        """Take note of an outcome; the first report of each outcome keeps its reason."""
        if outcome not in PRECEDENCE:
            raise ConfigError(f"outcome {outcome!r} is not known; there are {', '.join(PRECEDENCE)}")
        if outcome in self._reports:
            return
        self._reports[outcome] = reason
        self._world.history.add(OUTCOME, self._world.now, PRECEDENCE.index(outcome))
        if outcome in FATAL and not self.stopped:
            self.stopped = True
            self._chain = self.chain_now()

    # ---- what it says

    @property
    def wrecked(self) -> bool:
        """Tell whether a machine's code failed, so that its state cannot be relied on."""
        return "oops" in self._reports or "panic" in self._reports

    @property
    def held(self) -> list[str]:
        """Name the obstacles that stand now."""
        return list(self._holds)

    @property
    def outcome(self) -> str | None:
        """Give the outcome of highest precedence, or None as long as nothing was reported."""
        for outcome in PRECEDENCE:
            if outcome in self._reports:
                return outcome
        return None

    @property
    def reason(self) -> str:
        """Give the reason of the outcome."""
        outcome = self.outcome
        return "" if outcome is None else self._reports[outcome]

    @property
    def also(self) -> list[str]:
        """Give the other outcomes, by precedence."""
        return [outcome for outcome in PRECEDENCE if outcome in self._reports][1:]

    @property
    def reports(self) -> dict[str, str]:
        """Give all outcomes with their reasons, as reported."""
        return dict(self._reports)

    def chain(self) -> list[str]:
        """Tell who waited for what when the run was ended; before that, who waits now."""
        return list(self._chain) if self.stopped else self.chain_now()

    def quiet_ns(self) -> int:
        """Give the time without progress; 0 while something is held back."""
        return 0 if self._holds else self._world.now - self.last_ns

    # ---- the periodic check

    def check(self, now: int) -> None:
        """Look at the clock; called by the hub at ``next_check``."""
        self.next_check = now - now % CHECK_NS + CHECK_NS
        if self._holds:
            self._start_anew(now)
            return
        quiet = now - self.last_ns
        if quiet < WARN_NS:
            self._warned = False
        self._check_closed(now, quiet)
        if self.stopped or quiet < WARN_NS or (self._warned and quiet < HUNG_NS):
            return
        stuck = self.stuck_tasks()
        if not stuck:
            return
        if not self._warned:
            self._warned = True
            self._warn(stuck)
        if quiet >= HUNG_NS:
            self.report("hung_task", f"no progress for {quiet // 10**9} s")

    def _start_anew(self, now: int) -> None:
        self.last_ns = now
        self._closed_since = FOREVER
        self._warned = False

    def _check_closed(self, now: int, quiet: int) -> None:
        """Decide whether the wait graph is closed."""
        reasons = []
        if quiet >= CHECK_NS:
            for probe in self.closed_probes:
                reason = probe()
                if reason is None:
                    break
                reasons.append(reason)
        if not reasons or len(reasons) < len(self.closed_probes):
            self._closed_since = FOREVER
            return
        self._closed_since = min(self._closed_since, now)
        if now - self._closed_since >= DEADLOCK_NS and quiet >= DEADLOCK_NS and self.stuck_tasks():
            self.report("deadlock", "; ".join(reasons))

    def _warn(self, stuck: list[Task]) -> None:
        """Say what khungtaskd would say (2.6.30 kernel/hung_task.c: check_hung_task())."""
        self.warnings += 1
        for task in stuck:
            printk = task.kernel.printk
            printk(f"INFO: task {task.comm}:{task.pid} blocked for more than 120 seconds.", "err")
            printk('"echo 0 > /proc/sys/kernel/hung_task_timeout_secs" disables this message.', "err")

    def stuck_tasks(self) -> list[Task]:
        """Give the tasks that should go on and do not, machine by machine, by pid."""
        stuck = []
        for kernel in self._world.machines:
            outside = kernel.init
            for task in kernel.sched.tasks.values():
                if task.state == TASK_UNINTERRUPTIBLE:
                    if task.why is not None and task.why[0] not in PATIENT_KINDS:
                        stuck.append(task)
                elif task.state == TASK_RUNNING and task is not outside and not task.bound:
                    stuck.append(task)
        return stuck

    # ---- who waits for what

    def chain_now(self) -> list[str]:
        """Tell for each stuck task what it waits for, and what that waits for."""
        lines = [self.explain(task) for task in self.stuck_tasks()[:MAX_CHAINS]]
        for kernel in self._world.machines:
            init = kernel.init
            if init.state != TASK_RUNNING and init.why is not None and self.explain(init) not in lines:
                lines.append(self.explain(init))
        return lines

    def explain(self, task: Task) -> str:
        """Give one line: ``kswapd0:12 on client waits for writeback of page 0x1a3 <- ...``."""
        head = f"{task.comm}:{task.pid} on {task.kernel.name}"
        if task.why is None:
            return f"{head} {'runs' if task.state == TASK_RUNNING else 'waits'}"
        parts: list[str] = []
        seen: list[Why] = []
        link: Why | None = task.why
        while link is not None and len(parts) < MAX_LINKS:
            if any(link[0] == kind and link[1] is obj for kind, obj in seen):
                parts.append("(a circle)")
                break
            seen.append(link)
            text, link = self._explain_link(link)
            parts.append(text)
        return f"{head} waits for {' <- '.join(parts)}"

    def _explain_link(self, link: Why) -> tuple[str, Why | None]:
        kind, obj = link
        explainer = self.explainers.get(kind)
        if explainer is not None:
            return explainer(obj)
        if isinstance(obj, Task):
            return f"{kind}: {_explain_task(obj)[0]}", obj.why
        if isinstance(obj, int):
            return f"{kind} {obj:#x}", None
        name = obj if isinstance(obj, str) else getattr(obj, "name", "")
        return f"{kind} {name}".rstrip(), None


def _explain_task(task: Task) -> tuple[str, Why | None]:
    return f"task {task.comm}:{task.pid} on {task.kernel.name}", task.why


def _explain_mutex(mutex: Mutex) -> tuple[str, Why | None]:
    owner = mutex.owner
    if owner is None:
        return f"mutex {mutex.name}", None
    return f"mutex {mutex.name}, held by {_explain_task(owner)[0]}", owner.why


def _explain_sleep(_obj: Any) -> tuple[str, Why | None]:
    return "time to pass", None
