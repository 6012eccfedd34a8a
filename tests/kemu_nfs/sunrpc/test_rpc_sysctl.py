"""The variables sunrpc.*: their ranges, and what they do to the next transport."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import EINVAL
from kemu_nfs.mount import NfsMount
from nfs_ground import SERVER_IP, nfs_ground
from rpc_ground import rpc_ground


@pytest.fixture
def ground():
    with rpc_ground() as g:
        yield g


@pytest.mark.parametrize("name", ["tcp_slot_table_entries", "udp_slot_table_entries"])
@pytest.mark.parametrize(("value", "result"), [("1", -EINVAL), ("2", 0), ("128", 0), ("129", -EINVAL), ("-5", -EINVAL)])
def test_a_slot_table_has_2_to_128_entries(ground, name, value, result):
    assert ground.kernel.sysctl.write(f"sunrpc.{name}", value) == result
    assert ground.kernel.sysctl.read(f"sunrpc.{name}").strip() == ("16" if result else value)


def test_the_next_mount_has_as_many_slots_as_the_sysctl_says():
    with nfs_ground() as ground:
        assert len(ground.mount.xprt.slots) == 16
        ground.kernel.sysctl.write("sunrpc.tcp_slot_table_entries", "5")
        assert len(ground.mount.xprt.slots) == 16, "a transport keeps what it has"
        second = NfsMount(ground.machine, ground.stack, SERVER_IP, modules=ground.mount.modules)
        assert len(second.xprt.slots) == 5


def test_the_reserved_ports_can_be_moved():
    with nfs_ground() as ground:
        ground.kernel.sysctl.write("sunrpc.min_resvport", "900")
        ground.kernel.sysctl.write("sunrpc.max_resvport", "901")
        second = NfsMount(ground.machine, ground.stack, SERVER_IP, modules=ground.mount.modules)
        assert second.mount() == 0
        assert second.xprt.inet.sport in (900, 901)
