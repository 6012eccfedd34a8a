"""``kemu serve``: kemu's NFS server on a real directory and a real socket, for any NFSv3 client."""

from __future__ import annotations

import ipaddress

from kemu.errors import ConfigError
from kemu_lab.numbers import whole_number
from kemu_lab.real_tree import RealTree
from kemu_lab.socket_server import SocketServer
from kemu_nfs.server.mount_proc import Export
from kemu_nfs.server.rpc_server import NfsServer

MAX_PORT = 65535
STEP_SECONDS = 1.0


def serve_command(
    directory: str, *, port: str, mountport: str | None, address: str, allow_remote: bool, export: str, read_only: bool
) -> int:
    """Serve until Ctrl-C; return the exit status."""
    host = _address(address, allow_remote=allow_remote)
    numbers = [whole_number(port, "--port", 0, MAX_PORT)]
    if mountport is not None:
        numbers.append(whole_number(mountport, "--mountport", 0, MAX_PORT))
        if numbers[0] and numbers[0] == numbers[1]:
            del numbers[1]
    tree = RealTree(directory)
    try:
        rpc = NfsServer(tree, exports=(Export(export, at="/"),), read_only=read_only, all_as=tree.owner())
        server = SocketServer(rpc, host, tuple(numbers))
        try:
            nfs, mount = server.ports[0], server.ports[-1]
            shown = "/".join(part for part in export.split("/") if part)
            print(
                f"{directory} is served on nfs://{host}/{shown}?version=3&nfsport={nfs}&mountport={mount} (Ctrl-C ends it)",
                flush=True,
            )
            while True:
                server.step(STEP_SECONDS)
        except KeyboardInterrupt:  # the way to end it
            print()
        finally:
            server.close()
    finally:
        tree.close()
    print(f"{rpc.calls} calls")
    return 0


def _address(text: str, *, allow_remote: bool) -> str:
    """Return the address to listen on."""
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        raise ConfigError(f"--address {text!r} is no IPv4 address") from None
    if not address.is_loopback and not allow_remote:
        raise ConfigError(
            f"--address {text} can be reached from other machines, and whoever reaches it is believed: --allow-remote"
        )
    return str(address)
