"""Datagram and raw sockets of a process, and poll over several sockets."""

from __future__ import annotations

import struct

import pytest

from kemu.kernel.errno import EAFNOSUPPORT, EAGAIN, EDESTADDRREQ, EINVAL, ENOPROTOOPT, ENOTCONN, EOPNOTSUPP, EPIPE
from kemu_net.core.checksum import csum_fold, csum_partial
from kemu_net.core.uapi import (
    AF_INET,
    AF_UNSPEC,
    ICMP_FILTER,
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLNVAL,
    POLLOUT,
    POLLRDHUP,
    SHUT_RD,
    SHUT_RDWR,
    SHUT_WR,
    SIOCINQ,
    SIOCOUTQ,
    SOCK_DGRAM,
    SOCK_RAW,
    SOCK_STREAM,
    SOL_IP,
    SOL_RAW,
    SOL_TCP,
    SOL_UDP,
    UDP_CORK,
    SockaddrIn,
    SockaddrLl,
)
from kemu_net.socket.sockets import PollFd
from net_ground import IP_A, IP_B
from socket_ground import two_processes

B7 = SockaddrIn(IP_B, 7)


@pytest.fixture
def pair():
    with two_processes() as pair:
        yield pair


def ready(calls, fd, events=POLLIN | POLLOUT | POLLRDHUP) -> int:
    entry = PollFd(fd, events)
    calls.poll([entry], 0)
    return entry.revents


def test_a_connected_socket_writes_and_reads(pair):
    fd, peer = pair.dgram()
    assert pair.a.write(fd, b"x") == -EDESTADDRREQ
    assert pair.a.connect(fd, B7) == 0
    assert (pair.a.getpeername(fd), pair.a.getsockname(fd)) == (B7, SockaddrIn(IP_A, 32768))
    assert pair.a.write(fd, b"hello") == 5
    pair.run(10)
    assert pair.b.read(peer, 100) == b"hello"
    assert pair.a.connect(fd, SockaddrIn(0, 0, AF_UNSPEC)) == 0
    assert pair.a.getpeername(fd) == -ENOTCONN


def test_addresses_that_are_none(pair):
    fd, _peer = pair.dgram()
    assert pair.a.connect(fd, SockaddrIn(IP_B, 7, 10)) == -EAFNOSUPPORT
    assert pair.a.connect(fd, SockaddrLl(3)) == -EINVAL
    assert pair.a.bind(fd, SockaddrLl(3)) == -EINVAL
    assert pair.a.bind(fd, SockaddrIn(0, 9)) == 0
    assert pair.a.bind(fd, SockaddrIn(0, 10)) == -EINVAL
    assert pair.a.sendto(fd, b"x", 0, SockaddrIn(IP_B, 7, 10)) == -EAFNOSUPPORT
    assert pair.a.sendto(fd, b"x", 0, SockaddrLl(3)) == -EINVAL


def test_questions(pair):
    fd, peer = pair.dgram()
    assert pair.b.ioctl(peer, SIOCINQ) == 0
    pair.a.sendto(fd, b"hello", 0, B7)
    assert pair.a.ioctl(fd, SIOCOUTQ) > 0
    pair.run(50)
    assert pair.a.ioctl(fd, SIOCOUTQ) == 0
    assert pair.b.ioctl(peer, SIOCINQ) == 5
    assert pair.b.ioctl(peer, 0x1234) == -EINVAL


def test_corking(pair):
    fd, peer = pair.dgram()
    pair.a.connect(fd, B7)
    assert pair.a.setsockopt(fd, SOL_UDP, UDP_CORK, 1) == 0
    assert pair.a.getsockopt(fd, SOL_UDP, UDP_CORK) == (0, 1)
    pair.a.write(fd, b"one ")
    pair.a.write(fd, b"datagram")
    pair.run(10)
    assert pair.b.read(peer, 100) == -EAGAIN
    assert pair.a.setsockopt(fd, SOL_UDP, UDP_CORK, 0) == 0
    pair.run(10)
    assert pair.b.read(peer, 100) == b"one datagram"
    assert pair.a.setsockopt(fd, SOL_UDP, UDP_CORK, b"") == -EINVAL


@pytest.mark.parametrize("level", [SOL_UDP, SOL_TCP, 99])
def test_unknown_options(pair, level):
    fd, _peer = pair.dgram()
    assert pair.a.setsockopt(fd, level, 99, 1) == -ENOPROTOOPT
    assert pair.a.getsockopt(fd, level, 99) == (-ENOPROTOOPT, None)


def test_shutdown(pair):
    fd, _peer = pair.dgram()
    assert pair.a.shutdown(fd, SHUT_RD) == -ENOTCONN
    pair.a.connect(fd, B7)
    assert pair.a.shutdown(fd, 3) == -EINVAL
    assert pair.a.shutdown(fd, SHUT_RD) == 0
    assert ready(pair.a, fd) == POLLIN | POLLOUT | POLLRDHUP
    assert pair.a.shutdown(fd, SHUT_WR) == 0
    assert pair.a.write(fd, b"x") == -EPIPE
    assert ready(pair.a, fd) & POLLHUP
    assert pair.a.shutdown(fd, SHUT_RDWR) == 0


def test_poll_of_a_datagram_socket(pair):
    fd, peer = pair.dgram()
    assert ready(pair.b, peer) == POLLOUT
    pair.a.sendto(fd, b"x", 0, B7)
    pair.run(10)
    assert ready(pair.b, peer) == POLLIN | POLLOUT
    sk = pair.b.lookup(peer).sk
    sk.sk_err = 111
    assert ready(pair.b, peer, 0) == POLLERR
    sk.sk_err = 0
    sk.sk_sndbuf = 0
    assert ready(pair.b, peer, POLLOUT) == 0


