"""RPC over UDP: datagrams, room, errors of the socket; and a mount over a real wire."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import EADDRINUSE, EAGAIN, ECONNREFUSED, EHOSTUNREACH, ENOBUFS, ENOMEM
from kemu_net.core.sock import SOCK_ASYNC_NOSPACE, SOCK_NOSPACE
from kemu_nfs.sunrpc.xprtsock import UdpXprt
from nfs_ground import nfs_ground, page_bytes
from rpc_ground import ACCEPTED, MS, SECOND, RpcGround


class FakeSock:
    def __init__(self, datagrams) -> None:
        self.sk_socket_flags = 0
        self.sk_sndbuf = 10000
        self.sk_rcvbuf = 10000
        self.sk_wmem_alloc = 0
        self.sk_refcnt = 1
        self.sk_receive_queue = datagrams


class FakeUdp:
    """A socket that keeps what is sent, and gives what it is told; an int among its datagrams is an error."""

    def __init__(self) -> None:
        self.sent = []
        self.datagrams = []
        self.results = []
        self.binds = []
        self.taken = 0

    def sock_create(self):
        return FakeSock(self.datagrams)

    def bind(self, sk, addr, port):
        self.binds.append(port)
        return -EADDRINUSE if len(self.binds) <= self.taken else 0

    def sendto(self, sk, data, daddr, dport):
        if self.results:
            result = self.results.pop(0)
            if result == -EAGAIN:
                sk.sk_socket_flags |= SOCK_NOSPACE | SOCK_ASYNC_NOSPACE
                sk.sk_wmem_alloc = sk.sk_sndbuf
            return result
        self.sent.append((data, daddr, dport))
        return len(data)

    def recvfrom(self, sk, nonblock):
        return self.datagrams.pop(0)

    def close(self, sk):
        pass


class FakeStack:
    def __init__(self) -> None:
        self.tcp = None
        self.udp = FakeUdp()
        self.socks = type("Socks", (), {"sock_def_readable": None})


class Datagrams(RpcGround):
    def __init__(self) -> None:
        super().__init__()
        self.stack = FakeStack()
        self.xprt = self.clnt.xprt = UdpXprt(self.rpc, self.stack, 9, 2049)


@pytest.fixture
def udp():
    g = Datagrams()
    yield g
    g.xprt.check()
    g.kernel.shutdown()


def deliver(udp, *datagrams):
    udp.stack.udp.datagrams += datagrams
    udp.xprt.xs_udp_data_ready(udp.xprt.inet)
    udp.run_for(MS)


def reply(xid, results=b"okay"):
    return xid.to_bytes(4, "big") + ACCEPTED + results


def answer(udp, source=(9, 2049)):
    (xid,) = udp.xprt.recv
    deliver(udp, (reply(xid), *source))


def test_a_datagram_is_a_call_without_a_mark(udp):
    udp.start("a", b"args")
    udp.run_for(MS)
    ((data, daddr, dport),) = udp.stack.udp.sent
    assert (daddr, dport) == (9, 2049)
    assert data[4:8] == bytes(4)
    assert data.endswith(b"args")
    answer(udp)
    assert udp.ops.done == [("a", 0, b"okay")]


def test_datagrams_of_others_and_scraps_are_dropped(udp):
    udp.start("a")
    udp.run_for(MS)
    deliver(udp, (b"abc", 9, 2049), (b"\xff" * 30, 9, 2049))
    answer(udp, source=(8, 2049))
    answer(udp, source=(9, 2048))
    assert udp.ops.done == []
    assert udp.xprt.replies_unknown == 1
    answer(udp)
    assert len(udp.ops.done) == 1


def test_a_datagram_with_a_wrong_checksum_hides_none_behind_it(udp):
    udp.start("a")
    udp.run_for(MS)
    (xid,) = udp.xprt.recv
    deliver(udp, -EAGAIN, (reply(xid), 9, 2049))
    assert len(udp.ops.done) == 1


def test_the_second_of_two_replies_is_nobodys(udp):
    udp.start("a")
    udp.run_for(MS)
    (xid,) = udp.xprt.recv
    deliver(udp, (reply(xid), 9, 2049), (reply(xid), 9, 2049))
    assert len(udp.ops.done) == 1
    assert udp.xprt.replies_unknown == 1


def test_a_reply_longer_than_its_call_wants_is_cut(udp):
    udp.start("a")
    udp.run_for(MS)
    (xid,) = udp.xprt.recv
    deliver(udp, (reply(xid, bytes(5000)), 9, 2049))
    assert udp.ops.done == [("a", 0, bytes(2048 - 24))]


def test_a_datagram_without_memory_is_tried_again(udp):
    udp.stack.udp.results = [-ENOMEM]
    udp.start("a")
    udp.run_for(30 * MS)
    assert udp.stack.udp.sent == []
    udp.run_for(60 * MS)
    assert len(udp.stack.udp.sent) == 1


def test_without_room_the_sender_waits_for_it_and_keeps_his_right(udp):
    udp.stack.udp.results = [-EAGAIN]
    task = udp.start("a")
    udp.run_for(100 * MS)
    sk = udp.xprt.inet
    assert udp.xprt.snd_task is task
    udp.xprt.xs_udp_write_space(sk)
    udp.run_for(MS)
    assert udp.stack.udp.sent == [], "half of the buffer must be free"
    sk.sk_wmem_alloc = 0
    udp.xprt.xs_udp_write_space(sk)
    udp.run_for(MS)
    assert len(udp.stack.udp.sent) == 1
    assert sk.sk_socket_flags == 0


def test_a_refused_datagram_is_sent_again_at_once(udp):
    udp.stack.udp.results = [-ECONNREFUSED]
    udp.start("a")
    udp.run_for(MS)
    assert len(udp.stack.udp.sent) == 1


def test_an_unreachable_host_is_tried_again_three_seconds_later(udp):
    udp.stack.udp.results = [-EHOSTUNREACH]
    udp.start("a")
    udp.run_for(3 * SECOND - 10 * MS)
    assert udp.stack.udp.sent == []
    udp.run_for(20 * MS)
    assert len(udp.stack.udp.sent) == 1


def test_an_skb_that_cannot_be_had_ends_the_call(udp):
    udp.stack.udp.results = [-ENOBUFS]
    udp.start("a")
    udp.run_for(MS)
    assert udp.ops.done[0][1] == -ENOBUFS


def test_the_port_is_a_reserved_one_and_one_in_use_is_passed_over(udp):
    udp.stack.udp.taken = 2
    udp.start("a")
    udp.run_for(MS)
    first, second, third = udp.stack.udp.binds
    assert 665 <= third <= 1023
    assert (first - second) % 359 == 1
    assert (second - third) % 359 == 1


def test_the_buffers_hold_a_slot_table_of_calls_and_replies(udp):
    udp.xprt.set_buffer_size(32768, 16384)
    udp.start("a")
    udp.run_for(MS)
    assert udp.xprt.inet.sk_sndbuf == (32768 + 100) * 16 * 2
    assert udp.xprt.inet.sk_rcvbuf == (16384 + 100) * 16 * 2


def test_the_number_of_slots_is_the_sysctl_of_udp():
    with_slots = Datagrams()
    with_slots.kernel.sysctl.write("sunrpc.udp_slot_table_entries", "4")
    assert len(UdpXprt(with_slots.rpc, with_slots.stack, 9, 2049).slots) == 4
    with_slots.kernel.shutdown()


# over a wire


@pytest.fixture
def mounted():
    with nfs_ground(proto="udp") as ground:
        assert ground.mount.mount() == 0
        yield ground
        ground.check()


def test_a_mount_over_udp_writes_32_kib_in_fragments_and_reads_them_back(mounted):
    assert not isinstance(mounted.mount.create("f"), int)
    file = mounted.mount.open("f")
    data = b"".join(page_bytes(i) for i in range(16))
    before = mounted.stack.stats.tx_frames
    assert mounted.mount.write(file, 0, data[:32768]) == 32768
    assert mounted.stack.stats.tx_frames - before == 23, "one datagram in fragments of 1480 bytes"
    assert mounted.mount.write(file, 32768, data[32768:]) == 32768
    assert mounted.file_bytes("f") == data
    assert mounted.mount.read(file, 0, len(data)) == data


def test_a_lost_datagram_is_sent_again(mounted):
    mounted.wire.cut()
    task = mounted.spawn(lambda: mounted.mount.getattr(mounted.mount.root))
    mounted.run_for(SECOND // 10)
    mounted.wire.mend()
    mounted.wait_for_calls()
    assert task.exit_code == 0
    assert mounted.mount.xprt.retransmissions == 1


def test_a_server_that_is_not_there_sends_icmp_which_nobody_hears(mounted):
    mounted.nfsd.stop()
    mounted.run_for(SECOND)
    mounted.kernel.judge.hold("the server is away")
    mounted.spawn(lambda: mounted.mount.getattr(mounted.mount.root))
    mounted.run_for(100 * SECOND)
    messages = [text for _, _, text in mounted.kernel.printk.buffer]
    assert any("not responding, still trying" in text for text in messages)
    assert mounted.mount.xprt.inet.sk_err == 0
    mounted.nfsd.start()
    mounted.wait_for_calls()
    messages = [text for _, _, text in mounted.kernel.printk.buffer]
    assert messages[-1].endswith(" OK")


def test_swap_over_udp_brings_every_page_back(mounted):
    mounted.swapon()
    mounted.process()
    for vpn in range(8):
        mounted.write(vpn, page_bytes(vpn))
        mounted.swap_out(vpn)
    assert [mounted.read(vpn)[:64] for vpn in range(8)] == [page_bytes(vpn)[:64] for vpn in range(8)]
