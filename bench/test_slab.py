"""What a kmalloc and its kfree cost: the fast path, a slab from the reserve (patch 03's slow path), and a refusal."""

from kemu.mm.gfp import _GFP_NOWARN, GFP_ATOMIC
from slab_ground import slab_ground


def pairs(slub, gfp):
    kmalloc, kfree = slub.kmalloc, slub.kfree
    for _ in range(1000):
        kfree(kmalloc(256, gfp))


def test_a_list_alone(benchmark):
    """The measure: nothing in Python hands out an object faster."""
    free = [1]

    def pop_and_append():
        for _ in range(1000):
            free.append(free.pop())

    benchmark(pop_and_append)


def test_fast_path(benchmark):
    with slab_ground() as sg:
        benchmark(pairs, sg.slub, GFP_ATOMIC)


def test_fast_path_without_the_patches(benchmark):
    with slab_ground(patches="none") as sg:
        benchmark(pairs, sg.slub, GFP_ATOMIC)


def test_entitled_on_a_reserve_slab(benchmark):
    with slab_ground() as sg:
        sg.floor()
        with sg.memalloc():
            benchmark(pairs, sg.slub, GFP_ATOMIC)


def test_unentitled_on_a_reserve_slab(benchmark):
    with slab_ground() as sg:
        sg.floor()
        sg.entitled_kmalloc(256)
        benchmark(pairs, sg.slub, GFP_ATOMIC | _GFP_NOWARN)
