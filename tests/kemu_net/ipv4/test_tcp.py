"""The socket calls together: two hosts, and what belongs to no half."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import EADDRNOTAVAIL, EINVAL, ENOTCONN, EPIPE
from tcp_ground import ACK, FIN, IP_A, IP_B, PSH, SECOND, SYN, one_tcp, transfer, two_tcps


def refuse(host, name):
    """Let one cache be without memory."""
    real = host.slub.kmem_cache_alloc
    host.slub.kmem_cache_alloc = lambda cache, gfp: None if cache is host.slub.caches[name] else real(cache, gfp)


def test_calls_on_an_unconnected_socket():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        assert host.tcp.sendmsg(sk, b"x") == -EPIPE
        assert host.tcp.recvmsg(sk, 5) == -ENOTCONN
        assert host.tcp.shutdown(sk) == -ENOTCONN
        host.tcp.close(sk)
        host.assert_nothing_left()


def test_two_hosts():
    with two_tcps() as (world, a, b, link):
        data = bytes(range(256)) * 1000
        got, results = transfer(world, a, b, data)
        assert got == data
        assert results["connect"] == 0 and results["end"] == b""
        assert a.stats.retransmits == b.stats.retransmits == 0
        world.run(for_ns=70 * SECOND)
        a.assert_nothing_left()
        b.assert_nothing_left()
        assert all(seg.flags & ~(FIN | SYN | PSH | ACK) == 0 for seg in link.log)


@pytest.mark.parametrize("mtu", [576, 1500, 9000])
def test_any_mtu(mtu):
    with two_tcps(mtu=mtu) as (world, a, b, _link):
        data = bytes(range(251)) * 300
        got, _results = transfer(world, a, b, data, chunk=30_000)
        assert got == data


def test_two_cpus():
    with two_tcps(ncpus=2) as (world, a, b, _link):
        data = bytes(range(251)) * 500
        got, _results = transfer(world, a, b, data)
        assert got == data
        a.check()
        b.check()


def test_without_memory_for_an_inode_there_is_no_socket():
    with one_tcp() as host:
        refuse(host, "sock_inode_cache")
        assert host.tcp.sock_create() is None
        host.assert_nothing_left()


def test_only_own_addresses_can_be_bound_and_once():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        assert host.tcp.bind(sk, IP_B, 80) == -EADDRNOTAVAIL
        assert host.tcp.bind(sk, IP_A, 80) == 0
        assert host.tcp.bind(sk, IP_A, 81) == -EINVAL
