"""What a kmalloc and its kfree cost: the fast path, a slab from the reserve (patch 03's slow path), and a refusal."""

from kemu.mm.fault_inject import FailSlab
from kemu.mm.gfp import _GFP_NOWARN, GFP_ATOMIC
from slab_ground import MIB, slab_ground


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


def test_a_slab_with_debugging(benchmark):
    """slub_debug=FZPU: every object is checked byte for byte when it comes and when it goes."""
    with slab_ground(slub_debug="FZPU") as sg:
        benchmark(pairs, sg.slub, GFP_ATOMIC)


def test_memory_of_a_node(benchmark):
    with slab_ground(64 * MIB, ncpus=2, nodes=2) as sg:

        def node_pairs():
            for _ in range(1000):
                sg.slub.kfree(sg.slub.kmalloc_node(256, GFP_ATOMIC, 0))

        benchmark(node_pairs)


def test_injection_that_never_fails(benchmark):
    """What failslab costs when it is set; off it costs nothing, as the fast path above shows."""
    with slab_ground() as sg:
        sg.slub.failslab = FailSlab(sg.kernel, probability=0)
        benchmark(pairs, sg.slub, GFP_ATOMIC)
