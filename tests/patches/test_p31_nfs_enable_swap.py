"""Patch 31: swapon of an NFS file, and a connection that comes back while memory is short (b31a b31b b31c)."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.kernel.errno import EINVAL, ENOMEM
from kemu.kernel.task import PF_MEMALLOC
from kemu.mm.gfp import _GFP_MEMALLOC, GFP_NOFS, GFP_NOIO, GFP_NOWAIT
from kemu.mm.hog import AtomicHog
from kemu.mm.page import PG_writeback
from kemu_net.core.sock import SOCK_MEMALLOC
from kemu_nfs.sunrpc.rpc_task import RPC_TASK_SWAPPER
from nfs_ground import SECOND, mounted, nfs_ground, page_bytes


@pytest.fixture
def ground():
    with mounted() as g:
        yield g


@pytest.fixture
def faithful():
    with mounted(fixes="none") as g:
        yield g


def state(ground):
    reserves = ground.machine.reserves
    net = ground.stack.net_reserves
    return net.memalloc_socks, reserves.root.pages, net.net_tx_pages.pages, ground.machine.page_alloc.var_free_kbytes


def test_off_swapon_says_einval():
    with mounted(patches="all,-31") as ground:
        file = ground.mount.make_swapfile("swap", 100)
        assert ground.mount.ops.swapfile is None
        assert ground.machine.swapfile.swapon(file) == -EINVAL
        assert ground.mount.swapper.xs_swapper(1) == -EINVAL


def test_on_and_off_leaves_everything_as_it_was(ground):
    before = state(ground)
    file = ground.swapon()
    assert state(ground) != before
    assert ground.machine.swapfile.swapoff(file) == 0
    assert state(ground) == before
    assert ground.machine.swapfile.swapon(file) == 0
    assert ground.machine.swapfile.swapoff(file) == 0
    assert state(ground) == before


def test_the_transmit_reserve_is_49_pages_on_one_cpu(ground):
    assert ground.mount.swapper.rpc_reserve_pages() == 49
    ground.swapon()
    assert ground.stack.net_reserves.net_tx_pages.pages == 49


def test_two_references_one_for_the_socket_one_for_the_time_without_one(ground):
    ground.swapon()
    assert ground.stack.net_reserves.memalloc_socks == 2


def test_the_socket_allocates_with_memalloc_while_it_carries_swap(ground):
    sk = ground.mount.xprt.inet
    assert sk.sk_allocation == 0x20
    file = ground.swapon()
    assert sk.sk_allocation == 0x2020
    ground.machine.swapfile.swapoff(file)
    assert sk.sk_allocation == 0x20


def test_every_task_of_the_mount_is_a_swapper_meanwhile(ground):
    flags = []
    init = ground.mount.client.rpc_init_task

    def noted(*args):
        task = init(*args)
        flags.append(task.tk_flags & RPC_TASK_SWAPPER)
        return task

    ground.mount.client.rpc_init_task = noted
    ground.mount.getattr(ground.mount.root)
    file = ground.swapon()
    del flags[1:]
    ground.mount.getattr(ground.mount.root)
    ground.machine.swapfile.swapoff(file)
    ground.mount.getattr(ground.mount.root)
    assert flags == [0, RPC_TASK_SWAPPER, 0]


def test_without_memory_for_the_reserve_swapon_says_enomem(ground):
    file = ground.mount.make_swapfile("swap", 100)
    before = state(ground)
    ground.stack.net_reserves.sk_adjust_memalloc = lambda _socks, _pages: -ENOMEM
    assert ground.machine.swapfile.swapon(file) == -ENOMEM
    assert ground.mount.xprt.swapper == 0
    assert state(ground) == before


def gfp_of(_ground, pool, call):
    seen = []
    alloc = pool.alloc
    pool.alloc = lambda gfp: seen.append(gfp) or alloc(gfp)
    call()
    pool.alloc = alloc
    return seen[-1]


def test_buffers_are_asked_for_without_waiting_and_with_the_reserve_for_swap(ground):
    rpc = ground.mount.modules.rpc

    def call():
        ground.mount.getattr(ground.mount.root)

    assert gfp_of(ground, rpc.buffer_mempool, call) == GFP_NOWAIT
    ground.swapon()
    assert gfp_of(ground, rpc.buffer_mempool, call) == GFP_NOWAIT | _GFP_MEMALLOC


@pytest.mark.parametrize(("patches", "gfp"), [("all", GFP_NOIO), ("all,-31", GFP_NOFS)])
def test_tasks_are_asked_for_without_starting_io(patches, gfp):
    with mounted(patches=patches) as ground:
        assert gfp_of(ground, ground.mount.modules.rpc.task_mempool, lambda: ground.mount.getattr(ground.mount.root)) == gfp


def reconnect(ground, _watch=None):
    """Let the server crash and come back with a WRITE on its way; return what ``watch`` saw."""
    ground.swapon()
    ground.process()
    ground.nfsd.crash()
    ground.run_for(SECOND)
    ground.write(0, page_bytes(0))
    ground.pageout(0)
    ground.run_for(SECOND)
    ground.nfsd.start()
    ground.wait_for_calls()


@pytest.mark.parametrize("way", ["crash", "stop"])
def test_during_a_reconnect_the_reserve_stays_connected_and_the_flag_is_set_before_the_syn(ground, way):
    ground.swapon()
    ground.process()
    socks, syns = [], []
    tcp, net = ground.stack.tcp, ground.stack.net_reserves
    connect = tcp.connect_nonblock
    clear = net.sk_adjust_memalloc

    def watched_connect(sk, daddr, dport):
        syns.append((sk.sk_flags & SOCK_MEMALLOC, sk.sk_allocation, ground.sched.current.flags & PF_MEMALLOC))
        return connect(sk, daddr, dport)

    def watched_adjust(n, pages):
        result = clear(n, pages)
        socks.append(net.memalloc_socks)
        return result

    tcp.connect_nonblock = watched_connect
    net.sk_adjust_memalloc = watched_adjust
    getattr(ground.nfsd, way)()
    ground.run_for(SECOND)
    ground.write(0, page_bytes(0))
    ground.pageout(0)
    ground.run_for(SECOND)
    ground.nfsd.start()
    ground.wait_for_calls()
    assert syns
    assert all(syn == (SOCK_MEMALLOC, 0x2020, PF_MEMALLOC) for syn in syns)
    assert min(socks, default=2) >= 1
    assert net.memalloc_socks == 2
    assert ground.mount.xprt.inet.sk_flags & SOCK_MEMALLOC
    ground.check()


def test_half_without_early_memalloc_the_syn_goes_out_unmarked():
    with mounted() as ground:
        ground.mount.xprt.connector.early_memalloc = False
        seen = []
        connect = ground.stack.tcp.connect_nonblock
        ground.stack.tcp.connect_nonblock = lambda sk, a, p: seen.append(sk.sk_flags & SOCK_MEMALLOC) or connect(sk, a, p)
        ground.swapon()
        ground.process()
        ground.nfsd.stop()
        ground.run_for(SECOND)
        ground.nfsd.start()
        ground.write(0, page_bytes(0))
        ground.pageout(0)
        ground.wait_for_calls()
        assert seen[0] == 0
        ground.run_for(SECOND)
        assert ground.mount.xprt.inet.sk_flags & SOCK_MEMALLOC, "too late is better than never"


def test_half_without_worker_memalloc_the_worker_is_an_ordinary_task():
    with mounted() as ground:
        ground.mount.xprt.connector.worker_memalloc = False
        ground.swapon()
        seen = []
        connect = ground.stack.tcp.connect_nonblock
        ground.stack.tcp.connect_nonblock = lambda sk, a, p: (
            seen.append(ground.sched.current.flags & PF_MEMALLOC) or connect(sk, a, p)
        )
        ground.mount.xprt.xprt_force_close()
        ground.run_for(SECOND)
        ground.mount.getattr(ground.mount.root)
        assert seen == [0]


def test_a_transport_without_a_socket_is_marked_when_it_connects(ground):
    ground.mount.xprt.xprt_force_close()
    ground.run_for(SECOND)
    assert ground.mount.xprt.inet is None
    assert ground.mount.swapper.xs_swapper(1) == 0
    ground.mount.getattr(ground.mount.root)
    assert ground.mount.xprt.inet.sk_flags & SOCK_MEMALLOC
    assert ground.stack.net_reserves.memalloc_socks == 2


def at_the_floor(ground):
    """Take the server away with a WRITE on its way, then all memory that GFP_ATOMIC can get; bring the server back."""
    ground.swapon()
    ground.process()
    ground.write(0, page_bytes(0))
    ground.nfsd.stop()
    ground.run_for(SECOND)
    page = ground.pageout(0)
    ground.run_for(SECOND)
    AtomicHog(ground.machine.slub).hog()
    ground.nfsd.start()
    ground.run_for(60 * SECOND)
    return page


def test_a_connection_comes_back_at_the_floor(ground):
    page = at_the_floor(ground)
    assert not page.flags & PG_writeback
    assert ground.mount.xprt.connected
    assert ground.stats.write_errors == 0
    assert ground.stats.reconnects == 1


# b31a


def test_b31a_of_two_swap_files_the_first_swapoff_ends_the_protection_and_the_second_undoes_nothing(faithful):
    before = state(faithful)
    one, two = faithful.swapon(100, "one"), faithful.swapon(100, "two")
    assert faithful.stack.net_reserves.memalloc_socks == 3
    assert faithful.stack.net_reserves.net_tx_pages.pages == 98
    faithful.machine.swapfile.swapoff(one)
    assert not faithful.mount.xprt.inet.sk_flags & SOCK_MEMALLOC, "and the second area still swaps"
    assert faithful.stack.net_reserves.memalloc_socks == 1
    faithful.machine.swapfile.swapoff(two)
    assert faithful.stack.net_reserves.memalloc_socks == 1
    assert faithful.stack.net_reserves.net_tx_pages.pages == 49
    assert state(faithful) != before


def test_b31a_mended_they_nest(ground):
    before = state(ground)
    one, two = ground.swapon(100, "one"), ground.swapon(100, "two")
    ground.machine.swapfile.swapoff(one)
    assert ground.mount.xprt.inet.sk_flags & SOCK_MEMALLOC
    ground.machine.swapfile.swapoff(two)
    assert state(ground) == before


# b31b


@pytest.mark.parametrize(("fixes", "left"), [("all", 0), ("all,-b31b", -1)])
def test_b31b_a_cpu_that_comes_between_on_and_off(fixes, left):
    with mounted(fixes=fixes) as ground:
        file = ground.swapon()
        estimate = ground.machine.slub.kestimate_single
        ground.machine.slub.kestimate_single = lambda *args: estimate(*args) + 1  # one more CPU, one more slab page
        ground.machine.swapfile.swapoff(file)
        assert ground.stack.net_reserves.net_tx_pages.pages == left


# b31c


def test_b31c_a_udp_transport_that_connects_again_takes_a_mutex_below_a_spinlock():
    with nfs_ground(fixes="all,-b31c", proto="udp") as ground:
        xprt = ground.mount.xprt
        ground.mount.swapper.xs_swapper(1)
        with pytest.raises(KernelBug, match="sleeping function called from invalid context"):
            xprt.connector._xs_udp_connect_worker4(None)


def test_b31c_mended_it_is_marked_outside_the_lock():
    with nfs_ground(proto="udp") as ground:
        ground.mount.swapper.xs_swapper(1)
        ground.mount.xprt.connector._xs_udp_connect_worker4(None)
        assert ground.mount.xprt.inet.sk_flags & SOCK_MEMALLOC
        assert ground.mount.xprt.inet.sk_allocation == 0x2020
        ground.mount.xprt.close()
        ground.mount.swapper.xs_swapper(0)
        assert ground.stack.net_reserves.memalloc_socks == 0


def test_b31c_a_socket_whose_last_reference_goes_in_a_softirq():
    with mounted(fixes="all,-b31c") as ground:
        ground.swapon()
        ground.nfsd.stop()
        ground.spawn(lambda: ground.mount.getattr(ground.mount.root))
        ground.run_for(SECOND)
        assert ground.kernel.judge.outcome == "oops"
        assert "sleeping function" in ground.kernel.judge.reason


def test_b31c_mended_the_share_goes_back_in_process_context(ground):
    ground.swapon()
    ground.nfsd.stop()
    ground.run_for(SECOND)
    assert ground.kernel.judge.outcome is None
    assert ground.stack.net_reserves.memalloc_socks == 1
