"""Bad input from the server: every reply of every procedure damaged, and a whole mount whose stream of replies is damaged."""

from __future__ import annotations

import struct
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kemu_nfs.sunrpc.rpc_msg import REPLY_OK, decode_reply
from kemu_nfs.sunrpc.xdr import Unpacker, XdrError
from nfs_ground import SECOND, NfsGround, mounted, page_bytes

_END_UNREAD = ("FSINFO", "PATHCONF")  # what stands at the end of these is not used

WORDS = (0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def work(ground) -> None:
    """Use every procedure that a client with a swap file and a few files uses."""
    mount = ground.mount
    folder = mount.create("f")
    file = mount.open("f")
    if not isinstance(file, int):
        mount.write(file, 0, page_bytes(1) * 2)
        mount.read(file, 0, 8192)
        mount.write_buffered(file, 0, b"buffered")
        mount.fsync(file)
        mount.commit(file)
        mount.close(file)
    if not isinstance(folder, int):
        mount.setattr(folder, size=100)
        mount.getattr(folder)
    mount.lookup("f")
    mount.lookup("nothing")
    mount.remove("f")


@cache
def captured() -> tuple:
    """One reply of each kind, with its procedure and arguments, from a real session."""
    replies = {}
    ground = NfsGround()
    try:
        complete = ground.mount.xprt.xprt_complete_rqst

        def kept(req, reply):
            task = req.rq_task
            replies.setdefault((task.tk_proc.name, len(reply) // 1000), (task.tk_proc, bytes(reply), task.tk_argp))
            complete(req, reply)

        ground.mount.xprt.stream._complete = kept
        assert ground.mount.mount() == 0
        work(ground)
    finally:
        ground.world.shutdown()
    return tuple(replies.values())


def test_the_session_uses_the_procedures_of_a_swapping_client():
    names = {proc.name for proc, _, _ in captured()}
    assert {"GETATTR", "SETATTR", "LOOKUP", "READ", "WRITE", "CREATE", "REMOVE", "FSINFO", "COMMIT"} <= names


@st.composite
def damaged(draw, data: bytes) -> bytes:
    """Change words, cut, or add to a message."""
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        how = draw(st.sampled_from(("word", "byte", "cut", "more")))
        at = draw(st.integers(0, max(len(out) - 4, 0)))
        if how == "word" and len(out) >= 4:
            struct.pack_into("!I", out, at & ~3, draw(st.sampled_from(WORDS)))
        elif how == "byte" and out:
            out[at] = draw(st.integers(0, 255))
        elif how == "cut":
            del out[draw(st.integers(0, len(out))) :]
        else:
            out += draw(st.binary(max_size=12))
    return bytes(out)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_damaged_reply_is_read_or_refused_and_raises_nothing_else(data):
    proc, reply, argp = data.draw(st.sampled_from(captured()))
    reply = data.draw(damaged(reply))
    verdict, offset = decode_reply(reply)
    if verdict != REPLY_OK:
        assert offset == 0
        return
    try:
        proc.decode(reply, offset, argp)
    except XdrError as error:
        assert str(error)


@pytest.mark.parametrize("word", WORDS)
def test_any_word_of_any_reply_may_be_anything(word):
    for proc, reply, argp in captured():
        for at in range(4, min(len(reply), 200), 4):
            changed = reply[:at] + struct.pack("!I", word) + reply[at + 4 :]
            verdict, offset = decode_reply(changed)
            if verdict == REPLY_OK:
                try:
                    proc.decode(changed, offset, argp)
                except XdrError:
                    continue


def test_every_reply_may_end_at_any_word():
    for proc, reply, argp in captured():
        if proc.name in _END_UNREAD:
            continue
        for end in range(0, min(len(reply), 300), 4):
            verdict, offset = decode_reply(reply[:end])
            if verdict == REPLY_OK:
                with pytest.raises(XdrError):
                    proc.decode(reply[:end], offset, argp)


@pytest.mark.parametrize("unpack", ["unpack_opaque", "unpack_string"])
def test_a_length_of_4_gib_is_refused_before_a_byte_is_copied(unpack):
    with pytest.raises(XdrError, match="4294967295 bytes"):
        getattr(Unpacker(b"\xff\xff\xff\xff" + bytes(100)), unpack)()


# a whole mount

_DAMAGE = st.tuples(
    st.integers(0, 25),  # which piece of the stream
    st.sampled_from(("byte", "word", "cut", "double", "insert", "drop")),
    st.integers(0, 150),
    st.sampled_from(WORDS),
)


class Damage:
    """Stand between the socket and the reply stream, and damage some pieces."""

    def __init__(self, xprt, damage) -> None:
        self.receive = xprt._xs_tcp_data_recv
        self.damage = {}
        for piece, how, at, word in damage:
            self.damage.setdefault(piece, []).append((how, at, word))
        self.count = 0

    def __call__(self, data) -> int:
        out = bytearray(data)
        for how, where, word in self.damage.get(self.count, ()):
            at = where % max(len(out), 1)
            raw = struct.pack("!I", word)
            if how == "byte" and out:
                out[at] = word & 255
            elif how == "word":
                out[at : at + 4] = raw
            elif how == "cut":
                del out[at:]
            elif how == "double":
                out += bytes(out)
            elif how == "insert":
                out[at:at] = raw
            else:
                out.clear()
        self.count += 1
        if out:
            self.receive(bytes(out))
        return len(data)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_DAMAGE, min_size=1, max_size=5))
def test_whatever_the_server_says_every_call_ends_and_nothing_is_left(damage):
    with mounted() as ground:
        xprt = ground.mount.xprt
        file = ground.swapon()
        ground.process()
        for vpn in range(3):
            ground.write(vpn, page_bytes(vpn))
        xprt._xs_tcp_data_recv = Damage(xprt, damage)
        task = ground.spawn(lambda: work(ground))
        for vpn in range(3):
            ground.pageout(vpn)
        rpc = ground.mount.modules.rpc
        for _ in range(8):
            ground.world.run(until=lambda: task.exit_code is not None and not rpc.live, for_ns=200 * SECOND)
            if rpc.live:
                xprt.xprt_force_close()  # a stream that is out of step may swallow every reply, until there is a new one
        assert task.exit_code == 0
        assert not rpc.live
        assert ground.kernel.judge.outcome is None
        assert len(xprt.free) == len(xprt.slots)
        xprt._xs_tcp_data_recv = xprt._xs_tcp_data_recv.receive
        xprt.xprt_force_close()
        ground.run_for(SECOND)
        ground.check()
        assert ground.mount.client.rpc_ping() == 0
        ground.machine.memory.exit_mmap(ground.sched.current)
        assert ground.machine.swapfile.swapoff(file) == 0
        assert ground.stack.net_reserves.memalloc_socks == 0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_DAMAGE, min_size=1, max_size=5))
def test_whatever_datagrams_come_every_call_ends(damage):
    with mounted(proto="udp") as ground:
        udp = ground.stack.udp
        pieces = []
        spoiler = Damage(type("Sink", (), {"_xs_tcp_data_recv": staticmethod(pieces.append)}), damage)
        receive = udp.recvfrom

        def spoilt(sk, *, nonblock):
            answer = receive(sk, nonblock=nonblock)
            if sk is not ground.mount.xprt.inet or isinstance(answer, int):
                return answer
            pieces.clear()
            spoiler(answer[0])
            return (b"".join(pieces), *answer[1:])

        udp.recvfrom = spoilt
        task = ground.spawn(lambda: work(ground))
        ground.world.run(until=lambda: task.exit_code is not None, for_ns=2000 * SECOND)
        assert task.exit_code == 0
        ground.wait_for_calls()
        assert ground.kernel.judge.outcome is None
        ground.check()
        assert ground.mount.xprt.cong == 0
