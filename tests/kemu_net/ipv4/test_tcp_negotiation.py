"""Options that both sides agree upon: time stamps with PAWS, window scaling, SACK permitted."""

from __future__ import annotations

import pytest

from kemu.kernel.timer import HZ
from tcp_ground import ACK, FIN, IP_B, PSH, RST, SYN, Peer, connecting, flags_of, listen_on, one_tcp, state, transfer, two_tcps
from tcp_options_ground import MSS_1460, opened, options_of, syn_options, taken, ts


def test_our_syn_offers_everything():
    with one_tcp() as host:
        _sk, peer = opened(host)
        offer = options_of(peer.syn)
        assert offer["mss"] == 1460
        assert offer["sackok"]
        assert offer["ts"][1] == 0
        assert offer["wscale"] == 1  # of max(tcp_rmem[2], rmem_max): 87380 bytes and up


@pytest.mark.parametrize(
    ("switch", "gone"), [("sysctl_tcp_timestamps", "ts"), ("sysctl_tcp_sack", "sackok"), ("sysctl_tcp_window_scaling", "wscale")]
)
def test_a_switch_takes_an_offer_away(switch, gone):
    with one_tcp() as host:
        setattr(host.tcp, switch, 0)
        _sk, peer = opened(host)
        assert gone not in options_of(peer.syn)


@pytest.mark.parametrize("tsval", [None, 77])
def test_an_answer_offers_only_what_was_offered(tsval):
    with one_tcp() as host:
        listener = listen_on(host)
        peer = Peer(host, 999, 2049)
        (synack,) = peer.send(SYN, options=MSS_1460)
        assert set(options_of(synack)) == {"mss"}
        peer = Peer(host, 998, 2049)
        (synack,) = peer.send(SYN, options=syn_options(tsval=tsval, scale=3))
        answer = options_of(synack)
        assert answer["sackok"]
        assert "wscale" in answer
        if tsval is None:
            assert "ts" not in answer
        else:
            assert answer["ts"][1] == tsval
        assert len(listener.syn_table) == 2


def test_a_syn_with_stamp_0_gets_no_time_stamps():
    with one_tcp() as host:
        listen_on(host)
        (synack,) = Peer(host, 999, 2049).send(SYN, options=syn_options(tsval=0))
        assert "ts" not in options_of(synack)


@pytest.mark.parametrize("way", [opened, taken])
def test_time_stamps_cost_twelve_bytes_of_each_segment(way):
    with one_tcp() as host:
        made = way(host, tsval=100)
        sk = made[-2]
        assert sk.tcp_header_len == 32
        assert sk.mss_cache == 1448
        assert sk.advmss == 1448
        host.tcp.sendmsg(sk, b"x" * 1448)
        (seg,) = host.sent()
        assert len(seg.data) == 1448
        assert set(options_of(seg)) == {"ts"}


@pytest.mark.parametrize("way", [opened, taken])
def test_without_time_stamps_nothing_is_lost(way):
    with one_tcp() as host:
        sk = way(host)[-2]
        assert (sk.tcp_header_len, sk.mss_cache, sk.advmss) == (20, 1460, 1460)


def test_windows_are_scaled_but_for_the_syn():
    with one_tcp() as host:
        sk, peer = opened(host, scale=3, win=1000)
        assert sk.snd_wnd == 1000
        peer.send(ACK, win=1000)
        assert sk.snd_wnd == 8000
        assert sk.max_window == 8000


def test_our_windows_are_scaled():
    with one_tcp() as host:
        sk, peer = opened(host, scale=3)
        assert sk.rx_opt.rcv_wscale == 1
        assert peer.handshake.win == sk.rcv_wnd >> 1
        assert peer.syn.win == 5840


def test_a_peer_without_scaling_gets_none():
    with one_tcp() as host:
        sk, peer = opened(host)
        assert (sk.rx_opt.snd_wscale, sk.rx_opt.rcv_wscale) == (0, 0)
        assert sk.window_clamp <= 65535
        assert peer.handshake.win == sk.rcv_wnd


def test_a_child_takes_the_scale_of_its_syn():
    with one_tcp() as host:
        _listener, sk, peer = taken(host, scale=4)
        assert sk.rx_opt.snd_wscale == 4
        assert sk.snd_wnd == peer.win << 4


