"""The header of what leaves: options, their order, the scaled window, and the checksum over all of it."""

from __future__ import annotations

import pytest

from sack_ground import block, flying, sack
from tcp_ground import ACK, IP_B, MSS_1460, PSH, SYN, Peer, one_tcp, state
from tcp_options_ground import opened, options_of, taken, ts


def test_a_syn_carries_everything_in_linuxs_order():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        host.tcp.connect_nonblock(sk, IP_B, 2049)
        (syn,) = host.sent()
        assert syn.options[:8] == b"\x02\x04\x05\xb4\x04\x02\x08\x0a"  # MSS, SACK permitted in place of the padding, stamps
        assert syn.options[16:19] == b"\x01\x03\x03"
        assert len(syn.options) == 20
        assert options_of(syn)["ts"][1] == 0


@pytest.mark.parametrize(
    ("off", "length"), [("timestamps", 12), ("sack", 20), ("window_scaling", 16)], ids=["timestamps", "sack", "window_scaling"]
)
def test_each_option_has_its_switch(off, length):
    with one_tcp() as host:
        setattr(host.tcp, f"sysctl_tcp_{off}", 0)
        sk = host.tcp.sock_create()
        host.tcp.connect_nonblock(sk, IP_B, 2049)
        (syn,) = host.sent()
        missing = {"timestamps": "ts", "sack": "sackok", "window_scaling": "wscale"}[off]
        assert missing not in options_of(syn)
        assert len(syn.options) == length


def test_segments_carry_our_clock_and_echo_the_peers():
    with one_tcp() as host:
        sk, peer = opened(host, tsval=777)
        assert options_of(peer.handshake)["ts"] == (host.jiffies, 777)
        host.run(40)
        peer.send(ACK, b"x", options=ts(900, 0))
        host.tcp.sendmsg(sk, b"data")
        seg = host.sent()[-1]
        assert options_of(seg)["ts"] == (host.jiffies, 900)
        assert len(seg.options) == 12
        assert seg.data == b"data"


def test_a_peer_without_stamps_gets_none():
    with one_tcp() as host:
        sk, _peer = opened(host)
        host.tcp.sendmsg(sk, b"data")
        assert host.sent()[-1].options == b""


def test_stamps_count_in_the_segment_size():
    with one_tcp() as host:
        sk, _peer = opened(host, tsval=5)
        assert sk.mss_cache == 1448
        sk.sk_sndbuf = 1 << 20
        host.tcp.sendmsg(sk, bytes(3000))
        assert [len(seg.data) for seg in host.sent()] == [1448, 1448, 104]


@pytest.mark.parametrize(("stamps", "mss", "length"), [(None, 1460, 12), (9, 1448, 24)])
def test_blocks_follow_the_stamps_and_count_in_the_segment_size(stamps, mss, length):
    with one_tcp() as host:
        sk, peer = opened(host, tsval=stamps)
        options = b"" if stamps is None else ts(stamps + 1, 0)
        peer.send(ACK, b"z" * 10, seq=peer.seq + 100, options=options)
        host.sent()
        sk.sk_sndbuf = 1 << 20
        host.tcp.sendmsg(sk, bytes(2 * mss))
        segs = host.sent()
        assert options_of(segs[0])["sack"] == [(peer.seq + 100, peer.seq + 110)]
        assert len(segs[0].options) == length
        assert len(segs[0].data) == mss - 12
        assert sum(len(seg.data) for seg in segs) == 2 * mss
        host.check()


def test_a_segment_made_before_the_hole_is_cut_when_blocks_come():
    with one_tcp() as host:
        sk, peer = opened(host)
        sk.sk_sndbuf, sk.snd_cwnd = 1 << 20, 1
        host.tcp.sendmsg(sk, bytes(2 * 1460))
        (first,) = host.sent()
        assert len(first.data) == 1460
        peer.send(ACK, b"z", seq=peer.seq + 100)
        peer.saw(first)
        segs = [seg for seg in peer.send(ACK) if seg.data]
        assert [len(seg.data) for seg in segs] == [1448, 12]
        host.check()


def test_the_advertised_window_is_scaled_but_for_the_syn():
    with one_tcp() as host:
        host.tcp.prot.sysctl_rmem[2] = 1 << 20
        sk, peer = opened(host, scale=3)
        shift = options_of(peer.syn)["wscale"]
        assert shift == 5
        assert peer.syn.win == 4 * 1460
        assert peer.handshake.win == -(-4 * 1460 // 32)
        assert sk.rcv_wnd == peer.handshake.win << shift


def test_without_scaling_on_the_other_side_the_window_is_as_it_is():
    with one_tcp() as host:
        host.tcp.prot.sysctl_rmem[2] = 1 << 20
        _sk, peer = opened(host)
        assert peer.handshake.win == 4 * 1460


def test_both_sides_of_a_listener_agree_on_all_options():
    with one_tcp() as host:
        _listener, sk, peer = taken(host, tsval=50, scale=2)
        assert set(options_of(peer.synack)) == {"mss", "sackok", "ts", "wscale"}
        assert options_of(peer.synack)["ts"][1] == 50
        host.tcp.sendmsg(sk, b"hello")
        (seg,) = host.sent()
        assert seg.flags == ACK | PSH
        assert options_of(seg)["ts"][1] == 51


def test_simultaneous_open():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        host.tcp.connect_nonblock(sk, IP_B, 2049)
        (syn,) = host.sent()
        peer = Peer(host, 2049, syn.sport)
        answers = peer.send(SYN, ack=0, options=MSS_1460)
        assert state(sk) == "SYN_RECV"
        (synack,) = answers
        assert synack.flags == SYN | ACK
        peer.saw(synack)
        peer.send(SYN | ACK, seq=1000, options=MSS_1460)
        assert state(sk) == "ESTABLISHED"
        host.tcp.sendmsg(sk, b"both called")
        assert host.sent()[-1].data == b"both called"


def test_a_retransmission_has_a_new_stamp():
    with one_tcp() as host:
        _sk, _peer, segs = flying(host, 3, tsval=1)
        host.run(300)
        again = host.sent()[0]
        assert again.seq == segs[0].seq
        assert options_of(again)["ts"][0] > options_of(segs[0])["ts"][0]


def test_a_dsack_is_told_once():
    with one_tcp() as host:
        _sk, peer, _segs = flying(host, 1)
        peer.send(ACK, b"abc")
        (ack,) = peer.send(ACK, b"abc", seq=peer.seq - 3)
        assert options_of(ack)["sack"] == [(peer.seq - 3, peer.seq)]
        answers = peer.send(ACK, b"", seq=peer.seq - 1000) + peer.send(ACK, b"d")
        assert all("sack" not in options_of(seg) for seg in answers)


def test_blocks_of_the_peer_do_not_reach_our_header():
    with one_tcp() as host:
        sk, peer, segs = flying(host)
        peer.send(ACK, options=sack(block(segs, 1)))
        host.tcp.tcp_send_ack(sk)
        assert "sack" not in options_of(host.sent()[-1])
