"""Who vouches for a checksum, and what happens when nobody does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemu.kernel.errno import EAGAIN
from kemu_net.core.checksum import csum_partial
from kemu_net.core.skb_checksum import skb_checksum, skb_checksum_complete
from kemu_net.core.skb_trim import pskb_trim
from kemu_net.core.skbuff import CHECKSUM_COMPLETE, CHECKSUM_NONE, CHECKSUM_UNNECESSARY
from net_ground import filled, one_host, two_hosts, udp_frame, with_page


@given(linear=st.binary(max_size=60), page=st.binary(min_size=1, max_size=60), offset=st.integers(0, 20))
def test_a_sum_covers_pages(linear, page, offset):
    with one_host() as host:
        skb, _page = with_page(host, linear, page)
        assert skb_checksum(skb, offset) == csum_partial((linear + page)[offset:])
        host.skbs.kfree_skb(skb)


def heard(net):
    kinds = []
    net.a.dev.ptype_all.append(lambda skb: (kinds.append(skb.ip_summed), net.a.skbs.kfree_skb(skb)))
    return kinds


@pytest.mark.parametrize(
    ("rx_checksum", "kind"), [(True, CHECKSUM_UNNECESSARY), (False, CHECKSUM_NONE), ("complete", CHECKSUM_COMPLETE)]
)
def test_a_card_says_what_it_knows(rx_checksum, kind):
    with two_hosts(rx_checksum=rx_checksum) as net:
        net.greet()
        kinds = heard(net)
        sk = net.a.socket(7)
        net.flood(udp_frame())
        net.run(2)
        assert kinds == [kind]
        assert net.a.udp.recvfrom(sk, nonblock=True)[0] == b"x" * 100
        net.a.udp.close(sk)


def test_a_card_that_sums_up_says_nothing_of_padded_frames():
    with two_hosts(rx_checksum="complete") as net:
        kinds = heard(net)
        net.flood(udp_frame(b"x"))
        net.run(2)
        assert kinds == [CHECKSUM_NONE]


@pytest.mark.parametrize("rx_checksum", [True, False, "complete"])
def test_a_wrong_checksum_is_never_believed(rx_checksum):
    with two_hosts(rx_checksum=rx_checksum) as net:
        net.greet()
        sk = net.a.socket(7)
        frame = bytearray(udp_frame())
        frame[-1] ^= 1
        net.flood(bytes(frame))
        net.run(2)
        assert net.a.udp.recvfrom(sk, nonblock=True) == -EAGAIN
        net.a.udp.close(sk)


def test_a_card_that_sums_wrongly_is_not_believed_either():
    with one_host() as host:
        skb = filled(host.skbs, udp_frame()[34:])
        skb.saddr, skb.daddr = 0x0A000002, 0x0A000001
        skb.ip_summed = CHECKSUM_COMPLETE
        skb.csum = 77
        assert skb_checksum_complete(skb, 17)
        assert skb.ip_summed == CHECKSUM_UNNECESSARY
        host.skbs.kfree_skb(skb)


def test_who_cuts_a_packet_forgets_its_sum():
    with one_host() as host:
        skb = filled(host.skbs, b"x" * 100)
        skb.ip_summed = CHECKSUM_COMPLETE
        assert pskb_trim(host.skbs, skb, 50)
        assert skb.ip_summed == CHECKSUM_NONE
        host.skbs.kfree_skb(skb)
