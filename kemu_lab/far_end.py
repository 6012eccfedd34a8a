"""What stands at the far end of the client's wire: kemu's own server, a gateway to a real one, or the Linux that runs all this.

Interface
    far_end(config, machine, wire) -> FarEnd    ``start()``, ``stop()``, ``port``, ``stacks``, ``page_of(name, page)``, ``mount``,
                                                ``check_name(name)``, ``adopt(name)``,
                                                ``leave_behind(name)``, ``tidy(name)``, ``close()``
    boot_stack(machine, wire, mac, ip, mtu)     a machine's network, the same at both ends

Rules of this file
    * Scenarios speak with the far end through this protocol and do not know which it is.
    * A real server is asked before anything boots whether it is there, and a file that we did not make is not touched. What we made
      goes with the run, however that ends, unless it is left behind for another one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kemu.errors import ConfigError
from kemu_lab.gateway import Gateway
from kemu_lab.nic_words import nic_arguments
from kemu_lab.real_export import RealExport
from kemu_lab.run_tree import RunTree
from kemu_lab.tap_link import TapLink
from kemu_net.stack import NetStack
from kemu_nfs.server.mount_proc import Export
from kemu_nfs.server.nfsd import Nfsd
from kemu_nfs.server.rpc_server import NfsServer, nfs_server
from kemu_nfs.sunrpc.rpc_const import MOUNT_PORT, NFS_PORT

if TYPE_CHECKING:
    from kemu.kernel.world import World
    from kemu.machine import Machine
    from kemu_lab.run_config import RunConfig
    from kemu_lab.server_url import ServerUrl
    from kemu_net.drivers.wire import Port, Wire

SERVER_IP, CLIENT_IP = 0x0A000001, 0x0A000002
SERVER_MAC, CLIENT_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
PREFIX = 16
PAGE_SIZE = 4096
EXPORT = "/export"
TAP_NAME = "kemu0"
TAP_MTU = 1500


def boot_stack(machine: Machine, wire: Wire, mac: bytes, ip: int, mtu: int, *, judged: bool = False, nic: str = "") -> NetStack:
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
        prefix=PREFIX,
        security=machine.selinux,
        judged=judged,
        build=machine.build,
        **nic_arguments(nic),
    )


class FarEnd(Protocol):
    """Who answers at the other end of the cable."""

    export: str
    ports: tuple[int, int]
    stacks: dict[str, NetStack]

    @property
    def port(self) -> Port:
        """What its cable ends in."""
        ...

    def start(self) -> None:
        """Serve."""
        ...

    def stop(self) -> None:
        """Serve no more; connects are refused."""
        ...

    def page_of(self, name: str, page: int) -> bytes:
        """Read a page of a file of the export, by another way than the client's; nothing if there is no such file."""
        ...

    def check_name(self, name: str) -> None:
        """Refuse to go on if the export has a file of that name that is not ours."""
        ...

    def adopt(self, name: str) -> None:
        """Take a file of an earlier run for ours."""
        ...

    def leave_behind(self, name: str) -> None:
        """Let a file of ours stay when the run is over."""
        ...

    def tidy(self, name: str) -> None:
        """Take away what the run made on a server that outlives it."""
        ...

    def close(self) -> None:
        """End what is real."""
        ...


class EmulatedServer:
    """Kemu's own server on a machine with enough memory."""

    export = EXPORT
    ports = (NFS_PORT, MOUNT_PORT)

    def __init__(self, config: RunConfig, machine: Machine, wire: Wire) -> None:
        self.net = boot_stack(machine, wire, SERVER_MAC, SERVER_IP, config.mtu)
        self.port: Port = self.net.nic
        self.stacks = {"server": self.net}
        self.rpc_server = self._rpc_server(machine.kernel.world)
        udp = self.net.udp if config.acceptance.proto == "udp" else None
        self.nfsd = Nfsd(machine.kernel, self.net.tcp, self.rpc_server, SERVER_IP, udp=udp)

    def _rpc_server(self, world: World) -> NfsServer:
        """Make the server over an empty tree."""
        return nfs_server(lambda: world.now)

    def start(self) -> None:
        """Start nfsd."""
        self.nfsd.start()

    def stop(self) -> None:
        """Stop nfsd."""
        self.nfsd.stop()

    def page_of(self, name: str, page: int) -> bytes:
        """Read straight from the server's tree."""
        inode = self.rpc_server.tree.lookup_path(f"{EXPORT}/{name}")
        return b"" if inode is None else inode.read_data(page * PAGE_SIZE, PAGE_SIZE)

    def check_name(self, name: str) -> None:
        """Agree: the tree is new."""

    def adopt(self, name: str) -> None:
        """Do nothing: there was no earlier run."""

    def leave_behind(self, name: str) -> None:
        """Do nothing: nothing stays."""

    def tidy(self, name: str) -> None:
        """Leave all: the tree goes with the run."""

    def close(self) -> None:
        """End nothing: nothing is real."""


class _Outliving:
    """What is common to servers that outlive the run: which of their files are ours."""

    def __init__(self) -> None:
        self._ours: list[str] = []

    def adopt(self, name: str) -> None:
        """Take a file of an earlier run for ours."""
        self._ours.append(name)

    def leave_behind(self, name: str) -> None:
        """Let a file of ours stay."""
        self._ours.remove(name)


