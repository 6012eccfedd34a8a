"""The IPv4 host as one thing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemu_net.ipv4.inet import IPPROTO_UDP, inet_aton, inet_ntoa
from net_ground import IP_A, IP_B, one_host


def test_addresses_are_read_and_written():
    assert inet_aton("10.0.0.1") == IP_A
    assert inet_ntoa(IP_B) == "10.0.0.2"
    with pytest.raises(ValueError, match="no IPv4 address"):
        inet_aton("10.0.0.256")


@pytest.fixture
def host():
    with one_host() as host:
        yield host


@given(st.integers(0, 0xFFFFFFFF))
def test_reading_undoes_writing(addr):
    assert inet_aton(inet_ntoa(addr)) == addr


@pytest.mark.parametrize("text", ["10.0.0", "10.0.0.1.2", "10.0.0.-1", "", "a.b.c.d"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError):
        inet_aton(text)


def test_a_socket_can_be_bound_to_own_addresses_only(host):
    local = [addr for addr in (0, IP_A, IP_B, 0x7F000001, IP_A | 0xFF) if host.inet.is_local(addr)]
    assert local == [0, IP_A, 0x7F000001]


def test_the_parts_know_one_address(host):
    assert host.inet.arp.ip == host.inet.route.ip == host.inet.ip == IP_A


def test_a_new_host_speaks_icmp_and_udp(host):
    assert sorted(host.inet.input.protocols) == [1, IPPROTO_UDP]
