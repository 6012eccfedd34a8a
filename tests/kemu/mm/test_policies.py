"""Which policies there are, and which fits a kernel."""

from __future__ import annotations

import pytest

from kemu.errors import ConfigError
from kemu.machine import Machine, MachineConfig
from kemu.mm.gfp import GFP_KERNEL
from kemu.mm.policies import POLICIES, make_geometry, marks_of, policy_of_release


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_has_geometry_and_marks(name):
    assert make_geometry(name).name == name
    assert marks_of(name).boot_min_free_kbytes(1 << 20) == 4096


@pytest.mark.parametrize("use", [make_geometry, marks_of])
def test_an_unknown_policy_is_refused_with_the_choice(use):
    with pytest.raises(ConfigError, match=r"'7\.0' is not known; choose 2\.6\.23, 6\.1, 6\.18"):
        use("7.0")


@pytest.mark.parametrize(
    ("release", "name"),
    [("2.6.23-mm1", "2.6.23"), ("5.16.0-6-amd64", "6.1"), ("6.6.1", "6.1"), ("6.7.0", "6.18"), ("7.1-rc1", "6.18")],
)
def test_a_release_finds_its_policy(release, name):
    assert policy_of_release(release) == name


@pytest.mark.parametrize("release", ["", "six", "4.19.0", "5.15.0-91-generic", "6", "99999999.1"])
def test_an_unknown_release_is_refused(release):
    with pytest.raises(ConfigError, match="kernel release"):
        policy_of_release(release)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("slub_debug", ["", "FZPU"])
def test_a_machine_runs_with_any_geometry(name, slub_debug):
    with Machine(MachineConfig(mem=8 << 20, cpus=2, geometry=name, slub_debug=slub_debug)) as machine:
        geometry = make_geometry(name, 2)
        cache = machine.slub.kmem_cache_create("thing", 700)
        assert (cache.size, cache.order, cache.objects) == geometry.calculate_sizes(700, 0, cache.flags, has_ctor=False)
        assert cache.min_partial == geometry.min_partial(cache.size)
        held = [machine.slub.kmem_cache_alloc(cache, GFP_KERNEL) for _ in range(100)]
        held += [machine.slub.kmalloc(size, GFP_KERNEL) for size in range(1, 2049, 61)]
        machine.check()
        for address in held:
            machine.slub.kfree(address)
        assert machine.slub.kmem_cache_destroy(cache) == 0
        machine.check()


def test_a_machine_refuses_an_unknown_geometry():
    with pytest.raises(ConfigError, match="policy"):
        MachineConfig(geometry="5.4")


def test_a_32_bit_machine_has_words_of_four_bytes():
    with Machine(MachineConfig(mem=8 << 20, arch="i386")) as machine:
        assert machine.slub.kmem_cache_create("small", 20).size == 24  # __alignof__(unsigned long long)
        assert machine.slub.geometry.word == 4
