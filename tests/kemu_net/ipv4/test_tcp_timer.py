"""What happens when nothing comes."""

from __future__ import annotations

from itertools import pairwise

import pytest

from kemu.kernel.errno import EHOSTUNREACH, ETIMEDOUT
from kemu_net.ipv4.tcp_sock import ICSK_ACK_TIMER, ICSK_TIME_PROBE0, ICSK_TIME_RETRANS, TCP_DELACK_MAX
from sack_ground import flying
from tcp_ground import ACK, FIN, IP_A, IP_B, JIFFY, PSH, RST, SECOND, connected, one_tcp, segment, state
from tcp_options_ground import options_of, ts


def test_rto_doubles_from_the_measured_one():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.rto = 50
        host.tcp.sendmsg(sk, b"x")
        (first,) = host.sent()
        host.run(7000)
        gaps = [round((seg.time - first.time) / SECOND, 1) for seg in host.sent()]
        assert gaps == [0.2, 0.6, 1.4, 3.0, 6.2]
        assert host.stats.retransmits == 5


def test_the_first_measurement_gives_an_rto_of_204_ms():
    with one_tcp() as host:
        sk, _peer = connected(host)
        assert sk.rto == 51  # one jiffy of round trip, and the least deviation
        assert sk.srtt == 8


def test_established_connection_gives_up_after_924_6_seconds():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.rto = 50  # 200 ms
        errors = []
        sk.sk_error_report = lambda sk: errors.append((sk.sk_err, host.kernel.sched.now))
        host.tcp.sendmsg(sk, b"x")
        (first,) = host.sent()
        host.run(924_000)
        assert state(sk) == "ESTABLISHED"
        host.run(1_000)
        assert state(sk) == "CLOSE"
        ((error, when),) = errors
        assert error == ETIMEDOUT
        assert (when - first.time) / SECOND == pytest.approx(924.6, abs=0.01)
        assert len(host.sent()) == 15
        host.tcp.close(sk)
        host.assert_nothing_left()


def test_karn_a_repeated_segment_gives_no_measurement():
    with one_tcp() as host:
        sk, peer = connected(host)
        srtt = sk.srtt
        host.tcp.sendmsg(sk, b"x")
        host.run(300)
        peer.saw(host.sent()[-1])
        peer.send(ACK)
        assert sk.srtt == srtt
        assert sk.rto == 102  # still backed off


def test_after_a_timeout_the_window_is_one_segment_and_grows_again():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.sk_sndbuf = 1 << 20
        host.tcp.sendmsg(sk, bytes(10 * 1460))
        sent = host.sent()
        host.run(250)
        (again,) = host.sent()
        assert again.seq == sent[0].seq
        assert sk.snd_cwnd == 1
        total = []
        for _ in range(40):
            peer.ack = again.seq + 1460 if not total else max(seg.seq + len(seg.data) for seg in total)
            total += peer.send(ACK)
            host.run(1)
        assert not sk.sk_write_queue and not sk.sk_rtx_queue
        assert sk.ca_state == 0
        host.check()


def test_zero_window_is_probed_with_growing_gaps_for_ever():
    with one_tcp() as host:
        sk, peer = connected(host, win=100)
        host.tcp.sendmsg(sk, bytes(100))
        peer.saw(host.sent()[-1])
        peer.win = 0
        peer.send(ACK)
        host.tcp.sendmsg(sk, b"more")
        answer = segment(peer.sport, peer.dport, peer.seq, peer.ack, ACK, b"", 0)
        cpu = host.kernel.cpus[0]
        host.inet.forward = lambda seg: cpu.post(seg.time + 1_000_000, host.interrupt, (answer, IP_B, IP_A))
        host.run(1_000_000)
        host.inet.forward = None
        probes = host.sent()
        assert all(probe.data == b"" and probe.seq == sk.snd_una - 1 & 0xFFFFFFFF for probe in probes)
        times = [probe.time / SECOND for probe in probes]
        gaps = [b - a for a, b in pairwise(times)]
        assert all(b > a - 0.1 for a, b in pairwise(gaps))
        assert gaps[:4] == pytest.approx([0.4, 0.8, 1.6, 3.3], abs=0.1)
        assert gaps[-1] == pytest.approx(120, abs=0.1)
        assert state(sk) == "ESTABLISHED"
        peer.win = 1000
        (data,) = peer.send(ACK)
        assert data.data == b"more"


def test_a_window_smaller_than_the_segment_is_probed_with_its_first_bytes():
    with one_tcp() as host:
        sk, peer = connected(host, win=10)
        host.tcp.sendmsg(sk, b"0123456789ABCDEF")
        assert host.sent() == []
        host.run(300)
        (probe,) = host.sent()
        assert probe.data == b"0123456789"
        assert probe.flags & PSH
        peer.saw(probe)
        peer.win = 1000
        (rest,) = peer.send(ACK)
        assert rest.data == b"ABCDEF"
        host.check()


