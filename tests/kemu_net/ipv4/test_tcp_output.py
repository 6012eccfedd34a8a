"""What is sent, and when."""

from __future__ import annotations

from kemu.kernel.errno import EINPROGRESS
from kemu_net.ipv4.tcp_sock import TCP_NAGLE_OFF
from tcp_ground import ACK, IP_B, MSS_1460, SYN, connected, one_tcp


def test_congestion_window_limits_what_is_in_flight_and_doubles():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.sk_sndbuf = 1 << 20
        host.tcp.sendmsg(sk, bytes(20 * 1460))
        first = host.sent()
        assert len(first) == 3  # RFC 3390 with 1460 bytes
        out = []
        for seg in first:
            peer.saw(seg)
            out += peer.send(ACK)
        assert len(out) == 6
        assert sk.snd_cwnd == 6


def test_receivers_window_limits_what_is_in_flight():
    with one_tcp() as host:
        sk, _peer = connected(host, win=2000)
        host.tcp.sendmsg(sk, bytes(4000))
        assert [len(seg.data) for seg in host.sent()] == [1460]


def test_nagle_holds_a_short_segment_while_another_is_unacknowledged():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.sendmsg(sk, b"a")
        (first,) = host.sent()
        host.tcp.sendmsg(sk, b"b")
        host.tcp.sendmsg(sk, b"c")
        assert host.sent() == []
        peer.saw(first)
        (second,) = peer.send(ACK)
        assert second.data == b"bc"


def test_nodelay_ends_nagle():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.nonagle |= TCP_NAGLE_OFF
        host.tcp.sendmsg(sk, b"a")
        host.tcp.sendmsg(sk, b"b")
        assert [seg.data for seg in host.sent()] == [b"a", b"b"]


def test_more_corks_a_short_segment_until_the_rest_comes():
    with one_tcp() as host:
        sk, _peer = connected(host)
        host.tcp.sendmsg(sk, b"head", more=True)
        assert host.sent() == []
        host.tcp.sendmsg(sk, b" and tail")
        assert [seg.data for seg in host.sent()] == [b"head and tail"]


def test_window_closes_when_nobody_reads_and_opens_with_an_update():
    with one_tcp() as host:
        sk, peer = connected(host)
        acked, window = peer.seq, sk.rcv_wnd
        while window:
            size = min(1460, acked + window - peer.seq)
            if size <= 0:
                host.run(250)
                out = host.sent()
            else:
                out = peer.send(ACK, bytes(size))
            for seg in out:
                acked, window = seg.ack, seg.win
            assert acked + window - peer.seq >= 0
            if not out and size <= 0:
                break
        assert window < 1460
        assert sk.sk_rmem_alloc <= sk.sk_rcvbuf
        total = len(host.tcp.recvmsg(sk, 1 << 20))
        assert total == peer.seq - 1001
        (update,) = host.sent()
        assert update.win > 10_000


def test_the_syn_announces_mss_and_four_segments_of_window():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        assert host.tcp.connect_nonblock(sk, IP_B, 2049) == -EINPROGRESS
        (syn,) = host.sent()
        assert syn.flags == SYN
        assert syn.options == MSS_1460
        assert syn.win == 4 * 1460
        assert syn.ack == 0
