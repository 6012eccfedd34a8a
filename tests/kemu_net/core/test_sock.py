import pytest

from kemu.errors import KernelBug
from kemu.kernel.errno import EACCES, ENOMEM, EPERM
from kemu.mm.gfp import _GFP_MEMALLOC, GFP_KERNEL
from kemu_net.core.sock import SOCK_DEAD, SOCK_MEMALLOC, Proto, Sock, skb_set_owner_r, skb_set_owner_w, sock_hold, sock_put
from kemu_net.core.sock_receive import SockReceive
from tcp_ground import MIB, connected, one_tcp


def _datagram_socket(host):
    proto = Proto("TEST", host.slub.kmem_cache_create("TEST", 704))
    return host.socks.sk_alloc(proto, GFP_KERNEL, Sock)


def _skb(host):
    return host.skbs.netdev_alloc_skb(None, 1536)


def test_default_buffers_follow_ram():
    for mem, default, maximum in ((16 * MIB, 32767, 32767), (64 * MIB, 124928, 124928), (512 * MIB, 124928, 131071)):
        with one_tcp(mem=mem) as host:
            socks = host.socks
            pages = host.page_alloc.total_pages
            assert (pages <= 4096, pages >= 131072) == (default == 32767, maximum == 131071)
            assert (socks.sysctl_rmem_default, socks.sysctl_wmem_default) == (default, default)
            assert (socks.sysctl_rmem_max, socks.sysctl_wmem_max) == (maximum, maximum)


def test_buffers_of_new_sockets_are_sysctls():
    with one_tcp() as host:
        sysctl = host.kernel.sysctl
        assert sysctl.read("net.core.rmem_default") == f"{host.socks.sysctl_rmem_default}\n"
        assert sysctl.write("net.core.rmem_default", "4096") == 0
        assert sysctl.write("net.core.wmem_default", "8192") == 0
        sk = _datagram_socket(host)
        assert (sk.sk_rcvbuf, sk.sk_sndbuf) == (4096, 8192)
        sock_put(sk)


def test_a_socket_is_a_slab_object_and_goes_with_its_last_reference():
    with one_tcp() as host:
        sk = _datagram_socket(host)
        cache = host.slub.caches["TEST"]
        assert host.slub.objects_in_use(cache) == 1
        sock_hold(sk)
        sock_put(sk)
        assert host.slub.objects_in_use(cache) == 1
        sock_put(sk)
        assert host.slub.objects_in_use(cache) == 0
        assert sk not in host.socks.live


def test_datagrams_are_accounted_until_they_are_freed():
    with one_tcp() as host:
        sk = _datagram_socket(host)
        woken = []
        sk.sk_data_ready = woken.append
        skb = _skb(host)
        assert host.socks.sock_queue_rcv_skb(sk, skb) == 0
        assert sk.sk_rmem_alloc == skb.truesize == 1832
        assert woken == [sk]
        host.socks.check()
        host.skbs.kfree_skb(sk.sk_receive_queue.popleft())
        assert sk.sk_rmem_alloc == 0


def test_a_full_receive_buffer_refuses_and_counts():
    with one_tcp() as host:
        sk = _datagram_socket(host)
        queued = 0
        while host.socks.sock_queue_rcv_skb(sk, skb := _skb(host)) == 0:
            queued += 1
        assert queued == 124928 // 1832 == 68
        assert host.stats.drops["rmem"] == 1
        host.skbs.kfree_skb(skb)
        host.socks.skb_queue_purge(sk.sk_receive_queue)
        sock_put(sk)


def test_a_packet_under_transmission_keeps_its_socket():
    with one_tcp() as host:
        sk = _datagram_socket(host)
        skb = _skb(host)
        skb_set_owner_w(skb, sk)
        sock_put(sk)
        assert sk in host.socks.live and sk.sk_wmem_alloc == skb.truesize
        host.skbs.kfree_skb(skb)
        assert sk not in host.socks.live


def test_freeing_a_socket_with_packets_is_a_bug():
    with one_tcp() as host:
        sk = _datagram_socket(host)
        host.socks.sock_queue_rcv_skb(sk, _skb(host))
        with pytest.raises(KernelBug, match="with packets"):
            sock_put(sk)


def test_lock_sock_excludes_tasks_and_hands_over():
    with one_tcp() as host:
        sk = _datagram_socket(host)
        order = []

        def body(name):
            host.socks.lock_sock(sk)
            order.append(name + " in")
            host.kernel.sched.msleep(5)
            order.append(name + " out")
            host.socks.release_sock(sk)

        for name in "ab":
            host.kernel.sched.spawn(name, lambda name=name: body(name))
        host.run(50)
        assert order in (["a in", "a out", "b in", "b out"], ["b in", "b out", "a in", "a out"])


def test_backlog_runs_in_order_once_with_bottom_halves_disabled():
    with one_tcp() as host:
        sk = _datagram_socket(host)
        seen = []
        sk.sk_backlog_rcv = lambda _sk, skb: seen.append((skb, host.kernel.sched.in_softirq())) or host.skbs.kfree_skb(skb)
        host.socks.lock_sock(sk)
        skbs = [_skb(host) for _ in range(5)]
        for skb in skbs:
            host.socks.sk_add_backlog(sk, skb)
        host.socks.release_sock(sk)
        assert [skb for skb, _ in seen] == skbs
        assert all(in_softirq for _, in_softirq in seen)
        assert not sk.sk_lock_owned and not sk.sk_backlog
        assert not host.kernel.sched.in_softirq()


