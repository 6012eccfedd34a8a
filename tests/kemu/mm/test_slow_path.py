"""The ten steps of __alloc_pages against a second reading of them, for every request, context and combination of patches.

What single steps mean is in test_page_alloc.py; here only their order counts: attempts with their flags, wake-ups, reclaim, naps,
kills, and how it ends.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kemu.fixes import FixSet
from kemu.kernel.task import PF_MEMALLOC, TIF_MEMDIE
from kemu.mm import gfp as g
from kemu.patches import PatchSet
from mm_ground import MIB, ground

SOFTIRQ, HARDIRQ = 1 << 8, 1 << 16
FOR_EVER = 12  # naps and kills after which a request is said to go on for ever
PAGE = object()


class ForEverError(Exception):
    """The request neither gets a page nor gives up."""


class Script:
    """What happens outside of the slow path, the same for both readings.

    :param serve_at: which attempt is served; none for -1.
    :param progress: what each call of reclaim says, then no more progress.
    :param memdie_at: the event at which the OOM killer of somebody else chooses this task; none for -1.
    """

    def __init__(self, serve_at, progress, memdie_at, choose):
        self.serve_at, self.progress, self.memdie_at, self.choose = serve_at, list(progress), memdie_at, choose
        self.events = []
        self.attempts = self.patience = 0

    def note(self, *event):
        if len(self.events) == self.memdie_at:
            self.choose()
        self.events.append(event)

    def attempt(self, flags, hardwall):
        self.note("try", g.decode_alloc_flags(flags), hardwall)
        self.attempts += 1
        return PAGE if self.attempts - 1 == self.serve_at else None

    def wakeup(self):
        self.note("kswapd")

    def reclaim(self):
        self.note("reclaim")
        return self.progress.pop(0) if self.progress else 0

    def nap(self):
        self.note("nap")
        self._patience()

    def kill(self):
        self.note("kill")
        self._patience()

    def _patience(self):
        self.patience += 1
        if self.patience == FOR_EVER:
            raise ForEverError


class Model:
    """A second reading: 2.6.23's text, patch 01's where it is on. Not the code under test in other words: no shared function."""

    def __init__(self, patches, fixes, script, gfp, order, task):
        self.on, self.fixed, self.script, self.gfp, self.order, self.task = patches, fixes, script, gfp, order, task

    def has(self, *bits):
        return all(self.gfp & bit for bit in bits)

    def context_opens_reserves(self):
        if 10 in self.on and self.has(g._GFP_MEMALLOC) and not self.has(g._GFP_NOMEMALLOC):
            return True
        interrupt = self.task["context"] >= SOFTIRQ
        if self.task["pf"] and not (self.task["context"] >= HARDIRQ if 6 in self.on else interrupt):
            return True
        return self.task["memdie"] and not interrupt

    def discounts(self):
        flags = g.ALLOC_WMARK_MIN
        if not self.has(g._GFP_WAIT) or (self.task["rt"] and self.task["context"] < SOFTIRQ):
            flags |= g.ALLOC_HARDER
        if self.has(g._GFP_HIGH):
            flags |= g.ALLOC_HIGH
        if self.has(g._GFP_WAIT):
            flags |= g.ALLOC_CPUSET
        return flags

    def entitled_now(self):
        return self.context_opens_reserves() and not self.has(g._GFP_NOMEMALLOC)

    def run(self):
        while True:
            result = self.from_restart()
            if result != "restart":
                return result

    def from_restart(self):
        script, hardwall = self.script, self.has(g._GFP_HARDWALL)
        if script.attempt(g.ALLOC_WMARK_LOW | g.ALLOC_CPUSET, True):
            return PAGE
        if self.has(g._GFP_THISNODE, g._GFP_NOWARN, g._GFP_NORETRY):
            return None
        script.wakeup()
        script.wakeup()
        flags = self.discounts()
        entitled = self.entitled_now()  # patch 01 remembers it
        if script.attempt(flags, hardwall):
            return PAGE
        while True:
            if 1 in self.on:
                if self.fixed.b01:
                    entitled, flags = self.entitled_now(), self.discounts()
                if entitled:
                    return self.no_watermarks(naps=self.has(g._GFP_NOFAIL, g._GFP_WAIT))
            elif self.context_opens_reserves():
                return None if self.has(g._GFP_NOMEMALLOC) else self.no_watermarks(naps=self.has(g._GFP_NOFAIL))
            if not self.has(g._GFP_WAIT) or (1 in self.on and self.task["pf"]):
                return None
            if script.reclaim():
                if script.attempt(flags, hardwall):
                    return PAGE
            elif self.has(g._GFP_FS) and not self.has(g._GFP_NORETRY):
                if script.attempt(g.ALLOC_WMARK_HIGH | g.ALLOC_CPUSET, True):
                    return PAGE
                if self.order > 3:
                    return None
                script.kill()
                return "restart"
            small = self.order <= 3 or self.has(g._GFP_REPEAT) or self.has(g._GFP_NOFAIL)
            if self.has(g._GFP_NORETRY) or not small:
                return None
            script.nap()

    def no_watermarks(self, naps):
        while True:
            if self.script.attempt(g.ALLOC_NO_WATERMARKS, self.has(g._GFP_HARDWALL)):
                return PAGE
            if not naps:
                return None
            self.script.nap()


def outcome(script, run):
    try:
        return (PAGE if run() is PAGE else None), script.events
    except ForEverError:
        return "for ever", script.events


class Reclaimer:
    def __init__(self, script):
        self.script = script

    def try_to_free_pages(self, _zones, _order, _gfp):
        return self.script.reclaim()

    def wakeup_kswapd(self, _zone, _order):
        self.script.wakeup()

    def out_of_memory(self, _zonelist, _gfp, _order):
        self.script.kill()

    def congestion_wait(self, _jiffies):
        self.script.nap()


@pytest.fixture(scope="module")
def machines():
    """A machine per combination of the patches that change the slow path, made when it is first asked for."""
    made = {}

    def machine(patches, fixes):
        if (patches, fixes) not in made:
            context = ground(32 * MIB, patches, fixes)
            made[patches, fixes] = context, context.__enter__()
            made[patches, fixes][1].starve()
        return made[patches, fixes][1]

    yield machine
    for context, _ in made.values():
        context.__exit__(None, None, None)


FLAGS = [
    g._GFP_WAIT,
    g._GFP_HIGH,
    g._GFP_IO,
    g._GFP_FS,
    g._GFP_REPEAT,
    g._GFP_NOFAIL,
    g._GFP_NORETRY,
    g._GFP_NOMEMALLOC,
    g._GFP_MEMALLOC,
    g._GFP_HARDWALL,
    g._GFP_THISNODE,
]
gfps = st.builds(
    lambda base, more: g._GFP_NOWARN | base | sum(more),
    st.sampled_from([g.GFP_KERNEL, g.GFP_ATOMIC, g.GFP_NOFS, g.GFP_NOIO, g.GFP_NOWAIT, g.GFP_USER]),
    st.sets(st.sampled_from([flag for flag in FLAGS if not flag & (g.GFP_USER | g._GFP_HIGH)]), max_size=4).map(sorted),
)
PATCHES = ["2,8", "1,2,8", "1,2,6,8", "1,2,8,9", "1,2,6,8,9,10", "2,6,8,9,10", "2,8,10", "all", "none"]


@settings(max_examples=50, deadline=None)
@example(g.GFP_ATOMIC | g._GFP_NOFAIL, 0, True, False, False, 0, -1, [], -1, "2,8", "all")  # the base naps in atomic context
@example(g.GFP_KERNEL | g._GFP_NOMEMALLOC, 0, False, True, False, 0, -1, [], -1, "1,2,8", "all")  # a victim reclaims
@example(g.GFP_NOFS, 0, False, False, False, 0, -1, [1, 1, 1, 1], 5, "1,2,8", "none")  # b01
@example(g.GFP_NOFS, 0, False, False, False, 0, -1, [1, 1, 1, 1], 5, "2,8", "none")  # the base looks again
@given(
    gfps,
    st.sampled_from([0, 0, 3, 4]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 1, SOFTIRQ, HARDIRQ, HARDIRQ | SOFTIRQ]),
    st.integers(-1, 8),
    st.lists(st.sampled_from([0, 1]), max_size=4),
    st.integers(-1, 10),
    st.sampled_from(PATCHES),
    st.sampled_from(["all", "none"]),
)
def test_the_steps_are_those_of_the_two_texts(
    machines, gfp, order, pf, memdie, rt, context, serve_at, progress, memdie_at, patches, fixes
):
    if gfp & g._GFP_WAIT:
        context = 0
    machine = machines(patches, fixes)
    task, pa = machine.task, machine.pa

    state = {"pf": pf, "memdie": memdie, "rt": rt, "context": context}
    expected = Script(serve_at, progress, memdie_at, lambda: state.update(memdie=True))
    model = Model(PatchSet.parse(patches), FixSet.parse(fixes), expected, gfp, order, state)

    def choose():
        task.thread_flags |= TIF_MEMDIE

    seen = Script(serve_at, progress, memdie_at, choose)
    task.flags = task.flags & ~PF_MEMALLOC | (PF_MEMALLOC if pf else 0)
    task.thread_flags, task.rt = TIF_MEMDIE if memdie else 0, rt
    pa.reclaim = Reclaimer(seen)
    pa.get_page_from_freelist = lambda gfp, _order, _zonelist, flags: seen.attempt(flags, gfp & g._GFP_HARDWALL != 0)
    try:
        with machine.preempt_count(context):
            got = outcome(seen, lambda: pa.alloc_pages(gfp, order))
    finally:
        del pa.get_page_from_freelist
        task.flags, task.thread_flags, task.rt = task.flags & ~PF_MEMALLOC, 0, False
    assert got == outcome(expected, model.run)


@pytest.mark.parametrize("patches", PATCHES)
def test_small_blocks_that_may_wait_never_come_back_empty_handed(machines, patches):
    """Unless the caller is PF_MEMALLOC or a victim, or says NORETRY; GFP_NOFS never kills."""
    machine = machines(patches, "all")
    for gfp, kills in ((g.GFP_KERNEL, True), (g.GFP_NOFS, False), (g.GFP_NOIO, False)):
        for order in (0, 3):
            script = Script(-1, [], -1, None)
            machine.pa.reclaim = Reclaimer(script)
            end, events = outcome(script, lambda gfp=gfp, order=order: machine.pa.alloc_pages(gfp, order))
            assert end == "for ever" and (("kill",) in events) == kills
