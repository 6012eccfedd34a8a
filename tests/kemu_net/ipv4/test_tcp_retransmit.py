"""Sending again: cut, joined, trimmed, stripped to the FIN; and a path that turns out narrower."""

from __future__ import annotations

import pytest

from kemu.mm.gfp import GFP_KERNEL
from kemu_net.ipv4.tcp_sock import TCP_CA_LOSS
from sack_ground import assert_marks_agree, flying
from tcp_ground import ACK, FIN, M32, connected, one_tcp


def _small(host, count, size=100):
    """Put short segments in flight; give (socket, peer, segments)."""
    sk, peer = connected(host, fast_rto=True)
    sk.nonagle = 1
    sk.snd_cwnd = count
    for n in range(count):
        host.tcp.sendmsg(sk, bytes([n]) * size)
    return sk, peer, host.sent()


def test_short_neighbours_are_joined():
    with one_tcp() as host:
        sk, _peer, segs = _small(host, 4)
        host.run(250)
        (again,) = host.sent()
        assert again.data == segs[0].data + segs[1].data
        assert len(sk.sk_rtx_queue) == 3
        assert_marks_agree(sk)
        host.check()


def test_joining_has_its_switch():
    with one_tcp() as host:
        host.tcp.sysctl_tcp_retrans_collapse = 0
        _sk, _peer, segs = _small(host, 4)
        host.run(250)
        (again,) = host.sent()
        assert again.data == segs[0].data


def test_what_the_device_still_holds_is_not_joined():
    with one_tcp() as host:
        sk, _peer = connected(host, fast_rto=True)
        sk.nonagle, sk.snd_cwnd = 1, 10
        host.tcp.sendmsg(sk, b"first")
        host.inet.held = []
        host.tcp.sendmsg(sk, b"second")
        host.tcp.sendmsg(sk, b"third")
        host.sent()
        host.run(250)
        assert [seg.data for seg in host.sent()] == [b"first"]
        while host.inet.held:
            host.skbs.kfree_skb(host.inet.held.pop())
        host.inet.held = None
        host.tcp.abort(sk)
        host.assert_nothing_left()


def test_joined_segments_are_acknowledged_and_freed():
    with one_tcp() as host:
        sk, peer, segs = _small(host, 3)
        host.run(250)
        peer.saw(segs[-1])
        peer.send(ACK)
        assert sk.sk_wmem_queued == 0
        assert not sk.sk_rtx_queue
        host.tcp.abort(sk)
        host.assert_nothing_left()


def test_the_acknowledged_head_of_a_segment_is_not_sent_again():
    with one_tcp() as host:
        sk, peer = connected(host, fast_rto=True)
        host.tcp.sendmsg(sk, bytes(range(200)))
        (seg,) = host.sent()
        peer.ack = seg.seq + 50
        peer.send(ACK)
        truesize = sk.sk_rtx_queue[0].truesize
        host.run(250)
        (again,) = host.sent()
        assert again.seq == seg.seq + 50 & M32
        assert again.data == bytes(range(50, 200))
        assert sk.sk_rtx_queue[0].truesize == truesize - 50
        host.check()


@pytest.mark.parametrize("acked", [3, 6, 100, 1000])
def test_the_head_of_pages_is_trimmed_too(acked):
    with one_tcp() as host:
        sk, peer = connected(host, fast_rto=True)
        page = host.page_alloc.alloc_pages(GFP_KERNEL)
        page.contents = bytes(range(256)) * 16
        host.tcp.sendmsg(sk, b"header", more=True)
        host.tcp.sendpage(sk, page, 0, 500, more=True)
        host.tcp.sendpage(sk, page, 1000, 900)
        (seg,) = host.sent()
        assert len(seg.data) == 1406
        peer.ack = seg.seq + acked
        peer.send(ACK)
        host.run(250)
        (again,) = host.sent()
        assert again.data == seg.data[acked:]
        host.check()
        peer.saw(seg)
        peer.send(ACK)
        assert page.count == 1
        host.page_alloc.put_page(page)
        host.tcp.abort(sk)
        host.assert_nothing_left()


def test_a_fin_with_acknowledged_data_goes_alone():
    with one_tcp() as host:
        sk, peer = connected(host, fast_rto=True)
        host.tcp.sendmsg(sk, b"last words", more=True)
        host.tcp.shutdown(sk)
        (seg,) = host.sent()
        assert seg.flags & FIN
        peer.ack = seg.seq + len(seg.data)
        peer.send(ACK)
        host.run(250)
        (again,) = host.sent()
        assert again.flags & FIN
        assert again.data == b""
        assert again.seq == seg.seq + len(seg.data) & M32


def test_nothing_is_sent_again_beyond_a_window_that_shrank():
    with one_tcp() as host:
        sk, peer, segs = flying(host, 4)
        peer.send(ACK, win=1000)
        host.run(3100)
        assert {seg.seq for seg in host.sent()} == {segs[0].seq}
        host.tcp.tcp_xmit_retransmit_queue(sk)
        assert host.sent() == []


# a narrower path


def _narrow(host, sk, mtu):
    """Let the path become narrower, as tcp_pmtu_discovery() does."""
    host.tcp.tcp_sync_mss(sk, mtu)
    host.tcp.tcp_simple_retransmit(sk)


def test_a_narrower_path_sends_what_was_too_long_at_once():
    with one_tcp() as host:
        sk, peer, segs = flying(host, 4)
        window = sk.snd_cwnd = 12
        _narrow(host, sk, 600)
        assert sk.mss_cache == 560
        assert sk.ca_state == TCP_CA_LOSS
        assert sk.snd_cwnd == window  # nothing was congested
        again = host.sent()
        assert all(len(seg.data) <= 560 for seg in again)
        assert b"".join(seg.data for seg in again) == bytes(4 * 1460)
        assert_marks_agree(sk)
        host.check()
        peer.saw(segs[-1])
        peer.send(ACK)
        assert not sk.sk_rtx_queue
        host.tcp.sendmsg(sk, bytes(1000))
        assert [len(seg.data) for seg in host.sent()] == [560, 440]


def test_what_waits_is_cut_as_it_is_sent():
    with one_tcp() as host:
        sk, peer, segs = flying(host, 1)
        host.tcp.sendmsg(sk, bytes(1460))
        _narrow(host, sk, 1000)
        host.sent()
        sk.snd_cwnd = 10
        peer.saw(segs[0])
        news = peer.send(ACK)
        assert [len(seg.data) for seg in news] == [960, 500]
        host.check()


def test_pages_are_cut_at_any_place():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.sk_sndbuf, sk.snd_cwnd = 1 << 20, 4
        page = host.page_alloc.alloc_pages(GFP_KERNEL)
        page.contents = bytes(range(256)) * 16
        host.tcp.sendmsg(sk, b"head", more=True)
        host.tcp.sendpage(sk, page, 0, 4096)
        segs = host.sent()
        sk.snd_cwnd = 20
        _narrow(host, sk, 576)
        again = host.sent()
        assert b"".join(seg.data for seg in again) == b"head" + page.contents
        host.check()
        peer.saw(segs[-1])
        peer.send(ACK)
        assert page.count == 1
        host.page_alloc.put_page(page)
