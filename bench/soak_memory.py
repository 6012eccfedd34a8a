"""Ask for memory and give it back, ten million times, and see that nothing is left.

    python bench/soak_memory.py [--operations N] [--seed N] [--json]

Pages of all orders, objects of all sizes, caches, memory pools, a hog, an emergency pool that grows and shrinks, marks that move,
callers that are entitled to the reserve and callers that are not, in tasks and softirqs, on both processors. The machine's check()
runs at intervals. Exit status 1 if anything is left at the end, or if check() finds something.

An operation is one request or one return. The figures say how fast the emulator is, not how fast a kernel is.
"""

from __future__ import annotations

import json
import random
import sys
import time
from contextlib import nullcontext

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kemu import Machine, MachineConfig
from kemu.errors import KemuError
from kemu.kernel.task import PF_MEMALLOC
from kemu.mm import gfp as g
from kemu.mm.hog import AtomicHog
from kemu.mm.mempool import mempool_create_kmalloc_pool, mempool_create_page_pool, mempool_create_slab_pool

PHASE = 2000  # operations between two changes of the weather
CHECK = 100_000  # operations between two runs of check()

ATOMIC = tuple(
    gfp | g._GFP_NOWARN
    for gfp in (
        *(g.GFP_ATOMIC, g.GFP_ATOMIC, g.GFP_NOWAIT, g.GFP_ATOMIC | g._GFP_NOMEMALLOC, g.GFP_ATOMIC | g._GFP_MEMALLOC),
        *(g.GFP_ATOMIC | g._GFP_COLD, g.GFP_ATOMIC | g._GFP_ZERO, g.GFP_ATOMIC | g._GFP_DMA, g.GFP_ATOMIC | g._GFP_COMP),
    )
)
# Who can wait reclaims, and there is nothing to reclaim: with __GFP_NORETRY, or it would end in the OOM killer.
WAITING = tuple(gfp | g._GFP_NOWARN | g._GFP_NORETRY for gfp in (g.GFP_KERNEL, g.GFP_NOIO, g.GFP_NOFS, g.GFP_USER))
ORDERS = (0,) * 40 + (1,) * 8 + (2,) * 6 + (3,) * 4 + (4, 4, 5, 6, 7, 8, 9, 10)
SIZES = (0, 1, 8, 13, 32, 64, 90, 96, 128, 150, 192, 256, 300, 512, 700, 1024, 1600, 2048, 2049, 4096, 9000, 33_000, 200_000)


