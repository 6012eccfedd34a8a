"""setsockopt() and getsockopt() of the level TCP, the sysctls, and TCP_INFO."""

from __future__ import annotations

import struct

import pytest

from kemu.kernel.errno import EINVAL, ENOENT, ENOPROTOOPT
from kemu_net.core import uapi
from kemu_net.ipv4.tcp_info import TcpInfo, tcp_info
from tcp_ground import ACK, IP_B, MSS_1460, SYN, Peer, connected, one_tcp
from tcp_options_ground import opened


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("TCP_KEEPIDLE", (1, 32767), (0, 32768, -1)),
        ("TCP_KEEPINTVL", (1, 32767), (0, 32768)),
        ("TCP_KEEPCNT", (1, 127), (0, 128)),
        ("TCP_SYNCNT", (1, 127), (0, 128)),
    ],
)
def test_what_a_program_sets_it_reads_back(name, good, bad):
    with one_tcp() as host:
        sk, _peer = connected(host)
        option = getattr(uapi, name)
        for value in good:
            assert host.tcp.tcp_setsockopt(sk, option, value) == 0
            assert host.tcp.tcp_getsockopt(sk, option) == (0, value)
        for value in bad:
            assert host.tcp.tcp_setsockopt(sk, option, value) == -EINVAL


def test_the_defaults_are_those_of_2_6_23():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        expected = {
            uapi.TCP_NODELAY: 0,
            uapi.TCP_MAXSEG: 536,
            uapi.TCP_CORK: 0,
            uapi.TCP_KEEPIDLE: 7200,
            uapi.TCP_KEEPINTVL: 75,
            uapi.TCP_KEEPCNT: 9,
            uapi.TCP_SYNCNT: 5,
            uapi.TCP_LINGER2: 60,
            uapi.TCP_DEFER_ACCEPT: 0,
            uapi.TCP_QUICKACK: 1,
            uapi.TCP_CONGESTION: "reno",
        }
        assert {option: host.tcp.tcp_getsockopt(sk, option)[1] for option in expected} == expected


def test_unknown_options():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        assert host.tcp.tcp_setsockopt(sk, 99, 1) == -ENOPROTOOPT
        assert host.tcp.tcp_getsockopt(sk, 99) == (-ENOPROTOOPT, None)


@pytest.mark.parametrize(("name", "err"), [("reno", 0), (b"reno\0", 0), ("cubic", -ENOENT), ("", -EINVAL), (3, -EINVAL)])
def test_congestion_control_is_reno(name, err):
    with one_tcp() as host:
        assert host.tcp.tcp_setsockopt(host.tcp.sock_create(), uapi.TCP_CONGESTION, name) == err


def test_nodelay_sends_what_nagle_held():
    with one_tcp() as host:
        sk, _peer = connected(host)
        host.tcp.sendmsg(sk, b"a")
        host.tcp.sendmsg(sk, b"b")
        assert [seg.data for seg in host.sent()] == [b"a"]
        assert host.tcp.tcp_setsockopt(sk, uapi.TCP_NODELAY, 1) == 0
        assert [seg.data for seg in host.sent()] == [b"b"]
        host.tcp.sendmsg(sk, b"c")
        assert [seg.data for seg in host.sent()] == [b"c"]
        host.tcp.tcp_setsockopt(sk, uapi.TCP_NODELAY, 0)
        host.tcp.sendmsg(sk, b"d")
        assert host.sent() == []


def test_cork_holds_short_segments_until_it_is_drawn():
    with one_tcp() as host:
        sk, _peer = connected(host)
        host.tcp.tcp_setsockopt(sk, uapi.TCP_CORK, 1)
        host.tcp.sendmsg(sk, b"a" * 100)
        assert host.sent() == []
        host.tcp.sendmsg(sk, b"b" * 1400)
        assert [len(seg.data) for seg in host.sent()] == [1460]
        host.tcp.tcp_setsockopt(sk, uapi.TCP_CORK, 0)
        host.tcp.tcp_setsockopt(sk, uapi.TCP_NODELAY, 1)
        assert [len(seg.data) for seg in host.sent()] == [40]


def test_cork_wins_over_nodelay():
    with one_tcp() as host:
        sk, _peer = connected(host)
        host.tcp.tcp_setsockopt(sk, uapi.TCP_NODELAY, 1)
        host.tcp.tcp_setsockopt(sk, uapi.TCP_CORK, 1)
        host.tcp.sendmsg(sk, b"a")
        assert host.sent() == []
        host.tcp.tcp_setsockopt(sk, uapi.TCP_CORK, 0)
        assert [seg.data for seg in host.sent()] == [b"a"]


@pytest.mark.parametrize("value", [7, 65536])
def test_maxseg_has_limits(value):
    with one_tcp() as host:
        assert host.tcp.tcp_setsockopt(host.tcp.sock_create(), uapi.TCP_MAXSEG, value) == -EINVAL


