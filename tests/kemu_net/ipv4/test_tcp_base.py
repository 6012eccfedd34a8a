"""Ports, tables and states."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.kernel.errno import EADDRINUSE, EADDRNOTAVAIL, ENOMEM
from kemu.mm.gfp import GFP_KERNEL
from kemu_net.core.sock import Proto, Sock
from kemu_net.ipv4 import tcp_base
from tcp_ground import ACK, IP_B, JIFFY, RST, connected, one_tcp, state


def test_ports():
    with one_tcp() as host:
        tcp = host.tcp
        one, two, three = (tcp.sock_create() for _ in range(3))
        assert tcp.bind(one, 0, 700) == 0
        assert tcp.bind(two, 0, 700) == -EADDRINUSE
        one.sk_reuse = two.sk_reuse = True
        assert tcp.bind(two, 0, 700) == -EADDRINUSE  # the first did not agree when it was bound
        assert tcp.bind(two, 0, 701) == 0
        three.sk_reuse = True
        assert tcp.bind(three, 0, 701) == 0
        assert tcp.listen(two, 5) == 0
        assert tcp.listen(three, 5) == -EADDRINUSE
        for sk in (one, two, three):
            tcp.close(sk)
        host.assert_nothing_left()


def test_progress_is_a_connection_not_a_try():
    with one_tcp() as host:
        judge = host.kernel.judge
        host.run(1000)
        before = judge.last_ns
        sk = host.tcp.sock_create()
        host.tcp.connect_nonblock(sk, IP_B, 2049)
        host.run(200_000)  # given up by now
        assert state(sk) == "CLOSE"
        assert judge.last_ns == before
        host.sent()
        host.run(10)
        connected(host)
        assert judge.last_ns >= host.kernel.sched.now - JIFFY


def test_ports_are_found_until_all_are_taken(monkeypatch):
    monkeypatch.setattr(tcp_base, "SYSCTL_LOCAL_PORT_RANGE", (100, 103))
    with one_tcp() as host:
        socks = [host.tcp.sock_create() for _ in range(5)]
        assert [host.tcp.bind(sk, 0, 0) for sk in socks] == [0, 0, 0, 0, -EADDRNOTAVAIL]
        assert sorted(host.tcp.bhash) == [100, 101, 102, 103]
        for sk in socks:
            host.tcp.close(sk)
        host.assert_nothing_left()


def test_without_memory_for_a_bucket_there_is_no_port():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        real = host.slub.kmem_cache_alloc
        host.slub.kmem_cache_alloc = lambda cache, gfp: None if cache is host.tcp.bind_bucket_cache else real(cache, gfp)
        assert host.tcp.bind(sk, 0, 700) == -ENOMEM
        assert host.tcp.connect(sk, IP_B, 2049) == -ENOMEM
        assert host.tcp.listen(sk, 5) == -ENOMEM
        host.tcp.close(sk)
        host.assert_nothing_left()


def test_a_pending_timer_holds_its_socket():
    with one_tcp() as host:
        sk, _peer = connected(host)
        held = sk.sk_refcnt
        host.tcp.sk_reset_timer(sk, sk.delack_timer, host.jiffies + 100)
        host.tcp.sk_reset_timer(sk, sk.delack_timer, host.jiffies + 200)
        assert sk.sk_refcnt == held + 1
        host.tcp.sk_stop_timer(sk, sk.delack_timer)
        host.tcp.sk_stop_timer(sk, sk.delack_timer)
        assert sk.sk_refcnt == held


def test_a_timeout_has_a_limit():
    with one_tcp() as host:
        sk, _peer = connected(host)
        host.tcp.inet_csk_reset_xmit_timer(sk, 1, 10_000, 300)
        assert sk.icsk_timeout == host.jiffies + 300


def test_a_connection_that_lives_is_not_destroyed():
    with one_tcp() as host:
        sk, _peer = connected(host)
        with pytest.raises(KernelBug, match="a socket that lives"):
            host.tcp.inet_csk_destroy_sock(sk)


def test_the_end_of_an_orphan_frees_what_came_too_early():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.close(sk)
        peer.saw(host.sent()[0])
        sk.sk_shutdown = 0  # as if it still listened
        peer.send(ACK, b"ahead", seq=peer.seq + 100, ack=peer.ack - 1)
        assert len(sk.out_of_order_queue) == 1
        peer.send(RST | ACK)
        host.assert_nothing_left()


def spoil(sk, host, what):
    if what == "pages":
        host.tcp.prot.memory_allocated += 1
    elif what == "ehash":
        host.tcp.ehash[(1, 2, 3, 4)] = sk
    elif what == "bucket":
        sk.bind_bucket.owners.clear()
    elif what == "written":
        sk.sk_wmem_queued += 1
    elif what == "received":
        sk.sk_rmem_alloc += 1
    elif what == "order":
        sk.out_of_order_queue.reverse()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("pages", "pages are charged"),
        ("ehash", "a socket in ehash under"),
        ("bucket", "without owners"),
        ("written", "the write queues hold"),
        ("received", "the receive queues hold"),
        ("order", "out of order"),
    ],
)
def test_check_names_what_is_wrong(what, message):
    with one_tcp() as host:
        sk, peer = connected(host)
        for ahead in (200, 100):
            peer.send(ACK, b"x", seq=peer.seq + ahead)
        host.tcp.check()
        spoil(sk, host, what)
        with pytest.raises(KernelBug, match=message):
            host.tcp.check()


def test_sockets_of_other_protocols_are_not_tcps_to_check():
    with one_tcp() as host:
        proto = Proto("TEST", host.slub.kmem_cache_create("TEST", 704))
        sk = host.socks.sk_alloc(proto, GFP_KERNEL, Sock)
        sk.sk_wmem_queued = 4096
        host.tcp.check()
