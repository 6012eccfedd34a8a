"""The IPv4 host as one thing."""

from __future__ import annotations

import pytest

from kemu_net.ipv4.inet import inet_aton, inet_ntoa
from net_ground import IP_A, IP_B


def test_addresses_are_read_and_written():
    assert inet_aton("10.0.0.1") == IP_A
    assert inet_ntoa(IP_B) == "10.0.0.2"
    with pytest.raises(ValueError, match="no IPv4 address"):
        inet_aton("10.0.0.256")
