"""The flags of recvmsg(), SO_RCVLOWAT, SO_RCVTIMEO, and urgent data."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import EAGAIN, EINVAL, ENOTCONN
from kemu_net.core.sock import SOCK_URGINLINE
from kemu_net.core.uapi import MSG_DONTWAIT, MSG_OOB, MSG_PEEK, MSG_TRUNC, MSG_WAITALL
from tcp_ground import ACK, FIN, PSH, RST, connected, connecting, listen_on, one_tcp, segment

URG = 32


def reader(host, sk, *args, **options):
    """Let a task read; give the list that its result goes to."""
    results: list = []
    host.kernel.sched.spawn("reader", lambda: results.append(host.tcp.recvmsg(sk, *args, **options)))
    host.run(1)
    return results


def urgent(peer, data, pointer):
    """Send data with an urgent pointer."""
    raw = segment(peer.sport, peer.dport, peer.seq, peer.ack, ACK | URG, data)
    raw = bytearray(raw)
    raw[18:20] = pointer.to_bytes(2, "big")
    check = int.from_bytes(raw[16:18], "big") - pointer
    raw[16:18] = (check % 65535).to_bytes(2, "big")
    peer.seq += len(data)
    peer.host.receive(bytes(raw))
    return peer.host.sent()


def test_peeking_leaves_everything():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK, b"abc")
        peer.send(ACK, b"def")
        assert host.tcp.recvmsg(sk, 5, flags=MSG_PEEK) == b"abcde"
        assert host.tcp.recvmsg(sk, 100, flags=MSG_PEEK) == b"abcdef"
        assert host.tcp.recvmsg(sk, 100) == b"abcdef"
        host.check()


def test_peeking_at_the_end_of_the_stream():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK | FIN, b"abc")
        assert host.tcp.recvmsg(sk, 100, flags=MSG_PEEK) == b"abc"
        assert host.tcp.recvmsg(sk, 100) == b"abc"
        assert host.tcp.recvmsg(sk, 100, flags=MSG_PEEK) == b""
        assert host.tcp.recvmsg(sk, 100) == b""


def test_trunc_counts_and_throws_away():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK, b"abcdef")
        assert host.tcp.recvmsg(sk, 4, flags=MSG_TRUNC) == bytes(4)
        assert host.tcp.recvmsg(sk, 4) == b"ef"


def test_dontwait_is_nonblock():
    with one_tcp() as host:
        sk, peer = connected(host)
        assert host.tcp.recvmsg(sk, 4, flags=MSG_DONTWAIT) == -EAGAIN
        peer.send(ACK, b"ab")
        assert host.tcp.recvmsg(sk, 4, flags=MSG_DONTWAIT | MSG_WAITALL) == b"ab"


def test_waitall_waits_for_all():
    with one_tcp() as host:
        sk, peer = connected(host)
        results = reader(host, sk, 6, flags=MSG_WAITALL)
        peer.send(ACK, b"abc")
        host.run(1)
        assert results == []
        peer.send(ACK, b"defg")
        host.run(1)
        assert results == [b"abcdef"]
        assert host.tcp.recvmsg(sk, 10) == b"g"


@pytest.mark.parametrize("end", [FIN | ACK, RST | ACK])
def test_waitall_gives_what_came_before_the_end(end):
    with one_tcp() as host:
        sk, peer = connected(host)
        results = reader(host, sk, 6, flags=MSG_WAITALL)
        peer.send(ACK, b"abc")
        host.run(1)
        peer.send(end)
        host.run(1)
        assert results == [b"abc"]


def test_lowat_waits_for_so_many():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.sk_rcvlowat = 4
        results = reader(host, sk, 100)
        peer.send(ACK, b"abc")
        host.run(1)
        assert results == []
        peer.send(ACK, b"de")
        host.run(1)
        assert results == [b"abcde"]


def test_rcvtimeo_ends_the_wait():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.sk_rcvtimeo = 25  # 100 ms
        results = reader(host, sk, 10)
        host.run(90)
        assert results == []
        host.run(20)
        assert results == [-EAGAIN]


def test_rcvtimeo_gives_what_came():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.sk_rcvtimeo = 25
        results = reader(host, sk, 10, flags=MSG_WAITALL)
        peer.send(ACK, b"abc")
        host.run(200)
        assert results == [b"abc"]


def test_reading_what_is_not_connected():
    with one_tcp() as host:
        assert host.tcp.recvmsg(listen_on(host), 10) == -ENOTCONN
        assert host.tcp.recvmsg(host.tcp.sock_create(), 10) == -ENOTCONN
        sk, _peer = connecting(host)
        assert host.tcp.recvmsg(sk, 10, nonblock=True) == -EAGAIN


def test_nothing_wanted_is_nothing():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK, b"abc")
        assert host.tcp.recvmsg(sk, 0) == b""
        assert host.tcp.recvmsg(sk, 10) == b"abc"


def test_inq():
    with one_tcp() as host:
        sk, peer = connected(host)
        assert host.tcp.tcp_inq(sk) == 0
        peer.send(ACK, b"abc")
        assert host.tcp.tcp_inq(sk) == 3
        peer.send(FIN | ACK)
        assert host.tcp.tcp_inq(sk) == 3
        assert host.tcp.tcp_inq(listen_on(host, 99)) == -EINVAL


# urgent data


def test_a_read_ends_before_the_urgent_byte_and_jumps_over_it():
    with one_tcp() as host:
        sk, peer = connected(host)
        urgent(peer, b"abcUdef", 4)
        assert host.tcp.recvmsg(sk, 100) == b"abc"
        assert host.tcp.recvmsg(sk, 100, flags=MSG_OOB) == b"U"
        assert host.tcp.recvmsg(sk, 100, flags=MSG_OOB) == -EINVAL
        assert host.tcp.recvmsg(sk, 100) == b"def"
        assert sk.urg_data == 0


def test_inline_it_stays_in_the_stream():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.sk_flags |= SOCK_URGINLINE
        urgent(peer, b"abcUdef", 4)
        assert host.tcp.recvmsg(sk, 100) == b"abc"
        assert host.tcp.recvmsg(sk, 100) == b"Udef"
        assert host.tcp.recvmsg(sk, 100, flags=MSG_OOB) == -EINVAL


def test_an_announced_byte_that_has_not_come():
    with one_tcp() as host:
        sk, peer = connected(host)
        urgent(peer, b"abc", 6)
        assert host.tcp.recvmsg(sk, 100, flags=MSG_OOB) == -EAGAIN
        assert host.tcp.recvmsg(sk, 100) == b"abc"
        peer.send(ACK, b"deU")
        assert host.tcp.recvmsg(sk, 100, flags=MSG_OOB | MSG_PEEK) == b"U"
        assert host.tcp.recvmsg(sk, 100, flags=MSG_OOB) == b"U"


def test_prediction_rests_while_there_is_urgent_data():
    with one_tcp() as host:
        sk, peer = connected(host)
        urgent(peer, b"abcU", 4)
        assert sk.pred_flags == 0
        host.tcp.recvmsg(sk, 100)
        peer.send(ACK, b"x")
        assert host.tcp.recvmsg(sk, 100) == b"x"
        assert sk.pred_flags != 0


def test_an_old_pointer_is_ignored():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK, b"abc")
        raw = bytearray(segment(peer.sport, peer.dport, peer.seq - 3, peer.ack, ACK | URG, b"abcd"))
        raw[18:20] = b"\0\1"
        raw[16:18] = ((int.from_bytes(raw[16:18], "big") - 1) % 65535).to_bytes(2, "big")
        host.receive(bytes(raw))
        assert sk.urg_data == 0
        assert host.tcp.recvmsg(sk, 10) == b"abcd"


def test_a_stream_of_a_kernel_user_stops_at_urgent_data():
    with one_tcp() as host:
        sk, peer = connected(host)
        urgent(peer, b"abcUdef", 4)
        got = []
        assert host.tcp.read_sock(sk, lambda data: got.append(data) or len(data)) == 3
        assert got == [b"abc"]
        assert host.tcp.read_sock(sk, lambda data: got.append(data) or len(data)) == 0
        host.tcp.abort(sk)
        host.assert_nothing_left()


@pytest.mark.parametrize("pointer", [0, 1, 5, 100, 65535])
def test_no_pointer_does_any_harm(pointer):
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.sk_flags |= SOCK_URGINLINE
        urgent(peer, b"abcde", pointer)
        peer.send(ACK | PSH, b"fg")
        got = b""
        while len(got) < 7:
            got += host.tcp.recvmsg(sk, 100)
        assert got == b"abcdefg"
        host.tcp.abort(sk)
        host.assert_nothing_left()
