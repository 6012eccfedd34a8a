import pytest

from kemu.kernel.errno import EADDRINUSE, ECONNREFUSED, EINPROGRESS, EISCONN, ENETUNREACH, ENOTCONN, EPIPE, ETIMEDOUT
from tcp_ground import (
    ACK,
    FIN,
    IP_B,
    JIFFY,
    MSS_1460,
    RST,
    SECOND,
    SYN,
    Peer,
    accepted,
    connected,
    flags_of,
    one_tcp,
    segment,
    state,
    two_tcps,
)


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


def test_the_syn_announces_mss_and_four_segments_of_window():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        assert host.tcp.connect_nonblock(sk, IP_B, 2049) == -EINPROGRESS
        (syn,) = host.sent()
        assert syn.flags == SYN
        assert syn.options == MSS_1460
        assert syn.win == 4 * 1460
        assert syn.ack == 0


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


def test_blocking_connect_gives_the_error_and_may_be_tried_again():
    with two_tcps() as (_world, a, b, _link):
        sk = a.tcp.sock_create()
        assert a.tcp.connect(sk, IP_B, 2049) == -ECONNREFUSED
        assert state(sk) == "CLOSE"
        listener = b.tcp.sock_create()
        b.tcp.bind(listener, 0, 2049)
        b.tcp.listen(listener, 5)
        assert a.tcp.connect(sk, IP_B, 2049) == 0
        assert state(sk) == "ESTABLISHED"


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


def test_passive_open():
    with one_tcp() as host:
        listener, sk, peer = accepted(host)
        assert state(sk) == "ESTABLISHED"
        assert (sk.saddr, sk.sport, sk.daddr, sk.dport) == (0x0A000001, 2049, IP_B, peer.sport)
        peer.send(ACK, b"abc")
        assert host.tcp.recvmsg(sk, 10) == b"abc"
        peer.send(RST | ACK)
        host.tcp.close(sk)
        host.tcp.close(listener)
        host.assert_nothing_left()


def test_the_third_segment_may_carry_data_and_fin():
    with one_tcp() as host:
        listener = host.tcp.sock_create()
        host.tcp.bind(listener, 0, 2049)
        host.tcp.listen(listener, 5)
        peer = Peer(host, 999, 2049)
        peer.saw(peer.send(SYN)[0])
        peer.send(ACK | FIN, b"all of it")
        sk = host.tcp.accept(listener, nonblock=True)
        assert state(sk) == "CLOSE_WAIT"
        assert host.tcp.recvmsg(sk, 100) == b"all of it"
        assert host.tcp.recvmsg(sk, 100) == b""


def test_a_repeated_syn_is_answered_again_with_the_same_number():
    with one_tcp() as host:
        listener = host.tcp.sock_create()
        host.tcp.bind(listener, 0, 2049)
        host.tcp.listen(listener, 5)
        peer = Peer(host, 999, 2049)
        (first,) = peer.send(SYN)
        (again,) = peer.send(SYN, seq=peer.isn)
        assert (first.seq, first.ack) == (again.seq, again.ack)
        assert len(listener.syn_table) == 1


def test_synack_is_repeated_five_times_and_then_forgotten():
    with one_tcp() as host:
        listener = host.tcp.sock_create()
        host.tcp.bind(listener, 0, 2049)
        host.tcp.listen(listener, 5)
        peer = Peer(host, 999, 2049)
        (first,) = peer.send(SYN)
        host.run(300_000)
        times = [round((seg.time - first.time) / SECOND, 1) for seg in host.sent()]
        assert [round(t) for t in times] == [3, 9, 21, 45, 93]
        assert not listener.syn_table
        host.tcp.close(listener)
        host.assert_nothing_left()


