import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.kernel.errno import ECONNRESET, EPIPE
from kemu.mm.gfp import GFP_KERNEL
from kemu_net.core.sock import SEND_SHUTDOWN, SOCK_SNDBUF_LOCK
from kemu_net.core.stream import sk_stream_moderate_sndbuf, sk_stream_pages, sk_stream_set_owner_r, tcp_mem_limits
from tcp_ground import MIB, connected, one_tcp


@pytest.mark.parametrize(
    ("mib", "mem"),
    [
        (64, [1536, 2048, 3072]),
        (128, [6144, 8192, 12288]),
        (256, [24576, 32768, 49152]),
        (512, [49152, 65536, 98304]),
        (32, [384, 512, 768]),
    ],
)
def test_tcp_mem_follows_ram(mib, mem):
    assert tcp_mem_limits(mib * MIB >> 12)[0] == mem


def test_tcp_mem_is_at_least_128_pages():
    assert tcp_mem_limits(100)[0] == [96, 128, 192]


def test_buffers_follow_tcp_mem():
    _mem, rmem, wmem = tcp_mem_limits(64 * MIB >> 12)
    assert rmem == [4096, 87380, 87380]
    assert wmem == [4096, 16384, 65536]
    assert tcp_mem_limits(1 << 20)[1][2] == 4 << 20


def test_pages_are_charged_and_given_back():
    with one_tcp() as host:
        sk, _peer = connected(host)
        streams, prot = host.tcp.streams, host.tcp.prot
        before = prot.memory_allocated
        forward = sk.sk_forward_alloc
        assert streams.sk_stream_mem_schedule(sk, 5000, 1, None)
        assert prot.memory_allocated == before + 2
        assert sk.sk_forward_alloc == forward + 8192
        host.check()
        streams.sk_stream_mem_reclaim(sk)
        assert sk.sk_forward_alloc < 4096
        host.check()


def _fill(host, pages):
    """Let somebody else hold pages of the protocol."""
    host.tcp.prot.memory_allocated += pages


def test_thresholds():
    with one_tcp() as host:
        sk, _peer = connected(host)
        streams, prot = host.tcp.streams, host.tcp.prot
        low, pressure, hard = prot.sysctl_mem = [24, 32, 48]
        sk.sk_rmem_alloc = 5000  # above tcp_rmem[0]
        prot.sockets_allocated = 1
        _fill(host, low)
        assert streams.sk_stream_mem_schedule(sk, 100, 1, None)
        assert not prot.memory_pressure
        _fill(host, pressure - low)
        assert streams.sk_stream_mem_schedule(sk, 100, 1, None)  # under pressure, but within its share
        assert prot.memory_pressure
        prot.sockets_allocated = 1000
        before = (sk.sk_forward_alloc, prot.memory_allocated)
        assert not streams.sk_stream_mem_schedule(sk, 100, 1, None)
        assert (sk.sk_forward_alloc, prot.memory_allocated) == before
        sk.sk_rmem_alloc = 100
        assert streams.sk_stream_mem_schedule(sk, 100, 1, None)
        _fill(host, hard)
        assert not streams.sk_stream_mem_schedule(sk, 100, 1, None)
        prot.memory_allocated = 0
        assert streams.sk_stream_mem_schedule(sk, 100, 1, None)
        assert not prot.memory_pressure


def test_a_refused_send_succeeds_when_it_would_fill_the_send_buffer():
    with one_tcp() as host:
        sk, _peer = connected(host)
        host.tcp.prot.sysctl_mem = [0, 0, 0]
        sk.sk_wmem_queued = 10_000
        sk.sk_sndbuf = 12_000
        assert host.tcp.streams.sk_stream_mem_schedule(sk, 3000, 0, None)
        assert sk.sk_sndbuf == 5000  # moderated
        sk.sk_wmem_queued = 0
        assert not host.tcp.streams.sk_stream_mem_schedule(sk, 1000, 0, None)
        assert sk.sk_sndbuf == 2048


def test_moderation_spares_a_locked_buffer():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.sk_userlocks = 1
        sk_stream_moderate_sndbuf(sk)
        assert sk.sk_sndbuf == 16384


