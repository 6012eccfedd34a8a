"""The end of a connection, from either side."""

from __future__ import annotations

from kemu.kernel.errno import ENOTCONN
from kemu_net.ipv4.tcp_timewait import TimeWaitSock
from tcp_ground import ACK, FIN, IP_B, RST, SYN, connected, flags_of, one_tcp, state


def test_we_close_first():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.shutdown(sk)
        (fin,) = host.sent()
        assert fin.flags == FIN | ACK
        assert state(sk) == "FIN_WAIT1"
        peer.saw(fin)
        peer.send(ACK)
        assert state(sk) == "FIN_WAIT2"
        peer.send(ACK, b"last words")
        assert host.tcp.recvmsg(sk, 100) == b"last words"
        (ack,) = [seg for seg in peer.send(FIN | ACK) if seg.ack == peer.seq]
        assert ack.flags == ACK
        assert host.tcp.recvmsg(sk, 100) == b""
        assert any(isinstance(tw, TimeWaitSock) for tw in host.tcp.ehash.values())
        host.tcp.close(sk)
        host.run(61_000)
        host.assert_nothing_left()


def test_the_peer_closes_first():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(FIN | ACK)
        assert state(sk) == "CLOSE_WAIT"
        assert host.tcp.recvmsg(sk, 10) == b""
        host.tcp.sendmsg(sk, b"still here")
        assert host.sent()[-1].data == b"still here"
        host.tcp.close(sk)
        fin = host.sent()[-1]
        assert fin.flags & FIN
        assert state(sk) == "LAST_ACK"
        peer.saw(fin)
        peer.send(ACK)
        host.assert_nothing_left()


def test_both_close_at_once():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.close(sk)
        (fin,) = host.sent()
        peer.send(FIN | ACK)  # does not acknowledge ours
        assert state(sk) == "CLOSING"
        peer.saw(fin)
        peer.send(ACK)
        assert any(isinstance(tw, TimeWaitSock) for tw in host.tcp.ehash.values())
        host.run(61_000)
        host.assert_nothing_left()


def test_fin_acknowledged_together_with_the_peers_fin():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.close(sk)
        peer.saw(host.sent()[0])
        (ack,) = peer.send(FIN | ACK)
        assert ack.ack == peer.seq
        host.run(61_000)
        host.assert_nothing_left()


def test_closing_with_unread_data_resets():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK, b"nobody reads this")
        host.sent()
        host.tcp.close(sk)
        assert flags_of(host.sent()) == [RST | ACK]
        host.assert_nothing_left()


def test_abort_resets_and_frees_what_was_queued():
    with one_tcp() as host:
        sk, _peer = connected(host)
        host.tcp.sendmsg(sk, bytes(10_000))
        host.sent()
        host.tcp.abort(sk)
        assert flags_of(host.sent()) == [RST | ACK]
        host.assert_nothing_left()


def test_disconnect_lets_the_socket_connect_again():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.bind(sk, 0, 0)
        host.tcp.disconnect(sk)
        assert flags_of(host.sent()) == [RST | ACK]
        assert state(sk) == "CLOSE"
        assert host.tcp.connect_nonblock(sk, peer.host.inet.ip + 1, 2049) < 0
        (syn,) = host.sent()
        assert syn.flags == SYN


def test_disconnecting_frees_what_came_too_early():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK, b"early", seq=peer.seq + 100)
        host.tcp.disconnect(sk)
        assert not sk.out_of_order_queue
        host.tcp.close(sk)
        host.sent()
        host.assert_nothing_left()


def test_shutdown_of_what_is_not_connected_yet():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        host.tcp.connect_nonblock(sk, IP_B, 2049)
        assert host.tcp.shutdown(sk) == -ENOTCONN
        assert flags_of(host.sent()) == [SYN]


def test_shutting_down_twice_sends_one_fin():
    with one_tcp() as host:
        sk, _peer = connected(host)
        assert [host.tcp.shutdown(sk), host.tcp.shutdown(sk)] == [0, 0]
        assert flags_of(host.sent()) == [FIN | ACK]
        assert state(sk) == "FIN_WAIT1"


def test_closing_after_the_peer_acknowledged_our_fin_leaves_a_minisocket():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.shutdown(sk)
        peer.saw(host.sent()[0])
        peer.send(ACK)
        assert state(sk) == "FIN_WAIT2"
        host.tcp.close(sk)
        assert (host.in_use()["TCP"], host.in_use()["tw_sock_TCP"]) == (0, 1)
        host.run(61_000)
        host.assert_nothing_left()
