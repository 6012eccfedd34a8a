"""Segments that no connection stands behind."""

from __future__ import annotations

from tcp_ground import ACK, RST, SYN, one_tcp, segment


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
