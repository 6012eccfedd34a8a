"""Segments from IP, and connections that others open."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.errno import EAGAIN
from tcp_ground import ACK, FIN, IP_A, IP_B, RST, SECOND, SYN, Peer, accepted, connected, one_tcp, segment, state


def test_a_packet_for_an_owned_socket_waits_in_the_backlog():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.socks.lock_sock(sk)
        assert peer.send(ACK, b"a" * 1460) == []
        peer.send(ACK, b"b")
        assert len(sk.sk_backlog) == 2
        assert not sk.sk_receive_queue
        host.socks.release_sock(sk)
        assert host.tcp.recvmsg(sk, 2000) == b"a" * 1460 + b"b"


def test_a_bad_checksum_is_dropped():
    with one_tcp() as host:
        sk, peer = connected(host)
        raw = bytearray(segment(peer.sport, peer.dport, peer.seq, peer.ack, ACK, b"hello"))
        raw[-1] ^= 1
        host.receive(bytes(raw))
        assert host.stats.ignored["tcp: checksum"] == 1
        assert host.tcp.recvmsg(sk, 5, nonblock=True) == -EAGAIN


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 255), st.integers(-5, 5), st.integers(-5, 5), st.integers(0, 40), st.integers(0, 65535)),
        max_size=12,
    )
)
def test_random_segments_never_raise(segments):
    with one_tcp() as host:
        listener, sk, peer = accepted(host)
        other, second = connected(host, port=99)
        for flags, dseq, dack, size, win in segments:
            for one, who in ((sk, peer), (other, second)):
                seq = (one.rcv_nxt or 1000) + dseq * 300
                host.receive(segment(who.sport, who.dport, seq, one.snd_nxt + dack, flags, bytes(size), win))
                host.check()
            host.receive(segment(7, 2049, dseq & 0xFFFF, dack & 0xFFFF, flags, bytes(size), win))
        host.run(10)
        host.sent()
        for one in (sk, other, listener):
            host.tcp.close(one)
        host.run(400_000)
        host.assert_nothing_left()


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=80))
def test_random_bytes_never_raise(raw):
    with one_tcp() as host:
        accepted(host)
        host.receive(raw)
        host.receive(raw, saddr=IP_A, daddr=IP_B)
        host.check()


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
