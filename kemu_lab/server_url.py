"""The address of a real NFS server: ``nfs://HOST:PORT/EXPORT?mountport=PORT``, as libnfs writes it.

Interface: :func:`parse_server`; :class:`ServerUrl` with ``text``.

Rules of this file
    * Only addresses of this machine are taken unless the caller allows others: a run writes gigabytes, and must not hit a server by
      a slip of the pen.
    * A name is looked up once, here; from then on the address is a number.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import attrs

from kemu.errors import ConfigError
from kemu_lab.numbers import whole_number

NFS_PORT, MOUNT_PORT = 2049, 635
MAX_PORT = 65535
MNTPATHLEN = 1024
KNOWN = ("nfsport", "mountport", "version")
FORM = "nfs://HOST:PORT/EXPORT?mountport=PORT"


@attrs.frozen
class ServerUrl:
    """A server that was named on the command line.

    :param host: its IPv4 address in dotted form.
    :param export: what is mounted, for example "/srv/swap".
    :param text: the address as it was typed, for the line that repeats the run.
    """

    host: str
    port: int
    mountport: int
    export: str
    text: str

    @property
    def remote(self) -> bool:
        """Tell whether it is another machine's."""
        return not ipaddress.IPv4Address(self.host).is_loopback


def parse_server(text: str, *, allow_remote: bool = False) -> ServerUrl:
    """Read an address; :exc:`ConfigError` says in one sentence what is wrong with it."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise ConfigError(f"--server {text!r} cannot be used: {error}; write {FORM}") from None
    if url.scheme != "nfs" or not url.hostname or url.username or url.fragment:
        raise ConfigError(f"--server {text!r} is no address of an NFS server; write {FORM}")
    export = unquote(url.path)
    if not 1 < len(export.encode()) <= MNTPATHLEN or "\0" in export:
        raise ConfigError(f"--server {text!r} names no export; write {FORM}")
    words = _query(url, text)
    if words.get("version", "3") != "3":
        raise ConfigError(f"--server {text!r}: kemu speaks NFS version 3 only")
    nfsport = whole_number(words.get("nfsport", str(port or NFS_PORT)), "nfsport", 1, MAX_PORT)
    mountport = whole_number(words.get("mountport", str(MOUNT_PORT)), "mountport", 1, MAX_PORT)
    return ServerUrl(_address(url.hostname, text, allow_remote=allow_remote), nfsport, mountport, export, text)


def _query(url: SplitResult, text: str) -> dict[str, str]:
    """Read what stands behind the question mark."""
    try:
        pairs = parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query), max_num_fields=8)
    except ValueError:
        raise ConfigError(f"--server {text!r}: what stands behind the ? cannot be read; write mountport=PORT") from None
    for key, _ in pairs:
        if key not in KNOWN:
            raise ConfigError(f"--server {text!r}: there is no option {key!r}; there are {', '.join(KNOWN)}")
    return dict(pairs)


def _address(host: str, text: str, *, allow_remote: bool) -> str:
    """Look the host up."""
    try:
        found = ipaddress.IPv4Address(socket.gethostbyname(host))
    except (OSError, UnicodeError, ValueError):
        raise ConfigError(f"--server {text!r}: there is no host {host!r} with an IPv4 address") from None
    if not found.is_loopback and not allow_remote:
        raise ConfigError(f"--server {text!r} is not on this machine; --allow-remote takes it all the same")
    return str(found)
