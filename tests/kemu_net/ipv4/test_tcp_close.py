from kemu.kernel.errno import ECONNRESET, EPIPE
from kemu_net.ipv4.tcp_timewait import TimeWaitSock
from tcp_ground import ACK, FIN, RST, SECOND, SYN, Peer, accepted, connected, flags_of, one_tcp, state, transfer, two_tcps


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


def test_fin_out_of_order_waits_for_the_data():
    with one_tcp() as host:
        sk, peer = connected(host)
        base = peer.seq
        peer.send(FIN | ACK, b"B", seq=base + 1)
        assert state(sk) == "ESTABLISHED"
        peer.send(ACK, b"A", seq=base)
        assert state(sk) == "CLOSE_WAIT"
        assert host.tcp.recvmsg(sk, 10) == b"AB"


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


def test_reset_reaches_reader_and_writer():
    with one_tcp() as host:
        sk, peer = connected(host)
        changes = []
        sk.sk_error_report = lambda sk: changes.append(sk.sk_err)
        peer.send(RST | ACK)
        assert changes == [ECONNRESET]
        assert host.tcp.recvmsg(sk, 10) == -ECONNRESET
        assert host.tcp.sendmsg(sk, b"x") == -EPIPE
        host.tcp.close(sk)
        host.assert_nothing_left()


def test_a_reset_outside_the_window_is_ignored():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(RST, seq=peer.seq + 100_000)
        peer.send(RST, seq=peer.seq - 100)
        assert state(sk) == "ESTABLISHED"


def test_a_syn_in_the_window_resets():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(SYN, seq=peer.seq + 10)
        assert state(sk) == "CLOSE"
        assert sk.sk_err == ECONNRESET


def test_data_for_an_orphan_is_answered_with_a_reset():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.close(sk)
        peer.saw(host.sent()[0])
        peer.send(ACK)
        assert flags_of(peer.send(ACK, b"too late")) == [RST]
        host.assert_nothing_left()


def test_an_orphan_waits_60_seconds_for_the_peers_fin():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.close(sk)
        peer.saw(host.sent()[0])
        peer.send(ACK)
        assert host.in_use()["TCP"] == 0
        assert host.in_use()["tw_sock_TCP"] == 1
        host.run(50_000)
        (ack,) = peer.send(FIN | ACK)
        assert ack.ack == peer.seq
        host.run(59_000)
        assert host.in_use()["tw_sock_TCP"] == 1
        host.run(2_000)
        host.assert_nothing_left()


def _time_wait(host):
    sk, peer = connected(host)
    host.tcp.close(sk)
    peer.saw(host.sent()[0])
    peer.send(FIN | ACK)
    return peer


def test_time_wait_acknowledges_a_repeated_fin_and_starts_again():
    with one_tcp() as host:
        peer = _time_wait(host)
        host.run(40_000)
        (ack,) = peer.send(FIN | ACK, seq=peer.seq - 1)
        assert ack.ack == peer.seq
        host.run(40_000)
        assert host.in_use()["tw_sock_TCP"] == 1
        host.run(21_000)
        host.assert_nothing_left()


def test_a_reset_ends_time_wait():
    with one_tcp() as host:
        peer = _time_wait(host)
        peer.send(RST)
        host.assert_nothing_left()


def test_a_new_syn_passes_a_time_wait_of_the_listener():
    with one_tcp() as host:
        listener, sk, peer = accepted(host)
        host.tcp.close(sk)
        peer.saw(host.sent()[0])
        peer.send(FIN | ACK)
        again = Peer(host, peer.sport, 2049, isn=peer.seq + 100_000)
        (synack,) = again.send(SYN)
        assert synack.flags == SYN | ACK
        again.saw(synack)
        again.send(ACK)
        assert host.tcp.accept(listener, nonblock=True) is not None


def test_an_old_syn_does_not_pass():
    with one_tcp() as host:
        _listener, sk, peer = accepted(host)
        host.tcp.close(sk)
        peer.saw(host.sent()[0])
        peer.send(FIN | ACK)
        (answer,) = peer.send(SYN, seq=peer.isn)
        assert answer.flags == ACK


def test_without_memory_for_time_wait_the_connection_just_ends():
    with one_tcp() as host:
        real = host.slub.kmem_cache_alloc
        host.slub.kmem_cache_alloc = lambda cache, gfp: None if cache is host.tcp.tw_cache else real(cache, gfp)
        _time_wait(host)
        del host.slub.kmem_cache_alloc
        host.assert_nothing_left()


def test_the_closer_of_a_stream_is_the_one_in_time_wait():
    with two_tcps() as (world, a, b, _link):
        transfer(world, a, b, b"hello")
        world.run(for_ns=SECOND)
        assert a.in_use()["tw_sock_TCP"] == 1
        assert b.in_use()["tw_sock_TCP"] == 0


def test_callbacks_of_a_closing_peer():
    with one_tcp() as host:
        sk, peer = connected(host)
        states = []
        sk.sk_state_change = lambda sk: states.append(state(sk))
        peer.send(FIN | ACK)
        assert states == ["CLOSE_WAIT"]


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
