"""What a mount needs of a machine, given one by one."""

from __future__ import annotations

from types import SimpleNamespace

from kemu.machine import Machine, MachineConfig
from kemu_nfs.mount_parts import make_modules, quad
from nfs_ground import MIB


def test_a_machine_of_parts_is_enough():
    machine = Machine(MachineConfig("test", 8 * MIB))
    names = ("kernel", "page_alloc", "slub", "radix_nodes", "filemap", "swapfile", "congestion", "memory", "fs_writeback")
    parts = SimpleNamespace(**{name: getattr(machine, name) for name in names})
    module = make_modules(parts)
    assert module.filemap is machine.filemap
    assert module.mounts == []
    machine.world.shutdown()


def test_addresses_are_written_as_people_do():
    assert [quad(addr) for addr in (0, 0x0A000002, 0xFFFFFFFF)] == ["0.0.0.0", "10.0.0.2", "255.255.255.255"]
