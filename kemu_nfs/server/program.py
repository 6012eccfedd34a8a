"""What an RPC program is to the server: a number, versions, and a table of procedures.

Interface
    * ``Call``: one call that is being executed.
    * ``Procedure``: an entry of a table. ``RpcProgram``: the protocol that rpc_server.py asks of a program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs

from kemu_nfs.server.cred import Cred
from kemu_nfs.sunrpc.xdr import Packer, Unpacker


class Call:
    """One call that is being executed: who calls, and what it costs.

    :param client: the IPv4 address of the caller.
    :param cred: who he says he is; None if he does not say (AUTH_NULL).
    """

    __slots__ = ("client", "cost_ns", "cred", "xid")

    def __init__(self, xid: int, client: int, cred: Cred) -> None:
        self.xid = xid
        self.client = client
        self.cred = cred
        self.cost_ns = 0  # time of the server's disk


@attrs.frozen
class Procedure:
    """An entry of a program's table.

    :param run: decodes the arguments, executes, writes the results; raises XdrError for arguments that cannot be read.
    :param cached: its replies are kept in the duplicate request cache, because executing it twice is not the same as once.
    :param failure_words: how many words follow the status when a fault makes it fail: each "no attributes".
    """

    name: str
    run: Callable[[Call, Unpacker, Packer], None]
    cached: bool = False
    failure_words: int = 0


FastPath = Callable[[int, bytes, int, Cred], "bytes | None"]


class RpcProgram(Protocol):
    """What rpc_server.py needs to know of a program.

    ``fast`` holds, per procedure, a second way for the calls that come by the thousand: (xid, record, where the arguments begin,
    credentials) to the whole record-marked reply, or None for "take the plain way". It leaves its cost in ``fast_cost_ns``.
    """

    number: int
    versions: tuple[int, int]
    procedures: dict[int, Procedure]
    fast: dict[int, FastPath]
    fast_cost_ns: int
    needs_cred: bool

    def reboot(self) -> None:
        """Start a new life after a crash or a restart."""
