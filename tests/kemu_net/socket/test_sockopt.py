"""Options of SOL_SOCKET and SOL_IP."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import EAGAIN, EDOM, EINVAL, ENONET, ENOPROTOOPT, ENOTCONN
from kemu.kernel.timer import HZ, MAX_SCHEDULE_TIMEOUT
from kemu_net.core import uapi
from kemu_net.core.filter import SockFilter
from kemu_net.core.uapi import AF_INET, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM, SOL_IP, SOL_SOCKET, Linger, SockaddrIn, Timeval
from kemu_net.socket.sockopt import INT_MAX, sock_set_timeout
from net_ground import IP_B, MIB
from socket_ground import two_processes


@pytest.fixture
def pair():
    with two_processes() as pair:
        yield pair


@pytest.fixture
def stream(pair):
    return Opts(pair, SOCK_STREAM)


@pytest.fixture
def dgram(pair):
    return Opts(pair, SOCK_DGRAM)


class Opts:
    """Set and get options of one socket; ``set`` gives the errno of 2.6.23, ``get`` the value or the negative errno."""

    def __init__(self, pair, kind, protocol=0):
        self.calls = pair.a
        self.fd = pair.a.socket(AF_INET, kind, protocol)
        self.sk = pair.a.lookup(self.fd).sk

    def set(self, optname, value, level=SOL_SOCKET):
        return self.calls.setsockopt(self.fd, level, optname, value)

    def get(self, optname, level=SOL_SOCKET):
        err, value = self.calls.getsockopt(self.fd, level, optname)
        return err or value


def test_sizes_are_doubled(stream):
    assert stream.set(uapi.SO_SNDBUF, 10_000) == 0
    assert stream.set(uapi.SO_RCVBUF, 20_000) == 0
    assert (stream.get(uapi.SO_SNDBUF), stream.get(uapi.SO_RCVBUF)) == (20_000, 40_000)
    assert stream.sk.sk_userlocks & 3 == 3


@pytest.mark.parametrize("value", [0, 1, 127])
def test_sizes_have_a_least_value(stream, value):
    stream.set(uapi.SO_SNDBUF, value)
    stream.set(uapi.SO_RCVBUF, value)
    assert (stream.get(uapi.SO_SNDBUF), stream.get(uapi.SO_RCVBUF)) == (2048, 256)


@pytest.mark.parametrize("value", [124_929, INT_MAX, -1])
def test_sizes_have_a_greatest_value_that_sysctl_sets(stream, value):
    stream.set(uapi.SO_SNDBUF, value)
    stream.set(uapi.SO_RCVBUF, value)
    assert (stream.get(uapi.SO_SNDBUF), stream.get(uapi.SO_RCVBUF)) == (249_856, 249_856)
    stream.calls.socks.kernel.sysctl.write("net.core.rmem_max", "5000")
    stream.set(uapi.SO_RCVBUF, value)
    assert stream.get(uapi.SO_RCVBUF) == 10_000


def test_force_goes_above_it(stream):
    stream.set(uapi.SO_SNDBUFFORCE, 1_000_000)
    stream.set(uapi.SO_RCVBUFFORCE, 1_000_000)
    assert (stream.get(uapi.SO_SNDBUF), stream.get(uapi.SO_RCVBUF)) == (2_000_000, 2_000_000)


def test_a_small_machine_has_small_defaults():
    with two_processes(mem=16 * MIB, ring=32, ipv6=False) as pair:
        opts = Opts(pair, SOCK_DGRAM)
        assert (opts.get(uapi.SO_SNDBUF), opts.get(uapi.SO_RCVBUF)) == (32767, 32767)
        opts.set(uapi.SO_RCVBUF, 100_000)
        assert opts.get(uapi.SO_RCVBUF) == 65534


def test_a_receive_buffer_bounds_what_waits(pair):
    fd, peer = pair.dgram()
    assert pair.b.setsockopt(peer, SOL_SOCKET, uapi.SO_RCVBUF, 4000) == 0
    pair.a.sendto(fd, b"x", 0, SockaddrIn(IP_B, 7))
    pair.run(10)
    for _ in range(9):
        pair.a.sendto(fd, b"x", 0, SockaddrIn(IP_B, 7))
    pair.run(10)
    assert len(pair.b.lookup(peer).sk.sk_receive_queue) == (8000 - 1) // 1832
    assert pair.sb.udp.mib.rcvbuf_errors == 6


@pytest.mark.parametrize(
    "optname",
    [
        uapi.SO_DEBUG,
        uapi.SO_REUSEADDR,
        uapi.SO_DONTROUTE,
        uapi.SO_BROADCAST,
        uapi.SO_KEEPALIVE,
        uapi.SO_OOBINLINE,
        uapi.SO_NO_CHECK,
    ],
)
def test_switches(dgram, optname):
    assert dgram.get(optname) == 0
    assert dgram.set(optname, 5) == 0
    assert dgram.get(optname) == 1
    assert dgram.set(optname, b"\0\0\0\0") == 0
    assert dgram.get(optname) == 0
    assert dgram.set(optname, b"\1\0\0") == -EINVAL


def test_what_only_can_be_asked(stream, dgram):
    assert (stream.get(uapi.SO_TYPE), dgram.get(uapi.SO_TYPE)) == (SOCK_STREAM, SOCK_DGRAM)
    assert (stream.get(uapi.SO_SNDLOWAT), stream.get(uapi.SO_ACCEPTCONN)) == (1, 0)
    for optname in (uapi.SO_TYPE, uapi.SO_ERROR, uapi.SO_SNDLOWAT, uapi.SO_ACCEPTCONN):
        assert stream.set(optname, 1) == -ENOPROTOOPT


def test_an_error_is_told_once_and_then_the_soft_one(stream):
    stream.sk.sk_err, stream.sk.sk_err_soft = 104, 113
    assert [stream.get(uapi.SO_ERROR) for _ in range(3)] == [104, 113, 0]


def test_priority_and_least_amount(stream):
    assert stream.set(uapi.SO_PRIORITY, 6) == 0
    assert stream.get(uapi.SO_PRIORITY) == 6
    for value, effect in ((10, 10), (0, 1), (-1, INT_MAX)):
        assert stream.set(uapi.SO_RCVLOWAT, value) == 0
        assert stream.get(uapi.SO_RCVLOWAT) == effect


@pytest.mark.parametrize(
    ("value", "jiffies"),
    [
        (Timeval(0, 0), MAX_SCHEDULE_TIMEOUT),
        (Timeval(1, 0), HZ),
        (Timeval(0, 1), 1),
        (Timeval(2, 500_001), 2 * HZ + HZ // 2 + 1),
        (Timeval(-1, 0), 0),
        (Timeval(1 << 62, 0), MAX_SCHEDULE_TIMEOUT),
        (Timeval(0, 1_000_000), -EDOM),
        (Timeval(0, -1), -EDOM),
        (5, -EINVAL),
    ],
)
def test_times_are_jiffies(value, jiffies):
    assert sock_set_timeout(value) == jiffies


def test_times_come_back(stream):
    for optname in (uapi.SO_RCVTIMEO, uapi.SO_SNDTIMEO):
        assert stream.get(optname) == Timeval(0, 0)
        assert stream.set(optname, Timeval(3, 250_000)) == 0
        assert stream.get(optname) == Timeval(3, 252_000)  # 63 jiffies of 4 ms
        assert stream.set(optname, 1) == -EINVAL
        assert stream.get(optname) == Timeval(3, 252_000)


def test_lingering(stream):
    assert stream.get(uapi.SO_LINGER) == Linger(0, 0)
    assert stream.set(uapi.SO_LINGER, Linger(1, 7)) == 0
    assert stream.get(uapi.SO_LINGER) == Linger(1, 7)
    assert stream.set(uapi.SO_LINGER, Linger(0, 9)) == 0
    assert stream.get(uapi.SO_LINGER) == Linger(0, 7)
    assert stream.set(uapi.SO_LINGER, 1) == -EINVAL
    assert stream.set(uapi.SO_LINGER, Linger(1, -1)) == 0
    assert stream.sk.sk_lingertime == (1 << 32) * HZ - HZ
    stream.set(uapi.SO_LINGER, Linger(0, 0))


def test_filters_come_and_go(dgram):
    assert dgram.set(uapi.SO_DETACH_FILTER, 0) == -ENONET
    assert dgram.set(uapi.SO_ATTACH_FILTER, 5) == -EINVAL
    assert dgram.set(uapi.SO_ATTACH_FILTER, len) == 0
    assert dgram.set(uapi.SO_DETACH_FILTER, 0) == 0
    assert dgram.sk.sk_program is None


def test_a_program_of_bpf_decides_what_is_heard(pair):
    fd, peer = pair.dgram()
    port = SockFilter(0x28, 0, 0, 2)  # ldh [2]: the destination port
    keep = [port, SockFilter(0x15, 0, 1, 7), SockFilter(0x06, 0, 0, 10), SockFilter(0x06, 0, 0, 0)]
    assert pair.b.setsockopt(peer, SOL_SOCKET, uapi.SO_ATTACH_FILTER, keep[:2]) == -EINVAL
    assert pair.b.setsockopt(peer, SOL_SOCKET, uapi.SO_ATTACH_FILTER, keep) == 0
    pair.a.sendto(fd, b"hello", 0, SockaddrIn(IP_B, 7))
    pair.run(10)
    assert pair.b.recv(peer, 100) == b"he"
    keep[1] = SockFilter(0x15, 1, 0, 7)
    assert pair.b.setsockopt(peer, SOL_SOCKET, uapi.SO_ATTACH_FILTER, keep) == 0
    pair.a.sendto(fd, b"hello", 0, SockaddrIn(IP_B, 7))
    pair.run(10)
    assert pair.b.recv(peer, 100) == -EAGAIN
    assert pair.sb.stats.ignored["socket filter"] == 1


def test_younger_options_are_not_known(stream):
    for optname in (38, 39, 44):  # SO_PROTOCOL, SO_DOMAIN, SO_LOCK_FILTER
        assert stream.get(optname) == stream.set(optname, 1) == -ENOPROTOOPT


# IP


@pytest.mark.parametrize(
    ("optname", "default", "good", "bad"),
    [
        (uapi.IP_TOS, 0, [0x10, 255], []),
        (uapi.IP_TTL, 64, [1, 255], [0, 256, -2]),
        (uapi.IP_MTU_DISCOVER, 1, [0, 2, 3], [4, -1]),
        (uapi.IP_RECVERR, 0, [1, 0], []),
        (uapi.IP_FREEBIND, 0, [1, 0], []),
        (uapi.IP_PKTINFO, 0, [1, 0], []),
        (uapi.IP_RECVTTL, 0, [1, 0], []),
        (uapi.IP_RECVTOS, 0, [1, 0], []),
    ],
)
def test_options_of_ip(dgram, optname, default, good, bad):
    assert dgram.get(optname, SOL_IP) == default
    for value in good:
        assert dgram.set(optname, value, SOL_IP) == 0
        assert dgram.get(optname, SOL_IP) == value
    for value in bad:
        assert dgram.set(optname, value, SOL_IP) == -EINVAL
    assert dgram.get(optname, SOL_IP) == [default, *good][-1]


def test_ttl_minus_one_is_the_default(dgram):
    dgram.set(uapi.IP_TTL, 3, SOL_IP)
    assert dgram.set(uapi.IP_TTL, -1, SOL_IP) == 0
    assert dgram.get(uapi.IP_TTL, SOL_IP) == 64


def test_a_byte_is_enough(dgram):
    assert dgram.set(uapi.IP_TTL, b"\x07", SOL_IP) == 0
    assert dgram.get(uapi.IP_TTL, SOL_IP) == 7


def test_two_bits_of_tos_belong_to_tcp(stream):
    stream.set(uapi.IP_TOS, 0xFF, SOL_IP)
    assert stream.get(uapi.IP_TOS, SOL_IP) == 0xFC


def test_the_mtu_of_a_connection(pair):
    fd, _peer, _listener = pair.stream()
    assert pair.a.getsockopt(fd, SOL_IP, uapi.IP_MTU) == (0, 1500)
    fd = pair.a.socket(AF_INET, SOCK_DGRAM)
    assert pair.a.getsockopt(fd, SOL_IP, uapi.IP_MTU) == (-ENOTCONN, None)
    pair.a.connect(fd, SockaddrIn(IP_B, 7))
    assert pair.a.getsockopt(fd, SOL_IP, uapi.IP_MTU) == (0, 1500)


def test_a_header_of_ones_own_is_for_raw_sockets(pair, dgram):
    assert dgram.set(uapi.IP_HDRINCL, 1, SOL_IP) == -ENOPROTOOPT
    raw = Opts(pair, SOCK_RAW, 1)
    assert raw.set(uapi.IP_HDRINCL, 1, SOL_IP) == 0
    assert raw.get(uapi.IP_HDRINCL, SOL_IP) == 1


def test_unknown_options_of_ip(dgram):
    assert dgram.set(99, 1, SOL_IP) == dgram.get(99, SOL_IP) == -ENOPROTOOPT
