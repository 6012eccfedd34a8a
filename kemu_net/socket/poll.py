"""Waiting for several sockets at once (2.6.23 fs/select.c: do_poll(), include/linux/poll.h).

Interface
    PollFd(fd, events)                       struct pollfd; ``revents`` is the answer
    do_poll(sched, files, fds, timeout, stdio)

Rules
    * A poll() that must wait is on the wait queue of every socket, as poll_wait() puts it there; who is woken asks all again.
    * Errors and hang-ups are told unasked. A descriptor that is not open answers POLLNVAL; a negative one is passed over.
    * Files that are no sockets (``fd < stdio``) are always readable and writable, as regular files are (DEFAULT_POLLMASK).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from kemu.kernel.task import TASK_INTERRUPTIBLE, TASK_RUNNING
from kemu.kernel.timer import MAX_SCHEDULE_TIMEOUT, msecs_to_jiffies
from kemu.kernel.wait import Waiter
from kemu_net.core import uapi

if TYPE_CHECKING:
    from kemu.kernel.sched import Sched
    from kemu_net.socket.ops import Socket

_DEFAULT_POLLMASK = uapi.POLLIN | uapi.POLLOUT | uapi.POLLRDNORM | uapi.POLLWRNORM


@attrs.define(eq=False)
class PollFd:
    """``struct pollfd``."""

    fd: int
    events: int
    revents: int = 0


def _ask(files: dict[int, Socket], fds: list[PollFd], stdio: int) -> int:
    """Fill in all answers; give how many are not empty (``do_pollfd()`` of each)."""
    count = 0
    for entry in fds:
        entry.revents = 0
        if entry.fd < 0:
            continue
        sock = files.get(entry.fd)
        mask = _DEFAULT_POLLMASK if entry.fd < stdio else uapi.POLLNVAL
        if sock is not None:
            mask = sock.ops.poll(sock)
        entry.revents = mask & (entry.events | uapi.POLLERR | uapi.POLLHUP | uapi.POLLNVAL)
        count += entry.revents != 0
    return count


def do_poll(sched: Sched, files: dict[int, Socket], fds: list[PollFd], timeout: int, stdio: int) -> int:
    """Wait at most ``timeout`` ms, negative for ever, until one of ``fds`` is ready; give how many are."""
    count = _ask(files, fds, stdio)
    if count or not timeout:
        return count
    left = MAX_SCHEDULE_TIMEOUT if timeout < 0 else msecs_to_jiffies(timeout)
    task = sched.current
    queues = [files[entry.fd].sk.sk_sleep for entry in fds if entry.fd in files]
    waiters = [(queue, Waiter(task, False)) for queue in queues]
    why = ("socket", next((files[entry.fd].sk for entry in fds if entry.fd in files), None))
    try:
        while True:
            for queue, waiter in waiters:
                sched.add_wait_queue(queue, waiter)
            task.state = TASK_INTERRUPTIBLE
            count = _ask(files, fds, stdio)
            if count or left <= 0:
                return count
            left = sched.schedule_timeout(left, why if waiters else ("sleep", None))
    finally:
        task.state = TASK_RUNNING
        for queue, waiter in waiters:
            sched.remove_wait_queue(queue, waiter)