def test_failure_to_allocate_enters_pressure_and_shrinks_the_buffer():
    with one_tcp() as host:
        sk, _peer = connected(host)
        host.skbs.alloc_skb = lambda *_args: None
        assert host.tcp.streams.sk_stream_alloc_pskb(sk, 100, 0, GFP_KERNEL) is None
        assert host.tcp.prot.memory_pressure
        assert sk.sk_sndbuf == 2048


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(("queue", "free", "send", "done", "reclaim")), st.integers(1, 4000)), max_size=40))
def test_charges_always_balance(actions):
    with one_tcp() as host:
        sk, _peer = connected(host)
        streams = host.tcp.streams
        written = []
        for action, size in actions:
            if action == "queue":
                skb = host.skbs.netdev_alloc_skb(None, size)
                if streams.sk_stream_rmem_schedule(sk, skb):
                    sk_stream_set_owner_r(skb, sk)
                    sk.sk_receive_queue.append(skb)
                else:
                    host.skbs.kfree_skb(skb)
            elif action == "free" and sk.sk_receive_queue:
                host.skbs.kfree_skb(sk.sk_receive_queue.popleft())
            elif action == "send":
                skb = host.tcp._skb_entail(sk, size)
                written.append(skb)
            elif action == "done" and written:
                skb = written.pop()
                sk.sk_write_queue.pop()
                streams.sk_stream_free_skb(sk, skb)
            elif action == "reclaim":
                streams.sk_stream_mem_reclaim(sk)
            host.check()
        host.tcp.abort(sk)
        host.assert_nothing_left()


def test_pages_of_an_amount():
    assert [sk_stream_pages(amount) for amount in (0, 1, 4096, 4097)] == [0, 1, 1, 2]


def test_pressure_ends_when_enough_was_given_back():
    with one_tcp() as host:
        sk, _peer = connected(host)
        prot = host.tcp.prot
        prot.sysctl_mem = [2, 3, 100]
        assert host.tcp.streams.sk_stream_wmem_schedule(sk, 5 * 4096)
        assert prot.memory_pressure == 1
        host.tcp.streams.sk_stream_mem_reclaim(sk)
        assert (prot.memory_allocated, prot.memory_pressure) == (0, 0)


def test_a_segment_that_may_not_be_charged_is_freed():
    with one_tcp() as host:
        sk, _peer = connected(host)
        live = host.skbs.live
        host.tcp.prot.sysctl_mem = [0, 0, 0]
        sk.sk_sndbuf, sk.sk_userlocks = 1 << 20, SOCK_SNDBUF_LOCK
        assert host.tcp.streams.sk_stream_alloc_pskb(sk, 1460, 0, GFP_KERNEL) is None
        assert host.skbs.live == live
        host.check()


def test_a_writer_that_holds_little_is_spared_under_pressure():
    with one_tcp() as host:
        sk, _peer = connected(host)
        prot = host.tcp.prot
        prot.sysctl_mem, prot.memory_pressure = [0, 0, 1000], 1
        sk.sk_sndbuf, sk.sk_userlocks = 1 << 20, SOCK_SNDBUF_LOCK
        prot.sockets_allocated = 10_000  # a crowd: each has far less than its share
        assert host.tcp.streams.sk_stream_wmem_schedule(sk, 4096)
        sk.sk_wmem_queued = prot.sysctl_wmem[0]
        assert not host.tcp.streams.sk_stream_wmem_schedule(sk, 2 * 4096)


def test_a_writer_of_a_closed_stream_does_not_wait():
    with one_tcp() as host:
        sk, _peer = connected(host)
        host.socks.lock_sock(sk)
        sk.sk_shutdown |= SEND_SHUTDOWN
        assert host.tcp.streams.sk_stream_wait_memory(sk, False) == -EPIPE
        sk.sk_shutdown, sk.sk_err = 0, ECONNRESET
        assert host.tcp.streams.sk_stream_wait_memory(sk, True) == -EPIPE


def test_a_dying_socket_that_keeps_bytes_is_a_bug():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.sk_wmem_queued = 1
        with pytest.raises(KernelBug, match="keeps 1"):
            host.tcp.streams.sk_stream_kill_queues(sk)
