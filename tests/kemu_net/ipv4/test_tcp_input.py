"""Segments for a connection: handshakes, resets, acknowledgements."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import ECONNREFUSED, ECONNRESET, EISCONN, EPIPE
from kemu_net.ipv4.tcp_states import TCP_FIN_WAIT2
from tcp_ground import ACK, FIN, IP_B, MSS_1460, PSH, RST, SYN, Peer, connected, connecting, flags_of, one_tcp, state


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
        sk, peer = connecting(host)
        peer.send(SYN | ACK)
        assert sk.mss_cache == 536


@pytest.mark.parametrize(
    "options", [b"\x02\x00\x05\xb4", b"\x02", b"\x01\x01\x01\x02", b"\x08\xff\x00\x00", b"\x03\x03\x07\x00", b"\x02\x04\x00\x01"]
)
def test_garbage_options_do_no_harm(options):
    with one_tcp() as host:
        sk, peer = connecting(host)
        peer.send(SYN | ACK, options=options + b"\0" * (-len(options) % 4))
        assert state(sk) == "ESTABLISHED"
        assert sk.mss_cache in (536, 48)


def test_refused():
    with one_tcp() as host:
        sk, peer = connecting(host)
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


def syn_sent(host):
    sk = host.tcp.sock_create()
    host.tcp.connect_nonblock(sk, IP_B, 2049)
    (syn,) = host.sent()
    peer = Peer(host, 2049, syn.sport)
    peer.saw(syn)
    return sk, peer


@pytest.mark.parametrize("flags", [ACK, 0, RST, PSH, SYN | RST])
def test_what_is_no_answer_to_a_syn_is_ignored(flags):
    with one_tcp() as host:
        sk, peer = syn_sent(host)
        assert peer.send(flags) == []
        assert state(sk) == "SYN_SENT"


def test_a_reset_that_acknowledges_something_else_is_ignored():
    with one_tcp() as host:
        sk, peer = syn_sent(host)
        assert peer.send(RST | ACK, ack=peer.ack + 5) == []
        assert state(sk) == "SYN_SENT"


def test_closing_while_connecting_forgets_the_answer():
    with one_tcp() as host:
        sk, peer = syn_sent(host)
        host.tcp.close(sk)
        assert flags_of(peer.send(SYN | ACK)) == [RST]
        host.assert_nothing_left()


def test_connecting_to_each_other_ends_with_a_wrong_number():
    with one_tcp() as host:
        sk, peer = syn_sent(host)
        (synack,) = peer.send(SYN)
        peer.saw(synack)
        assert flags_of(peer.send(ACK, ack=peer.ack + 5)) == [RST]
        assert state(sk) == "SYN_RECV"


def test_a_reset_of_what_the_peer_has_closed_is_a_broken_pipe():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(FIN | ACK)
        peer.send(RST | ACK)
        assert sk.sk_err == EPIPE


def test_resetting_what_is_over_changes_nothing():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(RST | ACK)
        sk.sk_err = 0
        host.tcp.tcp_reset(sk)
        assert sk.sk_err == 0


def test_a_segment_for_a_closed_socket_is_freed():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.socks.lock_sock(sk)
        peer.send(RST | ACK)
        peer.send(ACK, b"late")
        host.socks.release_sock(sk)
        assert state(sk) == "CLOSE"
        host.tcp.close(sk)
        host.assert_nothing_left()


def test_data_without_acknowledgement_is_taken_while_established():
    """2.6.23 looks for ACK only where it is needed; later kernels drop such a segment."""
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(PSH, b"abc")
        assert host.tcp.recvmsg(sk, 10) == b"abc"


def test_a_segment_without_acknowledgement_is_no_use_in_other_states():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(FIN | ACK)
        live = host.skbs.live
        peer.send(PSH, b"abc", advance=False)
        assert host.skbs.live == live
        assert state(sk) == "CLOSE_WAIT"


def test_an_acknowledgement_of_what_was_never_sent_moves_nothing():
    with one_tcp() as host:
        sk, peer = connected(host)
        before = (sk.snd_una, sk.snd_wnd)
        peer.send(ACK, ack=peer.ack + 1000, win=1)
        peer.send(ACK, ack=peer.ack - 1, win=2)
        assert (sk.snd_una, sk.snd_wnd) == before


def test_an_old_segment_does_not_change_the_window():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK, b"abc", win=5000)
        peer.send(ACK, b"abc", seq=peer.seq - 3, win=100)
        assert sk.snd_wnd == 5000


def test_an_orphan_resets_who_sends_data_with_the_last_acknowledgement():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.close(sk)
        peer.saw(host.sent()[0])
        assert flags_of(peer.send(ACK, b"for nobody")) == [RST]
        host.assert_nothing_left()


def test_an_orphan_resets_who_sends_data_before_the_acknowledgement():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.close(sk)
        host.sent()
        assert flags_of(peer.send(ACK, b"for nobody")) == [RST]
        host.assert_nothing_left()


def test_an_orphan_whose_peers_fin_finds_no_room_waits_for_it_again():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.close(sk)
        peer.saw(host.sent()[0])
        host.tcp.streams.sk_stream_rmem_schedule = lambda _sk, _skb: False
        peer.send(FIN | ACK, advance=False)
        del host.tcp.streams.sk_stream_rmem_schedule
        (tw,) = host.tcp.ehash.values()
        assert tw.substate == TCP_FIN_WAIT2
        (ack,) = peer.send(FIN | ACK)
        assert ack.ack == peer.seq
        host.run(61_000)
        host.assert_nothing_left()


def test_a_part_of_what_was_sent_before_a_fin_is_no_acknowledgement_of_it():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.sendmsg(sk, b"data")
        host.tcp.shutdown(sk)
        segs = host.sent()
        peer.saw(segs[0])
        peer.send(ACK)
        assert state(sk) == "FIN_WAIT1"
        peer.send(FIN | ACK)
        assert state(sk) == "CLOSING"
        peer.send(ACK)
        assert state(sk) == "CLOSING"


def test_a_fin_sent_again_after_closing_is_acknowledged_again():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(FIN | ACK)
        host.run(300)
        host.sent()
        (ack,) = peer.send(FIN | ACK, seq=peer.seq - 1)
        assert ack.ack == peer.seq
        assert state(sk) == "CLOSE_WAIT"


def test_a_small_receive_buffer_announces_what_fits():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        sk.sk_rcvbuf = 1000
        host.tcp.connect_nonblock(sk, IP_B, 2049)
        (syn,) = host.sent()
        assert syn.win == 750
