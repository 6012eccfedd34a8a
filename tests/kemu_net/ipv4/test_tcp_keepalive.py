"""Keepalive, orphans and lingering: how long a connection without news may live."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import ETIMEDOUT
from kemu_net.core import uapi
from kemu_net.core.sock import SOCK_KEEPOPEN, SOCK_LINGER
from kemu_net.ipv4.tcp_timewait import TimeWaitSock
from tcp_ground import ACK, FIN, IP_A, IP_B, M32, RST, SECOND, connected, flags_of, one_tcp, segment, state


def _alive(host, idle=10, interval=5, count=3):
    """Open a connection that is kept alive."""
    sk, peer = connected(host)
    for option, value in ((uapi.TCP_KEEPIDLE, idle), (uapi.TCP_KEEPINTVL, interval), (uapi.TCP_KEEPCNT, count)):
        assert host.tcp.tcp_setsockopt(sk, option, value) == 0
    host.tcp.tcp_set_keepalive(sk, True)
    sk.sk_flags |= SOCK_KEEPOPEN
    return sk, peer


def test_probes_come_after_the_silence_at_the_interval_and_then_a_reset():
    with one_tcp() as host:
        sk, _peer = _alive(host)
        start = host.world.now
        host.run(60_000)
        segs = host.sent()
        assert flags_of(segs) == [ACK, ACK, ACK, RST | ACK]
        times = [(seg.time - start) / SECOND for seg in segs]
        assert times == pytest.approx([10, 15, 20, 25], abs=0.1)
        assert all(seg.seq == sk.snd_una - 1 & M32 for seg in segs[:3])
        assert state(sk) == "CLOSE"
        assert sk.sk_err == ETIMEDOUT
        host.tcp.close(sk)
        host.assert_nothing_left()


def test_an_answer_begins_the_silence_anew():
    with one_tcp() as host:
        sk, peer = _alive(host)
        host.run(10_500)
        (probe,) = host.sent()
        answer = segment(peer.sport, peer.dport, peer.seq, probe.seq + 1, ACK)
        host.receive(answer, IP_B, IP_A)
        host.sent()
        host.run(9_000)
        assert host.sent() == []
        assert state(sk) == "ESTABLISHED"
        assert sk.probes_out == 0
        host.run(2_000)
        assert flags_of(host.sent()) == [ACK]


def test_data_in_flight_is_kept_alive_by_its_own_timer():
    with one_tcp() as host:
        sk, _peer = _alive(host, idle=1)
        host.tcp.sendmsg(sk, b"x")
        host.run(5_000)
        assert all(seg.data == b"x" for seg in host.sent())


def test_switching_it_off_stops_the_timer():
    with one_tcp() as host:
        sk, _peer = _alive(host)
        host.tcp.tcp_set_keepalive(sk, False)
        sk.sk_flags &= ~SOCK_KEEPOPEN
        host.run(60_000)
        assert host.sent() == []
        host.tcp.abort(sk)
        host.sent()
        host.assert_nothing_left()


def test_the_default_is_two_hours():
    with one_tcp() as host:
        sk, _peer = connected(host)
        host.tcp.tcp_set_keepalive(sk, True)
        sk.sk_flags |= SOCK_KEEPOPEN
        host.run(7_199_000)
        assert host.sent() == []
        host.run(2_000)
        assert flags_of(host.sent()) == [ACK]


def test_keepalive_waits_while_a_task_is_inside():
    with one_tcp() as host:
        sk, _peer = _alive(host)
        host.socks.lock_sock(sk)
        host.run(10_500)
        assert host.sent() == []
        host.socks.release_sock(sk)
        host.run(100)
        assert flags_of(host.sent()) == [ACK]


# lingering


def test_a_linger_time_of_zero_resets():
    with one_tcp() as host:
        sk, _peer = connected(host)
        host.tcp.sendmsg(sk, b"lost")
        host.sent()
        sk.sk_flags |= SOCK_LINGER
        host.tcp.close(sk)
        assert flags_of(host.sent()) == [RST | ACK]
        host.assert_nothing_left()


@pytest.mark.parametrize(("answers", "waited"), [(True, 0.5), (False, 3.0)])
def test_close_lingers_until_the_last_acknowledgement_or_the_time(answers, waited):
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.sk_flags |= SOCK_LINGER
        sk.sk_lingertime = 750
        start = host.world.now
        ended = []

        def closer():
            host.tcp.close(sk, sk.sk_lingertime)
            ended.append(host.kernel.sched.now)

        host.kernel.sched.spawn("closer", closer)
        host.run(500)
        (fin, *_again) = host.sent()
        assert fin.flags & FIN
        assert not ended
        if answers:
            peer.saw(fin)
            peer.send(ACK)
        host.run(4000)
        assert (ended[0] - start) / SECOND == pytest.approx(waited, abs=0.1)


@pytest.mark.parametrize(("linger2", "seconds"), [(0, 60), (5 * 250, 5)])
def test_an_orphan_waits_for_the_peers_fin(linger2, seconds):
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.linger2 = linger2
        host.tcp.close(sk)
        peer.saw(host.sent()[0])
        peer.send(ACK)
        assert [tw.__class__ for tw in host.tcp.ehash.values()] == [TimeWaitSock]
        host.run((seconds - 1) * 1000)
        assert host.tcp.ehash
        host.run(12_000)
        host.assert_nothing_left()


def test_a_longer_wait_than_a_minute_keeps_the_socket_for_the_rest():
    with one_tcp() as host:
        host.tcp.sysctl_tcp_fin_timeout = 100 * 250
        sk, peer = connected(host)
        host.tcp.shutdown(sk)
        peer.saw(host.sent()[0])
        peer.send(ACK)
        host.tcp.close(sk)
        assert host.tcp.ehash[next(iter(host.tcp.ehash))] is sk
        host.run(30_000)
        assert state(sk) == "FIN_WAIT2"
        host.run(80_000)
        assert state(sk) == "CLOSE"
        host.run(70_000)
        host.assert_nothing_left()


def test_a_negative_linger2_resets_at_once():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.linger2 = -1
        host.tcp.shutdown(sk)
        peer.saw(host.sent()[0])
        peer.send(ACK)
        host.tcp.close(sk)
        assert flags_of(host.sent()) == [RST | ACK]
        host.assert_nothing_left()


def test_too_many_orphans_are_reset():
    with one_tcp() as host:
        host.tcp.sysctl_tcp_max_orphans = 0
        sk, _peer = connected(host)
        host.tcp.close(sk)
        assert flags_of(host.sent())[-1] == RST | ACK
        host.assert_nothing_left()


def test_an_orphan_gives_up_earlier_than_a_connection():
    with one_tcp() as host:
        sk, _peer = connected(host, fast_rto=True)
        start = host.world.now
        host.tcp.sendmsg(sk, b"never acknowledged")
        host.tcp.close(sk)
        host.run(200_000)
        last = host.sent()[-1]
        host.assert_nothing_left()
        # 8 retransmissions at 0.2 s doubling: the last 51 s after the first segment
        assert (last.time - start) / SECOND == pytest.approx(0.2 * 255, abs=2)


def test_a_socket_that_ends_in_the_backlog_of_its_close_is_freed_once():
    with one_tcp() as host:
        sk, peer = connected(host)
        real = host.tcp.tcp_send_fin

        def fin_and_reset(sk):
            real(sk)
            host.receive(segment(peer.sport, peer.dport, peer.seq, peer.ack, RST), IP_B, IP_A)

        host.tcp.tcp_send_fin = fin_and_reset
        host.tcp.close(sk)
        host.assert_nothing_left()
