"""Cpusets, as far as memory goes: the nodes from which a task's requests may be served (2.6.23 kernel/cpuset.c).

Interface
    * :class:`Cpuset`, :func:`attach_task`.
    * :func:`cpuset_zone_allowed_softwall`, asked by the page allocator; :func:`cpuset_zone_allowed_hardwall`, asked by reclaim.

Who may have a page of which node
    * In an interrupt, or with __GFP_THISNODE: any. A victim of the OOM killer: any.
    * GFP_ATOMIC: the second attempt of __alloc_pages does not ask (no ALLOC_CPUSET), nor does the one without watermarks.
    * GFP_USER, and the first attempt of all (__GFP_HARDWALL): those of the task's own cpuset.
    * GFP_KERNEL: also those of the nearest ancestor that has ``mem_exclusive``; the top cpuset has.

Left out: CPUs of a cpuset, callback_mutex and mems_generation (a change is seen at once), memory_pressure, memory_spread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from kemu.kernel.task import PF_EXITING, TIF_MEMDIE, Task
from kemu.mm.gfp import _GFP_HARDWALL, _GFP_THISNODE, gfp_t

if TYPE_CHECKING:
    from kemu.kernel.sched import Sched


@attrs.define(eq=False)
class Cpuset:
    """``struct cpuset``: nodes, and who stands above.

    :param parent: None: right below the top cpuset, which has all nodes.
    """

    mems_allowed: tuple[int, ...]
    mem_exclusive: bool = False
    parent: Cpuset | None = None


def attach_task(task: Task, cpuset: Cpuset | None) -> None:
    """Put a task into a cpuset; None for the top one."""
    task.cpuset = cpuset
    task.mems_allowed = None if cpuset is None else cpuset.mems_allowed


def cpuset_zone_allowed_softwall(sched: Sched, node: int, gfp: gfp_t) -> bool:
    """Tell whether current may have memory of a node, if need be outside its own cpuset."""
    task = sched.current
    if _allowed_at_once(sched, task, node, gfp):
        return True
    if gfp & _GFP_HARDWALL:
        return False
    sched.might_sleep()
    if task.flags & PF_EXITING:
        return True
    cpuset: Cpuset | None = task.cpuset
    while cpuset is not None and not cpuset.mem_exclusive:
        cpuset = cpuset.parent
    return cpuset is None or node in cpuset.mems_allowed


def cpuset_zone_allowed_hardwall(sched: Sched, node: int, gfp: gfp_t) -> bool:
    """Tell whether current may have memory of a node without leaving its own cpuset."""
    return _allowed_at_once(sched, sched.current, node, gfp)


def _allowed_at_once(sched: Sched, task: Task, node: int, gfp: gfp_t) -> bool:
    """Answer what both walls have in common."""
    if task.mems_allowed is None or node in task.mems_allowed:
        return True
    if sched.in_interrupt() or gfp & _GFP_THISNODE:
        return True
    return task.thread_flags & TIF_MEMDIE != 0
