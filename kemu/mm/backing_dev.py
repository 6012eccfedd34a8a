"""Backing devices: is the queue behind this address space full, and naps until one is not (2.6.23 mm/backing-dev.c).

Interface
    * :class:`Congestion`, one per machine: ``congestion_wait(rw, jiffies)``, the nap of every reclaimer.
    * :class:`BackingDev`, one per device or NFS server: ``set_congested(rw)``, ``clear_congested(rw)``, ``congested(rw)``.

Rules of this file
    * A nap ends early only when *some* congested queue clears. Below the congestion limit none ever does, so a nap is the full
      HZ/50 or HZ/10.
    * ``pdflush`` is BDI_pdflush: one flushing thread at a time works on a queue.
    * Left out: unplugging, per-device writeback counts.
"""

from __future__ import annotations

from typing import Final

from kemu.kernel.core import Kernel
from kemu.kernel.task import Why
from kemu.kernel.wait import WaitQueue

READ: Final = 0
WRITE: Final = 1
BIO_RW_SYNC: Final = 1 << 4  # beside READ or WRITE: somebody waits, start at once

BDI_CAP_NO_ACCT_DIRTY: Final = 1  # dirty pages are not counted
BDI_CAP_NO_WRITEBACK: Final = 2  # no periodic writeback


class Congestion:
    """The two wait queues that all backing devices of a machine share (``congestion_wqh``)."""

    def __init__(self, kernel: Kernel) -> None:
        self.sched = kernel.sched
        self._queues = (WaitQueue("congestion_wqh[READ]"), WaitQueue("congestion_wqh[WRITE]"))
        self._cleared = [0, 0]  # how often a queue of each direction stopped being congested
        self.naps = 0
        kernel.judge.explainers["congestion"] = _explain

    def congestion_wait(self, rw: int, jiffies: int, why: Why | None = None) -> int:
        """Sleep until a congested queue of direction ``rw`` clears, at most ``jiffies``; return what was left of them.

        :param why: what the caller really waits for, if that is more than the nap.
        """
        self.naps += 1
        before = self._cleared[rw]
        return self.sched.wait_event_timeout(
            self._queues[rw],
            lambda: self._cleared[rw] != before,
            jiffies,
            why if why is not None else ("congestion", "WRITE" if rw else "READ"),
        )

    def wake(self, rw: int) -> None:
        """Wake who naps: a queue is no longer congested."""
        self._cleared[rw] += 1
        self.sched.wake_up_all(self._queues[rw])


class BackingDev:
    """``struct backing_dev_info``.

    :param congestion: the machine's naps, which a cleared queue ends.
    :param name: for people.
    :param capabilities: BDI_CAP_*.
    :param ra_pages: how far to read ahead; 0: not at all.
    """

    __slots__ = ("_congested", "capabilities", "congestion", "name", "pdflush", "ra_pages")

    def __init__(self, congestion: Congestion, name: str, capabilities: int = 0, ra_pages: int = 0) -> None:
        self.congestion = congestion
        self.name = name
        self.capabilities = capabilities
        self.ra_pages = ra_pages
        self.pdflush = False
        self._congested = [False, False]

    def set_congested(self, rw: int = WRITE) -> None:
        """Say that the queue is full (set_bdi_congested())."""
        self._congested[rw] = True

    def clear_congested(self, rw: int = WRITE) -> None:
        """Say that the queue has room again, and end every nap of that direction (clear_bdi_congested())."""
        if self._congested[rw]:
            self._congested[rw] = False
            self.congestion.wake(rw)

    def congested(self, rw: int = WRITE) -> bool:
        """Tell whether the queue is full (bdi_congested())."""
        return self._congested[rw]

    def __repr__(self) -> str:
        """Name the device."""
        return f"<BackingDev {self.name}>"


def _explain(rw: object) -> tuple[str, None]:
    """Say what a nap waits for."""
    return (f"a {rw} queue that clears, or the end of a nap (congestion_wait)", None)