def test_poll_counts_what_is_ready(pair):
    fd, peer = pair.dgram()
    pair.a.sendto(fd, b"x", 0, B7)
    pair.run(10)
    fds = [PollFd(peer, POLLIN), PollFd(99, POLLIN), PollFd(-1, POLLIN), PollFd(1, POLLIN), PollFd(peer, 0)]
    assert pair.b.poll(fds, 1000) == 3
    assert [entry.revents for entry in fds] == [POLLIN, POLLNVAL, 0, POLLIN, 0]


def test_poll_waits_for_the_first_of_several(pair):
    fd, peer = pair.dgram()
    other = pair.b.socket(AF_INET, SOCK_STREAM)
    pair.b.bind(other, SockaddrIn(0, 80))
    pair.b.listen(other, 1)
    fds = [PollFd(other, POLLIN), PollFd(peer, POLLIN)]
    got = []
    pair.sb.kernel.sched.spawn("poller", lambda: got.append(pair.b.poll(fds, -1)))
    pair.run(20)
    assert got == []
    pair.a.sendto(fd, b"x", 0, B7)
    pair.run(10)
    assert (got, [entry.revents for entry in fds]) == ([1], [0, POLLIN])
    for sleeper in (pair.b.lookup(other).sk.sk_sleep, pair.b.lookup(peer).sk.sk_sleep):
        assert not sleeper.active()


@pytest.mark.parametrize(("timeout", "jiffies"), [(0, 0), (100, 25), (1, 1)])
def test_poll_gives_up(pair, timeout, jiffies):
    _fd, peer = pair.dgram()
    start = pair.sb.kernel.sched.jiffies
    assert pair.b.poll([PollFd(peer, POLLIN)], timeout) == 0
    assert pair.sb.kernel.sched.jiffies - start == jiffies


def test_poll_of_nothing_is_a_nap(pair):
    start = pair.sb.kernel.sched.jiffies
    assert pair.b.poll([], 40) == 0
    assert pair.sb.kernel.sched.jiffies - start == 10


# raw


def raw(pair, protocol=1) -> int:
    fd = pair.a.socket(AF_INET, SOCK_RAW, protocol)
    pair.a.fcntl(fd, 4, 0o4000)
    return fd


def ping() -> bytes:
    message = struct.pack("!BBHHH", 8, 0, 0, 1, 1) + b"data"
    return message[:2] + csum_fold(csum_partial(message)).to_bytes(2, "big") + message[4:]


def test_a_ping(pair):
    fd = raw(pair)
    assert pair.a.connect(fd, SockaddrIn(IP_B, 0)) == 0
    assert pair.a.write(fd, ping()) == 12
    pair.run(20)
    assert ready(pair.a, fd) == POLLIN | POLLOUT
    assert pair.a.ioctl(fd, SIOCINQ) == 32
    data, name = pair.a.recvfrom(fd, 100)
    assert (data[20], data[28:], name) == (0, b"data", SockaddrIn(IP_B, 0))
    assert pair.a.ioctl(fd, SIOCOUTQ) == 0


def test_a_filter_of_icmp_types(pair):
    fd = raw(pair)
    assert pair.a.setsockopt(fd, SOL_RAW, ICMP_FILTER, 1) == 0
    assert pair.a.getsockopt(fd, SOL_RAW, ICMP_FILTER) == (0, 1)
    pair.a.sendto(fd, ping(), 0, SockaddrIn(IP_B, 0))
    pair.run(20)
    assert pair.a.read(fd, 100) == -EAGAIN


def test_refusals_of_raw_sockets(pair):
    fd, other = raw(pair), raw(pair, 99)
    a = pair.a
    assert a.setsockopt(other, SOL_RAW, ICMP_FILTER, 1) == -EOPNOTSUPP
    assert a.getsockopt(other, SOL_RAW, ICMP_FILTER) == (-EOPNOTSUPP, None)
    assert a.setsockopt(fd, SOL_RAW, ICMP_FILTER, b"") == -EINVAL
    assert a.setsockopt(fd, SOL_RAW, 99, 1) == a.setsockopt(fd, SOL_TCP, 1, 1) == -ENOPROTOOPT
    assert a.getsockopt(fd, SOL_RAW, 99) == a.getsockopt(fd, SOL_TCP, 1) == (-ENOPROTOOPT, None)
    assert a.setsockopt(fd, SOL_IP, 99, 1) == -ENOPROTOOPT
    assert a.bind(fd, SockaddrLl(3)) == a.connect(fd, SockaddrLl(3)) == -EINVAL
    assert a.connect(fd, SockaddrIn(IP_B, 0, 10)) == -EAFNOSUPPORT
    assert a.shutdown(fd, SHUT_RD) == -ENOTCONN
    assert a.connect(fd, SockaddrIn(IP_B, 0)) == 0
    assert a.connect(fd, SockaddrIn(0, 0, AF_UNSPEC)) == 0
    assert a.getpeername(fd) == -ENOTCONN
    assert a.bind(fd, SockaddrIn(IP_A, 0)) == 0
    assert a.getsockname(fd) == SockaddrIn(IP_A, 1)
    assert a.ioctl(fd, 0x1234) == -EINVAL


def test_a_datagram_socket_is_no_place_for_a_family(pair):
    assert pair.a.socket(AF_INET, SOCK_DGRAM, 1) < 0
