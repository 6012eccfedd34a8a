"""A connection as data."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kemu.kernel.timer import HZ
from kemu_net.ipv4.tcp_sock import MASK, SIGN, SIZEOF_TCP_SOCK, TCP_MIN_MSS, TCP_RTO_MIN, TcpSock, ends
from kemu_net.ipv4.tcp_states import TCP_CLOSE
from tcp_ground import IP_A, IP_B, connected, one_tcp


@given(st.integers(0, MASK), st.integers(1, SIGN - 1))
def test_half_of_all_numbers_come_after_one(a, distance):
    b = a + distance & MASK
    assert (a - b) & SIGN
    assert not (b - a) & SIGN
    assert not (a - a) & SIGN


def test_a_new_socket_has_no_connection_and_no_queue():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        assert (sk.sk_state, ends(sk)) == (TCP_CLOSE, (0, 0, 0, 0))
        queues = (sk.sk_write_queue, sk.sk_rtx_queue, sk.sk_receive_queue, sk.out_of_order_queue, sk.accept_queue, sk.syn_table)
        assert not any(queues)
        assert sk.mss_cache >= TCP_MIN_MSS
        assert sk.rto == 3 * HZ > TCP_RTO_MIN


def test_every_slot_has_a_value_from_the_start():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        assert [name for name in TcpSock.__slots__ if not hasattr(sk, name)] == []


def test_no_socket_shares_a_queue_with_another():
    with one_tcp() as host:
        one, other = host.tcp.sock_create(), host.tcp.sock_create()
        for name in ("sk_write_queue", "sk_rtx_queue", "out_of_order_queue", "syn_table", "accept_queue"):
            assert getattr(one, name) is not getattr(other, name)


def test_a_socket_is_an_object_of_1600_bytes():
    with one_tcp() as host:
        cache = host.slub.caches["TCP"]
        assert cache.size >= SIZEOF_TCP_SOCK
        before = host.slub.objects_in_use(cache)
        host.tcp.sock_create()
        assert host.slub.objects_in_use(cache) == before + 1


def test_the_key_of_a_connection_is_what_the_receive_path_looks_for():
    with one_tcp() as host:
        sk, peer = connected(host)
        assert ends(sk) == (IP_A, peer.dport, IP_B, peer.sport)
        assert host.tcp.ehash[ends(sk)] is sk