class Soak:
    """The machine, and what is held of it."""

    def __init__(self, seed: int, patches: str = "all", fixes: str = "all", mem: int = 32 << 20) -> None:
        self.rng = random.Random(seed)
        self.machine = machine = Machine(MachineConfig(mem=mem, cpus=2, seed=seed, patches=patches, fixes=fixes))
        self.pa, self.slub = machine.page_alloc, machine.slub
        kernel = machine.kernel
        self.before = self.snapshot()
        self.caches = [
            self.slub.kmem_cache_create(f"soak-{size}", size, align) for size, align in ((24, 0), (120, 64), (700, 0), (3000, 0))
        ]
        pools = (
            mempool_create_slab_pool(kernel, 8, self.slub, self.caches[2]),
            mempool_create_kmalloc_pool(kernel, "soak-kmalloc", 8, self.slub, 500),
            mempool_create_page_pool(kernel, "soak-pages", 4, self.pa, 1),
        )
        self.pools = [pool for pool in pools if pool is not None]
        self.reserve = machine.reserves.mem_reserve_init("soak", machine.reserves.root)
        self.hog = AtomicHog(self.slub)
        self.pages: list = []
        self.addresses: list = []
        self.objects: list = []
        self.elements: list = []
        self.gfps = ATOMIC
        self.bias = 0.5  # how often a step asks rather than gives back
        self.done = self.nulls = self.peak = 0
        self.kinds = (self.page, self.page, self.page, self.size, self.size, self.size, self.object, self.object, self.element)

    # one operation each

    def page(self) -> None:
        rng = self.rng
        if rng.random() < self.bias or not self.pages:
            order, gfp = rng.choice(ORDERS), rng.choice(self.gfps)
            page = self.pa.alloc_pages(gfp, order)
            if page is None:
                self.nulls += 1
            else:
                self.pages.append((page, order, not order or gfp & g._GFP_COMP))
        else:
            page, order, may_put = self.take(self.pages)
            if may_put and order:
                self.pa.put_page(self.pa.pfn_to_page(page.pfn + rng.randrange(1 << order)))
            elif may_put:
                self.pa.put_page(page)
            else:
                self.pa.free_pages(page, order)

    def size(self) -> None:
        rng = self.rng
        if rng.random() < self.bias or not self.addresses:
            address = self.slub.kmalloc(rng.choice(SIZES), rng.choice(self.gfps))
            if address is None:
                self.nulls += 1
            else:
                self.addresses.append(address)
        else:
            self.slub.kfree(self.take(self.addresses))

    def object(self) -> None:
        rng = self.rng
        if rng.random() < self.bias or not self.objects:
            cache = rng.choice(self.caches)
            address = self.slub.kmem_cache_alloc(cache, rng.choice(self.gfps))
            if address is None:
                self.nulls += 1
            else:
                self.objects.append((cache, address))
        else:
            self.slub.kmem_cache_free(*self.take(self.objects))

    def element(self) -> None:
        rng = self.rng
        if rng.random() < self.bias or not self.elements:
            pool = rng.choice(self.pools)
            gfp = rng.choice(ATOMIC) & ~g._GFP_DMA  # who can wait might do so for ever; the pools' own are not of DMA caches
            element = pool.alloc(gfp)
            if element is None:
                self.nulls += 1
            else:
                self.elements.append((pool, element))
        else:
            pool, element = self.take(self.elements)
            pool.free(element)

    def take(self, held: list):
        """Remove any item."""
        at = int(self.rng.random() * len(held))
        held[at], held[-1] = held[-1], held[at]
        return held.pop()

    # the weather

    def change(self) -> None:
        """Let the next phase be another one."""
        rng = self.rng
        pick = rng.random()
        if pick < 0.1:
            self.done += self.hog.hog(rng.choice((100, 1000, None)))
        elif pick < 0.3:
            self.done += self.hog.release(rng.choice((100, None)))
        elif pick < 0.4:
            kbytes = rng.randrange(2048)
            self.machine.kernel.sysctl.write("vm.min_free_kbytes", f"{kbytes}\n")
        elif pick < 0.5:
            if self.room():  # the probe may wait
                self.machine.reserves.mem_reserve_pages_set(self.reserve, rng.randrange(400))
        elif pick < 0.6:
            self.slub.kmem_cache_shrink(rng.choice(list(self.slub.caches.values())))
        elif pick < 0.65:
            self.pa.drain_pages(rng.randrange(2))
        self.bias = rng.choice((0.3, 0.45, 0.5, 0.55, 0.7))
        self.gfps = ATOMIC + WAITING if self.room() and self.bias <= 0.5 else ATOMIC

    def room(self) -> bool:
        """Tell whether a phase of requests is sure to be served without reclaim."""
        return self.pa.nr_free_pages() > self.pa.total_pages // 2

    def phase(self) -> None:
        """Run some operations under one weather: as a task or a softirq, entitled or not, on one of the processors."""
        self.change()
        sched, cpus = self.machine.kernel.sched, self.machine.kernel.cpus
        cpu, task = sched.cpu, sched.current
        if self.gfps is ATOMIC:  # nobody sleeps in such a phase
            sched.cpu = self.rng.choice(cpus)
            sched.cpu.preempt_count += self.rng.choice((0, 1 << 8))
            task.flags |= self.rng.choice((0, 0, PF_MEMALLOC))
        choice, kinds = self.rng.choice, self.kinds
        for _ in range(PHASE):
            choice(kinds)()
        self.done += PHASE
        sched.cpu.preempt_count = 0
        sched.cpu = cpu
        task.flags &= ~PF_MEMALLOC
        self.peak = max(self.peak, self.pa.allocated_pages())

    def run(self, operations: int, tick=lambda _: None) -> None:
        """Do as many operations, with a check() from time to time."""
        next_check = CHECK
        while self.done < operations:
            self.phase()
            if self.done >= next_check:
                self.machine.check()
                next_check = self.done + CHECK
            tick(self.done)

    # the end

    def give_back(self) -> None:
        """Free everything that is held, and what it was held in: a pool's elements would keep slabs apart."""
        self.hog.release()
        for page, order, _ in self.pages:
            self.pa.free_pages(page, order)
        for address in self.addresses:
            self.slub.kfree(address)
        for cache, address in self.objects:
            self.slub.kmem_cache_free(cache, address)
        for pool, element in self.elements:
            pool.free(element)
        self.pages, self.addresses, self.objects, self.elements = [], [], [], []
        for pool in self.pools:
            pool.destroy()
        for cache in self.caches:
            self.slub.kmem_cache_destroy(cache)  # it stays if an object is out
        self.machine.reserves.mem_reserve_pages_set(self.reserve, 0)

    def snapshot(self) -> dict[str, int]:
        """Count what is in use, after the caches have given back what is not."""
        self.slub.shrink_all()
        for cpu in range(len(self.machine.kernel.cpus)):
            self.pa.drain_pages(cpu)
        counts = {f"objects of {cache.name}": self.slub.objects_in_use(cache) for cache in self.slub.caches.values()}
        counts["pages"] = self.pa.allocated_pages()
        counts["pages from the reserve"] = len(self.pa.reserve_pfns)
        counts["charged"] = self.machine.reserves.root.usage
        counts["kB of the emergency pool"] = self.pa.var_free_kbytes
        return counts

    def left(self) -> dict[str, int]:
        """Say what is in use now that was not when the soak began."""
        self.machine.check()
        now = self.snapshot()
        more = {what: count - self.before.get(what, 0) for what, count in now.items()}
        return {what: count for what, count in more.items() if count}


