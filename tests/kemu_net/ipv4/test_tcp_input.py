"""Segments for a connection: handshakes, resets, acknowledgements."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import ECONNREFUSED, ECONNRESET, EISCONN, EPIPE
from tcp_ground import ACK, FIN, IP_B, MSS_1460, RST, SYN, Peer, connected, one_tcp, state


def test_reset_reaches_reader_and_writer():
    with one_tcp() as host:
        sk, peer = connected(host)
        changes = []
        sk.sk_error_report = lambda sk: changes.append(sk.sk_err)
        peer.send(RST | ACK)
        assert changes == [ECONNRESET]
        assert host.tcp.recvmsg(sk, 10) == -ECONNRESET
        assert host.tcp.sendmsg(sk, b"x") == -EPIPE
        host.tcp.close(sk)
        host.assert_nothing_left()


def test_a_reset_outside_the_window_is_ignored():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(RST, seq=peer.seq + 100_000)
        peer.send(RST, seq=peer.seq - 100)
        assert state(sk) == "ESTABLISHED"


def test_a_syn_in_the_window_resets():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(SYN, seq=peer.seq + 10)
        assert state(sk) == "CLOSE"
        assert sk.sk_err == ECONNRESET


def test_callbacks_of_a_closing_peer():
    with one_tcp() as host:
        sk, peer = connected(host)
        states = []
        sk.sk_state_change = lambda sk: states.append(state(sk))
        peer.send(FIN | ACK)
        assert states == ["CLOSE_WAIT"]


def test_every_second_full_segment_is_acknowledged_at_once():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.sk_data_ready = lambda sk: host.tcp.read_sock(sk, len)
        for _ in range(40):  # past the quick acknowledgements
            peer.send(ACK, bytes(1460))
        answers = [len(peer.send(ACK, bytes(1460))) for _ in range(10)]
        assert sum(answers) == 5


def test_a_single_segment_is_acknowledged_after_40_ms():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.sk_data_ready = lambda sk: host.tcp.read_sock(sk, len)
        for _ in range(40):
            peer.send(ACK, bytes(1460))
        host.run(300)
        host.sent()
        sk.ack_quick = 0
        start = host.kernel.sched.now
        if not peer.send(ACK, bytes(100)):
            host.run(250)
            (ack,) = host.sent()
            assert 36 <= (ack.time - start) / 1e6 <= 204


def test_header_prediction_agrees_with_the_slow_path():
    pieces = [bytes([n]) * (n * 37 % 1460 + 1) for n in range(40)]
    seen = []
    for predicted in (True, False):
        with one_tcp() as host:
            sk, peer = connected(host)
            got = b""
            for piece in pieces:
                if not predicted:
                    sk.pred_flags = 0
                peer.send(ACK, piece)
                got += host.tcp.recvmsg(sk, 5000)
            host.check()
            seen.append((got, sk.rcv_nxt - sk.copied_seq))
    assert seen[0] == seen[1]


def test_active_open():
    with one_tcp() as host:
        sk, peer = connected(host)
        assert sk.mss_cache == 1460
        assert sk.snd_wnd == 65535
        assert sk.snd_cwnd == 3
        assert host.tcp.connect_nonblock(sk, IP_B, 2049) == -EISCONN
        peer.send(RST | ACK)
        assert state(sk) == "CLOSE"
        host.tcp.close(sk)
        host.assert_nothing_left()


def test_a_peer_without_mss_option_gets_536():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        host.tcp.connect_nonblock(sk, IP_B, 2049)
        (syn,) = host.sent()
        peer = Peer(host, 2049, syn.sport)
        peer.saw(syn)
        peer.send(SYN | ACK)
        assert sk.mss_cache == 536


@pytest.mark.parametrize(
    "options", [b"\x02\x00\x05\xb4", b"\x02", b"\x01\x01\x01\x02", b"\x08\xff\x00\x00", b"\x03\x03\x07\x00", b"\x02\x04\x00\x01"]
)
def test_garbage_options_do_no_harm(options):
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        host.tcp.connect_nonblock(sk, IP_B, 2049)
        (syn,) = host.sent()
        peer = Peer(host, 2049, syn.sport)
        peer.saw(syn)
        peer.send(SYN | ACK, options=options + b"\0" * (-len(options) % 4))
        assert state(sk) == "ESTABLISHED"
        assert sk.mss_cache in (536, 88)


def test_refused():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        host.tcp.connect_nonblock(sk, IP_B, 2049)
        (syn,) = host.sent()
        peer = Peer(host, 2049, syn.sport)
        peer.saw(syn)
        assert peer.send(RST | ACK) == []
        assert state(sk) == "CLOSE"
        assert sk.sk_err == ECONNREFUSED
        host.tcp.close(sk)
        host.assert_nothing_left()


def test_an_ack_of_something_else_is_reset():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        host.tcp.connect_nonblock(sk, IP_B, 2049)
        (syn,) = host.sent()
        peer = Peer(host, 2049, syn.sport)
        peer.ack = syn.seq + 77
        (reset,) = peer.send(SYN | ACK)
        assert (reset.flags, reset.seq) == (RST, syn.seq + 77 & 0xFFFFFFFF)
        assert state(sk) == "SYN_SENT"


def test_simultaneous_open():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        host.tcp.connect_nonblock(sk, IP_B, 2049)
        (syn,) = host.sent()
        peer = Peer(host, 2049, syn.sport)
        (synack,) = peer.send(SYN, options=MSS_1460)
        assert state(sk) == "SYN_RECV"
        assert (synack.flags, synack.seq, synack.ack) == (SYN | ACK, syn.seq, 1001)
        peer.saw(synack)
        peer.send(ACK)
        assert state(sk) == "ESTABLISHED"
        peer.send(ACK, b"hello")
        assert host.tcp.recvmsg(sk, 10) == b"hello"
        host.tcp.abort(sk)
        host.assert_nothing_left()
