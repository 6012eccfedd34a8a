"""Segments from IP, and connections that others open."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.errno import EAGAIN
from kemu.mm.gfp import _GFP_MEMALLOC
from kemu_net.core.checksum import csum_tcpudp_magic
from kemu_net.core.sock import SOCK_MEMALLOC
from tcp_ground import (
    ACK,
    FIN,
    IP_A,
    IP_B,
    RST,
    SECOND,
    SYN,
    Peer,
    accepted,
    connected,
    flags_of,
    listen_on,
    one_tcp,
    segment,
    state,
)


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
        listener = listen_on(host)
        peer = Peer(host, 999, 2049)
        peer.saw(peer.send(SYN)[0])
        peer.send(ACK | FIN, b"all of it")
        sk = host.tcp.accept(listener, nonblock=True)
        assert state(sk) == "CLOSE_WAIT"
        assert host.tcp.recvmsg(sk, 100) == b"all of it"
        assert host.tcp.recvmsg(sk, 100) == b""


def test_a_repeated_syn_is_answered_again_with_the_same_number():
    with one_tcp() as host:
        listener = listen_on(host)
        peer = Peer(host, 999, 2049)
        (first,) = peer.send(SYN)
        (again,) = peer.send(SYN, seq=peer.isn)
        assert (first.seq, first.ack) == (again.seq, again.ack)
        assert len(listener.syn_table) == 1


def test_synack_is_repeated_five_times_and_then_forgotten():
    with one_tcp() as host:
        listener = listen_on(host)
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


@pytest.fixture
def listening():
    with one_tcp() as host:
        host.listener = host.tcp.sock_create()
        assert host.tcp.bind(host.listener, 0, 2049) == 0
        assert host.tcp.listen(host.listener, 1) == 0
        yield host


@pytest.mark.parametrize("offset", [0, 4, 6])
def test_a_header_longer_or_shorter_than_possible_is_dropped(offset):
    with one_tcp() as host:
        raw = bytearray(segment(5, 6, 100, 0, SYN))
        raw[12] = offset << 4
        raw[16:18] = b"\0\0"
        raw[16:18] = csum_tcpudp_magic(IP_B, IP_A, 6, bytes(raw)).to_bytes(2, "big")
        host.receive(bytes(raw))
        assert host.stats.ignored == {"tcp: malformed": 1}
        assert host.sent() == []


def test_a_segment_for_another_address_of_a_listener_is_reset():
    with one_tcp() as host:
        listener = host.tcp.sock_create()
        assert host.tcp.bind(listener, IP_A, 80) == 0
        host.tcp.listen(listener, 5)
        host.receive(segment(5, 80, 100, 0, SYN, daddr=0x7F000001), daddr=0x7F000001)
        assert flags_of(host.sent()) == [RST | ACK]
        host.receive(segment(5, 80, 100, 0, SYN))
        assert flags_of(host.sent()) == [SYN | ACK]


def test_a_segment_that_comes_while_another_is_processed_waits_and_is_processed():
    with one_tcp() as host:
        sk, peer = connected(host)
        second = segment(peer.sport, peer.dport, peer.seq + 3, peer.ack, ACK, b"two")
        held = []

        def data_ready(_sk):
            if not held:
                held.append(True)
                host.deliver(second, IP_B, IP_A)
                held.append(len(sk.sk_backlog))

        sk.sk_data_ready = data_ready
        peer.send(ACK, b"one")
        assert held == [True, 1]
        assert not sk.sk_backlog and not sk.sk_slock
        assert host.tcp.recvmsg(sk, 10) == b"onetwo"


def test_a_handshake_that_waited_in_the_listeners_backlog_completes(listening):
    peer = Peer(listening, 999, 2049)
    peer.saw(peer.send(SYN)[0])
    listening.socks.lock_sock(listening.listener)
    assert peer.send(ACK) == []
    assert peer.send(ACK, b"data") == []
    assert len(listening.listener.sk_backlog) == 2
    listening.socks.release_sock(listening.listener)
    sk = listening.tcp.accept(listening.listener, nonblock=True)
    assert listening.tcp.recvmsg(sk, 10) == b"data"


def test_a_connection_that_is_in_use_gets_its_first_segments_later(listening):
    peer = Peer(listening, 999, 2049)
    peer.saw(peer.send(SYN)[0])
    listening.socks.lock_sock(listening.listener)
    peer.send(ACK)
    peer.send(ACK, b"data")
    seen = []

    def data_ready(_listener):
        (child,) = listening.listener.accept_queue
        child.sk_lock_owned = True
        seen.append(child)

    listening.listener.sk_data_ready = data_ready
    listening.socks.release_sock(listening.listener)
    (child,) = seen
    assert len(child.sk_backlog) == 1 and not child.sk_receive_queue
    listening.socks.release_sock(child)
    assert len(child.sk_receive_queue) == 1


def test_a_full_syn_queue_forgets_the_next(listening):
    for number in range(20):
        Peer(listening, 1000 + number, 2049).send(SYN)
    assert len(listening.listener.syn_table) == 16
    assert listening.stats.ignored["tcp: syn queue full"] == 4


def test_with_a_full_accept_queue_few_new_requests_are_taken(listening):
    for number in range(2):
        peer = Peer(listening, 1000 + number, 2049)
        peer.saw(peer.send(SYN)[0])
        peer.send(ACK)
    answers = [len(Peer(listening, 2000 + number, 2049).send(SYN)) for number in range(4)]
    assert answers == [1, 1, 0, 0]
    assert listening.stats.ignored["tcp: accept queue full"] == 2


def test_without_memory_for_a_request_the_syn_is_forgotten(listening):
    real = listening.slub.kmem_cache_alloc
    listening.slub.kmem_cache_alloc = lambda cache, gfp: None if cache is listening.tcp.request_cache else real(cache, gfp)
    peer = Peer(listening, 999, 2049)
    assert peer.send(SYN) == []
    del listening.slub.kmem_cache_alloc
    assert flags_of(peer.send(SYN, seq=peer.isn)) == [SYN | ACK]


def test_without_memory_for_a_connection_the_handshake_waits(listening):
    peer = Peer(listening, 999, 2049)
    peer.saw(peer.send(SYN)[0])
    real = listening.slub.kmem_cache_alloc
    listening.slub.kmem_cache_alloc = lambda cache, gfp: None if cache is listening.tcp.prot.cache else real(cache, gfp)
    peer.send(ACK)
    assert not listening.listener.accept_queue
    del listening.slub.kmem_cache_alloc
    assert len(listening.listener.syn_table) == 1
    peer.send(ACK)
    assert len(listening.listener.accept_queue) == 1


@pytest.mark.parametrize(
    ("flags", "seq", "ack", "answer", "forgotten"),
    [
        (ACK, 0, 5, [RST], False),  # acknowledges what was never sent
        (ACK, 1_000_000, 0, [ACK], False),  # outside the window
        (RST, 1_000_000, 0, [], False),
        (RST, 0, 0, [], True),
        (SYN | ACK, 1, 0, [RST], True),  # a SYN inside the window
    ],
)
def test_what_may_follow_a_syn(listening, flags, seq, ack, answer, forgotten):
    peer = Peer(listening, 999, 2049)
    peer.saw(peer.send(SYN)[0])
    assert flags_of(peer.send(flags, seq=peer.seq + seq, ack=peer.ack + ack)) == answer
    assert (not listening.listener.syn_table) == forgotten


def test_an_acknowledgement_without_a_request_is_reset(listening):
    assert flags_of(Peer(listening, 999, 2049).send(ACK, ack=77)) == [RST]
    assert Peer(listening, 999, 2049).send(RST) == []
    assert Peer(listening, 999, 2049).send(0) == []


def test_a_listener_in_use_answers_old_requests_later(listening):
    peer = Peer(listening, 999, 2049)
    peer.send(SYN)
    listening.socks.lock_sock(listening.listener)
    listening.run(4_000)
    assert listening.sent() == []
    listening.socks.release_sock(listening.listener)
    listening.run(300)
    assert flags_of(listening.sent()) == [SYN | ACK]


def test_a_child_takes_over_buffers_but_not_the_reserve(listening):
    listener = listening.listener
    assert listening.socks.sk_set_memalloc(listener) == 1
    listener.sk_sndbuf, listener.sk_rcvbuf, listener.sk_userlocks = 11_111, 22_222, 3
    listener.sk_data_ready = lambda _sk: None
    peer = Peer(listening, 999, 2049)
    peer.saw(peer.send(SYN)[0])
    peer.send(ACK)
    sk = listening.tcp.accept(listener, nonblock=True)
    assert (sk.sk_sndbuf, sk.sk_rcvbuf, sk.sk_userlocks) == (11_111, 22_222, 3)
    assert not sk.sk_flags & SOCK_MEMALLOC
    assert not sk.sk_allocation & _GFP_MEMALLOC
    assert sk.sk_data_ready != listener.sk_data_ready


@pytest.mark.parametrize("head", [0, 4, 19, 20, 24, 31, 32, 35])
def test_a_header_that_lies_in_pages_is_fetched(head):
    """A segment that came in small fragments, or through a card that splits packets."""
    with one_tcp() as host:
        sk, peer = connected(host)
        raw = segment(peer.sport, peer.dport, peer.seq, peer.ack, ACK, b"data", options=b"\1" * 12)
        skb = host.make_skb(raw[:head], IP_B, IP_A)
        page = host.skbs.netdev_alloc_page(None)
        page.contents = raw[head:].ljust(4096, b"\0")
        host.skbs.skb_add_rx_frag(skb, 0, page, 0, len(raw) - head)
        host.kernel.softirq.local_bh_disable()
        host.inet.rcv(skb)
        host.kernel.softirq.local_bh_enable()
        assert host.tcp.recvmsg(sk, 10) == b"data"
        host.tcp.abort(sk)
        host.assert_nothing_left()