def test_unanswered_probes_give_up():
    with one_tcp() as host:
        sk, _peer = connected(host, win=0)
        host.tcp.sendmsg(sk, b"x")
        host.run(3_000_000)
        assert state(sk) == "CLOSE"
        assert sk.sk_err == ETIMEDOUT


def test_a_timer_that_finds_the_socket_owned_comes_back():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.rto = 50
        host.tcp.sendmsg(sk, b"x")
        host.sent()
        host.socks.lock_sock(sk)
        host.run(400)
        assert host.sent() == []
        host.socks.release_sock(sk)
        host.run(60)
        assert len(host.sent()) == 1


def test_without_memory_for_an_ack_the_delack_timer_is_armed_for_200_ms():
    with one_tcp() as host:
        sk, peer = connected(host)
        real = host.skbs.alloc_skb
        host.skbs.alloc_skb = lambda size, gfp, flags=0: real(size, gfp, flags) if flags else None
        assert peer.send(ACK, b"x" * 1460) == []
        assert sk.ack_pending & ICSK_ACK_TIMER
        assert sk.ack_timeout == host.jiffies + TCP_DELACK_MAX
        host.run(250)
        assert host.sent() == []
        del host.skbs.alloc_skb
        host.run(250)
        (ack,) = host.sent()
        assert ack.ack == peer.seq


def test_an_orphan_gives_up_sooner():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.rto = 50
        host.tcp.sendmsg(sk, b"x")
        host.tcp.close(sk)
        host.run(200_000)
        host.assert_nothing_left()


def test_close_leaves_no_timer_behind():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.sendmsg(sk, b"x")
        peer.send(RST | ACK)
        host.tcp.close(sk)
        host.assert_nothing_left()
        host.sent()
        host.run(5_000)
        assert host.sent() == []


def test_fin_is_repeated():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.rto = 50
        host.tcp.close(sk)
        host.run(700)
        segs = host.sent()
        assert len(segs) == 3
        assert all(seg.flags & FIN for seg in segs)
        assert segs[1].time - segs[0].time == pytest.approx(0.2 * SECOND, abs=2 * JIFFY)


def test_syn_is_sent_six_times_and_then_given_up_after_189_seconds():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        start = host.kernel.sched.now
        assert host.tcp.connect(sk, IP_B, 2049) == -ETIMEDOUT
        times = [round((seg.time - start) / SECOND) for seg in host.sent()]
        assert times == [0, 3, 9, 21, 45, 93]
        assert round((host.kernel.sched.now - start) / SECOND) == 189
        assert host.stats.retransmits == 5
        host.tcp.close(sk)
        host.assert_nothing_left()


def test_a_full_device_is_tried_again_soon_and_does_not_count():
    with one_tcp() as host:
        sk, _peer = connected(host, fast_rto=True)
        host.tcp.sendmsg(sk, b"x")
        host.sent()
        host.inet.refuse = 1
        host.run(1_000)
        assert (sk.retransmits, sk.backoff, sk.rto) == (1, 0, 50)
        host.inet.refuse = 0
        host.run(210)
        assert [seg.data for seg in host.sent()] == [b"x"]
        assert state(sk) == "ESTABLISHED"


def test_a_receiver_that_took_its_window_back_is_asked_while_it_answers():
    with one_tcp() as host:
        sk, peer = connected(host, fast_rto=True)
        host.tcp.sendmsg(sk, b"x")
        (first,) = host.sent()
        peer.win = 0
        peer.ack = first.seq
        peer.send(ACK)
        sk.snd_wnd = 0
        for _ in range(40):
            host.run(60_000)
            peer.send(ACK)
        assert state(sk) == "ESTABLISHED"
        assert sk.retransmits == 0
        host.run(400_000)  # silence for more than 120 s
        assert state(sk) == "CLOSE"
        assert sk.sk_err == ETIMEDOUT


def test_a_timer_that_fires_early_waits_for_its_time():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.rto = 100
        host.tcp.sendmsg(sk, b"x")
        (first,) = host.sent()
        host.kernel.timers.mod_timer(sk.retransmit_timer, host.jiffies + 10)
        host.run(3_000)
        again = host.sent()[0]
        assert (again.time - first.time) / SECOND == pytest.approx(0.4, abs=0.01)


def test_a_delayed_acknowledgement_waits_for_its_time_too():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.ack_ato = 40
        sk.srtt = 0
        host.tcp.tcp_send_delayed_ack(sk)
        start = host.kernel.sched.now
        due = sk.ack_timeout - host.jiffies
        host.kernel.timers.mod_timer(sk.delack_timer, host.jiffies + 2)
        host.run(1_000)
        (ack,) = host.sent()
        assert (ack.time - start) / JIFFY == pytest.approx(due, abs=1.1)


