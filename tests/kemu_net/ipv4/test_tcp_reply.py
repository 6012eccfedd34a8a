"""Segments that no connection stands behind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemu_net.ipv4.tcp_reply import tcp_segment
from tcp_ground import ACK, FIN, M32, MSS_1460, RST, SYN, Peer, Seg, one_tcp, segment


def test_what_has_no_socket_is_reset():
    with one_tcp() as host:
        host.receive(segment(5, 6, 100, 0, SYN))
        (reset,) = host.sent()
        assert (reset.flags, reset.seq, reset.ack, reset.sport, reset.dport) == (RST | ACK, 0, 101, 6, 5)
        host.receive(segment(5, 6, 100, 77, ACK, b"data"))
        (reset,) = host.sent()
        assert (reset.flags, reset.seq) == (RST, 77)
        host.receive(segment(5, 6, 100, 77, RST))
        assert host.sent() == []
        host.assert_nothing_left()


@given(
    st.integers(0, M32), st.integers(0, M32), st.integers(0, 65535), st.integers(0, M32), st.integers(0, M32), st.integers(0, 65535)
)
def test_a_segment_without_data_reads_back(saddr, daddr, port, seq, ack, window):
    for options in (b"", MSS_1460):
        seg = Seg(tcp_segment(saddr, daddr, port, 80, seq, ack, SYN | ACK, window, options), saddr, daddr, 0)
        assert seg.valid
        assert (seg.sport, seg.dport, seg.seq, seg.ack, seg.flags, seg.win) == (port, 80, seq, ack, SYN | ACK, window)
        assert (seg.options, seg.data) == (options, b"")


def test_a_reset_counts_syn_data_and_fin():
    with one_tcp() as host:
        host.receive(segment(5, 6, 100, 0, SYN | FIN, b"four"))
        (reset,) = host.sent()
        assert (reset.flags, reset.ack) == (RST | ACK, 106)


def test_without_memory_nothing_is_answered_and_nothing_leaks():
    with one_tcp() as host:
        real = host.skbs.alloc_skb
        host.skbs.alloc_skb = lambda size, gfp, flags=0: real(size, gfp, flags) if flags else None
        host.receive(segment(5, 6, 100, 0, SYN))
        assert host.sent() == []
        host.assert_nothing_left()


def test_without_memory_for_an_answer_the_syn_is_forgotten():
    with one_tcp() as host:
        listener = host.tcp.sock_create()
        host.tcp.bind(listener, 0, 80)
        host.tcp.listen(listener, 5)
        real = host.skbs.alloc_skb
        host.skbs.alloc_skb = lambda size, gfp, flags=0: real(size, gfp, flags) if flags else None
        peer = Peer(host, 999, 80)
        assert peer.send(SYN) == []
        assert not listener.syn_table
        assert host.in_use()["request_sock_TCP"] == 0
        del host.skbs.alloc_skb
        (synack,) = peer.send(SYN, seq=peer.isn)
        assert synack.flags == SYN | ACK


@pytest.mark.parametrize("patches", ["all", "none"])
def test_an_answer_is_charged_to_the_listener_until_it_has_left(patches):
    with one_tcp(patches=patches) as host:
        listener = host.tcp.sock_create()
        host.tcp.bind(listener, 0, 80)
        host.tcp.listen(listener, 5)
        host.inet.held = []
        Peer(host, 999, 80).send(SYN)
        (skb,) = host.inet.held
        assert listener.sk_wmem_alloc == skb.truesize
        host.skbs.kfree_skb(skb)
        assert listener.sk_wmem_alloc == 0