@click.command(help=(__doc__ or "").split("\n", maxsplit=1)[0])
@click.option("--operations", default=10_000_000, type=click.IntRange(1), show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--patches", default="all", show_default=True)
@click.option("--fixes", default="all", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(operations: int, seed: int, patches: str, fixes: str, as_json: bool) -> None:
    columns = (TextColumn("soak"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[text]}"))
    console = Console(stderr=True)
    progress = Progress(*columns, console=console, transient=True) if console.is_terminal else None
    try:
        soak = Soak(seed, patches, fixes)
        start = time.perf_counter()
        with progress or nullcontext():
            bar = progress and progress.add_task("soak", total=operations, text="")

            def tick(done: int) -> None:
                if progress is not None and bar is not None:
                    text = f"{soak.pa.allocated_pages()} pages, {soak.nulls} NULL"
                    progress.update(bar, completed=min(done, operations), text=text)

            soak.run(operations, tick)
        seconds = time.perf_counter() - start
        soak.give_back()
        left = soak.left()
        soak.machine.shutdown()
    except KemuError as error:
        raise click.ClickException(str(error)) from error
    vmstat = soak.pa.vmstat
    report = {
        "operations": soak.done,
        "seed": seed,
        "seconds": round(seconds, 2),
        "operations_per_second": round(soak.done / seconds),
        "nulls": soak.nulls,
        "peak_pages": soak.peak,
        "of_pages": soak.pa.total_pages,
        "served": {mark: getattr(vmstat, f"alloc_{mark}") for mark in ("low", "min", "high", "no_watermarks")},
        "left": left,
    }
    if as_json:
        click.echo(json.dumps(report))
    else:
        click.echo(f"{soak.done} operations in {seconds:.1f} s, {soak.done / seconds:,.0f} per second, {soak.nulls} times NULL")
        click.echo(f"up to {soak.peak} of {soak.pa.total_pages} pages in use; nothing is left" if not left else f"left: {left}")
    sys.exit(1 if left else 0)


if __name__ == "__main__":
    main()