def test_accept_queue_overflow_forgets_the_third_segment_and_recovers():
    with one_tcp() as host:
        tcp = host.tcp
        listener = tcp.sock_create()
        tcp.bind(listener, 0, 2049)
        tcp.listen(listener, 1)
        peers = [Peer(host, 1000 + n, 2049) for n in range(3)]
        for peer in peers:
            peer.saw(peer.send(SYN)[0])
        for peer in peers:
            peer.send(ACK)
        assert len(listener.accept_queue) == 2  # backlog + 1
        assert host.stats.ignored["tcp: accept queue full"] == 1
        assert tcp.accept(listener, nonblock=True) is not None
        host.run(3300)  # the SYN|ACK is repeated
        (synack,) = host.sent()
        assert synack.dport == 1002
        peers[2].send(ACK)
        assert len(listener.accept_queue) == 2
        assert not listener.syn_table


def test_closing_a_listener_resets_who_waits_in_it():
    with one_tcp() as host:
        tcp = host.tcp
        listener = tcp.sock_create()
        tcp.bind(listener, 0, 2049)
        tcp.listen(listener, 5)
        ready, half = Peer(host, 1000, 2049), Peer(host, 1001, 2049)
        ready.saw(ready.send(SYN)[0])
        ready.send(ACK)
        half.send(SYN)
        tcp.close(listener)
        (reset,) = host.sent()
        assert reset.flags & RST and reset.dport == 1000
        assert flags_of(half.send(ACK, ack=1)) == [RST]
        host.assert_nothing_left()


def test_closing_a_listener_ends_accept():
    with one_tcp() as host:
        tcp = host.tcp
        listener = tcp.sock_create()
        tcp.bind(listener, 0, 2049)
        tcp.listen(listener, 5)
        results = []
        host.kernel.sched.spawn("acceptor", lambda: results.append(tcp.accept(listener)))
        host.run(10)
        tcp.close(listener)
        host.run(10)
        assert results == [None]


def test_ports():
    with one_tcp() as host:
        tcp = host.tcp
        one, two, three = (tcp.sock_create() for _ in range(3))
        assert tcp.bind(one, 0, 700) == 0
        assert tcp.bind(two, 0, 700) == -EADDRINUSE
        one.sk_reuse = two.sk_reuse = True
        assert tcp.bind(two, 0, 700) == -EADDRINUSE  # the first did not agree when it was bound
        assert tcp.bind(two, 0, 701) == 0
        three.sk_reuse = True
        assert tcp.bind(three, 0, 701) == 0
        assert tcp.listen(two, 5) == 0
        assert tcp.listen(three, 5) == -EADDRINUSE
        for sk in (one, two, three):
            tcp.close(sk)
        host.assert_nothing_left()


def test_what_has_no_socket_is_reset():
    with one_tcp() as host:
        host.receive(segment(5, 6, 100, 0, SYN))
        (reset,) = host.sent()
        assert (reset.flags, reset.seq, reset.ack, reset.sport, reset.dport) == (RST | ACK, 0, 101, 6, 5)
        host.receive(segment(5, 6, 100, 77, ACK, b"data"))
        (reset,) = host.sent()
        assert (reset.flags, reset.seq) == (RST, 77)
        host.receive(segment(5, 6, 100, 77, RST))
        assert host.sent() == []
        host.assert_nothing_left()


def test_no_route():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        host.inet.route_error = -ENETUNREACH
        assert host.tcp.connect(sk, IP_B, 1) == -ENETUNREACH
        host.tcp.close(sk)
        host.assert_nothing_left()


def test_calls_on_an_unconnected_socket():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        assert host.tcp.sendmsg(sk, b"x") == -EPIPE
        assert host.tcp.recvmsg(sk, 5) == -ENOTCONN
        assert host.tcp.shutdown(sk) == -ENOTCONN
        host.tcp.close(sk)
        host.assert_nothing_left()


def test_progress_is_a_connection_not_a_try():
    with one_tcp() as host:
        judge = host.kernel.judge
        host.run(1000)
        before = judge.last_ns
        sk = host.tcp.sock_create()
        host.tcp.connect_nonblock(sk, IP_B, 2049)
        host.run(200_000)  # given up by now
        assert state(sk) == "CLOSE"
        assert judge.last_ns == before
        host.sent()
        host.run(10)
        connected(host)
        assert judge.last_ns >= host.kernel.sched.now - JIFFY
