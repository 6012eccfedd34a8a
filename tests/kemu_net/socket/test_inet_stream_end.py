"""Stream sockets of a process: how connections end."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import (
    ECONNRESET,
    EINVAL,
    ENOTCONN,
    EPIPE,
)
from kemu.kernel.timer import HZ
from kemu_net.core.uapi import (
    AF_INET,
    F_SETFL,
    O_NONBLOCK,
    POLLHUP,
    POLLIN,
    POLLOUT,
    POLLRDHUP,
    SHUT_RD,
    SHUT_RDWR,
    SHUT_WR,
    SO_ERROR,
    SO_LINGER,
    SOCK_STREAM,
    SOL_SOCKET,
    Linger,
    SockaddrIn,
)
from kemu_net.ipv4.tcp_states import STATES
from kemu_net.socket.sockets import PollFd
from net_ground import IP_B
from socket_ground import two_processes

ALL = POLLIN | POLLOUT | POLLRDHUP
B80 = SockaddrIn(IP_B, 80)


@pytest.fixture
def pair():
    with two_processes() as pair:
        yield pair


def ready(calls, fd, events=ALL) -> int:
    entry = PollFd(fd, events)
    calls.poll([entry], 0)
    return entry.revents


def state(calls, fd) -> str:
    return STATES[calls.lookup(fd).sk.sk_state]


def error_of(calls, fd) -> int:
    return calls.getsockopt(fd, SOL_SOCKET, SO_ERROR)[1]


def nonblocking(calls) -> int:
    fd = calls.socket(AF_INET, SOCK_STREAM)
    calls.fcntl(fd, F_SETFL, O_NONBLOCK)
    return fd


def test_shutdown_ends_one_direction(pair):
    fd, peer, _listener = pair.stream()
    assert pair.a.shutdown(fd, SHUT_WR) == 0
    pair.run(5)
    assert pair.b.read(peer, 10) == b""
    assert pair.a.write(fd, b"x") == -EPIPE
    assert pair.b.write(peer, b"still") == 5
    pair.run(5)
    assert pair.a.read(fd, 10) == b"still"
    assert (state(pair.a, fd), state(pair.b, peer)) == ("FIN_WAIT2", "CLOSE_WAIT")


def test_shut_rd_is_a_matter_of_this_side(pair):
    fd, peer, _listener = pair.stream()
    assert pair.a.shutdown(fd, SHUT_RD) == 0
    pair.run(5)
    assert state(pair.b, peer) == "ESTABLISHED"
    assert pair.a.read(fd, 10) == b""
    assert ready(pair.a, fd) == POLLIN | POLLRDHUP | POLLOUT


def test_shutdown_of_both_directions(pair):
    fd, peer, _listener = pair.stream()
    assert pair.a.shutdown(fd, SHUT_RDWR) == 0
    assert ready(pair.a, fd) & POLLHUP
    pair.run(5)
    assert ready(pair.b, peer) == POLLIN | POLLRDHUP | POLLOUT


@pytest.mark.parametrize("how", [-1, 3])
def test_shutdown_knows_three_ways(pair, how):
    fd, _peer, _listener = pair.stream()
    assert pair.a.shutdown(fd, how) == -EINVAL


def test_shutdown_without_a_connection(pair):
    fd = pair.a.socket(AF_INET, SOCK_STREAM)
    assert pair.a.shutdown(fd, SHUT_RDWR) == -ENOTCONN
    listener = pair.listen()
    assert pair.b.shutdown(listener, SHUT_WR) == 0
    assert state(pair.b, listener) == "LISTEN"
    assert pair.b.shutdown(listener, SHUT_RD) == 0
    assert state(pair.b, listener) == "CLOSE"


def test_shutdown_stops_connecting(pair):
    fd = nonblocking(pair.a)
    pair.wire.cut()
    pair.a.connect(fd, B80)
    assert pair.a.shutdown(fd, SHUT_WR) == 0
    assert state(pair.a, fd) == "CLOSE"
    pair.wire.mend()


def test_a_second_shutdown_finds_the_connection_gone(pair):
    fd, peer, _listener = pair.stream()
    pair.b.shutdown(peer, SHUT_WR)
    pair.run(5)
    assert pair.a.shutdown(fd, SHUT_WR) == 0
    pair.run(5)
    assert pair.a.shutdown(fd, SHUT_WR) == -ENOTCONN


def test_closing_with_unread_data_is_a_reset(pair):
    fd, peer, _listener = pair.stream()
    pair.a.write(fd, b"unread")
    pair.run(5)
    pair.b.close(peer)
    pair.run(5)
    assert pair.a.read(fd, 10) == -ECONNRESET
    assert ready(pair.a, fd) & POLLHUP


def test_closing_without_is_an_end(pair):
    fd, peer, _listener = pair.stream()
    pair.b.close(peer)
    pair.run(5)
    assert pair.a.read(fd, 10) == b""
    assert pair.a.write(fd, b"too late") == 8
    pair.run(5)
    assert pair.a.write(fd, b"x") == -EPIPE


def test_lingering_for_no_time_is_a_reset(pair):
    fd, peer, _listener = pair.stream()
    assert pair.a.setsockopt(fd, SOL_SOCKET, SO_LINGER, Linger(1, 0)) == 0
    pair.a.close(fd)
    pair.run(5)
    assert pair.b.read(peer, 10) == -ECONNRESET


def test_lingering_waits_for_the_last_acknowledgement(pair):
    fd, _peer, _listener = pair.stream()
    pair.a.setsockopt(fd, SOL_SOCKET, SO_LINGER, Linger(1, 10))
    pair.a.write(fd, b"last words")
    start = pair.sa.kernel.sched.jiffies
    pair.a.close(fd)
    assert 0 < pair.sa.kernel.sched.jiffies - start < HZ


def test_lingering_does_not_wait_for_ever(pair):
    fd, _peer, _listener = pair.stream()
    pair.a.setsockopt(fd, SOL_SOCKET, SO_LINGER, Linger(1, 2))
    pair.wire.cut()
    start = pair.sa.kernel.sched.jiffies
    pair.a.close(fd)
    assert pair.sa.kernel.sched.jiffies - start == 2 * HZ
    pair.wire.mend()
