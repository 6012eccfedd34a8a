"""The queue to user space: what waits, what comes back, what is lost."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.kernel.errno import EBUSY, EEXIST, ENOENT
from kemu_net.netfilter.core import (
    NF_ACCEPT,
    NF_DROP,
    NF_IP_LOCAL_IN,
    NF_IP_PRE_ROUTING,
    NF_QUEUE,
    NF_QUEUE_NR,
    NF_REPEAT,
    NfHookOps,
)
from kemu_net.netfilter.nfnetlink_queue import NfnlQueue
from net_ground import filled, one_host, two_hosts, udp_frame


class Ground:
    def __init__(self, net) -> None:
        self.net = net
        self.host = net.a
        self.verdict = NF_QUEUE
        self.asked = 0
        self.ops = NfHookOps(self._hook, NF_IP_LOCAL_IN, name="QUEUE")
        self.host.nf.nf_register_hook(self.ops)
        self.queue = NfnlQueue(self.host.kernel, self.host.nf, maxlen=4)
        assert self.queue.bind() == 0
        self.sk = self.host.socket(7)

    def _hook(self, *_args) -> int:
        self.asked += 1
        return self.verdict

    def send(self, *payloads: bytes) -> None:
        for payload in payloads:
            self.net.flood(udp_frame(payload))
            self.net.run(2)

    def received(self) -> list[bytes]:
        found = []
        while isinstance(got := self.host.udp.recvfrom(self.sk, nonblock=True), tuple):
            found.append(got[0])
        return found


@pytest.fixture
def ground():
    with two_hosts() as net:
        ground = Ground(net)
        yield ground
        ground.queue.check()
        ground.queue.unbind()
        ground.host.udp.close(ground.sk)
        assert not ground.host.nf.queue.waiting


def test_a_packet_waits_until_a_task_has_read_it_and_said_yes(ground):
    ground.send(b"one", b"two")
    assert ground.received() == []
    assert ground.queue.queue_total == 2
    ident, hooknum, packet = ground.queue.recv()
    assert hooknum == NF_IP_LOCAL_IN
    assert packet[0] == 0x45
    assert packet.endswith(b"one")
    assert ground.queue.verdict(ident, NF_ACCEPT) == 0
    assert ground.received() == [b"one"]
    assert ground.queue.queue_total == 1


def test_no_frees_the_packet(ground):
    ground.send(b"one")
    live = ground.host.skbs.live
    ident, _, _ = ground.queue.recv()
    ground.queue.verdict(ident, NF_DROP)
    assert ground.host.skbs.live == live - 2  # the packet, and the reader's copy
    assert ground.received() == []


def test_repeat_asks_the_same_hook_again(ground):
    ground.send(b"one")
    ident, _, _ = ground.queue.recv()
    ground.verdict = NF_ACCEPT
    ground.queue.verdict(ident, NF_REPEAT)
    assert ground.asked == 2
    assert ground.received() == [b"one"]


def test_a_reader_sleeps_until_a_packet_comes(ground):
    got = []
    kernel = ground.host.kernel
    reader = kernel.sched.spawn("daemon", lambda: got.append(ground.queue.recv()))
    ground.net.run(1)
    assert got == []
    ground.send(b"one")
    kernel.sched.join(reader)
    assert got[0][2].endswith(b"one")


def test_a_full_queue_drops_and_counts(ground):
    ground.send(*(b"%d" % number for number in range(6)))
    assert (ground.queue.queue_total, ground.queue.queue_dropped) == (4, 2)
    assert ground.host.stats.ignored["netfilter: queue full"] == 2


def test_a_packet_for_another_queue_is_dropped(ground):
    ground.verdict = NF_QUEUE_NR(3)
    ground.send(b"one")
    assert ground.queue.queue_total == 0
    assert ground.received() == []


def test_a_verdict_for_nothing_is_refused(ground):
    assert ground.queue.verdict(99, NF_ACCEPT) == -ENOENT


def test_no_packet_has_two_verdicts(ground):
    ground.send(b"one")
    ((_, info),) = ground.queue.entries.values()
    ident, _, _ = ground.queue.recv()
    ground.queue.verdict(ident, NF_DROP)
    with pytest.raises(KernelBug, match="has had its verdict"):
        ground.host.nf.queue.nf_reinject(info, NF_DROP)


def test_unbinding_frees_what_waits(ground):
    live = ground.host.skbs.live
    ground.send(b"one", b"two")
    ground.queue.recv()
    ground.queue.unbind()
    assert ground.queue.queue_total == 0
    assert ground.host.skbs.live == live
    assert ground.queue.recv(nonblock=True) is None


def test_a_hook_that_is_gone_takes_its_packets_with_it(ground):
    ground.send(b"one")
    ident, _, _ = ground.queue.recv()
    ground.host.nf.nf_unregister_hook(ground.ops)
    ground.queue.verdict(ident, NF_ACCEPT)
    assert ground.received() == []


def test_while_a_hook_s_module_unloads_its_packets_go_on(ground):
    ground.ops.unloading = True
    ground.send(b"one")
    assert ground.received() == [b"one"]


def test_the_route_of_a_waiting_packet_is_held(ground):
    ground.send(b"one")
    ((_, info),) = ground.queue.entries.values()
    assert info.skb.dst.refcnt == 1


def test_one_handler_at_a_time():
    with one_host() as host:
        first, second = (NfnlQueue(host.kernel, host.nf, number) for number in (0, 1))
        assert first.bind() == 0
        assert first.bind() == -EEXIST
        assert second.bind() == -EBUSY
        first.unbind()
        assert second.bind() == 0


def test_without_memory_for_the_reader_s_copy_the_packet_is_dropped():
    with one_host() as host:
        queue = NfnlQueue(host.kernel, host.nf)
        queue.bind()
        host.nf.nf_register_hook(NfHookOps(lambda *_args: NF_QUEUE, NF_IP_PRE_ROUTING))
        skb = filled(host.skbs, b"x" * 2000)
        host.hog()
        assert host.nf.nf_hook_slow(NF_IP_PRE_ROUTING, skb, None, None, lambda _skb: 1) == 0
        host.unhog()
        assert (queue.queue_total, host.skbs.live) == (0, 0)