class DirectoryServer(_Outliving, EmulatedServer):
    """Kemu's own server over a real directory."""

    def __init__(self, config: RunConfig, machine: Machine, wire: Wire) -> None:
        assert config.server_dir is not None
        _Outliving.__init__(self)
        self.directory = Path(config.server_dir)
        self.tree = RunTree(config.server_dir, lambda: machine.kernel.world.now)
        EmulatedServer.__init__(self, config, machine, wire)

    def _rpc_server(self, world: World) -> NfsServer:
        """Make the server over the directory."""
        return NfsServer(self.tree, exports=(Export(EXPORT, at="/"),), all_as=self.tree.owner())

    def page_of(self, name: str, page: int) -> bytes:
        """Read straight from the disk."""
        try:
            with (self.directory / name).open("rb") as file:
                file.seek(page * PAGE_SIZE)
                return file.read(PAGE_SIZE)
        except OSError:
            return b""

    def check_name(self, name: str) -> None:
        """Refuse a file that is there: it may be somebody's."""
        if (self.directory / name).exists():
            raise ConfigError(f"--server-dir {self.directory} has a file {name!r} already; remove it first")
        self.adopt(name)

    def tidy(self, name: str) -> None:
        """Remove a file that the run made."""
        if name in self._ours:
            self._ours.remove(name)
            (self.directory / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove what is left of ours."""
        for name in list(self._ours):
            self.tidy(name)
        self.tree.close()


class _RealServer(_Outliving):
    """What both ways to a real server share: the look at the export from outside."""

    def __init__(self, url: ServerUrl) -> None:
        super().__init__()
        self.url = url
        self.export = url.export
        self.real = RealExport(url)

    def page_of(self, name: str, page: int) -> bytes:
        """Read through a connection of our own."""
        return self.real.read(name, page * PAGE_SIZE, PAGE_SIZE)

    def check_name(self, name: str) -> None:
        """Refuse a file that is there: it may be somebody's."""
        if self.real.exists(name):
            raise ConfigError(f"--server {self.url.text}: {self.url.export} has a file {name!r} already; remove it first")
        self.adopt(name)

    def tidy(self, name: str) -> None:
        """Remove a file that the run made."""
        if name in self._ours:
            self._ours.remove(name)
            self.real.remove(name)

    def close(self) -> None:
        """Remove what is left of ours, and hang up."""
        try:
            for name in list(self._ours):
                self.tidy(name)
        except ConfigError:  # the server is gone; so is the connection
            pass
        finally:
            self.real.close()


class GatewayServer(_RealServer):
    """A machine that passes the stream on to a real server."""

    ports = (NFS_PORT, MOUNT_PORT)

    def __init__(self, config: RunConfig, machine: Machine, wire: Wire) -> None:
        assert config.server is not None
        super().__init__(config.server)
        self.net = boot_stack(machine, wire, SERVER_MAC, SERVER_IP, config.mtu)
        self.port: Port = self.net.nic
        self.stacks = {"gateway": self.net}
        self.gateway = Gateway(machine.kernel, self.net.tcp, config.server, SERVER_IP)

    def start(self) -> None:
        """Start the gateway."""
        self.gateway.start()

    def stop(self) -> None:
        """Stop it."""
        self.gateway.stop()

    def close(self) -> None:
        """End all real connections."""
        self.gateway.close()
        super().close()


class TapServer(_RealServer):
    """The real Linux at the other end of a TAP device: its TCP speaks with the emulated one."""

    def __init__(self, config: RunConfig, machine: Machine, wire: Wire) -> None:
        url = config.server
        assert url is not None
        if config.mtu != TAP_MTU:
            raise ConfigError(f"--mtu {config.mtu} cannot be used with --via tap: the device has {TAP_MTU}")
        if url.remote:
            raise ConfigError(f"--server {url.text} cannot be used with --via tap: only this machine is at the device's other end")
        self.ports = (url.port, url.mountport)
        self.stacks: dict[str, NetStack] = {}
        self.link = TapLink(machine.kernel.world, wire, TAP_NAME, SERVER_IP, PREFIX)
        self.port: Port = self.link.port
        try:
            super().__init__(url)
        except ConfigError:
            self.link.close()
            raise
        try:
            self.link.check_served(self.ports, url.text)
        except ConfigError:
            self.close()
            raise

    def start(self) -> None:
        """Do nothing: the real server runs."""

    def stop(self) -> None:
        """Refuse: a real server is stopped by who started it."""
        raise ConfigError("a real server cannot be stopped from here")

    def close(self) -> None:
        """Hang up, and let the device go."""
        super().close()
        self.link.close()


def far_end(config: RunConfig, machine: Machine, wire: Wire) -> FarEnd:
    """Build what the options name; ``machine`` has nothing to do with a TAP device."""
    if config.server is None:
        own = EmulatedServer if config.server_dir is None else DirectoryServer
        return own(config, machine, wire)
    kind = TapServer if config.via == "tap" else GatewayServer
    return kind(config, machine, wire)
