"""Packet sockets: taps, sockets of one protocol, statistics, sending."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import (
    EAGAIN,
    EINVAL,
    EMSGSIZE,
    ENETDOWN,
    ENOBUFS,
    ENODEV,
    ENOPROTOOPT,
    ENXIO,
    EOPNOTSUPP,
    ESOCKTNOSUPPORT,
)
from kemu_net.core.uapi import (
    AF_PACKET,
    MSG_DONTWAIT,
    MSG_OOB,
    MSG_PEEK,
    MSG_TRUNC,
    O_NONBLOCK,
    POLLIN,
    POLLOUT,
    SIOCINQ,
    SIOCOUTQ,
    SO_ATTACH_FILTER,
    SO_DETACH_FILTER,
    SOCK_DGRAM,
    SOCK_PACKET,
    SOCK_RAW,
    SOL_PACKET,
    SOL_SOCKET,
    SockaddrIn,
    SockaddrLl,
)
from kemu_net.packet.af_packet import (
    ETH_P_ALL,
    IFINDEX,
    PACKET_ADD_MEMBERSHIP,
    PACKET_DROP_MEMBERSHIP,
    PACKET_MR_PROMISC,
    PACKET_STATISTICS,
    Beside,
    PacketFamily,
)
from kemu_net.socket.sockets import PollFd, Sockets
from net_ground import IP_A, IP_B, MAC_A, MAC_B, MAC_C, two_hosts, udp_frame

ETH_P_IP = 0x0800
FRAME = udp_frame(b"x" * 100)


@pytest.fixture
def net():
    with two_hosts() as net:
        net.greet()
        equip(net.a)
        net.sink = net.a.socket(7)
        yield net
        net.a.sys.close_all()
        net.run(10)
        assert net.a.in_use("PACKET") == 0
        assert not net.a.dev.ptype_all
        assert not any(isinstance(fn, Beside) for fn in net.a.dev.packet_types.values())


def equip(host) -> None:
    family = PacketFamily(host.kernel, host.socks, host.skbs, host.dev, host.nic)
    host.sys = Sockets(host.kernel, host.socks, {AF_PACKET: family})


def tap(host, kind=SOCK_RAW, protocol=ETH_P_ALL) -> int:
    fd = host.sys.socket(AF_PACKET, kind, protocol)
    assert fd >= 3
    host.sys.fcntl(fd, 4, O_NONBLOCK)
    return fd


def statistics(host, fd) -> tuple[int, int]:
    err, stats = host.sys.getsockopt(fd, SOL_PACKET, PACKET_STATISTICS)
    assert err == 0
    return stats.tp_packets, stats.tp_drops


def test_a_tap_sees_a_frame_with_its_header(net):
    fd = tap(net.a)
    net.flood(FRAME)
    net.run(1)
    data, name = net.a.sys.recvfrom(fd, 2000)
    assert data == FRAME
    assert name == SockaddrLl(ETH_P_IP, IFINDEX, 1, 0, MAC_B)


def test_a_cooked_tap_sees_it_without(net):
    fd = tap(net.a, SOCK_DGRAM)
    net.flood(FRAME)
    net.run(1)
    assert net.a.sys.recv(fd, 2000) == FRAME[14:]


def test_the_protocol_gets_the_frame_as_well(net):
    tap(net.a)
    tap(net.a, SOCK_DGRAM)
    sk = net.sink
    net.flood(FRAME)
    net.run(1)
    assert net.a.udp.recvfrom(sk, nonblock=True)[0] == b"x" * 100


@pytest.mark.parametrize("kind", [SOCK_RAW, SOCK_DGRAM])
def test_a_tap_sees_what_is_sent(net, kind):
    fd = tap(net.a, kind)
    net.a.udp.sendto(net.sink, b"out", IP_B, 7)
    data, name = net.a.sys.recvfrom(fd, 2000)
    assert data.endswith(b"out") and len(data) == 31 + (14 if kind == SOCK_RAW else 0)
    assert name.pkttype == 4


def test_a_tap_does_not_see_what_it_sends_itself(net):
    fd, other = tap(net.a), tap(net.a)
    frame = MAC_B + MAC_A + b"\x88\xb5" + b"hello"
    assert net.a.sys.sendto(fd, frame, 0, SockaddrLl(0x88B5, IFINDEX)) == len(frame)
    assert net.a.sys.recv(fd, 2000) == -EAGAIN
    assert net.a.sys.recv(other, 2000) == frame


def test_a_socket_of_a_protocol_sits_beside_it(net):
    fd = tap(net.a, protocol=ETH_P_IP)
    sk = net.sink
    net.flood(FRAME)
    net.run(1)
    assert net.a.sys.recv(fd, 2000) == FRAME
    assert net.a.udp.recvfrom(sk, nonblock=True)[0] == b"x" * 100


def test_a_socket_of_a_protocol_does_not_see_what_is_sent(net):
    fd = tap(net.a, protocol=ETH_P_IP)
    net.a.udp.sendto(net.sink, b"out", IP_B, 7)
    assert net.a.sys.recv(fd, 2000) == -EAGAIN


def test_a_protocol_that_nobody_else_knows(net):
    fd = tap(net.a, protocol=0x88B5)
    net.flood((MAC_A + MAC_B + b"\x88\xb5" + b"hello").ljust(60, b"\0"))
    net.run(1)
    assert net.a.sys.recv(fd, 19) == MAC_A + MAC_B + b"\x88\xb5hello"
    net.a.sys.close(fd)
    net.flood((MAC_A + MAC_B + b"\x88\xb5" + b"hello").ljust(60, b"\0"))
    net.run(1)
    assert net.a.stats.ignored == {"no protocol handler": 1}


def test_binding_changes_what_it_hears(net):
    fd = tap(net.a, protocol=0)
    net.flood(FRAME)
    net.run(1)
    assert net.a.sys.recv(fd, 2000) == -EAGAIN
    assert net.a.sys.bind(fd, SockaddrLl(ETH_P_ALL, IFINDEX)) == 0
    net.flood(FRAME)
    net.run(1)
    assert net.a.sys.recv(fd, 2000) == FRAME
    assert net.a.sys.bind(fd, SockaddrLl(0x88B5)) == 0
    net.flood(FRAME)
    net.run(1)
    assert net.a.sys.recv(fd, 2000) == -EAGAIN


def test_names_and_refusals_of_bind(net):
    fd = tap(net.a, protocol=0)
    assert net.a.sys.bind(fd, SockaddrLl(ETH_P_ALL, 7)) == -ENODEV
    assert net.a.sys.bind(fd, SockaddrIn(0, 0)) == -EINVAL
    assert net.a.sys.getsockname(fd) == SockaddrLl(0)
    net.a.sys.bind(fd, SockaddrLl(ETH_P_IP, IFINDEX))
    assert net.a.sys.getsockname(fd) == SockaddrLl(ETH_P_IP, IFINDEX, 1, 0, MAC_A)
    assert net.a.sys.getpeername(fd) == -EOPNOTSUPP


def test_rcvbuf_bounds_what_waits_and_the_rest_is_counted(net):
    fd = tap(net.a)
    sk = net.a.sys.lookup(fd).sk
    net.flood(FRAME, 100)
    net.run(3)
    fits = (sk.sk_rcvbuf - 1) // 1832
    assert len(sk.sk_receive_queue) == fits == 68
    assert statistics(net.a, fd) == (100, 32)
    assert statistics(net.a, fd) == (0, 0)


def test_without_memory_for_a_clone_the_frame_is_dropped_for_the_tap_alone(net):
    fd = tap(net.a, protocol=ETH_P_IP)
    sk = net.sink
    net.a.skbs.skb_clone = lambda *_args: None
    net.flood(FRAME)
    net.run(1)
    del net.a.skbs.skb_clone
    assert statistics(net.a, fd) == (1, 1)
    assert len(sk.sk_receive_queue) == 1


def test_a_filter_cuts_and_refuses(net):
    fd = tap(net.a)
    sys = net.a.sys
    assert sys.setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, lambda skb: 20 if skb.protocol == ETH_P_IP else 0) == 0
    net.flood(FRAME)
    net.flood((MAC_A + MAC_B + b"\x88\xb5" + b"hello").ljust(60, b"\0"))
    net.run(1)
    assert sys.recv(fd, 2000) == FRAME[:20]
    assert sys.recv(fd, 2000) == -EAGAIN
    assert statistics(net.a, fd) == (1, 0)
    assert sys.setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, 0) == 0
    net.flood(FRAME)
    net.run(1)
    assert sys.recv(fd, 2000) == FRAME


def test_a_filter_that_cuts_leaves_the_protocol_the_whole_frame(net):
    fd = tap(net.a, protocol=ETH_P_IP)
    net.a.sys.setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, lambda _skb: 20)
    sk = net.sink
    net.flood(FRAME)
    net.run(1)
    assert net.a.udp.recvfrom(sk, nonblock=True)[0] == b"x" * 100


def test_peek_and_trunc(net):
    fd = tap(net.a)
    net.flood(FRAME)
    net.run(1)
    assert net.a.sys.ioctl(fd, SIOCINQ) == len(FRAME)
    msg = net.a.sys.recvmsg(fd, 10, MSG_PEEK | MSG_TRUNC)
    assert (msg.data, msg.length, msg.flags) == (FRAME[:10], len(FRAME), MSG_TRUNC)
    assert net.a.sys.recv(fd, 2000, MSG_OOB) == -EINVAL
    assert net.a.sys.recv(fd, 2000, MSG_DONTWAIT) == FRAME


def test_a_cooked_socket_lets_the_device_write_the_header(net):
    fd = tap(net.a, SOCK_DGRAM, 0)
    before = len(net.frames)
    assert net.a.sys.sendto(fd, b"hello", 0, SockaddrLl(0x88B5, IFINDEX, addr=MAC_B)) == 5
    assert net.a.sys.ioctl(fd, SIOCOUTQ) > 0
    net.run(5)
    assert net.frames[before][1].rstrip(b"\0") == MAC_B + MAC_A + b"\x88\xb5hello"


def test_a_bound_socket_needs_no_name(net):
    fd = tap(net.a, SOCK_RAW, 0)
    assert net.a.sys.send(fd, b"x" * 60) == -ENXIO
    net.a.sys.bind(fd, SockaddrLl(0x88B5, IFINDEX))
    assert net.a.sys.send(fd, MAC_B + MAC_A + b"\x88\xb5" + b"x" * 46) == 60


def test_what_cannot_be_sent(net):
    fd, cooked = tap(net.a, SOCK_RAW, 0), tap(net.a, SOCK_DGRAM, 0)
    name = SockaddrLl(0x88B5, IFINDEX)
    sys = net.a.sys
    assert sys.sendto(fd, b"x" * 1515, 0, name) == -EMSGSIZE
    assert sys.sendto(cooked, b"x" * 1501, 0, name._replace(addr=MAC_B)) == -EMSGSIZE
    assert sys.sendto(fd, b"x" * 13, 0, name) == -EINVAL
    assert sys.sendto(cooked, b"x", 0, name) == -EINVAL
    assert sys.sendto(fd, b"x" * 60, 0, SockaddrIn(IP_A, 7)) == -EINVAL
    assert sys.sendto(fd, b"x" * 60, 0, SockaddrLl(0x88B5, 1)) == -ENXIO
    net.a.sys.lookup(fd).sk.sk_allocation = 0x20
    net.a.hog()
    assert sys.sendto(fd, b"x" * 60, 0, name) == -ENOBUFS
    net.a.unhog()
    net.a.nic.close()
    assert sys.sendto(fd, b"x" * 60, 0, name) == -ENETDOWN


def test_poll_and_unknown_options(net):
    fd = tap(net.a)
    poll = PollFd(fd, POLLIN | POLLOUT)
    assert (net.a.sys.poll([poll], 0), poll.revents) == (1, POLLOUT)
    net.flood(FRAME)
    net.run(1)
    assert (net.a.sys.poll([poll], 0), poll.revents) == (1, POLLIN | POLLOUT)
    assert net.a.sys.getsockopt(fd, SOL_PACKET, 99) == (-ENOPROTOOPT, None)
    assert net.a.sys.setsockopt(fd, SOL_PACKET, 99, 1) == -ENOPROTOOPT


def test_promiscuous_mode_lasts_as_long_as_somebody_wants_it(net):
    sys = net.a.sys
    fd, other = tap(net.a), tap(net.a)
    stray = MAC_C + FRAME[6:]
    net.flood(stray)
    net.run(1)
    assert sys.recv(fd, 2000) == -EAGAIN
    for one in (fd, other):
        assert sys.setsockopt(one, SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC) == 0
    sys.close(other)
    net.flood(stray)
    net.run(1)
    data, name = sys.recvfrom(fd, 2000)
    assert (data, name.pkttype) == (stray, 3)
    assert not net.sink.sk_receive_queue
    assert sys.setsockopt(fd, SOL_PACKET, PACKET_DROP_MEMBERSHIP, PACKET_MR_PROMISC) == 0
    assert sys.setsockopt(fd, SOL_PACKET, PACKET_DROP_MEMBERSHIP, PACKET_MR_PROMISC) == 0
    assert sys.setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, 99) == -EINVAL
    assert not net.a.nic.rx.promiscuous


@pytest.mark.parametrize("kind", [1, SOCK_PACKET])
def test_other_types_are_not_known(net, kind):
    assert net.a.sys.socket(AF_PACKET, kind, ETH_P_ALL) == -ESOCKTNOSUPPORT


@pytest.mark.parametrize("cache", ["PACKET", "sock_inode_cache"])
def test_without_memory_there_is_no_socket(net, cache):
    slub = net.a.slub
    real = slub.kmem_cache_alloc
    slub.kmem_cache_alloc = lambda wanted, gfp: None if wanted is slub.caches[cache] else real(wanted, gfp)
    assert net.a.sys.socket(AF_PACKET, SOCK_RAW, ETH_P_ALL) == -ENOBUFS
    slub.kmem_cache_alloc = real
    assert not net.a.dev.ptype_all


def emergencies(patches, protocol):
    """Flood a starving host with a tap that nobody reads; give (emergency frames it holds, bytes charged outside of the ring)."""
    with two_hosts(patches=patches, ring=32, b={}) as net:
        net.greet()
        equip(net.a)
        net.a.socket(7)
        net.a.swap_over_network()
        fd = tap(net.a, protocol=protocol)
        net.a.hog()
        for _ in range(2):
            net.flood(FRAME, 30)
            net.run(20)
        held = net.a.sys.lookup(fd).sk.sk_receive_queue
        emergency = sum(skb.emergency for skb in held)
        ring = sum(skb.emergency for skb, _pages in net.a.nic.rx.buffers)
        charged = net.a.usage - 2048 * ring
        net.a.sys.close_all()
        net.a.unhog()
        return emergency, charged


def test_no_tap_sees_an_emergency_frame():
    assert emergencies("all", ETH_P_ALL) == (0, 0)


def test_without_patch_23_a_tap_pins_the_reserve():
    emergency, charged = emergencies("all,-23", ETH_P_ALL)
    assert emergency > 0 and charged == 2048 * emergency


def test_a_socket_bound_to_ip_pins_the_reserve_with_all_patches():
    emergency, charged = emergencies("all", ETH_P_IP)
    assert emergency > 0 and charged == 2048 * emergency
