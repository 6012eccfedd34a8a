"""Connecting: at once, then after 3, 6, 12 ... 300 seconds; sockets that are used again and sockets that are not."""

from __future__ import annotations

from itertools import pairwise

import pytest

from kemu.kernel.errno import EADDRINUSE, ENOMEM
from kemu.kernel.task import PF_MEMALLOC
from kemu_nfs.sunrpc.rpc_sysctl import RPC_DEF_MAX_RESVPORT as XS_MAX_RESVPORT
from kemu_nfs.sunrpc.rpc_sysctl import RPC_DEF_MIN_RESVPORT as XS_MIN_RESVPORT
from kemu_nfs.sunrpc.xs_connect import XS_TCP_INIT_REEST_TO
from nfs_ground import SECOND, mounted, nfs_ground


@pytest.fixture
def ground():
    with mounted() as g:
        yield g


def outage(ground, kind):
    """Take the server away, with a call on its way that notices; return when."""
    since = ground.sched.now
    ground.kernel.judge.hold("the server is away")
    getattr(ground.nfsd, kind)()
    ground.run_for(SECOND // 2)
    ground.spawn(lambda: ground.mount.getattr(ground.mount.root))
    return since


@pytest.mark.parametrize("kind", ["stop", "crash"])
def test_a_refused_connection_is_tried_again_after_ever_longer_times(ground, kind):
    since = outage(ground, kind)
    ground.run_for(1000 * SECOND)
    times = [at for at in ground.mount.xprt.connector.attempts if at > since]
    gaps = [round((after - before) / SECOND) for before, after in pairwise([since + SECOND // 2, *times])]
    # stop(): there is no old socket to wait for; the first SYN meets TIME_WAIT and is refused 3 s later, when it is sent again
    begin = [0, 3 + 3] if kind == "stop" else [3]
    assert gaps == [*begin, 6, 12, 24, 48, 96, 192, 300, 300]


def test_a_connection_that_comes_up_resets_the_wait(ground):
    outage(ground, "crash")
    ground.run_for(50 * SECOND)
    assert ground.mount.xprt.connector.reestablish_timeout > 20 * 250
    ground.nfsd.start()
    ground.wait_for_calls()
    assert ground.mount.xprt.connector.reestablish_timeout == XS_TCP_INIT_REEST_TO


def test_a_socket_that_was_reset_is_used_again_with_its_port(ground):
    sk, port = ground.mount.xprt.inet, ground.mount.xprt.inet.sport
    outage(ground, "crash")
    ground.run_for(2 * SECOND)
    ground.nfsd.start()
    ground.wait_for_calls()
    assert ground.mount.xprt.inet is sk
    assert sk.sport == port


def test_a_socket_that_the_server_closed_is_made_anew(ground):
    sk = ground.mount.xprt.inet
    ground.nfsd.stop()
    ground.run_for(SECOND)
    assert ground.mount.xprt.inet is not sk
    ground.nfsd.start()
    assert not isinstance(ground.mount.getattr(ground.mount.root), int)
    assert ground.mount.xprt.inet is not sk
    assert sk not in ground.stack.socks.live


def test_the_port_is_a_reserved_one(ground):
    assert XS_MIN_RESVPORT <= ground.mount.xprt.inet.sport <= XS_MAX_RESVPORT


def test_a_port_in_use_is_passed_over(ground):
    bind = ground.stack.tcp.bind
    asked = []

    def refuse(sk, addr, port):
        asked.append(port)
        return -EADDRINUSE if len(asked) < 4 else bind(sk, addr, port)

    ground.stack.tcp.bind = refuse
    ground.mount.xprt.connector.local_port = XS_MIN_RESVPORT + 1
    ground.mount.xprt.xprt_force_close()
    ground.run_for(SECOND)
    assert not isinstance(ground.mount.getattr(ground.mount.root), int)
    assert asked == [XS_MIN_RESVPORT + 1, XS_MIN_RESVPORT, XS_MAX_RESVPORT, XS_MAX_RESVPORT - 1]


def test_every_port_in_use_ends_the_try_and_the_socket_goes(ground):
    ground.stack.tcp.bind = lambda _sk, _addr, _port: -EADDRINUSE
    ground.mount.xprt.xprt_force_close()
    ground.run_for(SECOND)
    live = len(ground.stack.socks.live)
    assert ground.mount.getattr(ground.mount.root) == -5
    assert len(ground.stack.socks.live) == live


def test_a_mount_of_a_server_that_is_not_there_yet_waits_for_it():
    with nfs_ground() as ground:
        ground.nfsd.stop()
        ground.run_for(SECOND)
        done = []
        ground.spawn(lambda: done.append(ground.mount.mount()))
        ground.run_for(20 * SECOND)
        assert done == []
        ground.nfsd.start()
        ground.run_for(40 * SECOND)
        assert done == [0]


def test_a_cut_wire_is_no_lost_connection(ground):
    ground.wire.cut()
    ground.spawn(lambda: ground.mount.getattr(ground.mount.root))
    ground.run_for(200 * SECOND)
    assert ground.mount.xprt.connected
    ground.wire.mend()
    ground.wait_for_calls()
    assert ground.mount.xprt.established == 1
    assert ground.stats.reconnects == 0


@pytest.mark.parametrize("before", [0, PF_MEMALLOC])
@pytest.mark.parametrize("fails", [False, True])
def test_the_worker_leaves_its_flags_as_it_found_them(ground, before, fails):
    ground.mount.swapper.xs_swapper(1)
    rpciod = ground.mount.modules.rpc.rpciod.task
    rpciod.flags |= before
    seen = []
    connect = ground.mount.xprt.connector._connect

    def watched():
        seen.append(rpciod.flags & PF_MEMALLOC)
        return -ENOMEM if fails else connect()

    ground.mount.xprt.connector._connect = watched
    ground.mount.xprt.xprt_force_close()
    ground.run_for(SECOND)
    ground.spawn(lambda: ground.mount.getattr(ground.mount.root))
    ground.run_for(SECOND)
    assert seen[0] == PF_MEMALLOC
    assert rpciod.flags & PF_MEMALLOC == before


def test_an_idle_connection_that_was_closed_is_made_again_by_the_next_call(ground):
    ground.run_for(310 * SECOND)
    assert not ground.mount.xprt.connected
    assert not isinstance(ground.mount.getattr(ground.mount.root), int)
    assert ground.stats.reconnects == 1


def test_over_udp_small_calls_work_and_a_worker_makes_the_socket():
    with nfs_ground(proto="udp") as ground:
        xprt = ground.mount.xprt
        assert not xprt.connected
        task = ground.spawn(lambda: ground.mount.getattr(ground.mount.root) if ground.mount.root else None)
        ground.run_for(SECOND)
        assert task.exit_code == 0
        xprt.connector.xs_connect()
        ground.run_for(SECOND)
        assert xprt.connected
        assert xprt.inet.sk_allocation == 0x20
        xprt.close()
        assert xprt.inet is None
