"""Stream sockets of a process: connecting, listening, data, poll and options."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import (
    EADDRINUSE,
    EADDRNOTAVAIL,
    EAFNOSUPPORT,
    EAGAIN,
    EALREADY,
    ECONNREFUSED,
    ECONNRESET,
    EINPROGRESS,
    EINVAL,
    EISCONN,
    ENETUNREACH,
    ENOPROTOOPT,
    ENOTCONN,
    EPIPE,
    ETIMEDOUT,
)
from kemu.kernel.timer import HZ
from kemu_net.core.uapi import (
    AF_INET,
    AF_UNSPEC,
    F_SETFL,
    FIONREAD,
    MSG_DONTWAIT,
    MSG_MORE,
    MSG_PEEK,
    MSG_TRUNC,
    MSG_WAITALL,
    O_NONBLOCK,
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLOUT,
    POLLRDHUP,
    SHUT_RD,
    SHUT_WR,
    SIOCINQ,
    SIOCOUTQ,
    SO_ACCEPTCONN,
    SO_ERROR,
    SO_KEEPALIVE,
    SO_LINGER,
    SO_RCVTIMEO,
    SO_SNDBUF,
    SO_SNDTIMEO,
    SOCK_STREAM,
    SOL_IP,
    SOL_SOCKET,
    SOL_TCP,
    SOL_UDP,
    TCP_CONGESTION,
    TCP_INFO,
    TCP_NODELAY,
    Linger,
    SockaddrIn,
    SockaddrLl,
    Timeval,
)
from kemu_net.ipv4.tcp_states import STATES
from kemu_net.socket.sockets import PollFd
from net_ground import IP_A, IP_B, IP_C
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


# connecting


def test_a_connect_that_may_not_wait(pair):
    pair.listen()
    fd = nonblocking(pair.a)
    assert pair.a.connect(fd, B80) == -EINPROGRESS
    assert pair.a.connect(fd, B80) == -EALREADY
    assert ready(pair.a, fd) == 0
    pair.run(5)
    assert ready(pair.a, fd) == POLLOUT
    assert error_of(pair.a, fd) == 0
    assert pair.a.connect(fd, B80) == 0
    assert pair.a.connect(fd, B80) == -EISCONN


def test_a_connect_that_is_refused(pair):
    fd = pair.a.socket(AF_INET, SOCK_STREAM)
    assert pair.a.connect(fd, B80) == -ECONNREFUSED
    pair.listen()
    assert pair.a.connect(fd, B80) == 0


def test_a_refusal_is_told_once(pair):
    fd = nonblocking(pair.a)
    pair.a.connect(fd, B80)
    pair.run(5)
    assert ready(pair.a, fd) == POLLERR | POLLHUP | POLLIN | POLLRDHUP
    assert error_of(pair.a, fd) == ECONNREFUSED
    assert error_of(pair.a, fd) == 0


def test_the_next_connect_tells_of_a_refusal(pair):
    fd = nonblocking(pair.a)
    pair.a.connect(fd, B80)
    pair.run(5)
    assert pair.a.connect(fd, B80) == -ECONNREFUSED
    assert pair.a.connect(fd, B80) == -EINPROGRESS


def test_a_connect_gives_up(pair):
    fd = pair.a.socket(AF_INET, SOCK_STREAM)
    pair.wire.cut()
    assert pair.a.connect(fd, B80) in (-ETIMEDOUT, -113)
    pair.wire.mend()


def test_a_connect_waits_as_long_as_a_send_may(pair):
    fd = pair.a.socket(AF_INET, SOCK_STREAM)
    pair.wire.cut()
    pair.a.setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, Timeval(0, 100_000))
    start = pair.sa.kernel.sched.jiffies
    assert pair.a.connect(fd, B80) == -EINPROGRESS
    assert pair.sa.kernel.sched.jiffies - start == HZ // 10
    pair.wire.mend()


def test_where_nobody_can_connect_to(pair):
    fd = pair.a.socket(AF_INET, SOCK_STREAM)
    assert pair.a.connect(fd, SockaddrIn(0x08080808, 80)) == -ENETUNREACH
    assert pair.a.connect(fd, SockaddrIn(0xE0000001, 80)) == -ENETUNREACH
    assert pair.a.connect(fd, SockaddrIn(IP_B, 80, 10)) == -EAFNOSUPPORT
    assert pair.a.connect(fd, SockaddrLl(3)) == -EINVAL


def test_address_0_is_this_host(pair):
    fd = pair.a.socket(AF_INET, SOCK_STREAM)
    assert pair.a.connect(fd, SockaddrIn(0, 80)) == -ECONNREFUSED


def test_unspec_takes_the_connection_off(pair):
    fd, peer, _listener = pair.stream()
    assert pair.a.connect(fd, SockaddrIn(0, 0, AF_UNSPEC)) == 0
    pair.run(2)
    assert pair.b.read(peer, 10) == -ECONNRESET
    assert pair.a.getpeername(fd) == -ENOTCONN
    assert pair.a.connect(fd, B80) == -EINPROGRESS


def test_names(pair):
    fd, peer, listener = pair.stream()
    own = pair.a.getsockname(fd)
    assert own.addr == IP_A
    assert pair.a.getpeername(fd) == B80
    assert (pair.b.getsockname(peer), pair.b.getpeername(peer)) == (B80, own)
    assert (pair.b.getsockname(listener), pair.b.getpeername(listener)) == (SockaddrIn(0, 80), -ENOTCONN)


# binding and listening


def test_an_address_is_bound_once_and_must_be_ours(pair):
    fd = pair.a.socket(AF_INET, SOCK_STREAM)
    assert pair.a.bind(fd, SockaddrIn(IP_C, 80)) == -EADDRNOTAVAIL
    assert pair.a.bind(fd, SockaddrLl(3)) == -EINVAL
    assert pair.a.bind(fd, SockaddrIn(IP_A, 80)) == 0
    assert pair.a.bind(fd, SockaddrIn(IP_A, 81)) == -EINVAL
    assert pair.a.bind(pair.a.socket(AF_INET, SOCK_STREAM), SockaddrIn(0, 80)) == -EADDRINUSE


def test_listening_twice_changes_the_backlog(pair):
    fd = pair.listen()
    assert pair.b.listen(fd, 1000) == 0
    sk = pair.b.lookup(fd).sk
    assert sk.sk_max_ack_backlog == 128
    pair.b.listen(fd, -1)
    assert sk.sk_max_ack_backlog == 128
    assert pair.b.getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN) == (0, 1)


def test_a_connected_socket_cannot_listen(pair):
    fd, _peer, _listener = pair.stream()
    assert pair.a.listen(fd, 1) == -EINVAL


def test_accept_waits_no_longer_than_it_wants(pair):
    fd = pair.listen()
    pair.b.setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, Timeval(1, 0))
    start = pair.sb.kernel.sched.jiffies
    assert pair.b.accept(fd) == (-EAGAIN, None)
    assert pair.sb.kernel.sched.jiffies - start == HZ
    pair.b.fcntl(fd, F_SETFL, O_NONBLOCK)
    assert pair.b.accept(fd) == (-EAGAIN, None)
    assert pair.a.accept(pair.a.socket(AF_INET, SOCK_STREAM)) == (-EINVAL, None)


def test_accept_tells_the_peer(pair):
    fd = pair.listen()
    assert ready(pair.b, fd) == 0
    out = pair.a.socket(AF_INET, SOCK_STREAM)
    pair.a.connect(out, B80)
    pair.run(2)
    assert ready(pair.b, fd) == POLLIN
    assert pair.b.accept(fd) == (4, pair.a.getsockname(out))
    assert ready(pair.b, fd) == 0


def test_a_connection_that_ended_before_it_was_accepted(pair):
    fd = pair.listen()
    out = pair.a.socket(AF_INET, SOCK_STREAM)
    pair.a.connect(out, B80)
    name = pair.a.getsockname(out)
    pair.a.setsockopt(out, SOL_SOCKET, SO_LINGER, Linger(1, 0))
    pair.a.close(out)
    pair.run(5)
    peer, who = pair.b.accept(fd)
    assert who == name
    assert pair.b.read(peer, 10) == -ECONNRESET
    assert pair.b.getpeername(peer) == -ENOTCONN


def test_a_waiting_accept_gets_the_connection(pair):
    fd = pair.listen()
    got = []
    pair.sb.kernel.sched.spawn("server", lambda: got.append(pair.b.accept(fd)))
    pair.run(5)
    pair.a.connect(pair.a.socket(AF_INET, SOCK_STREAM), B80)
    pair.run(5)
    assert got[0][0] == 4


def test_a_waiting_accept_ends_with_its_listener(pair):
    fd = pair.listen()
    got = []
    pair.sb.kernel.sched.spawn("server", lambda: got.append(pair.b.accept(fd)))
    pair.run(5)
    pair.b.shutdown(fd, SHUT_RD)
    pair.run(5)
    assert got == [(-EINVAL, None)]


# data


def test_bytes_in_both_directions(pair):
    fd, peer, _listener = pair.stream()
    assert pair.a.write(fd, b"ping") == 4
    assert pair.b.send(peer, b"pong") == 4
    pair.run(5)
    assert (pair.b.read(peer, 100), pair.a.recv(fd, 100)) == (b"ping", b"pong")
    assert pair.a.read(fd, 100) == -EAGAIN


def test_peek_waitall_and_trunc(pair):
    fd, peer, _listener = pair.stream(nonblock=False)
    pair.a.write(fd, b"0123456789")
    pair.run(5)
    assert pair.b.recv(peer, 4, MSG_PEEK) == b"0123"
    assert len(pair.b.recv(peer, 4, MSG_TRUNC)) == 4
    assert pair.b.recv(peer, 100, MSG_WAITALL | MSG_DONTWAIT) == b"456789"
    assert pair.b.recv(peer, 100, MSG_DONTWAIT) == -EAGAIN
    got = []
    pair.sb.kernel.sched.spawn("reader", lambda: got.append(pair.b.recv(peer, 6, MSG_WAITALL)))
    for piece in (b"abc", b"def"):
        assert got == []
        pair.a.write(fd, piece)
        pair.run(5)
    assert got == [b"abcdef"]


def test_a_reader_waits_as_long_as_it_wants(pair):
    fd, _peer, _listener = pair.stream(nonblock=False)
    pair.a.setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, Timeval(0, 500_000))
    start = pair.sa.kernel.sched.jiffies
    assert pair.a.read(fd, 10) == -EAGAIN
    assert pair.sa.kernel.sched.jiffies - start == HZ // 2


def test_a_writer_waits_as_long_as_it_wants(pair):
    fd, _peer, _listener = pair.stream(nonblock=False)
    pair.a.setsockopt(fd, SOL_SOCKET, SO_SNDBUF, 2048)
    pair.a.setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, Timeval(1, 0))
    total = 0
    while (n := pair.a.write(fd, b"x" * 50_000)) > 0:
        total += n
    assert n == -EAGAIN and total > 0


def test_more_holds_a_short_segment_back(pair):
    fd, peer, _listener = pair.stream()
    pair.a.send(fd, b"begin", MSG_MORE)
    pair.run(5)
    assert pair.b.read(peer, 100) == -EAGAIN
    pair.a.send(fd, b" end")
    pair.run(5)
    assert pair.b.read(peer, 100) == b"begin end"


def test_unconnected_sockets_move_no_data(pair):
    fd = pair.a.socket(AF_INET, SOCK_STREAM)
    assert pair.a.write(fd, b"x") == -EPIPE
    assert pair.a.read(fd, 1) == -ENOTCONN
    assert pair.b.read(pair.listen(), 1) == -ENOTCONN


def test_what_is_unread_and_what_is_not_acknowledged(pair):
    fd, peer, listener = pair.stream()
    pair.a.write(fd, b"x" * 100)
    assert pair.a.ioctl(fd, SIOCOUTQ) == 100
    pair.run(100)
    assert pair.a.ioctl(fd, SIOCOUTQ) == 0
    assert pair.b.ioctl(peer, FIONREAD) == 100
    pair.a.shutdown(fd, SHUT_WR)
    pair.run(5)
    assert pair.b.ioctl(peer, SIOCINQ) == 100
    assert pair.b.ioctl(listener, SIOCINQ) == -EINVAL
    other = nonblocking(pair.a)
    pair.a.connect(other, B80)
    assert (pair.a.ioctl(other, SIOCINQ), pair.a.ioctl(other, SIOCOUTQ)) == (0, 0)


# poll and options


def test_poll_of_a_connection(pair):
    fd, peer, _listener = pair.stream()
    assert ready(pair.a, fd) == POLLOUT
    pair.b.write(peer, b"x")
    pair.run(5)
    assert ready(pair.a, fd) == POLLIN | POLLOUT
    assert ready(pair.a, fd, POLLOUT) == POLLOUT


def test_poll_of_a_fresh_socket(pair):
    assert ready(pair.a, pair.a.socket(AF_INET, SOCK_STREAM)) == POLLHUP | POLLOUT


def test_a_full_send_buffer_is_not_writable_until_there_is_room(pair):
    fd, peer, _listener = pair.stream()
    for _ in range(20):
        while pair.a.write(fd, b"x" * 10_000) > 0:
            pass
        pair.run(100)
    assert ready(pair.a, fd) == 0
    woken = []
    entry = PollFd(fd, POLLOUT)
    pair.sa.kernel.sched.spawn("poller", lambda: woken.append(pair.a.poll([entry], -1)))
    pair.run(50)
    assert woken == []
    while pair.b.read(peer, 100_000) != -EAGAIN:
        pair.run(500)
    assert (woken, entry.revents) == ([1], POLLOUT)


def test_options_go_to_their_level(pair):
    fd = pair.a.socket(AF_INET, SOCK_STREAM)
    a = pair.a
    assert a.setsockopt(fd, SOL_TCP, TCP_NODELAY, 1) == 0
    assert a.getsockopt(fd, SOL_TCP, TCP_NODELAY) == (0, 1)
    assert a.setsockopt(fd, SOL_TCP, TCP_NODELAY, b"\1\0") == -EINVAL
    assert a.setsockopt(fd, SOL_TCP, TCP_CONGESTION, "reno") == 0
    assert a.setsockopt(fd, SOL_TCP, 99, 1) == -ENOPROTOOPT
    assert a.setsockopt(fd, SOL_UDP, 1, 1) == -ENOPROTOOPT
    assert a.getsockopt(fd, SOL_UDP, 1) == (-ENOPROTOOPT, None)
    assert a.setsockopt(fd, SOL_IP, 99, 1) == -ENOPROTOOPT


def test_tcp_info_and_keepalive(pair):
    fd, _peer, _listener = pair.stream()
    err, info = pair.a.getsockopt(fd, SOL_TCP, TCP_INFO)
    assert (err, info.tcpi_state) == (0, 1)
    assert pair.a.setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, 1) == 0
    assert pair.a.getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE) == (0, 1)
    assert pair.a.setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, 0) == 0
