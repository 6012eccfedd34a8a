"""A client and a server on one wire, booted and joined: what most scenarios begin with."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Self

from kemu.kernel.world import World
from kemu.machine import Machine, MachineConfig
from kemu.patches import PatchSet
from kemu_lab.capture import capturing
from kemu_lab.nic_words import nic_arguments
from kemu_lab.run_config import RunConfig
from kemu_net.drivers.generator import FrameGenerator
from kemu_net.drivers.wire import Wire
from kemu_net.stack import NetStack
from kemu_nfs.mount import NfsMount
from kemu_nfs.server.nfsd import Nfsd
from kemu_nfs.server.rpc_server import nfs_server

SERVER_MEM = 128 << 20
SERVER_IP, CLIENT_IP = 0x0A000001, 0x0A000002
SERVER_MAC, CLIENT_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
NETWORK, FOREIGN = 0x0A000000, 0x100
PAGE_SIZE = 4096


def _stack(machine: Machine, wire: Wire, mac: bytes, ip: int, mtu: int, *, judged: bool = False, nic: str = "") -> NetStack:
    """Give a machine its network."""
    return NetStack(
        machine.kernel,
        machine.page_alloc,
        machine.slub,
        machine.reserves,
        wire,
        mac=mac,
        ip=ip,
        mtu=mtu,
        prefix=16,
        security=machine.selinux,
        judged=judged,
        build=machine.build,
        **nic_arguments(nic),
    )


class Pair:
    """Two machines that share a wire and a world.

    The client is booted with the patches in question; the server is a machine with enough memory and none of them.
    """

    def __init__(self, config: RunConfig) -> None:
        self.seed = config.seed
        self.world = world = World(config.seed, config.vehicle)
        self.wire = Wire(world, latency_ns=config.latency_ns, loss=config.loss, seed=config.seed)
        self.server = Machine(MachineConfig(name="server", mem=SERVER_MEM, patches=PatchSet.none(), seed=config.seed), world)
        self.server_net = _stack(self.server, self.wire, SERVER_MAC, SERVER_IP, config.mtu)
        self.client = Machine(
            MachineConfig(
                name="client", mem=config.mem, cpus=config.cpus, patches=config.patches, fixes=config.fixes, seed=config.seed
            ),
            world,
        )
        self.client_net = _stack(self.client, self.wire, CLIENT_MAC, CLIENT_IP, config.mtu, judged=True, nic=config.nic)
        receive_order = self.client_net.nic.receive_order()
        world.judge.closed_probes.append(lambda: self.client.reclaim.closed_probe(receive_order))
        self.rpc_server = nfs_server(lambda: world.now)
        proto = config.acceptance.proto
        udp = self.server_net.udp if proto == "udp" else None
        self.nfsd = Nfsd(self.server.kernel, self.server_net.tcp, self.rpc_server, SERVER_IP, udp=udp)
        self.nfsd.start()
        self.mount = NfsMount(self.client, self.client_net, SERVER_IP, proto=proto)
        self._generators = 0
        self._capture = ExitStack()
        self._capture.enter_context(capturing(config.pcap, self.wire, client=self.client_net, server=self.server_net))

    def frame_generator(
        self,
        targets: list[tuple[int, int]],
        rate: int,
        burst_ns: int,
        *,
        kind: type[FrameGenerator] = FrameGenerator,
        **options: int,
    ) -> FrameGenerator:
        """Make one more foreign host that can send bursts of frames to the client: UDP to its sockets, or another ``kind``."""
        self._generators += 1
        number = FOREIGN + self._generators
        mac = b"\x02\0\0\0" + number.to_bytes(2, "big")
        ip = NETWORK + number
        options = {"rate": rate, "burst_ns": burst_ns, "seed": self.seed, **options}
        return kind(self.world, self.wire, mac, ip, CLIENT_MAC, targets, **options)

    def stop_server(self, how: str) -> None:
        """Take the server away: "stop" ends its service, connects are refused; "silent" pulls its cable."""
        if how == "silent":
            self.wire.unplug(self.server_net.nic)
        else:
            self.nfsd.stop()

    def start_server(self) -> None:
        """Bring the server back, however it went."""
        self.wire.plug(self.server_net.nic)
        self.nfsd.start()

    def server_bytes(self, name: str, page: int) -> bytes:
        """Read a page of a file of the export straight from the server's tree."""
        inode = self.rpc_server.tree.lookup_path(f"/export/{name}")
        return b"" if inode is None else inode.read_data(page * PAGE_SIZE, PAGE_SIZE)

    def __enter__(self) -> Self:
        """Use as a context manager: the world and the capture end with the block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the world, and the capture with it."""
        self.world.shutdown()
        self._capture.__exit__(kind, error, trace)