def test_an_acknowledgement_that_was_sent_meanwhile_is_not_sent_again():
    with one_tcp() as host:
        sk, _peer = connected(host)
        host.tcp.tcp_send_delayed_ack(sk)
        host.tcp.tcp_send_ack(sk)
        host.sent()
        sk.ack_pending |= ICSK_ACK_TIMER  # but nothing is owed
        host.run(1_000)
        assert host.sent() == []
        assert not sk.ack_pending


def test_a_retransmission_with_nothing_in_flight_does_nothing():
    with one_tcp() as host:
        sk, _peer = connected(host)
        host.tcp.inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, 10, 100)
        host.tcp.inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, 10, 100)
        host.run(1_000)
        assert host.sent() == []
        assert (sk.retransmits, sk.icsk_pending) == (0, 0)


def test_a_probe_with_nothing_to_send_does_nothing():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.probes_out = 5
        host.tcp.inet_csk_reset_xmit_timer(sk, ICSK_TIME_PROBE0, 10, 100)
        host.run(1_000)
        assert host.sent() == []
        assert sk.probes_out == 0


def test_an_orphan_stops_probing_sooner():
    with one_tcp() as host:
        sk, peer = connected(host, win=0)
        host.tcp.sendmsg(sk, b"x")
        host.tcp.close(sk)
        for _ in range(30):
            host.run(60_000)
            peer.send(ACK)
        host.run(3_000_000)
        host.sent()
        host.assert_nothing_left()


def test_a_probe_that_a_full_device_refuses_is_tried_again_soon():
    with one_tcp() as host:
        sk, _peer = connected(host, win=0)
        sk.rto = 250
        host.tcp.sendmsg(sk, b"x")
        host.inet.refuse = 1
        host.run(1_010)
        assert (sk.probes_out, sk.backoff) == (1, 0)
        host.run(2_000)
        assert (sk.probes_out, sk.backoff) == (1, 0)
        host.inet.refuse = 0
        host.run(600)
        assert len(host.sent()) >= 1


def test_a_soft_error_is_the_reason_given():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.sk_err_soft = EHOSTUNREACH
        host.tcp.tcp_write_err(sk)
        assert (sk.sk_err, state(sk)) == (EHOSTUNREACH, "CLOSE")


def test_a_timer_of_a_closed_socket_does_nothing():
    with one_tcp() as host:
        sk, _peer = connected(host)
        host.tcp.sendmsg(sk, b"x")
        host.sent()
        host.tcp.tcp_done(sk)
        for fire in (host.tcp.tcp_write_timer, host.tcp.tcp_delack_timer):
            sk.sk_refcnt += 1
            fire(sk)
        assert host.sent() == []
        host.tcp.close(sk)
        host.assert_nothing_left()


# the tables


@pytest.mark.parametrize("retries", [5, 15])
def test_the_table_of_retransmissions(retries):
    with one_tcp() as host:
        host.tcp.sysctl_tcp_retries2 = retries
        sk, _peer = connected(host, fast_rto=True)
        start = host.world.now
        host.tcp.sendmsg(sk, b"nobody listens")
        host.sent()
        host.run(1_000_000)
        times = [(seg.time - start) / SECOND for seg in host.sent()]
        gaps = [min(0.2 * 2**n, 120) for n in range(retries)]
        expected = [sum(gaps[: n + 1]) for n in range(retries)]
        assert times == pytest.approx(expected, abs=0.1)
        assert sk.sk_err == ETIMEDOUT
        if retries == 15:
            assert sum(min(0.2 * 2**n, 120) for n in range(16)) == pytest.approx(924.6)


@pytest.mark.parametrize(("retries", "last"), [(1, 3), (2, 9), (5, 93)])
def test_the_table_of_syns(retries, last):
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        sk.syn_retries = retries
        start = host.world.now
        assert host.tcp.connect(sk, IP_B, 2049) == -ETIMEDOUT
        times = [(seg.time - start) / SECOND for seg in host.sent()]
        assert len(times) == retries + 1
        assert times[-1] == pytest.approx(last, abs=0.1)
        assert (host.world.now - start) / SECOND == pytest.approx(3 * (2 ** (retries + 1) - 1), abs=0.1)


def test_the_route_is_looked_up_anew_after_retries1():
    with one_tcp() as host:
        sk, _peer = connected(host, fast_rto=True)
        dst = sk.sk_dst
        host.tcp.sendmsg(sk, b"x")
        host.run(1450)  # 0.2, 0.6, 1.4: three retransmissions
        assert sk.sk_dst is dst
        host.run(1600)  # 3.0: the fourth
        assert sk.sk_dst is None


def test_time_stamps_measure_what_was_sent_twice():
    with one_tcp() as host:
        sk, peer, segs = flying(host, 1, tsval=1)
        host.run(250)
        (again,) = host.sent()
        stamp = options_of(again)["ts"][0]
        host.run(400 - 60)
        peer.saw(segs[0])
        before = sk.srtt
        peer.send(ACK, options=ts(2, stamp))
        assert sk.srtt > before
        assert sk.backoff == 0
