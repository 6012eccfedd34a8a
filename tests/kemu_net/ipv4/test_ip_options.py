"""IP options of received packets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frag_ground import fragment, listen
from kemu_net.ipv4.ip_options import IpOptions, ip_options_compile
from net_ground import IP_A, IP_B, two_hosts

OWN = IP_A.to_bytes(4, "big")
NOW = 0x01020304


def compiled(options: bytes):
    options = options.ljust(-(-len(options) // 4) * 4, b"\0")
    return ip_options_compile(bytes(20) + options, IP_A, NOW)


def after(options: bytes) -> bytes:
    opt = compiled(options)
    assert isinstance(opt, IpOptions), opt
    return bytes(opt.header[20:])


@pytest.mark.parametrize(
    ("options", "octet"),
    [
        (b"\x07\x01\x04\0", 20),  # a length below 2
        (b"\x07\x0b\x04\0", 20),  # longer than the header
        (b"\1\1\1\x07", 23),  # cut off behind its kind
        (b"\x07\x02\1\0", 21),  # record route: too short
        (b"\x07\x07\x03\0\0\0\0\0", 22),  # its pointer before the first slot
        (b"\x07\x07\x05\0\0\0\0\0", 22),  # no room for an address behind it
        (b"\x07\x03\x04\x07\x03\x04\0\0", 23),  # a second one
        (b"\x83\x02\0\0", 21),  # source route: too short
        (b"\x83\x03\x03\0", 22),
        (b"\x83\x03\x04\x89\x03\x04\0\0", 23),  # two of them
        (b"\x44\x03\x05\0", 21),  # timestamp: too short
        (b"\x44\x08\x04\0\0\0\0\0", 22),
        (b"\x44\x08\x06\0\0\0\0\0", 22),
        (b"\x44\x08\x05\x01\0\0\0\0", 22),  # no room for address and stamp
        (b"\x44\x04\x05\xf0", 23),  # the counter of hosts without room would overflow
        (b"\x44\x04\x05\0\x44\x04\x05\0", 24),
        (b"\x94\x03\0\0", 21),  # router alert: too short
    ],
)
def test_what_is_wrong_is_named_by_its_octet(options, octet):
    assert compiled(options) == octet


def test_record_route_gets_this_host():
    assert after(b"\x07\x0b\x04" + bytes(8) + b"\0") == b"\x07\x0b\x08" + OWN + bytes(4) + b"\0"


def test_a_full_record_stays():
    full = b"\x07\x07\x08\1\2\3\4\0"
    assert after(full) == full


def test_a_timestamp_is_filled_in():
    assert after(b"\x44\x08\x05\x00" + bytes(4)) == b"\x44\x08\x09\x00\1\2\3\4"


def test_a_timestamp_with_address():
    assert after(b"\x44\x0c\x05\x01" + bytes(8)) == b"\x44\x0c\x0d\x01" + OWN + b"\1\2\3\4"


def test_a_slot_for_another_host_stays():
    theirs = b"\x44\x0c\x05\x03" + IP_B.to_bytes(4, "big") + bytes(4)
    assert after(theirs) == theirs
    assert after(b"\x44\x0c\x05\x03" + OWN + bytes(4))[2] == 13


def test_a_full_timestamp_counts_whom_it_missed():
    assert after(b"\x44\x08\x09\x10" + bytes(4)) == b"\x44\x08\x09\x20" + bytes(4)


def test_an_unknown_kind_of_stamp_stays():
    strange = b"\x44\x08\x05\x07" + bytes(4)
    assert after(strange) == strange


def test_options_are_remembered_by_place():
    opt = compiled(b"\1\x83\x07\x04\1\2\3\4")
    assert (opt.srr, opt.is_strictroute, opt.rr, opt.ts) == (21, False, 0, 0)
    assert compiled(b"\x89\x07\x04\1\2\3\4\0").is_strictroute
    assert compiled(b"\x94\x04\0\0").router_alert


def test_what_follows_the_end_is_blanked():
    assert after(b"\1\0\7\7") == b"\1\0\0\0"


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10).flatmap(lambda words: st.binary(min_size=4 * words, max_size=4 * words)))
def test_no_options_raise_and_a_fault_lies_in_them(options):
    opt = compiled(options)
    if isinstance(opt, int):
        assert 20 <= opt < 20 + len(options)
    else:
        assert len(opt.header) == 20 + len(options)


@pytest.fixture
def net():
    with two_hosts() as net:
        net.seen = listen(net.a)
        net.errors = listen(net.b, 1)
        yield net


def arrives(net, options: bytes) -> None:
    net.flood(fragment(0, b"data", more=False, options=options))
    net.run(10)


def test_a_packet_with_options_arrives(net):
    arrives(net, b"\1\1\1\0")
    assert net.seen == [b"data"]


def test_a_malformed_one_is_answered_with_a_parameter_problem(net):
    arrives(net, b"\x07\x01\x04\0")
    assert net.seen == []
    assert net.a.stats.ignored["ip: options"] == 1
    (error,) = net.errors
    assert (error[:2], error[4]) == (b"\x0c\0", 20)


@pytest.mark.parametrize("kind", [0x83, 0x89])
def test_a_source_route_is_refused(net, kind):
    arrives(net, bytes((kind, 7, 4)) + IP_B.to_bytes(4, "big") + b"\0")
    assert net.seen == []
    assert net.a.stats.ignored["ip: source route"] == 1


def test_a_recorded_route_stands_in_the_header(net):
    headers = []
    net.a.inet.inet_add_protocol(253, lambda skb: (headers.append(skb.buf[skb.nh : skb.h]), net.a.skbs.kfree_skb(skb)))
    arrives(net, b"\x07\x07\x04" + bytes(5))
    assert headers[0][20:] == b"\x07\x07\x08" + OWN + b"\0"