def test_what_comes_while_the_backlog_runs_is_run_too():
    with one_tcp() as host:
        sk = _datagram_socket(host)
        seen = []

        def rcv(sk, skb):
            seen.append(skb)
            if len(seen) < 4:
                host.socks.sk_add_backlog(sk, _skb(host))
            host.skbs.kfree_skb(skb)

        sk.sk_backlog_rcv = rcv
        host.socks.lock_sock(sk)
        host.socks.sk_add_backlog(sk, _skb(host))
        host.socks.release_sock(sk)
        assert len(seen) == 4


def test_without_memory_there_is_no_socket():
    with one_tcp() as host:
        host.slub.kmem_cache_alloc = lambda *_args: None
        assert host.tcp.sock_create() is None
        sk = object.__new__(Sock)
        assert host.socks.sock_alloc_inode(sk) == -ENOMEM


def test_check_finds_wrong_accounting():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.sk_rmem_alloc = -1
        with pytest.raises(KernelBug, match="below zero"):
            host.socks.check()


def test_a_waiting_reader_can_be_explained():
    with one_tcp() as host:
        sk, _peer = connected(host)
        task = host.kernel.sched.spawn("reader", lambda: host.tcp.recvmsg(sk, 10))
        host.run(5)
        kind, what = task.why
        text, following = host.kernel.judge.explainers[kind](what)
        assert "packet from the peer" in text and following is None
        host.socks.lock_sock(sk)
        assert "owned" in host.kernel.judge.explainers[kind](what)[0]


def test_a_received_datagram_is_accounted_until_it_is_freed():
    with one_tcp() as host:
        sk = _datagram_socket(host)
        skb = _skb(host)
        skb_set_owner_r(skb, sk)
        assert sk.sk_rmem_alloc == skb.truesize
        host.skbs.kfree_skb(skb)
        assert sk.sk_rmem_alloc == 0


@pytest.mark.keeps_skbs("the test holds skbs in its hands")
def test_a_packet_in_a_backlog_that_nobody_reads_is_a_bug():
    with one_tcp() as host:
        sk = _datagram_socket(host)
        host.socks.lock_sock(sk)
        host.socks.sk_add_backlog(sk, _skb(host))
        with pytest.raises(KernelBug, match="without sk_backlog_rcv"):
            host.socks.release_sock(sk)


def test_a_socket_may_not_be_locked_where_one_may_not_sleep():
    with one_tcp() as host:
        sk = _datagram_socket(host)
        host.kernel.softirq.local_bh_disable()
        with pytest.raises(KernelBug, match="atomic"):
            host.socks.lock_sock(sk)


def test_a_writer_is_woken_when_half_of_the_send_buffer_is_free():
    with one_tcp() as host:
        sk = _datagram_socket(host)
        woken = []
        host.kernel.sched.wake_up = lambda queue, *_args: woken.append(queue)
        sk.sk_sndbuf, sk.sk_wmem_alloc = 1000, 501
        host.socks.sock_def_write_space(sk)
        assert woken == []
        sk.sk_wmem_alloc = 500
        host.socks.sock_def_write_space(sk)
        assert woken == [sk.sk_sleep]


def test_the_dead_are_not_told_of_datagrams():
    with one_tcp() as host:
        sk = _datagram_socket(host)
        sk.sk_data_ready = lambda _sk: pytest.fail("nobody is there")
        sk.sk_flags |= SOCK_DEAD
        assert host.socks.sock_queue_rcv_skb(sk, _skb(host)) == 0
        host.socks.check()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda sk: setattr(sk, "sk_flags", SOCK_MEMALLOC), "lost __GFP_MEMALLOC"),
        (lambda sk: setattr(sk, "sk_rmem_alloc", 1), "more than are charged"),
        (lambda sk: (setattr(sk, "sk_flags", SOCK_MEMALLOC), setattr(sk, "sk_allocation", _GFP_MEMALLOC)), "0 are counted"),
    ],
)
def test_check_names_what_is_wrong(break_it, message):
    with one_tcp() as host:
        sk = _datagram_socket(host)
        host.socks.sock_queue_rcv_skb(sk, _skb(host))
        host.socks.check()
        break_it(sk)
        with pytest.raises(KernelBug, match=message):
            host.socks.check()


def test_a_protocol_says_how_much_it_holds():
    with one_tcp() as host:
        connected(host)
        assert "TCP" in repr(host.tcp.prot) and "sockets 1" in repr(host.tcp.prot)


def test_who_is_asked_about_a_packet_and_in_which_order():
    """Patch 20 first, then the security module, then the program's own filter."""
    with one_tcp() as host:
        asked = []

        class Security:
            verdict = 0

            def security_sock_rcv_skb(self, _sk, _skb):
                asked.append("security")
                return self.verdict

        security = Security()
        socks = SockReceive(host.kernel, host.net_reserves, host.skbs, host.stats, security)
        sk = _datagram_socket(host)
        skb = _skb(host)
        assert socks.sk_attach_filter(sk, lambda _skb: asked.append("program") or 0) == 0
        assert socks.sk_filter(sk, skb) == -EPERM
        assert asked == ["security", "program"]
        security.verdict = -EACCES
        assert socks.sk_filter(sk, skb) == -EACCES
        assert asked == ["security", "program", "security"]
        skb.emergency = 1
        assert socks.sk_filter(sk, skb) == -ENOMEM
        assert len(asked) == 3
        skb.emergency = 0
        host.skbs.kfree_skb(skb)
        sock_put(sk)
