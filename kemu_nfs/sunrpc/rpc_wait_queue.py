"""Queues on which calls sleep (2.6.23 net/sunrpc/sched.c, include/linux/sunrpc/sched.h: struct rpc_wait_queue).

Interface
    * :class:`RpcWaitQueue`: first come first served, but a swapper always comes to the head: "this should avoid many nasty memory
      deadlocks". What a transport sends and waits for sleeps here.
    * :class:`RpcPriorityQueue`: three priorities, and batches by owner on each. Only the backlog of a slot table is one.

Rules of this file
    * ``first()`` chooses; the task stays until rpc_wake_up_task() removes it.
    * Priority p may be served 4**p times in a row, and up to RPC_BATCH_COUNT calls of one owner (tk_cookie: the process that made
      them) count once. Then comes the next lower priority that has sleepers, and after the lowest the highest again: low ones are
      slowed, not starved. Owners of one priority take turns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kemu_nfs.sunrpc.rpc_task import RpcTask

RPC_PRIORITY_LOW: Final = 0
RPC_PRIORITY_NORMAL: Final = 1
RPC_PRIORITY_HIGH: Final = 2
RPC_NR_PRIORITY: Final = 3
RPC_BATCH_COUNT: Final = 16

RPC_TASK_SWAPPER: Final = 0x0002  # of tk_flags; the others are in rpc_task.py


class RpcWaitQueue:
    """``struct rpc_wait_queue`` of one priority (rpc_init_wait_queue())."""

    __slots__ = ("_sleepers", "_swappers", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._sleepers: dict[RpcTask, None] = {}
        self._swappers: dict[RpcTask, None] = {}

    def add(self, task: RpcTask) -> None:
        """Put a task at the end, a swapper at the head (__rpc_add_wait_queue())."""
        if task.tk_flags & RPC_TASK_SWAPPER:
            self._swappers[task] = None
        else:
            self._sleepers[task] = None

    def remove(self, task: RpcTask) -> None:
        """Take a task out (__rpc_remove_wait_queue())."""
        del (self._swappers if task.tk_flags & RPC_TASK_SWAPPER else self._sleepers)[task]

    def first(self) -> RpcTask | None:
        """Choose the task that is next."""
        if self._swappers:
            return next(reversed(self._swappers))
        for task in self._sleepers:
            return task
        return None

    def tasks(self) -> list[RpcTask]:
        """List who sleeps, in the order in which they are woken."""
        return [*reversed(self._swappers), *self._sleepers]

    def __len__(self) -> int:
        """Count who sleeps."""
        return len(self._swappers) + len(self._sleepers)

    def __repr__(self) -> str:
        """Name the queue and who sleeps."""
        return f"<rpc queue {self.name}: {self.tasks()}>"


class RpcPriorityQueue(RpcWaitQueue):
    """``struct rpc_wait_queue`` with priorities (rpc_init_priority_wait_queue()).

    :ivar qlen: how many sleep.
    """

    __slots__ = ("_cookie", "_count", "_levels", "_nr", "_priority", "qlen")

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._levels: tuple[dict[int, dict[RpcTask, None]], ...] = tuple({} for _ in range(RPC_NR_PRIORITY))
        self.qlen = 0
        self._reset()

    def _reset(self) -> None:
        """Begin again with the highest priority (rpc_reset_waitqueue_priority())."""
        self._set_priority(RPC_PRIORITY_HIGH)
        self._set_cookie(0)

    def _set_priority(self, priority: int) -> None:
        self._priority = priority
        self._count = 1 << (priority * 2)

    def _set_cookie(self, cookie: int) -> None:
        self._cookie = cookie
        self._nr = RPC_BATCH_COUNT

    def add(self, task: RpcTask) -> None:
        """Put a task behind those of its owner (__rpc_add_wait_queue_priority())."""
        self._levels[task.tk_priority].setdefault(task.tk_cookie, {})[task] = None
        self.qlen += 1

    def remove(self, task: RpcTask) -> None:
        """Take a task out; its owner's next takes its place (__rpc_remove_wait_queue_priority())."""
        level = self._levels[task.tk_priority]
        owned = level[task.tk_cookie]
        del owned[task]
        if not owned:
            del level[task.tk_cookie]
        self.qlen -= 1
        if not self.qlen:
            self._reset()

    def first(self) -> RpcTask | None:
        """Choose the task that is next (__rpc_wake_up_next_priority())."""
        if not self.qlen:
            return None
        level = self._levels[self._priority]
        if level:
            cookie, owned = next(iter(level.items()))
            task = next(iter(owned))
            if cookie == self._cookie:
                self._nr -= 1
                if self._nr:
                    return task
                level[cookie] = level.pop(cookie)  # its turn is over; this one still goes, as the first of a new batch
            self._count -= 1
            if self._count:
                self._set_cookie(cookie)
                return task
        priority = self._priority
        while True:
            priority = priority - 1 if priority else RPC_PRIORITY_HIGH
            if self._levels[priority]:
                break
        cookie, owned = next(iter(self._levels[priority].items()))
        self._set_priority(priority)
        self._set_cookie(cookie)
        return next(iter(owned))

    def tasks(self) -> list[RpcTask]:
        """List who sleeps, highest priority first."""
        return [task for level in reversed(self._levels) for owned in level.values() for task in owned]

    def __len__(self) -> int:
        """Count who sleeps."""
        return self.qlen
