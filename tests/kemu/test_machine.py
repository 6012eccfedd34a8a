"""The machine as a whole: boot, look, shut down; one's own patch."""

import gc
import subprocess
import sys

import pytest

from kemu import Machine, MachineConfig
from kemu.errors import ConfigError, KernelBug
from kemu.kernel.world import World
from kemu.mm.gfp import GFP_KERNEL
from kemu.mm.slub import Slub
from kemu.patches import PatchSet


def test_a_booted_machine_holds_its_invariants():
    with Machine(MachineConfig(mem=8 << 20)) as machine:
        machine.check()

        assert machine.page_alloc.total_pages == 2048
        assert machine.kernel.sched.current.comm == "init"


def test_pages_and_objects_are_plain_calls():
    with Machine(MachineConfig(mem=8 << 20)) as machine:
        free = machine.page_alloc.nr_free_pages()
        page = machine.page_alloc.alloc_pages(GFP_KERNEL, 3)
        address = machine.slub.kmalloc(100, GFP_KERNEL)

        assert page.pfn % 8 == 0
        assert machine.slub.ksize(address) == 128
        assert machine.page_alloc.nr_free_pages() <= free - 8
        machine.page_alloc.free_pages(page, 3)
        machine.slub.kfree(address)
        machine.check()


def test_patches_and_fixes_may_be_text():
    with Machine(MachineConfig(mem=8 << 20, patches="all,-20", fixes="none")) as machine:
        assert 20 not in machine.kernel.patched
        assert not machine.kernel.fixed.b16


@pytest.mark.parametrize(
    "wrong",
    [{"mem": 0}, {"mem": -4096}, {"mem": 4097}, {"mem": 1 << 50}, {"cpus": 0}, {"cpus": 65}, {"arch": "vax"}, {"patches": "99"}],
)
def test_what_no_machine_could_be_is_refused_in_one_sentence(wrong):
    with pytest.raises(ConfigError) as error:
        MachineConfig(**wrong)
    assert "\n" not in str(error.value)


class Stingy:
    """A patch of one's own: nobody gets more than 64 bytes."""

    def kmalloc(self, size, gfp):
        return None if size > 64 else super().kmalloc(size, gfp)


def test_an_override_holds_for_its_machine_only():
    with World() as world:
        mine = Machine(MachineConfig(name="mine", mem=8 << 20, overrides={Slub: Stingy}), world)
        plain = Machine(MachineConfig(name="plain", mem=8 << 20), world)

        assert mine.slub.kmalloc(100, GFP_KERNEL) is None
        assert mine.slub.kmalloc(64, GFP_KERNEL) is not None
        assert plain.slub.kmalloc(100, GFP_KERNEL) is not None
        assert type(plain.slub) is Slub


def test_a_broken_invariant_is_named_with_the_state():
    with Machine(MachineConfig(mem=8 << 20)) as machine:
        machine.page_alloc.zones[0].free_pages += 1

        with pytest.raises(KernelBug, match="free"):
            machine.check()


def test_a_machine_that_is_dropped_takes_its_world_along():
    machine = Machine(MachineConfig(mem=8 << 20))
    world = machine.world
    del machine
    gc.collect()

    assert world.dead


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_64_gib_boot_in_little_memory():
    code = (
        "from kemu import Machine, MachineConfig\n"
        "machine = Machine(MachineConfig(mem=64 << 30))\n"
        "print(machine.page_alloc.total_pages, len(machine.page_alloc.mem_map))\n"
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "print(int(status['VmHWM'].split()[0]) // 1024)\n"  # ru_maxrss would begin with the size of the process that forked
    )
    words = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    pages, structs, megabytes = map(int, words)

    assert pages == 16 << 20
    assert structs < 100
    assert megabytes < 200


def test_the_default_is_the_full_series():
    assert MachineConfig().patches == PatchSet.all()
