"""Every state but ESTABLISHED: FIN, RST, SYN, data and acknowledgements in each of them."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import ECONNREFUSED, ECONNRESET, EPIPE
from kemu_net.ipv4.tcp_sock import TcpSock
from tcp_ground import ACK, FIN, M32, RST, SYN, connected, connecting, flags_of, one_tcp, state


def _established(host):
    return connected(host)


def _fin_wait1(host):
    sk, peer = connected(host)
    host.tcp.shutdown(sk)
    host.sent()
    return sk, peer


def _fin_wait2(host):
    sk, peer = _fin_wait1(host)
    peer.ack = peer.ack + 1 & M32
    peer.send(ACK)
    return sk, peer


def _close_wait(host):
    sk, peer = connected(host)
    peer.send(FIN | ACK)
    return sk, peer


def _last_ack(host):
    sk, peer = _close_wait(host)
    host.tcp.shutdown(sk)
    host.sent()
    return sk, peer


def _closing(host):
    sk, peer = _fin_wait1(host)
    peer.send(FIN | ACK)
    return sk, peer


def _syn_sent(host):
    return connecting(host)


def _syn_recv(host):
    sk, peer = connecting(host)
    peer.send(SYN)
    return sk, peer


IN = {
    "ESTABLISHED": _established,
    "FIN_WAIT1": _fin_wait1,
    "FIN_WAIT2": _fin_wait2,
    "CLOSE_WAIT": _close_wait,
    "LAST_ACK": _last_ack,
    "CLOSING": _closing,
    "SYN_SENT": _syn_sent,
    "SYN_RECV": _syn_recv,
}


@pytest.mark.parametrize("before", IN)
def test_the_ground_gets_there(before):
    with one_tcp() as host:
        assert state(IN[before](host)[0]) == before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("ESTABLISHED", "CLOSE_WAIT"),
        ("FIN_WAIT1", "CLOSING"),
        ("FIN_WAIT2", "CLOSE"),  # and a minisocket in TIME_WAIT
        ("SYN_RECV", "CLOSE_WAIT"),
        ("SYN_SENT", "SYN_SENT"),
    ],
)
def test_a_fin_in_order(before, after):
    with one_tcp() as host:
        sk, peer = IN[before](host)
        peer.send(FIN | ACK)
        assert state(sk) == after
        assert bool(host.tcp.ehash) is True
        host.check()


@pytest.mark.parametrize("before", ["CLOSE_WAIT", "LAST_ACK", "CLOSING"])
def test_a_fin_again_is_acknowledged_and_changes_nothing(before):
    with one_tcp() as host:
        sk, peer = IN[before](host)
        assert flags_of(peer.send(FIN | ACK, seq=peer.seq - 1)) == [ACK]
        assert state(sk) == before


@pytest.mark.parametrize(
    ("before", "flags", "after"),
    [("FIN_WAIT1", ACK, "FIN_WAIT2"), ("CLOSING", ACK, "CLOSE"), ("LAST_ACK", ACK, "CLOSE"), ("FIN_WAIT1", ACK | FIN, "CLOSE")],
)
def test_our_fin_is_acknowledged(before, flags, after):
    with one_tcp() as host:
        sk, peer = IN[before](host)
        peer.ack = peer.ack + 1 & M32
        peer.send(flags)
        assert state(sk) == after
        waits = [tw for tw in host.tcp.ehash.values() if not isinstance(tw, TcpSock)]
        assert len(waits) == (1 if before == "CLOSING" or flags & FIN else 0)


@pytest.mark.parametrize(
    ("before", "error"),
    [
        ("ESTABLISHED", ECONNRESET),
        ("FIN_WAIT1", ECONNRESET),
        ("FIN_WAIT2", ECONNRESET),
        ("CLOSE_WAIT", EPIPE),
        ("LAST_ACK", ECONNRESET),
        ("CLOSING", ECONNRESET),
        ("SYN_RECV", ECONNRESET),
    ],
)
@pytest.mark.parametrize("ahead", [0, 100])
def test_a_reset_anywhere_in_the_window(before, error, ahead):
    """No challenge acknowledgements: RFC 5961 is younger than 2.6.23."""
    with one_tcp() as host:
        sk, peer = IN[before](host)
        assert peer.send(RST, seq=peer.seq + ahead) == []
        assert state(sk) == "CLOSE"
        assert sk.sk_err == error
        host.tcp.close(sk)
        host.assert_nothing_left()


@pytest.mark.parametrize(("flags", "ahead", "err"), [(RST | ACK, 0, ECONNREFUSED), (RST | ACK, 1, 0), (RST, 0, 0)])
def test_a_reset_for_a_syn_must_acknowledge_it(flags, ahead, err):
    with one_tcp() as host:
        sk, peer = connecting(host)
        assert peer.send(flags, ack=peer.ack + ahead) == []
        assert sk.sk_err == err
        assert state(sk) == ("CLOSE" if err else "SYN_SENT")


@pytest.mark.parametrize("before", ["ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2", "CLOSE_WAIT", "LAST_ACK", "CLOSING", "SYN_RECV"])
def test_a_syn_in_the_window_resets_and_is_told(before):
    with one_tcp() as host:
        sk, peer = IN[before](host)
        assert flags_of(peer.send(SYN, seq=peer.seq + 5)) == [RST | ACK]
        assert state(sk) == "CLOSE"


@pytest.mark.parametrize(
    ("before", "answer"),
    [("ESTABLISHED", 1), ("CLOSE_WAIT", 1), ("LAST_ACK", 1), ("CLOSING", 1), ("FIN_WAIT1", 0), ("FIN_WAIT2", 0)],
)
def test_an_old_syn_changes_nothing(before, answer):
    """Without ACK it gets as far as the check of ACK: while closing that is the end, if it touches the window."""
    with one_tcp() as host:
        sk, peer = IN[before](host)
        assert flags_of(peer.send(SYN, seq=peer.isn)) == [ACK] * answer
        assert state(sk) == before


@pytest.mark.parametrize("before", ["FIN_WAIT1", "FIN_WAIT2"])
def test_a_half_closed_connection_still_receives(before):
    with one_tcp() as host:
        sk, peer = IN[before](host)
        peer.send(ACK, b"more")
        assert host.tcp.recvmsg(sk, 10) == b"more"


@pytest.mark.parametrize("before", ["CLOSE_WAIT", "LAST_ACK", "CLOSING"])
def test_data_behind_a_fin_is_thrown_away(before):
    with one_tcp() as host:
        sk, peer = IN[before](host)
        peer.send(ACK, b"ghost")
        assert state(sk) == before
        assert [skb.len for skb in sk.sk_receive_queue] == [0]  # the FIN itself
        assert not sk.out_of_order_queue


@pytest.mark.parametrize("before", ["CLOSE_WAIT", "CLOSING"])
def test_data_over_a_fin_resets(before):
    with one_tcp() as host:
        sk, peer = IN[before](host)
        assert flags_of(peer.send(ACK, b"abcd", seq=peer.seq - 1)) == [RST]
        assert state(sk) == "CLOSE"


@pytest.mark.parametrize("acked", [False, True])
def test_data_after_close_resets(acked):
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.close(sk)
        host.sent()
        if acked:
            peer.ack = peer.ack + 1 & M32
        (rst,) = peer.send(ACK, b"late")
        assert rst.flags & RST
        host.run(1000)
        host.assert_nothing_left()


def test_linger2_below_0_waits_for_no_fin():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.linger2 = -1
        host.tcp.close(sk)
        peer.ack = peer.ack + 1 & M32
        peer.send(ACK)
        assert not host.tcp.ehash
        host.assert_nothing_left()


@pytest.mark.parametrize(("linger2", "seconds"), [(0, 60), (10 * 250, 10), (1, 0.7)])
def test_how_long_an_orphan_waits_for_the_peers_fin(linger2, seconds):
    """TCP_LINGER2, or tcp_fin_timeout; never less than 3.5 times the RTO."""
    with one_tcp() as host:
        sk, peer = connected(host, fast_rto=True)
        sk.linger2 = linger2
        host.tcp.close(sk)
        host.sent()
        peer.ack = peer.ack + 1 & M32
        peer.send(ACK)
        assert len(host.tcp.ehash) == 1
        host.run(seconds * 1000 - 50)
        assert len(host.tcp.ehash) == 1
        host.run(100)
        host.assert_nothing_left()


@pytest.mark.parametrize(("deferred", "answers"), [(0, 1), (1, 0)])
def test_the_end_of_our_handshake_may_wait_for_data(deferred, answers):
    with one_tcp() as host:
        sk, peer = connecting(host)
        sk.rskq_defer_accept = deferred
        assert len(peer.send(SYN | ACK)) == answers
        assert state(sk) == "ESTABLISHED"
        host.run(210)
        assert len(host.sent()) == 1 - answers


def test_data_without_acknowledgement_is_no_use_when_closing():
    with one_tcp() as host:
        sk, peer = _fin_wait2(host)
        assert peer.send(0, b"x", advance=False) == []
        assert not sk.sk_receive_queue