def test_maxseg_limits_what_the_peer_may_ask_for():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        assert host.tcp.tcp_setsockopt(sk, uapi.TCP_MAXSEG, 700) == 0
        host.tcp.connect_nonblock(sk, IP_B, 2049)
        (syn,) = host.sent()
        peer = Peer(host, 2049, syn.sport)
        peer.saw(syn)
        peer.send(SYN | ACK, options=MSS_1460)
        assert host.tcp.tcp_getsockopt(sk, uapi.TCP_MAXSEG) == (0, 700)


@pytest.mark.parametrize(("value", "shown"), [(-5, -1), (0, 60), (30, 30), (60, 60), (61, 60)])
def test_linger2(value, shown):
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        host.tcp.tcp_setsockopt(sk, uapi.TCP_LINGER2, value)
        assert host.tcp.tcp_getsockopt(sk, uapi.TCP_LINGER2) == (0, shown)


@pytest.mark.parametrize(("seconds", "shown"), [(0, 0), (1, 3), (3, 3), (4, 6), (13, 24)])
def test_defer_accept_is_kept_as_retransmissions(seconds, shown):
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        host.tcp.tcp_setsockopt(sk, uapi.TCP_DEFER_ACCEPT, seconds)
        assert host.tcp.tcp_getsockopt(sk, uapi.TCP_DEFER_ACCEPT) == (0, shown)


def test_window_clamp():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        assert host.tcp.tcp_setsockopt(sk, uapi.TCP_WINDOW_CLAMP, 10) == 0
        assert host.tcp.tcp_getsockopt(sk, uapi.TCP_WINDOW_CLAMP) == (0, 128)
        assert host.tcp.tcp_setsockopt(sk, uapi.TCP_WINDOW_CLAMP, 0) == 0
        other, _peer = connected(host)
        assert host.tcp.tcp_setsockopt(other, uapi.TCP_WINDOW_CLAMP, 0) == -EINVAL


def test_quickack_sends_the_acknowledgement_that_waits():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.ack_quick, sk.ack_pingpong = 0, 1
        assert peer.send(ACK, b"x" * 100) == []
        host.tcp.tcp_setsockopt(sk, uapi.TCP_QUICKACK, 1)
        host.tcp.recvmsg(sk, 100)
        assert host.tcp.tcp_getsockopt(sk, uapi.TCP_QUICKACK) == (0, 1)
        host.tcp.tcp_setsockopt(sk, uapi.TCP_QUICKACK, 0)
        assert host.tcp.tcp_getsockopt(sk, uapi.TCP_QUICKACK) == (0, 0)
        assert [seg.ack for seg in host.sent()] == [peer.seq]


# the machine's defaults


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timestamps", 1),
        ("window_scaling", 1),
        ("sack", 1),
        ("dsack", 1),
        ("fack", 1),
        ("reordering", 3),
        ("retries1", 3),
        ("retries2", 15),
        ("syn_retries", 5),
        ("synack_retries", 5),
        ("orphan_retries", 0),
        ("keepalive_time", 7200),
        ("keepalive_intvl", 75),
        ("keepalive_probes", 9),
        ("fin_timeout", 60),
        ("app_win", 31),
        ("low_latency", 0),
        ("moderate_rcvbuf", 1),
        ("abort_on_overflow", 0),
        ("rfc1337", 0),
        ("max_syn_backlog", 256),
    ],
)
def test_sysctls_boot_as_2_6_23(name, value):
    with one_tcp() as host:
        table = host.kernel.sysctl.table(f"net.ipv4.tcp_{name}")
        assert table is not None
        assert table.get() == value
        table.set(value + 1, 0)
        assert table.get() == value + 1


# TCP_INFO


def test_info_is_the_struct_of_the_kernel():
    assert len(TcpInfo().pack()) == 104
    raw = TcpInfo(tcpi_state=1, tcpi_snd_wscale=2, tcpi_rcv_wscale=7, tcpi_rto=200000, tcpi_total_retrans=5).pack()
    assert raw[0] == 1
    assert raw[6] == 0x72
    assert struct.unpack_from("<I", raw, 8) == (200000,)
    assert struct.unpack_from("<I", raw, 100) == (5,)


def test_info_of_a_connection():
    with one_tcp() as host:
        sk, peer = opened(host, tsval=5, scale=3)
        host.run(100)
        host.tcp.sendmsg(sk, bytes(3000))
        info = tcp_info(sk)
        assert (info.tcpi_state, info.tcpi_ca_state) == (1, 0)
        assert info.tcpi_options == 7
        assert (info.tcpi_snd_wscale, info.tcpi_rcv_wscale) == (3, sk.rx_opt.rcv_wscale)
        assert info.tcpi_unacked == 3
        assert info.tcpi_snd_mss == 1448
        assert info.tcpi_pmtu == 1500
        assert info.tcpi_snd_cwnd == 3
        assert info.tcpi_last_data_sent == 0
        assert info.tcpi_last_ack_recv == 100
        assert info.tcpi_rtt >= 0
        host.run(3200)
        assert tcp_info(sk).tcpi_total_retrans >= 1
        assert tcp_info(sk).tcpi_lost >= 1
        peer.saw(host.sent()[-1])
        assert len(tcp_info(sk).pack()) == 104
