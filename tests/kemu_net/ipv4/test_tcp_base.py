"""Ports, tables and states."""

from __future__ import annotations

from kemu.kernel.errno import EADDRINUSE
from tcp_ground import IP_B, JIFFY, connected, one_tcp, state


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
