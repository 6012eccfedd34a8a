"""A client and a server on one wire, booted and joined: what most scenarios begin with."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Self

from kemu.errors import ConfigError
from kemu.kernel.world import World
from kemu.machine import Machine, MachineConfig
from kemu.patches import PatchSet
from kemu_lab.capture import capturing
from kemu_lab.far_end import CLIENT_IP, CLIENT_MAC, SERVER_IP, SERVER_MAC, EmulatedServer, boot_stack, far_end
from kemu_lab.run_config import RunConfig
from kemu_net.drivers.generator import FrameGenerator
from kemu_net.drivers.wire import Wire
from kemu_nfs.mount import NfsMount
from kemu_nfs.server.rpc_server import NfsServer

SERVER_MEM = 128 << 20
NETWORK, FOREIGN = 0x0A000000, 0x100

__all__ = ["CLIENT_IP", "CLIENT_MAC", "SERVER_IP", "SERVER_MAC", "Pair"]


class Pair:
    """Two machines that share a wire and a world.

    The client is booted with the patches in question; the server is a machine with enough memory and none of them.
    """

    def __init__(self, config: RunConfig) -> None:
        self.seed = config.seed
        self.world = world = World(config.seed, config.vehicle)
        self.wire = Wire(world, latency_ns=config.latency_ns, loss=config.loss, seed=config.seed)
        self.server = Machine(MachineConfig(name="server", mem=SERVER_MEM, patches=PatchSet.none(), seed=config.seed), world)
        self.far = far_end(config, self.server, self.wire)
        self.client = Machine(
            MachineConfig(
                name="client",
                mem=config.mem,
                cpus=config.cpus,
                patches=config.patches,
                fixes=config.fixes,
                seed=config.seed,
                swap_ops=config.swap_ops,
            ),
            world,
        )
        self.client_net = boot_stack(self.client, self.wire, CLIENT_MAC, CLIENT_IP, config.mtu, judged=True, nic=config.nic)
        receive_order = self.client_net.nic.receive_order()
        world.judge.closed_probes.append(lambda: self.client.reclaim.closed_probe(receive_order))
        self.far.start()
        port, mountport = self.far.ports
        self.mount = NfsMount(
            self.client,
            self.client_net,
            SERVER_IP,
            export=self.far.export,
            port=port,
            mountport=mountport,
            proto=config.acceptance.proto,
        )
        self._generators = 0
        self._capture = ExitStack()
        self._capture.enter_context(capturing(config.pcap, self.wire, client=self.client_net, **self.far.stacks))

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
            self.wire.unplug(self.far.port)
        else:
            self.far.stop()

    def start_server(self) -> None:
        """Bring the server back, however it went."""
        self.wire.plug(self.far.port)
        self.far.start()

    @property
    def rpc_server(self) -> NfsServer:
        """Kemu's own server; a real one cannot be looked into."""
        if not isinstance(self.far, EmulatedServer):
            raise ConfigError("this scenario looks into kemu's own server; leave out --server")
        return self.far.rpc_server

    def server_bytes(self, name: str, page: int) -> bytes:
        """Read a page of a file of the export by another way than the client's."""
        return self.far.page_of(name, page)

    def __enter__(self) -> Self:
        """Use as a context manager: the world and the capture end with the block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the world, and the capture with it."""
        self.world.shutdown()
        self.far.close()
        self._capture.__exit__(kind, error, trace)
