"""The RPC scheduler: sleeping and waking of RPC tasks, rpciod, memory for tasks and buffers (2.6.23 net/sunrpc/sched.c).

Interface
    * :class:`RpcSched`, one per machine: ``rpc_execute``, ``rpc_sleep_on``, ``rpc_wake_up_task``, ``rpc_wake_up_next``,
      ``rpc_wake_up_status``, ``rpc_delay``, ``rpc_exit``, ``rpc_malloc``, ``rpc_free``, ``rpc_alloc_task``, ``rpc_free_task``.

Rules of this file
    * A task is executed by one context at a time. An asynchronous one by rpciod, which has no PF_MEMALLOC in v14; a synchronous one
      by its caller, which blocks while the task sleeps.
    * In the base an asynchronous task takes its first steps in its caller's context and comes to rpciod when it has slept.
      ``async_in_caller`` asks for that; without it all its steps are rpciod's, as the fact sheet counts them.
    * Waking is legal from softirqs.
    * Patch 31 stands in rpc_malloc() and rpc_alloc_task().
    * Left out: child tasks, signals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kemu.kernel import costs
from kemu.kernel.core import Kernel
from kemu.kernel.errno import EAGAIN, ETIMEDOUT
from kemu.kernel.timer import HZ, Timer
from kemu.kernel.wait import WaitQueue
from kemu.kernel.workqueue import Work, Workqueue
from kemu.mm.gfp import _GFP_MEMALLOC, GFP_ATOMIC, GFP_NOFS, GFP_NOIO, GFP_NOWAIT
from kemu.mm.mempool import Mempool
from kemu.mm.page_alloc import PageAllocator
from kemu.mm.slub import SLAB_HWCACHE_ALIGN, Slub
from kemu_nfs.sunrpc.rpc_sysctl import SunrpcSysctls
from kemu_nfs.sunrpc.rpc_task import (
    CALL_DONE,
    CALL_EXIT,
    CALL_STATES,
    RPC_TASK_ASYNC,
    RPC_TASK_DYNAMIC,
    RPC_TASK_KILLED,
    RPC_TASK_SWAPPER,
    RpcRqst,
    RpcTask,
    RpcWaitQueue,
)

if TYPE_CHECKING:
    from collections.abc import Callable

RPC_TASK_POOLSIZE: Final = 8
RPC_BUFFER_POOLSIZE: Final = 8
RPC_BUFFER_MAXSIZE: Final = 2048
SIZEOF_RPC_TASK: Final = 312

Link = tuple[str, Any]


class RpcSched:
    """Everything that all RPC clients of a machine share.

    :ivar rpciod: one worker; also runs the transports' connect workers.
    :ivar buffer_failures: calls of rpc_malloc() that found nothing.
    """

    def __init__(self, kernel: Kernel, page_alloc: PageAllocator, slub: Slub, *, async_in_caller: bool = False) -> None:
        self.kernel = kernel
        self.sched = kernel.sched
        self.timers = kernel.timers
        self.patched = kernel.patched
        self.slub = slub
        self.async_in_caller = async_in_caller
        self.sysctls = SunrpcSysctls(kernel)
        self.rpciod = Workqueue(kernel, "rpciod")
        self.delay_queue = RpcWaitQueue("delayq")
        self.live: dict[RpcTask, None] = {}
        self.buffer_failures = 0
        self._next_pid = 1
        self.task_cache = slub.kmem_cache_create("rpc_tasks", SIZEOF_RPC_TASK, flags=SLAB_HWCACHE_ALIGN)
        self.buffer_cache = slub.kmem_cache_create("rpc_buffers", RPC_BUFFER_MAXSIZE, flags=SLAB_HWCACHE_ALIGN)
        self.task_mempool: Mempool[int] = Mempool(
            kernel,
            "rpc_tasks",
            RPC_TASK_POOLSIZE,
            lambda gfp: slub.kmem_cache_alloc(self.task_cache, gfp),
            lambda addr: slub.kmem_cache_free(self.task_cache, addr),
            page_alloc,
        )
        self.buffer_mempool: Mempool[int] = Mempool(
            kernel,
            "rpc_buffers",
            RPC_BUFFER_POOLSIZE,
            lambda gfp: slub.kmem_cache_alloc(self.buffer_cache, gfp),
            lambda addr: slub.kmem_cache_free(self.buffer_cache, addr),
            page_alloc,
        )
        point = kernel.trace.point
        self._trace_action = point("sunrpc:rpc_task_run_action", ("task", "action", "status"))
        self._trace_sleep = point("sunrpc:rpc_task_sleep", ("task", "queue", "timeout"))
        self._trace_wakeup = point("sunrpc:rpc_task_wakeup", ("task", "queue", "status"))
        kernel.judge.explainers["rpc"] = self.explain

    # -- sleeping and waking ---------------------------------------------------------------------------------------------------

    def rpc_sleep_on(
        self,
        queue: RpcWaitQueue,
        task: RpcTask,
        callback: Callable[[RpcTask], None] | None = None,
        timeout_fn: Callable[[RpcTask], None] | None = None,
    ) -> None:
        """Put a task to sleep (rpc_sleep_on()).

        :param callback: what it does first when it wakes.
        :param timeout_fn: what happens after ``tk_timeout`` jiffies, instead of waking with -ETIMEDOUT.
        """
        queue.add(task)
        task.tk_waitqueue = queue
        task.tk_callback = callback
        timeout = task.tk_timeout
        if self._trace_sleep.enabled:
            self._trace_sleep(task.tk_pid, queue.name, timeout)
        if timeout:
            task.tk_timeout_fn = timeout_fn
            timer = task.tk_timer
            if timer is None:
                req = task.tk_rqstp
                timer = req.rq_timer if req is not None else None
                if timer is None:
                    timer = Timer("rpc", self._run_timer)
                    if req is not None:
                        req.rq_timer = timer
                task.tk_timer = timer
            timer.data = task
            self.timers.mod_timer(timer, self.sched.jiffies + timeout)

    def _run_timer(self, task: RpcTask) -> None:
        """Time is over for a task that sleeps (rpc_run_timer(), __rpc_default_timer())."""
        if task.tk_waitqueue is None:
            return
        timeout_fn = task.tk_timeout_fn
        if timeout_fn is not None:
            timeout_fn(task)
            return
        task.tk_status = -ETIMEDOUT
        self.rpc_wake_up_task(task)

    def rpc_wake_up_task(self, task: RpcTask) -> None:
        """Wake a task if it sleeps (rpc_wake_up_task(), __rpc_do_wake_up_task())."""
        queue = task.tk_waitqueue
        if queue is None:
            return
        queue.remove(task)
        task.tk_waitqueue = None
        if self._trace_wakeup.enabled:
            self._trace_wakeup(task.tk_pid, queue.name, task.tk_status)
        timer = task.tk_timer
        if timer is not None:
            task.tk_timer = None
            task.tk_timeout_fn = None
            task.tk_timeout = 0
            if timer.pending:
                self.timers.del_timer(timer)
        if task.running:
            return
        task.running = True
        if task.tk_flags & RPC_TASK_ASYNC:
            self._queue_on_rpciod(task)
        elif task.tk_wake is not None:
            self.sched.wake_up_all(task.tk_wake)

    def rpc_wake_up_next(self, queue: RpcWaitQueue) -> RpcTask | None:
        """Wake the task that is next and return it (rpc_wake_up_next())."""
        task = queue.first()
        if task is not None:
            self.rpc_wake_up_task(task)
        return task

    def rpc_wake_up_status(self, queue: RpcWaitQueue, status: int) -> None:
        """Wake all tasks of a queue and give them a status (rpc_wake_up_status())."""
        for task in queue.tasks():
            task.tk_status = status
            self.rpc_wake_up_task(task)

    def rpc_delay(self, task: RpcTask, delay: int, status: int = 0) -> None:
        """Let a task sleep for ``delay`` jiffies (rpc_delay()).

        :param status: what it wakes with, 0 or -EAGAIN, which keeps a sender from giving up its right to send.
        """
        task.tk_timeout = delay
        task.tk_timer = Timer("rpc delay", self._run_timer)  # its own: the slot may be given back while it sleeps
        self.rpc_sleep_on(self.delay_queue, task, None, self._rpc_send_again if status else self._rpc_atrun)

    def _rpc_send_again(self, task: RpcTask) -> None:
        """Wake a sender whose delay is over."""
        task.tk_status = -EAGAIN
        self.rpc_wake_up_task(task)

    def _rpc_atrun(self, task: RpcTask) -> None:
        """Wake a task whose delay is over (__rpc_atrun())."""
        task.tk_status = 0
        self.rpc_wake_up_task(task)

    # -- executing -------------------------------------------------------------------------------------------------------------

    def _queue_on_rpciod(self, task: RpcTask) -> None:
        """Let rpciod go on with a task (rpc_make_runnable())."""
        work = task.tk_work
        if work is None:
            work = task.tk_work = Work("rpc_async_schedule", self._rpc_execute, task)
        self.rpciod.queue_work(work)

    def rpc_execute(self, task: RpcTask) -> None:
        """Start a call (rpc_execute()). An asynchronous one may be over, and its memory gone, when this returns."""
        self.live[task] = None
        task.tk_start = self.sched.jiffies
        task.running = True
        if task.tk_flags & RPC_TASK_ASYNC and not self.async_in_caller:
            self._queue_on_rpciod(task)
            return
        self._rpc_execute(task)

    def _rpc_execute(self, task: RpcTask) -> None:
        """Step from state to state until the call is over or the task sleeps (__rpc_execute()).

        A synchronous task sleeps here, in its caller; an asynchronous one is left to whoever wakes it.
        """
        sched = self.sched
        sched.spend(costs.RPC_STEP)
        steps = task.tk_client.steps
        trace = self._trace_action
        while True:
            callback = task.tk_callback
            if callback is not None:
                task.tk_callback = None
                callback(task)
            if task.tk_waitqueue is None:
                action = task.tk_action
                if not action:
                    break
                if trace.enabled:
                    trace(task.tk_pid, CALL_STATES[action].name, task.tk_status)
                steps[action](task)
            if task.tk_waitqueue is None:
                continue
            task.running = False
            if task.tk_flags & RPC_TASK_ASYNC:
                return
            if task.tk_wake is None:
                task.tk_wake = WaitQueue("rpc")
            sched.wait_event(task.tk_wake, lambda: task.tk_waitqueue is None, ("rpc", task))
            task.running = True
            sched.spend(costs.RPC_STEP)
        self._rpc_release_task(task)

    def rpc_exit(self, task: RpcTask, status: int) -> None:
        """Let the call end with ``status`` (rpc_exit())."""
        task.tk_status = status
        task.tk_action = CALL_EXIT

    def rpc_exit_task(self, task: RpcTask) -> None:
        """Tell the caller that the call is over; it may start it again (rpc_exit_task())."""
        task.tk_action = CALL_DONE
        task.tk_ops.rpc_call_done(task)
        if task.tk_action:
            task.tk_client.xprt.xprt_release(task)

    def rpc_restart_call(self, task: RpcTask, action: int) -> None:
        """Start a call again from its beginning (rpc_restart_call()); for rpc_call_done(). One that was killed stays dead."""
        if not task.tk_flags & RPC_TASK_KILLED:
            task.tk_action = action

    def _rpc_release_task(self, task: RpcTask) -> None:
        """Give back what the task holds (rpc_release_task())."""
        if task.tk_rqstp is not None:
            task.tk_client.xprt.xprt_release(task)
        del self.live[task]
        task.running = False
        if task.tk_flags & RPC_TASK_DYNAMIC:
            self.rpc_free_task(task)
        task.tk_ops.rpc_release(task)
        if task.tk_client.destroy_wait.waiters:
            self.sched.wake_up_all(task.tk_client.destroy_wait)

    # -- memory ----------------------------------------------------------------------------------------------------------------

    def next_pid(self) -> int:
        """Return the number of the next task."""
        pid = self._next_pid
        self._next_pid = pid + 1
        return pid

    def rpc_alloc_task(self) -> int | None:
        """Allocate a task that stands alone (rpc_alloc_task()); may sleep. Patch 31 keeps its reclaim from starting I/O."""
        gfp = GFP_NOIO if self.patched.nfs_enable_swap else GFP_NOFS  # [p31]
        return self.task_mempool.alloc(gfp)

    def rpc_free_task(self, task: RpcTask) -> None:
        """Free a task that stands alone (rpc_free_task())."""
        if task.addr is not None:
            self.task_mempool.free(task.addr)
            task.addr = None

    def rpc_malloc(self, task: RpcTask, size: int) -> bool:
        """Allocate the call and reply buffer of a task's slot (rpc_malloc()); never sleeps, tells whether it succeeded.

        Patch 31 lets tasks of a transport that carries swap use the reserve; the base knew swapper tasks, but gave them no more
        than GFP_ATOMIC.
        """
        req: RpcRqst = task.tk_rqstp  # type: ignore[assignment]  # a task that allocates has its slot
        if self.patched.nfs_enable_swap:  # [p31]
            gfp = GFP_NOWAIT | _GFP_MEMALLOC if task.tk_flags & RPC_TASK_SWAPPER else GFP_NOWAIT
        else:
            gfp = GFP_ATOMIC if task.tk_flags & RPC_TASK_SWAPPER else GFP_NOWAIT
        if size > RPC_BUFFER_MAXSIZE:
            req.rq_buffer = self.slub.kmalloc(size, gfp)
            req.rq_bufsize = size
        else:
            req.rq_buffer = self.buffer_mempool.alloc(gfp)
            req.rq_bufsize = RPC_BUFFER_MAXSIZE
        if req.rq_buffer is None:
            self.buffer_failures += 1
            return False
        return True

    def rpc_free(self, req: RpcRqst) -> None:
        """Free a slot's buffer (rpc_free())."""
        addr = req.rq_buffer
        if addr is None:
            return
        req.rq_buffer = None
        if req.rq_bufsize > RPC_BUFFER_MAXSIZE:
            self.slub.kfree(addr)
        else:
            self.buffer_mempool.free(addr)

    # -- for people ------------------------------------------------------------------------------------------------------------

    def explain(self, task: RpcTask) -> tuple[str, Link | None]:
        """Tell the judge what a call waits for."""
        return task.tk_client.explain(task)

    def check(self) -> None:
        """Assert that every live task is where its state says."""
        for task in self.live:
            queue = task.tk_waitqueue
            assert queue is None or task in queue.tasks(), task
            assert queue is not None or task.running or not task.tk_action, task
            assert task.tk_rqstp is None or task.tk_rqstp.rq_task is task, task


RPC_RETRY_DELAY: Final = HZ >> 4  # after a shortage of memory
