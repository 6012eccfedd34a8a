"""Reading."""

from __future__ import annotations

from kemu.kernel.errno import EAGAIN
from tcp_ground import ACK, IP_B, PSH, SYN, Peer, connected, one_tcp, state


def test_in_order_data_is_read():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK, b"one ")
        peer.send(ACK | PSH, b"two")
        assert host.tcp.recvmsg(sk, 100) == b"one two"
        assert host.tcp.recvmsg(sk, 100, nonblock=True) == -EAGAIN
        host.check()


def test_recvmsg_gives_at_most_what_is_asked():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK, b"abcdef")
        assert [host.tcp.recvmsg(sk, 4), host.tcp.recvmsg(sk, 4)] == [b"abcd", b"ef"]


def test_read_sock_stops_when_the_actor_takes_less():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK, b"abcdef")
        peer.send(ACK, b"ghi")
        seen = []

        def actor(data):
            seen.append(bytes(data))
            return 4 if len(seen) == 1 else len(data)

        assert host.tcp.read_sock(sk, actor) == 4
        assert host.tcp.read_sock(sk, actor) == 5
        assert seen == [b"abcdef", b"ef", b"ghi"]


def test_read_sock_in_the_data_ready_callback():
    with one_tcp() as host:
        sk, peer = connected(host)
        got = []
        in_softirq = []

        def data_ready(sk):
            in_softirq.append(host.kernel.sched.in_softirq())
            host.tcp.read_sock(sk, lambda data: got.append(data) or len(data))

        sk.sk_data_ready = data_ready
        peer.send(ACK, b"x" * 1460)
        peer.send(ACK, b"y" * 10)
        assert b"".join(got) == b"x" * 1460 + b"y" * 10
        assert all(in_softirq)
        assert sk.sk_rmem_alloc == 0


def test_an_actor_may_empty_the_socket():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK, b"abc")

        def actor(data):
            host.socks.skb_queue_purge(sk.sk_receive_queue)
            return len(data)

        assert host.tcp.read_sock(sk, actor) == 3


def test_an_actor_that_takes_nothing_leaves_everything():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK, b"abc")
        assert host.tcp.read_sock(sk, lambda _data: 0) == 0
        assert host.tcp.recvmsg(sk, 10) == b"abc"


def test_data_on_a_repeated_syn_is_read_once():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        host.tcp.connect_nonblock(sk, IP_B, 2049)
        (syn,) = host.sent()
        peer = Peer(host, 2049, syn.sport)
        peer.saw(peer.send(SYN)[0])  # both connect at once
        peer.send(SYN | ACK, b"data", seq=peer.isn)
        assert state(sk) == "ESTABLISHED"
        assert host.tcp.recvmsg(sk, 10) == b"data"


def test_a_reader_waits_for_the_first_byte():
    with one_tcp() as host:
        sk, peer = connected(host)
        got = []
        host.kernel.sched.spawn("reader", lambda: got.append(host.tcp.recvmsg(sk, 10)))
        host.run(10)
        peer.send(ACK, b"at last")
        host.run(10)
        assert got == [b"at last"]
