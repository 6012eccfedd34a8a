import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.kernel.errno import ENOMEM
from kemu_net.core.net_reserve import TX_RESERVE_PAGES
from tcp_ground import one_tcp


def _tree(host):
    nets = host.net_reserves
    return nets.net_reserve, nets.net_tx_reserve, nets.net_tx_pages, nets.net_rx_reserve, nets.net_skb_reserve


def test_tx_reserve_is_one_bounced_request_doubled():
    assert TX_RESERVE_PAGES == 32


def test_the_tree():
    with one_tcp() as host:
        top, tx, tx_pages, rx, skb = _tree(host)
        assert top.parent is None
        assert (tx.parent, rx.parent) == (top, top)
        assert (tx_pages.parent, skb.parent) == (tx, rx)
        assert [node.name for node in _tree(host)] == [
            "total network reserve",
            "network TX reserve",
            "protocol TX pages",
            "network RX reserve",
            "SKB data reserve",
        ]


@pytest.mark.keeps_skbs("charges by hand")
def test_charges_go_to_the_skb_data_reserve_in_powers_of_two():
    with one_tcp() as host:
        nets = host.net_reserves
        host.reserves.mem_reserve_kmalloc_set(nets.net_skb_reserve, 262144)
        assert nets.rx_emergency_get(1600) == 1
        assert nets.net_skb_reserve.usage == 2048
        nets.rx_emergency_put(1100)
        assert nets.net_skb_reserve.usage == 0
        assert sum(nets.rx_emergency_get(2048) for _ in range(200)) == 127
        assert nets.rx_emergency_get_overcommit(2048) == 1
        assert nets.peak_usage == 128 * 2048


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 4096), max_size=40))
def test_usage_returns_to_zero(sizes):
    with one_tcp() as host:
        nets = host.net_reserves
        host.reserves.mem_reserve_kmalloc_set(nets.net_skb_reserve, 65536)
        charged = [size for size in sizes if nets.rx_emergency_get(size)]
        assert nets.net_skb_reserve.usage < 65536
        for size in charged:
            nets.rx_emergency_put(size)
        assert nets.net_skb_reserve.usage == 0


def test_connected_exactly_while_somebody_carries_swap():
    with one_tcp() as host:
        nets = host.net_reserves
        assert nets.sk_adjust_memalloc(1, 49) == 0
        nets.check()
        assert nets.net_reserve.parent is host.reserves.root
        assert nets.sk_adjust_memalloc(1, 0) == 0
        assert nets.sk_memalloc_socks() == 2
        assert nets.sk_adjust_memalloc(-1, 0) == 0
        assert nets.net_reserve.parent is host.reserves.root
        assert nets.sk_adjust_memalloc(-1, -49) == 0
        nets.check()
        assert nets.net_reserve.parent is None
        assert nets.net_tx_pages.pages == 0


def test_a_refused_connection_changes_nothing():
    with one_tcp() as host:
        nets = host.net_reserves
        host.reserves.mem_reserve_connect = lambda *_args: -ENOMEM
        assert nets.sk_adjust_memalloc(1, 49) == -ENOMEM
        assert (nets.memalloc_socks, nets.net_tx_pages.pages) == (0, 0)
        nets.check()


def test_check_finds_a_tree_that_nobody_connected():
    with one_tcp() as host:
        host.net_reserves.check()
        host.net_reserves.memalloc_socks += 1
        with pytest.raises(KernelBug):
            host.net_reserves.check()


@pytest.mark.keeps_skbs("charges by hand")
def test_check_finds_a_charge_given_back_twice():
    with one_tcp() as host:
        host.net_reserves.net_skb_reserve.usage = -64
        with pytest.raises(KernelBug, match="usage -64"):
            host.net_reserves.check()