def test_crossing_syns_agree_too():
    with one_tcp() as host:
        sk, peer = connecting(host)
        (synack,) = peer.send(SYN, options=syn_options(tsval=50, scale=2))
        assert synack.flags == SYN | ACK
        assert options_of(synack)["ts"][1] == 50
        assert state(sk) == "SYN_RECV"
        peer.send(ACK, options=ts(51, options_of(synack)["ts"][0]))
        assert state(sk) == "ESTABLISHED"
        assert (sk.tcp_header_len, sk.mss_cache, sk.advmss, sk.snd_wnd) == (32, 1448, 1448, 65535 << 2)


def test_two_hosts_of_ours_agree_on_everything():
    with two_tcps() as (world, a, b, link):
        world.run(for_ns=1_000_000_000)  # a SYN with stamp 0 gets none
        data, results = transfer(world, a, b, b"z" * 100_000)
        assert data == b"z" * 100_000
        assert results["connect"] == 0
        assert not [seg for seg in link.log if "ts" not in options_of(seg)]


# PAWS


def test_the_stamp_of_data_in_order_is_echoed():
    with one_tcp() as host:
        sk, peer = opened(host, tsval=100)
        (ack,) = peer.send(ACK | PSH, b"x", options=ts(105))
        assert options_of(ack)["ts"][1] == 105
        assert sk.rx_opt.ts_recent == 105


def test_the_stamp_of_the_oldest_unacknowledged_segment_is_echoed():
    """RFC 1323: with a delayed acknowledgement the earlier stamp counts."""
    with one_tcp() as host:
        sk, peer = opened(host, tsval=100)
        sk.ack_quick, sk.ack_pingpong, sk.ack_ato = 0, 1, 10
        assert peer.send(ACK, b"x", options=ts(105)) == []
        peer.send(ACK, b"y", options=ts(109))
        assert sk.rx_opt.ts_recent == 105


def test_an_old_duplicate_is_answered_and_dropped():
    with one_tcp() as host:
        sk, peer = opened(host, tsval=100)
        peer.send(ACK, b"x", options=ts(200))
        (ack,) = peer.send(ACK, b"evil", options=ts(150), advance=False)
        assert ack.ack == peer.seq
        assert host.tcp.recvmsg(sk, 10) == b"x"
        assert not sk.sk_receive_queue


def test_a_stamp_may_be_one_older():
    with one_tcp() as host:
        sk, peer = opened(host, tsval=100)
        peer.send(ACK, b"x", options=ts(200))
        peer.send(ACK, b"y", options=ts(199))
        assert host.tcp.recvmsg(sk, 10) == b"xy"


def test_a_reset_counts_whatever_its_stamp():
    with one_tcp() as host:
        sk, peer = opened(host, tsval=100)
        peer.send(ACK, b"x", options=ts(200))
        peer.send(RST | ACK, options=ts(50))
        assert state(sk) == "CLOSE"


def test_acknowledgements_that_overtook_each_other_are_not_answered():
    with one_tcp() as host:
        sk, peer = opened(host, tsval=100)
        peer.send(ACK, b"x", options=ts(200))
        peer.send(ACK, options=ts(200))
        assert peer.send(ACK, options=ts(150)) == []
        assert sk.rx_opt.ts_recent == 200


def test_one_that_is_older_than_a_timeout_is_answered():
    with one_tcp() as host:
        sk, peer = opened(host, tsval=100)
        peer.send(ACK, b"x", options=ts(200_000))
        peer.send(ACK, options=ts(200_000))
        allowed = sk.rto * 1024 // HZ
        assert flags_of(peer.send(ACK, options=ts(200_000 - allowed - 1))) == [ACK]


def test_after_24_days_any_stamp_is_new():
    with one_tcp() as host:
        sk, peer = opened(host, tsval=100)
        peer.send(ACK, b"x", options=ts(200))
        sk.rx_opt.ts_recent_stamp -= 60 * 60 * 24 * 24 + 1
        peer.send(ACK, b"y", options=ts(5))
        assert sk.rx_opt.ts_recent == 5
        assert host.tcp.recvmsg(sk, 10) == b"xy"


def test_a_segment_without_its_stamp_is_taken():
    with one_tcp() as host:
        sk, peer = opened(host, tsval=100)
        peer.send(ACK, b"bare")
        assert host.tcp.recvmsg(sk, 10) == b"bare"


def test_an_answer_that_echoes_what_we_never_sent_is_reset():
    with one_tcp() as host:
        host.run(5000)
        sk, peer = connecting(host)
        assert flags_of(peer.send(SYN | ACK, options=syn_options(tsval=9)[:8] + ts(9, host.jiffies - 600), advance=False)) == [RST]
        assert state(sk) == "SYN_SENT"


