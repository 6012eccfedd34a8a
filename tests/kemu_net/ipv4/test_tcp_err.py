"""ICMP errors about segments of ours."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest

from kemu.kernel.errno import ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, ENOPROTOOPT, EPROTO, ETIMEDOUT
from tcp_ground import ACK, IP_A, IP_B, SYN, Peer, connected, connecting, listen_on, one_tcp, state


def error(host, sport, dport, seq, kind, code, *, daddr=IP_B, info=0, length=8):
    quoted = struct.pack("!HHI", sport, dport, seq & 0xFFFFFFFF)[:length]
    inner = SimpleNamespace(saddr=IP_A, daddr=daddr, protocol=6, transport=quoted, sender=IP_B)
    host.tcp.tcp_v4_err(inner, kind, code, info)


@pytest.mark.parametrize(
    ("kind", "code", "err"),
    [(3, 0, ENETUNREACH), (3, 1, EHOSTUNREACH), (3, 2, ENOPROTOOPT), (3, 3, ECONNREFUSED), (11, 0, EHOSTUNREACH), (12, 0, EPROTO)],
)
def test_an_error_ends_a_connect(kind, code, err):
    with one_tcp() as host:
        sk, _peer = connecting(host)
        error(host, sk.sport, 2049, sk.snd_una, kind, code)
        assert state(sk) == "CLOSE"
        assert sk.sk_err == err
        host.tcp.close(sk)
        host.assert_nothing_left()


@pytest.mark.parametrize(("kind", "code"), [(3, 16), (3, 200), (4, 0)])
def test_what_is_no_error(kind, code):
    with one_tcp() as host:
        sk, _peer = connecting(host)
        error(host, sk.sport, 2049, sk.snd_una, kind, code)
        assert state(sk) == "SYN_SENT"


def test_a_connection_that_exists_goes_on():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.sendmsg(sk, b"abc")
        error(host, sk.sport, 2049, sk.snd_una, 3, 1)
        assert state(sk) == "ESTABLISHED"
        assert (sk.sk_err, sk.sk_err_soft) == (0, EHOSTUNREACH)
        peer.send(ACK, ack=sk.snd_nxt)
        assert sk.sk_err_soft == 0


def test_the_error_is_the_reason_when_it_gives_up():
    for hear, err in ((True, EHOSTUNREACH), (False, ETIMEDOUT)):
        with one_tcp() as host:
            sk, _peer = connected(host, fast_rto=True)
            host.tcp.sysctl_tcp_retries2 = 2
            host.tcp.sendmsg(sk, b"abc")
            if hear:
                error(host, sk.sport, 2049, sk.snd_una, 3, 1)
            host.run(10_000)
            assert sk.sk_err == err


def test_who_wants_errors_hears_at_once():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.recverr = 1
        error(host, sk.sport, 2049, sk.snd_una, 3, 1)
        assert sk.sk_err == EHOSTUNREACH
        assert state(sk) == "ESTABLISHED"


@pytest.mark.parametrize("seq", [-1, 1000])
def test_an_error_about_what_was_never_in_flight_is_ignored(seq):
    with one_tcp() as host:
        sk, _peer = connecting(host)
        error(host, sk.sport, 2049, sk.snd_una + seq, 3, 1)
        assert state(sk) == "SYN_SENT"
        assert sk.sk_err_soft == 0


def test_an_owned_socket_only_remembers():
    with one_tcp() as host:
        sk, _peer = connecting(host)
        host.socks.lock_sock(sk)
        error(host, sk.sport, 2049, sk.snd_una, 3, 1)
        assert state(sk) == "SYN_SENT"
        assert sk.sk_err_soft == EHOSTUNREACH
        host.socks.release_sock(sk)


def test_a_request_is_forgotten():
    with one_tcp() as host:
        listener = listen_on(host)
        peer = Peer(host, 999, 2049)
        (synack,) = peer.send(SYN)
        error(host, 2049, 999, synack.seq + 5, 3, 1)
        assert len(listener.syn_table) == 1
        error(host, 2049, 999, synack.seq, 3, 1)
        assert not listener.syn_table


@pytest.mark.parametrize("length", range(8))
def test_a_short_quote_tells_nothing(length):
    with one_tcp() as host:
        sk, _peer = connecting(host)
        error(host, sk.sport, 2049, sk.snd_una, 3, 1, length=length)
        assert state(sk) == "SYN_SENT"


def test_an_error_for_nobody():
    with one_tcp() as host:
        error(host, 5, 6, 7, 3, 1)
        host.assert_nothing_left()


def test_a_narrower_path_makes_smaller_segments_and_sends_again():
    with one_tcp() as host:
        sk, _peer = connected(host)
        dst = sk.sk_dst
        dst.mtu = 1500
        host.inet.route = SimpleNamespace(ip_rt_update_pmtu=lambda dst, mtu: setattr(dst, "mtu", mtu))
        host.tcp.sendmsg(sk, b"x" * 1460)
        host.sent()
        error(host, sk.sport, 2049, sk.snd_una, 3, 4, info=1000)
        assert sk.mss_cache == 960
        assert next(len(seg.data) for seg in host.sent()) <= 960


def test_the_handlers_are_where_ip_finds_them():
    with one_tcp() as host:
        assert host.inet.protocols_err[6] == host.tcp.tcp_v4_err
