"""What is sent, and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemu.kernel.errno import EAGAIN, EFAULT, EINPROGRESS
from kemu.mm.gfp import GFP_KERNEL
from kemu_net.ipv4.tcp_sock import TCP_CA_CWR, TCP_CA_OPEN, TCP_NAGLE_OFF
from kemu_net.ipv4.tcp_window import tcp_acceptable_seq, tcp_init_cwnd
from tcp_ground import ACK, FIN, IP_B, MSS_1460, SYN, connected, flags_of, one_tcp, state


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
        assert [len(seg.data) for seg in host.sent()] == [1000, 1000]  # a segment is at most half of the window


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
        assert syn.options[:4] == MSS_1460
        assert syn.win == 4 * 1460
        assert syn.ack == 0


def test_without_memory_for_a_clone_nothing_is_lost():
    with one_tcp() as host:
        sk, _peer = connected(host)
        host.skbs.skb_clone = lambda _skb, _gfp: None
        assert host.tcp.sendmsg(sk, b"data") == 4
        assert host.sent() == []
        assert [skb.len for skb in sk.sk_write_queue] == [4]
        del host.skbs.skb_clone
        host.run(300)  # the probe timer takes care of it
        assert host.sent()[0].data == b"data"
        host.check()


def test_a_full_device_halves_the_window_and_keeps_the_segment():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.snd_cwnd = 10
        host.inet.refuse = 1  # NET_XMIT_DROP
        host.tcp.sendmsg(sk, b"data")
        assert (sk.ca_state, sk.snd_ssthresh) == (TCP_CA_CWR, 5)
        assert sk.snd_cwnd <= 5
        assert len(sk.sk_write_queue) == 1
        host.tcp.tcp_push_pending_frames(sk, 1460, 0)  # once per window is enough
        assert sk.snd_ssthresh == 5
        assert host.tcp.tcp_current_ssthresh(sk) == 5
        host.inet.refuse = 0
        host.run(500)
        assert host.sent()[0].data == b"data"
        host.check()


def test_a_window_that_is_congested_here_opens_again_when_new_data_is_acknowledged():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.sk_sndbuf, sk.snd_cwnd = 1 << 20, 6
        host.tcp.sendmsg(sk, bytes(6 * 1460))
        segs = host.sent()
        host.tcp.tcp_enter_cwr(sk)
        for seg in segs[:3]:
            peer.saw(seg)
            peer.send(ACK)
        assert sk.ca_state == TCP_CA_CWR
        assert sk.snd_cwnd <= 4
        peer.saw(segs[-1])
        peer.send(ACK)
        host.tcp.sendmsg(sk, b"more")
        peer.saw(host.sent()[-1])
        assert sk.ca_state == TCP_CA_CWR
        peer.send(ACK)
        assert sk.ca_state == TCP_CA_OPEN
        assert sk.snd_cwnd <= sk.snd_ssthresh == 3


def test_an_idle_connection_starts_again_with_a_small_window():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.sendmsg(sk, b"x")
        peer.saw(host.sent()[0])
        peer.send(ACK)
        sk.snd_cwnd = 64
        host.run(1_000)
        host.tcp.sendmsg(sk, b"y")
        assert 3 <= sk.snd_cwnd < 64
        assert sk.snd_ssthresh >= 48


def test_a_window_that_is_not_used_shrinks():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.snd_cwnd = 40
        sk.rto = 25
        for _ in range(30):
            host.tcp.sendmsg(sk, b"x")
            for seg in host.sent():
                peer.saw(seg)
            peer.send(ACK)
            host.run(20)
        assert sk.snd_cwnd < 40
        assert sk.snd_cwnd >= 3


def test_a_promised_window_is_never_taken_back():
    with one_tcp() as host:
        sk, peer = connected(host)
        promised = sk.rcv_nxt + sk.rcv_wnd
        sk.sk_rmem_alloc = sk.sk_rcvbuf  # full, of something else
        for _ in range(3):
            host.tcp.tcp_send_ack(sk)
            (seg,) = host.sent()
            assert seg.ack + seg.win == promised
        peer.send(ACK, b"x" * 1000)
        host.tcp.tcp_send_ack(sk)
        assert {seg.ack + seg.win for seg in host.sent()} == {promised}
        sk.sk_rmem_alloc = 0


def test_a_peer_that_goes_beyond_the_window_gets_none():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.rcv_nxt = sk.rcv_wup + sk.rcv_wnd + 100
        sk.sk_rmem_alloc = sk.sk_rcvbuf
        assert host.tcp.tcp_select_window(sk) == 0
        assert sk.pred_flags == 0
        sk.sk_rmem_alloc = 0


def test_under_pressure_four_segments_are_offered_at_most():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.rcv_ssthresh = 60_000
        sk.sk_rmem_alloc = sk.sk_rcvbuf // 3 * 2
        host.tcp.prot.memory_pressure = 1
        assert host.tcp._tcp_select_window(sk) <= 4 * 1460
        assert sk.rcv_ssthresh == 4 * 1460
        sk.sk_rmem_alloc = 0


@given(st.integers(0, 200_000), st.integers(256, 200_000), st.integers(0, 65535), st.integers(88, 9000), st.integers(1, 65535))
def test_a_window_is_room_that_there_is(held, rcvbuf, window, mss, clamp):
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        sk.sk_rmem_alloc, sk.sk_rcvbuf, sk.rcv_wnd, sk.ack_rcv_mss = held, rcvbuf, window, mss
        sk.window_clamp = sk.rcv_ssthresh = clamp
        space = rcvbuf - held
        chosen = host.tcp._tcp_select_window(sk)
        assert 0 <= chosen <= max(min(space - (space >> 2), clamp), 0)
        sk.sk_rmem_alloc = 0


def test_what_the_device_still_holds_is_not_sent_again():
    with one_tcp() as host:
        sk, _peer = connected(host, fast_rto=True)
        host.inet.held = []
        host.tcp.sendmsg(sk, b"x" * 1000)
        sk.sk_wmem_alloc += sk.sk_wmem_queued  # other clones, in the device as well
        host.sent()
        host.run(1_000)
        assert host.sent() == []
        assert state(sk) == "ESTABLISHED"
        sk.sk_wmem_alloc -= sk.sk_wmem_queued
        for skb in host.inet.held:
            host.skbs.kfree_skb(skb)
        host.inet.held = None
        host.run(4_000)
        assert host.sent()[0].data == b"x" * 1000


def test_what_a_shrunken_window_no_longer_takes_is_not_sent_again():
    with one_tcp() as host:
        sk, _peer = connected(host)
        host.tcp.sendmsg(sk, bytes(3 * 1460))
        host.sent()
        first, second, _third = sk.sk_rtx_queue
        sk.snd_wnd = 1000
        assert host.tcp.tcp_retransmit_skb(sk, second) == -EAGAIN
        assert host.tcp.tcp_retransmit_skb(sk, first) == 0


def test_without_memory_for_a_reset_the_connection_ends_all_the_same():
    with one_tcp() as host:
        sk, _peer = connected(host)
        host.skbs.alloc_skb = lambda *_args: None
        host.tcp.abort(sk)
        assert host.sent() == []
        host.assert_nothing_left()


def test_a_fin_waits_for_memory():
    with one_tcp() as host:
        sk, _peer = connected(host)
        real = host.skbs.alloc_skb
        failures = [None] * 3
        host.skbs.alloc_skb = lambda *args: failures.pop() if failures else real(*args)
        host.tcp.shutdown(sk)
        assert flags_of(host.sent()) == [FIN | ACK]
        assert failures == []


def test_a_fin_rides_on_data_that_waits():
    with one_tcp() as host:
        sk, _peer = connected(host)
        host.tcp.sendmsg(sk, b"last", more=True)
        host.tcp.shutdown(sk)
        (seg,) = host.sent()
        assert (seg.data, seg.flags) == (b"last", FIN | ACK)


def test_a_second_syn_is_not_answered_without_our_own():
    with one_tcp() as host:
        sk, _peer = connected(host)
        assert host.tcp.tcp_send_synack(sk) == -EFAULT
        host.tcp.sendmsg(sk, b"x")
        assert host.tcp.tcp_send_synack(sk) == -EFAULT


def test_an_acknowledgement_that_was_promised_for_now_is_sent_now():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.ack_quick = 0
        sk.ack_ato = 20
        host.tcp.tcp_send_delayed_ack(sk)
        first = sk.ack_timeout
        sk.ack_ato = 50
        host.tcp.tcp_send_delayed_ack(sk)
        assert sk.ack_timeout == first  # a promise is not put off
        assert host.sent() == []
        sk.ack_blocked = 1
        host.tcp.tcp_send_delayed_ack(sk)
        assert flags_of(host.sent()) == [ACK]
        host.run(1_000)
        assert host.sent() == []


def test_in_a_conversation_an_acknowledgement_waits_200_ms_at_most():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.srtt = 0
        for pingpong, limit in ((1, 50), (0, 125)):
            sk.ack_pending = 0
            sk.ack_pingpong, sk.ack_ato = pingpong, 1000
            host.tcp.tcp_send_delayed_ack(sk)
            assert sk.ack_timeout == host.jiffies + limit


def probe(host, size, window, *, pages=0, linear=b""):
    """Make one unsent segment of linear data and pages, and let a probe of a window that takes a part of it cut it."""
    sk, peer = connected(host, win=1)
    sk.sk_sndbuf = 1 << 20
    if linear:
        assert host.tcp.sendmsg(sk, linear, more=True) == len(linear)
    held = []
    for number in range(pages):
        page = host.page_alloc.alloc_pages(GFP_KERNEL)
        page.contents = bytes((number * 100 + at) % 256 for at in range(4096))
        assert host.tcp.sendpage(sk, page, 0, size, more=True) == size
        held.append(page)
    assert host.sent() == []
    sk.snd_wnd = window
    return sk, peer, held


@pytest.mark.parametrize("linear", [b"", b"head"])
@pytest.mark.parametrize("window", [1, 3, 4, 50, 100, 104, 150, 204])
def test_a_segment_is_cut_anywhere_without_losing_a_byte(linear, window):
    with one_tcp() as host:
        sk, peer, pages = probe(host, 100, window, pages=3, linear=linear)
        expected = linear + b"".join(page.contents[:100] for page in pages)
        assert host.tcp.tcp_write_wakeup(sk) == 0
        host.check()
        (first,) = host.sent()
        assert first.data == expected[:window]
        assert (sk.snd_nxt - sk.snd_una, sk.sk_rtx_queue[0].end_seq) == (window, sk.snd_nxt)
        peer.saw(first)
        peer.win = 65535
        (rest,) = peer.send(ACK)
        assert rest.data == expected[window:]
        peer.saw(rest)
        peer.send(ACK)
        assert [page.count for page in pages] == [1, 1, 1]
        host.check()
        host.tcp.abort(sk)
        host.sent()
        host.assert_nothing_left()


def test_without_memory_to_cut_a_segment_the_probe_fails():
    with one_tcp() as host:
        sk, _peer, _pages = probe(host, 0, 2, linear=b"data")
        host.skbs.alloc_skb = lambda *_args: None
        assert host.tcp.tcp_write_wakeup(sk) < 0
        assert [skb.len for skb in sk.sk_write_queue] == [4]
        del host.skbs.alloc_skb
        host.check()


def test_without_memory_for_a_probe_it_fails():
    with one_tcp() as host:
        sk, _peer, _pages = probe(host, 0, 0, linear=b"data")
        host.skbs.alloc_skb = lambda *_args: None
        assert host.tcp.tcp_write_wakeup(sk) < 0
        del host.skbs.alloc_skb
        assert host.tcp.tcp_write_wakeup(sk) == 0
        (seg,) = host.sent()
        assert (seg.seq, seg.data) == (sk.snd_una - 1 & 0xFFFFFFFF, b"")


@pytest.mark.parametrize(("mss", "segments"), [(536, 4), (1095, 4), (1096, 3), (1460, 3), (1461, 2), (8960, 2)])
def test_the_initial_window_is_that_of_rfc_3390(mss, segments):
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        sk.mss_cache = mss
        assert tcp_init_cwnd(sk) == segments


def test_a_segment_without_data_stays_in_the_peers_window():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.snd_una, sk.snd_nxt = 0xFFFFFFF0, 0x10
        for window, seq in ((0, 0xFFFFFFF0), (0x10, 0), (0x20, 0x10), (1000, 0x10)):
            sk.snd_wnd = window
            assert tcp_acceptable_seq(sk) == seq