def test_an_old_syn_for_a_request_is_acknowledged_only():
    with one_tcp() as host:
        listen_on(host)
        peer = Peer(host, 999, 2049)
        peer.saw(peer.send(SYN, options=syn_options(tsval=500))[0])
        (answer,) = peer.send(SYN, seq=peer.isn, options=syn_options(tsval=400))
        assert answer.flags == ACK
        assert options_of(answer)["ts"][1] == 500


# header prediction


@pytest.mark.parametrize("tsval", [None, 100])
def test_data_in_order_takes_the_fast_path(tsval):
    with one_tcp() as host:
        sk, peer = opened(host, tsval=tsval)
        slow = []
        host.tcp._tcp_rcv_slow_path = lambda _sk, skb: slow.append(skb) or host.skbs.kfree_skb(skb)
        sk.sk_forward_alloc += 4096 * 4
        host.tcp.prot.memory_allocated += 4
        for n in range(4):
            peer.send(ACK, b"x" * 100, options=b"" if tsval is None else ts(tsval + n))
        assert not slow
        assert sk.rcv_nxt == peer.seq
        if tsval is not None:
            assert sk.rx_opt.saw_tstamp == 1


def test_another_layout_takes_the_slow_path_and_is_understood():
    with one_tcp() as host:
        sk, peer = opened(host, tsval=100)
        peer.send(ACK, b"x", options=ts(120)[2:] + b"\1\1")
        assert sk.rx_opt.ts_recent == 120


# TIME_WAIT


def _time_wait(host, **options):
    """Close first, with the peer's FIN: give the peer of the minisocket."""
    sk, peer = opened(host, tsval=100, **options)
    host.tcp.close(sk)
    host.sent()
    peer.ack += 1
    peer.send(ACK | FIN, options=ts(300))
    (tw,) = host.tcp.ehash.values()
    assert tw.substate == 6
    return tw, peer


def test_time_wait_remembers_the_stamp():
    with one_tcp() as host:
        tw, peer = _time_wait(host)
        assert tw.ts_recent == 300
        (ack,) = peer.send(ACK, b"late", seq=peer.seq - 4, options=ts(301))
        assert options_of(ack)["ts"][1] == 300
        host.run(61_000)
        host.assert_nothing_left()


def test_an_old_syn_in_time_wait_is_acknowledged():
    with one_tcp() as host:
        tw, peer = _time_wait(host)
        (ack,) = peer.send(SYN, seq=peer.seq + 100, options=syn_options(tsval=200))
        assert ack.flags == ACK
        assert host.tcp.ehash[tw.key] is tw


def test_a_later_stamp_reopens_whatever_the_sequence_number():
    with one_tcp() as host:
        listener, sk, peer = taken(host, tsval=100)
        host.tcp.close(sk)
        host.sent()
        peer.ack += 1
        peer.send(ACK | FIN, options=ts(300))
        (tw,) = host.tcp.ehash.values()
        answer = peer.send(SYN, seq=peer.seq - 5000, options=syn_options(tsval=400))
        assert flags_of(answer) == [SYN | ACK]
        assert answer[0].seq == tw.isn
        assert len(listener.syn_table) == 1


def test_a_bound_socket_connects_again_over_time_wait():
    with one_tcp() as host:
        tw, _peer = _time_wait(host)
        sk = host.tcp.sock_create()
        sk.sk_reuse = True
        host.tcp.bhash[tw.sport].owners[tw] = True
        assert host.tcp.bind(sk, tw.saddr, tw.sport) == 0
        assert host.tcp.connect_nonblock(sk, IP_B, 2049) == -115
        (syn,) = host.sent()
        assert syn.seq == tw.isn
        assert options_of(syn)["ts"][1] == 300


def test_without_time_stamps_the_ends_are_taken():
    with one_tcp() as host:
        host.tcp.sysctl_tcp_timestamps = 0
        sk, peer = opened(host)
        host.tcp.close(sk)
        peer.ack += 1
        peer.send(ACK | FIN)
        (tw,) = host.tcp.ehash.values()
        sk = host.tcp.sock_create()
        sk.sk_reuse = True
        host.tcp.bhash[tw.sport].owners[tw] = True
        assert host.tcp.bind(sk, tw.saddr, tw.sport) == 0
        assert host.tcp.connect_nonblock(sk, IP_B, 2049) == -99


def test_rfc1337_ignores_a_reset_in_time_wait():
    for switch, left in ((0, 0), (1, 1)):
        with one_tcp() as host:
            host.tcp.sysctl_tcp_rfc1337 = switch
            _tw, peer = _time_wait(host)
            peer.send(RST)
            assert len(host.tcp.ehash) == left
