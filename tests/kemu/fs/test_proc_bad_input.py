"""Whatever is written to whatever file, the answer is an errno and the machine stays sound."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import ConfigError
from kemu.kernel.errno import EACCES, EINVAL, EISDIR, ENOENT, ENOMEM, ENOTDIR
from kemu.machine import Machine, MachineConfig
from kemu.mm.gfp import GFP_KERNEL

ANSWERS = {0, -EACCES, -EINVAL, -EISDIR, -ENOENT, -ENOMEM, -ENOTDIR}
NUMBERS = st.one_of(st.integers(-(1 << 33), 1 << 33), st.sampled_from([-1, 0, 1, 100, (1 << 31) - 1, 1 << 31, 1 << 64])).map(str)
TEXTS = st.one_of(NUMBERS, st.lists(NUMBERS, max_size=4).map("\t".join), st.text(max_size=30), st.binary(max_size=30))


@pytest.fixture(scope="module")
def paths():
    with Machine(MachineConfig(mem=8 << 20)) as machine:
        return machine.proc.paths()


@settings(max_examples=40, deadline=None)
@given(data=st.data(), fixes=st.sampled_from(["all", "none"]), patches=st.sampled_from(["all", "none"]))
def test_any_text_to_any_file(paths, data, fixes, patches):
    with Machine(MachineConfig(mem=8 << 20, fixes=fixes, patches=patches)) as machine:
        for _ in range(data.draw(st.integers(1, 6))):
            path = data.draw(st.sampled_from([name for name in paths if name.startswith("/proc/sys") or "kmalloc-64" in name]))
            assert machine.proc.write(path, data.draw(TEXTS)) in ANSWERS
            machine.proc.read(path)
            machine.page_alloc.alloc_pages(GFP_KERNEL & ~0x10 | 0x200, 0)  # without waiting, or a mad mark would wait for ever
        for path in machine.proc.paths():
            machine.proc.read(path)
        machine.check()


PATHS = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(["proc", "sys", "vm", "..", ".", "", "meminfo"])).map("/".join))


@settings(max_examples=50, deadline=None)
@given(path=PATHS)
def test_any_path(path):
    with Machine(MachineConfig(mem=2 << 20)) as machine:
        answer = machine.proc.write(path, "1")
        assert answer in ANSWERS
        if answer in (-ENOENT, -EISDIR, -ENOTDIR):
            with pytest.raises(ConfigError):
                machine.proc.read(path)
        else:
            machine.proc.read(path)
