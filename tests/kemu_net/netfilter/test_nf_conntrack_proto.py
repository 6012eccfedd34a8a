"""Protocols as connection tracking sees them: tuples, TCP's states."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu_net.netfilter import nf_conntrack_proto as proto
from net_ground import IP_A, IP_B, filled, ip_packet, one_host

EVENTS = ("syn", "synack", "fin", "ack", "rst", "none")


def walk(*steps):
    """Take steps like ">syn" and "<ack" from the beginning."""
    state = proto.NONE
    for step in steps:
        found = proto.tcp_next(int(step[0] == "<"), step[1:], state)
        if found >= 0:
            state = found
    return state


@pytest.mark.parametrize(
    ("steps", "state"),
    [
        ((">syn",), proto.SYN_SENT),
        ((">syn", "<synack"), proto.SYN_RECV),
        ((">syn", "<synack", ">ack"), proto.ESTABLISHED),
        ((">syn", "<synack", ">ack", ">fin"), proto.FIN_WAIT),
        ((">syn", "<synack", ">ack", ">fin", "<ack"), proto.CLOSE_WAIT),
        ((">syn", "<synack", ">ack", ">fin", "<ack", "<fin"), proto.LAST_ACK),
        ((">syn", "<synack", ">ack", ">fin", "<ack", "<fin", ">ack"), proto.TIME_WAIT),
        ((">syn", "<rst"), proto.CLOSE),
        ((">ack",), proto.ESTABLISHED),  # picked up in the middle
        ((">syn", "<syn"), proto.SYN_SENT),
    ],
)
def test_a_connection_takes_its_steps(steps, state):
    assert walk(*steps) == state


@pytest.mark.parametrize(
    ("flags", "event"), [(0x02, "syn"), (0x12, "synack"), (0x11, "fin"), (0x10, "ack"), (0x18, "ack"), (0x14, "rst"), (0, "none")]
)
def test_one_flag_counts(flags, event):
    assert proto.tcp_event(flags) == event


@pytest.mark.parametrize("event", ["synack", "fin", "rst", "none"])
def test_nothing_else_begins_a_connection(event):
    assert proto.tcp_next(0, event, proto.NONE) == proto.INVALID


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1), st.sampled_from(EVENTS), st.integers(proto.NONE, proto.CLOSE))
def test_every_step_leads_somewhere(direction, event, state):
    found = proto.tcp_next(direction, event, state)
    assert found in (proto.IGNORE, proto.INVALID) or found in proto.TCP_TIMEOUTS


@settings(max_examples=50, deadline=None)
@given(st.tuples(*[st.integers(0, 2**32 - 1)] * 2, st.sampled_from((6, 17, 47)), *[st.integers(0, 65535)] * 2))
def test_the_answer_of_the_answer_is_the_question(tuple_):
    assert proto.invert(proto.invert(tuple_)) == tuple_


@pytest.mark.parametrize(
    ("number", "payload", "rest"),
    [
        (17, b"\0\x07\0\x09\0\x08\0\0", (7, 9)),
        (6, b"\0\x07\0\x09" + bytes(16), (7, 9)),
        (1, b"\x08\0\0\0\x12\x34\0\x01", (0x1234, 0x0800)),
        (47, b"anything", (0, 0)),
    ],
)
def test_a_packet_has_a_tuple(number, payload, rest):
    with one_host() as host:
        skb = filled(host.skbs, ip_packet(number, payload))
        assert proto.tuple_of(skb) == (IP_B, IP_A, number, *rest)
        host.skbs.kfree_skb(skb)


@pytest.mark.parametrize(("number", "payload"), [(17, b"\0\x07"), (6, b""), (1, b"\x03\0\0\0\0\0\0\0"), (1, b"\x08")])
def test_a_short_packet_or_an_icmp_error_has_none(number, payload):
    with one_host() as host:
        skb = filled(host.skbs, ip_packet(number, payload))
        assert proto.tuple_of(skb) is None
        host.skbs.kfree_skb(skb)
