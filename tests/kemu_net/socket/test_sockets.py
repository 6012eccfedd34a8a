"""Descriptors and system calls."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import (
    EAFNOSUPPORT,
    EAGAIN,
    EBADF,
    EINVAL,
    EMFILE,
    ENOBUFS,
    ENOTSOCK,
    EOPNOTSUPP,
    EPROTONOSUPPORT,
    ESOCKTNOSUPPORT,
)
from kemu_net.core import uapi
from kemu_net.core.uapi import (
    AF_INET,
    AF_PACKET,
    F_GETFD,
    F_GETFL,
    F_SETFD,
    F_SETFL,
    FIONBIO,
    O_NONBLOCK,
    O_RDWR,
    SOCK_DGRAM,
    SOCK_RAW,
    SOCK_SEQPACKET,
    SOCK_STREAM,
    SockaddrIn,
)
from kemu_net.socket.sockets import NOFILE
from net_ground import IP_A, IP_B
from socket_ground import two_processes


@pytest.fixture
def pair():
    with two_processes() as pair:
        yield pair


def test_the_lowest_free_descriptor_is_given(pair):
    fds = [pair.a.socket(AF_INET, SOCK_DGRAM) for _ in range(3)]
    assert fds == [3, 4, 5]
    assert pair.a.close(4) == 0
    assert pair.a.socket(AF_INET, SOCK_STREAM) == 4


def test_every_process_has_its_own(pair):
    other = pair.sa.sockets()
    assert (pair.a.socket(AF_INET, SOCK_DGRAM), other.socket(AF_INET, SOCK_DGRAM)) == (3, 3)
    other.close_all()


def test_descriptors_end(pair):
    pair.a._files.update(dict.fromkeys(range(3, NOFILE)))
    assert pair.a.socket(AF_INET, SOCK_DGRAM) == -EMFILE
    pair.a._files.clear()
    assert not pair.sa.socks.live


@pytest.mark.parametrize(
    ("family", "kind", "protocol", "result"),
    [
        (AF_INET, SOCK_STREAM, 0, 3),
        (AF_INET, SOCK_STREAM, 6, 3),
        (AF_INET, SOCK_DGRAM, 17, 3),
        (AF_INET, SOCK_RAW, 1, 3),
        (AF_INET, SOCK_RAW, 255, 3),
        (AF_PACKET, SOCK_RAW, 3, 3),
        (AF_INET, SOCK_STREAM, 17, -EPROTONOSUPPORT),
        (AF_INET, SOCK_DGRAM, 6, -EPROTONOSUPPORT),
        (AF_INET, SOCK_RAW, 0, -EPROTONOSUPPORT),
        (AF_INET, SOCK_RAW, 256, -EPROTONOSUPPORT),
        (AF_INET, SOCK_SEQPACKET, 0, -ESOCKTNOSUPPORT),
        (AF_INET, 0, 0, -ESOCKTNOSUPPORT),
        (AF_INET, uapi.SOCK_PACKET, 3, -ESOCKTNOSUPPORT),
        (AF_INET, SOCK_STREAM | O_NONBLOCK, 0, -EINVAL),  # SOCK_NONBLOCK is of 2.6.27
        (AF_INET, -1, 0, -EINVAL),
        (1, SOCK_STREAM, 0, -EAFNOSUPPORT),
        (10, SOCK_STREAM, 0, -EAFNOSUPPORT),
        (34, SOCK_STREAM, 0, -EAFNOSUPPORT),
        (-1, SOCK_STREAM, 0, -EAFNOSUPPORT),
    ],
)
def test_which_sockets_there_are(pair, family, kind, protocol, result):
    assert pair.a.socket(family, kind, protocol) == result


@pytest.mark.parametrize("kind", [SOCK_STREAM, SOCK_DGRAM, SOCK_RAW])
def test_without_memory_there_is_no_socket(pair, kind):
    slub = pair.sa.slub
    slub.kmem_cache_alloc = lambda *_args: None
    assert pair.a.socket(AF_INET, kind, 1 if kind == SOCK_RAW else 0) == -ENOBUFS
    del slub.kmem_cache_alloc


CALLS = {
    "bind": (SockaddrIn(0, 0),),
    "listen": (1,),
    "connect": (SockaddrIn(IP_B, 1),),
    "getsockname": (),
    "getpeername": (),
    "shutdown": (0,),
    "write": (b"x",),
    "writev": ([b"x"],),
    "send": (b"x",),
    "sendto": (b"x", 0, SockaddrIn(IP_B, 1)),
    "sendmsg": ([b"x"],),
    "read": (1,),
    "readv": ([1, 1],),
    "recv": (1,),
    "recvfrom": (1,),
    "recvmsg": (1,),
    "setsockopt": (1, 2, 1),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("fd", "error"), [(9, EBADF), (-1, EBADF), (0, ENOTSOCK), (2, ENOTSOCK)])
def test_a_descriptor_that_is_no_socket(pair, call, fd, error):
    assert getattr(pair.a, call)(fd, *CALLS[call]) == -error


def test_the_other_calls_on_what_is_no_socket(pair):
    a = pair.a
    assert a.accept(9) == (-EBADF, None)
    assert a.accept(0) == (-ENOTSOCK, None)
    assert a.getsockopt(0, 1, 2) == (-ENOTSOCK, None)
    assert (a.fcntl(9, F_GETFL), a.ioctl(9, 0), a.close(9)) == (-EBADF,) * 3
    assert a.read(9, 0) == -EBADF


def test_a_descriptor_is_closed_once(pair):
    fd = pair.a.socket(AF_INET, SOCK_DGRAM)
    assert (pair.a.close(fd), pair.a.close(fd), pair.a.close(1)) == (0, -EBADF, 0)


def test_flags_of_a_file(pair):
    fd = pair.a.socket(AF_INET, SOCK_STREAM)
    assert pair.a.fcntl(fd, F_GETFL) == O_RDWR
    assert pair.a.fcntl(fd, F_SETFL, O_NONBLOCK | O_RDWR | 0o100) == 0
    assert pair.a.fcntl(fd, F_GETFL) == O_RDWR | O_NONBLOCK
    assert pair.a.ioctl(fd, FIONBIO, 0) == 0
    assert pair.a.fcntl(fd, F_GETFL) == O_RDWR
    assert pair.a.ioctl(fd, FIONBIO, 1) == 0
    assert pair.a.fcntl(fd, F_GETFL) == O_RDWR | O_NONBLOCK
    assert (pair.a.fcntl(fd, F_SETFD, 1), pair.a.fcntl(fd, F_GETFD), pair.a.fcntl(fd, 99)) == (0, 0, -EINVAL)
    assert pair.a.ioctl(fd, 0x1234) == -EINVAL


def test_what_a_datagram_socket_cannot_do(pair):
    fd = pair.a.socket(AF_INET, SOCK_DGRAM)
    assert pair.a.listen(fd, 1) == -EOPNOTSUPP
    assert pair.a.accept(fd) == (-EOPNOTSUPP, None)


def test_what_a_packet_socket_cannot_do(pair):
    fd = pair.a.socket(AF_PACKET, SOCK_RAW)
    assert pair.a.listen(fd, 1) == -EOPNOTSUPP
    assert pair.a.connect(fd, SockaddrIn(IP_B, 1)) == -EOPNOTSUPP
    assert pair.a.shutdown(fd, 0) == -EOPNOTSUPP


def test_several_buffers_are_one_stream(pair):
    fd, peer, _listener = pair.stream()
    assert pair.a.writev(fd, [b"one", b"", b"two"]) == 6
    assert pair.a.sendmsg(fd, [b"th", b"ree"]) == 5
    pair.run(2)
    assert pair.b.readv(peer, [2, 5, 100]) == [b"on", b"etwot", b"hree"]
    assert pair.b.readv(peer, [2]) == -EAGAIN


def test_nothing_is_read_for_no_bytes(pair):
    fd, peer, _listener = pair.stream()
    assert pair.a.read(fd, 0) == b""
    pair.a.write(fd, b"x")
    pair.run(2)
    assert pair.b.read(peer, 0) == b""
    assert pair.b.read(peer, 1) == b"x"


def test_a_datagram_tells_its_sender(pair):
    fd, peer = pair.dgram()
    assert pair.a.sendto(fd, b"hello", 0, SockaddrIn(IP_B, 7)) == 5
    pair.run(10)
    data, name = pair.b.recvfrom(peer, 100)
    assert (data, name) == (b"hello", SockaddrIn(IP_A, 32768))


def test_close_all_is_what_an_exit_does(pair):
    pair.stream()
    pair.dgram()
    pair.a.close_all()
    assert pair.a.lookup(3) is None
