"""Test helper: RPC on a machine without a network: a transport whose server is a function, and whose connection can be cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kemu.fixes import FixSet
from kemu.kernel.core import Kernel
from kemu.kernel.errno import ENOTCONN
from kemu.kernel.workqueue import Work
from kemu.mm.page_alloc import PageAllocator
from kemu.mm.slub import Slub
from kemu.patches import PatchSet
from kemu_nfs.sunrpc.auth import UnixAuth
from kemu_nfs.sunrpc.clnt import RpcClnt
from kemu_nfs.sunrpc.rpc_sched import RpcSched
from kemu_nfs.sunrpc.rpc_task import RPC_TASK_ASYNC, RpcProc
from kemu_nfs.sunrpc.xdr import Unpacker
from kemu_nfs.sunrpc.xprt import TCP_TIMEOUT, Xprt

MIB = 1 << 20
SECOND = 1_000_000_000
MS = 1_000_000

ECHO = RpcProc("ECHO", 1, lambda args: (args, None, b""), lambda reply, offset, _args: reply[offset:])
ACCEPTED = b"\0\0\0\1" + bytes(16)


def success(call: bytes) -> bytes:
    """Answer a call with its own arguments."""
    return call[:4] + ACCEPTED + read_call(call)[-1]


class FakeXprt(Xprt):
    """A transport without sockets.

    :ivar server: call -> reply, or None for silence.
    :ivar refuse: what connecting ends with, 0 for success.
    :ivar sent: (time, xid) of everything that was sent.
    """

    prot = "fake"

    def __init__(self, rpc, timeout=TCP_TIMEOUT, *, slots=16, latency=MS) -> None:
        super().__init__(rpc, 1, 2, timeout, slots=slots)
        self.server = success
        self.refuse = 0
        self.latency = latency
        self.sent: list[tuple[int, int]] = []
        self.results: list[int] = []  # what the next sends return, instead of being sent
        self.work = Work("fake connect", self._connected)
        self.closed = 0

    def connect(self, task) -> None:
        if not self.connecting:
            self.connecting = True
            self.rpc.rpciod.queue_delayed_work(self.work, 1)

    def _connected(self, data) -> None:
        self.connecting = False
        self.connects += 1
        if not self.refuse:
            self.connected = True
            self.established += 1
        self.xprt_wake_pending_tasks(self.refuse)

    def prepare_head(self, req, head) -> None:
        req.rq_head = head
        req.rq_slen = len(head)

    def send_request(self, task) -> int:
        if not self.connected:
            return -ENOTCONN
        if self.results:
            return self.results.pop(0)
        req = task.tk_rqstp
        self.sent.append((self.sched.now, req.rq_xid))
        reply = self.server(req.rq_head)
        if reply is not None:
            cpu = self.sched.cpu
            cpu.post(cpu.now + self.latency, self._reply, reply)
        return 0

    def _reply(self, reply) -> None:
        req = self.recv.get(int.from_bytes(reply[:4], "big"))
        if req is not None:
            self.xprt_complete_rqst(req, reply)

    def close(self) -> None:
        self.closed += 1


class Ops:
    """The caller of asynchronous calls: keeps what became of them."""

    def __init__(self) -> None:
        self.done: list[tuple] = []
        self.released: list = []
        self.on_done = None

    def rpc_call_done(self, task) -> None:
        self.done.append((task.tk_calldata, task.tk_status, task.tk_result))
        if self.on_done is not None:
            self.on_done(task)

    def rpc_release(self, task) -> None:
        self.released.append(task.tk_calldata)


class RpcGround:
    """One machine's RPC and one client on a FakeXprt."""

    def __init__(self, *, patches="all", fixes="all", timeout=TCP_TIMEOUT, slots=16, soft=False, mem=16 * MIB) -> None:
        self.kernel = Kernel("client", None, 1, PatchSet.parse(patches), FixSet.parse(fixes))
        self.world = self.kernel.world
        self.sched = self.kernel.sched
        self.page_alloc = PageAllocator(self.kernel, mem)
        self.slub = Slub(self.kernel, self.page_alloc)
        self.rpc = RpcSched(self.kernel, self.page_alloc, self.slub)
        self.xprt = FakeXprt(self.rpc, timeout, slots=slots)
        self.auth = UnixAuth(self.kernel, self.slub)
        self.clnt = RpcClnt(self.rpc, self.xprt, 100, 3, "server", soft=soft)
        self.ops = Ops()

    def call(self, args=b"abcd"):
        return self.clnt.rpc_call_sync(ECHO, args, self.auth.lookup_cred(0, 0))

    def start(self, name, args=b"abcd", proc=ECHO):
        """Start an asynchronous call."""
        task = self.clnt.rpc_init_task(RPC_TASK_ASYNC, proc, args, None, self.ops, name)
        self.rpc.rpc_execute(task)
        return task

    def run_for(self, ns: int) -> None:
        self.world.run(for_ns=ns)

    def messages(self) -> list[str]:
        return [text for _, _, text in self.kernel.printk.buffer]

    def check(self) -> None:
        self.rpc.check()
        self.xprt.check()
        self.slub.check()


@contextmanager
def rpc_ground(**options) -> Iterator[RpcGround]:
    """Give RPC on a machine, and shut it down."""
    ground = RpcGround(**options)
    try:
        yield ground
    finally:
        ground.kernel.shutdown()


def read_call(call: bytes) -> tuple:
    """Take a call's header apart: xid, program, version, procedure, credential flavour, arguments."""
    unpacker = Unpacker(call)
    xid, mtype, rpcvers, prog, vers, proc = (unpacker.unpack_uint() for _ in range(6))
    assert (mtype, rpcvers) == (0, 2)
    flavour = unpacker.unpack_uint()
    unpacker.unpack_opaque(400)
    assert unpacker.unpack_uint() == 0
    unpacker.unpack_opaque(400)
    return xid, prog, vers, proc, flavour, call[unpacker.offset :]
