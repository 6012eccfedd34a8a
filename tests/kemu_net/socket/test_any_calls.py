"""Property: whatever a program calls in whatever order, nothing raises, and all goes back when it exits."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kemu_net.core import uapi
from kemu_net.core.uapi import AF_INET, AF_PACKET, AF_UNSPEC, F_SETFL, O_NONBLOCK, Linger, SockaddrIn, SockaddrLl, Timeval
from kemu_net.socket.sockets import PollFd
from net_ground import IP_A, IP_B
from socket_ground import two_processes

FDS = st.sampled_from((3, 3, 4, 4, 5, 6, 7, 0, 99, -1))
PORTS = st.sampled_from((7, 80, 0, 65535))
HOSTS = st.sampled_from((IP_A, IP_B, IP_B, 0, 0x7F000001, IP_A | 0xFF, 0xFFFFFFFF, 0xE0000001))
LINKS = st.builds(SockaddrLl, st.sampled_from((0, 3, 0x0800, 0x88B5)), st.integers(0, 3), addr=st.sampled_from((b"", b"\xff" * 6)))
NAMES = st.builds(SockaddrIn, HOSTS, PORTS, st.sampled_from((AF_INET, AF_INET, AF_UNSPEC, 10))) | LINKS
DATA = st.sampled_from((b"", b"x", b"y" * 100, b"z" * 3000, b"w" * 70_000))
FLAG = (uapi.MSG_PEEK, uapi.MSG_TRUNC, uapi.MSG_MORE, uapi.MSG_OOB, uapi.MSG_ERRQUEUE, uapi.MSG_WAITALL)
FLAGS = st.sampled_from((0, 0, 0, *FLAG)).map(lambda flags: flags | uapi.MSG_DONTWAIT)
VALUES = st.sampled_from((0, 1, -1, 100, 1 << 20, b"", b"\1\0\0\0", Timeval(0, 4000), Linger(1, 0), Linger(1, 1), len, "reno"))
LEVELS = st.sampled_from((0, 1, 6, 17, 255, 263, 5))
INET = ((AF_INET, 1, 0), (AF_INET, 1, 0), (AF_INET, 2, 0), (AF_INET, 3, 1), (AF_INET, 3, 255))
KINDS = st.sampled_from((*INET, (AF_PACKET, 3, 3), (AF_PACKET, 2, 0x0800)))

CALL = st.one_of(
    st.tuples(st.just("open"), KINDS),
    st.tuples(st.just("bind"), FDS, NAMES),
    st.tuples(st.just("listen"), FDS, st.integers(-1, 3)),
    st.tuples(st.just("accept"), FDS),
    st.tuples(st.just("connect"), FDS, NAMES),
    st.tuples(st.just("sendto"), FDS, DATA, FLAGS, NAMES | st.none()),
    st.tuples(st.just("recvmsg"), FDS, st.sampled_from((0, 1, 5000)), FLAGS),
    st.tuples(st.just("shutdown"), FDS, st.integers(-1, 3)),
    st.tuples(st.just("setsockopt"), FDS, LEVELS, st.integers(0, 36), VALUES),
    st.tuples(st.just("getsockopt"), FDS, LEVELS, st.integers(0, 36)),
    st.tuples(st.just("ioctl"), FDS, st.sampled_from((uapi.SIOCINQ, uapi.SIOCOUTQ, 5))),
    st.tuples(st.just("getpeername"), FDS),
    st.tuples(st.just("ready"), FDS),
    st.tuples(st.just("close"), FDS),
    st.tuples(st.just("pass"), st.sampled_from((1, 20, 300))),
)


def do(pair, calls, name, args) -> None:
    if name == "open":
        fd = calls.socket(*args[0])
        if fd >= 0:
            calls.fcntl(fd, F_SETFL, O_NONBLOCK)
    elif name == "accept":
        fd, _name = calls.accept(*args)
        if fd >= 0:
            calls.fcntl(fd, F_SETFL, O_NONBLOCK)
    elif name == "ready":
        calls.poll([PollFd(args[0], uapi.POLLIN | uapi.POLLOUT)], 0)
    elif name == "pass":
        pair.run(args[0])
    else:
        getattr(calls, name)(*args)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), CALL), max_size=60))
def test_any_calls_in_any_order(steps):
    with two_processes() as pair:
        for calls in (pair.a, pair.b):
            for kind in (1, 2):
                do(pair, calls, "open", ((AF_INET, kind, 0),))
        pair.b.bind(3, SockaddrIn(0, 80))
        pair.b.listen(3, 3)
        pair.b.bind(4, SockaddrIn(0, 7))
        for first, (name, *args) in steps:
            do(pair, pair.a if first else pair.b, name, args)
            pair.sa.socks.check()
            pair.sb.socks.check()
