"""Hooks: who is asked, in which order, and what each verdict does."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.kernel.errno import EPERM
from kemu_net.netfilter.core import (
    NF_ACCEPT,
    NF_DROP,
    NF_IP_LOCAL_IN,
    NF_IP_LOCAL_OUT,
    NF_IP_POST_ROUTING,
    NF_IP_PRE_ROUTING,
    NF_IP_PRI_CONNTRACK,
    NF_IP_PRI_FILTER,
    NF_QUEUE,
    NF_REPEAT,
    NF_STOLEN,
    NF_STOP,
    NfHookOps,
)
from net_ground import IP_A, IP_B, filled, one_host, two_hosts, udp_frame


@pytest.fixture
def host():
    with one_host() as host:
        yield host


class Asked:
    """Hooks that note that they were asked, and answer from a list."""

    def __init__(self, host) -> None:
        self.host = host
        self.names: list[str] = []

    def hook(self, name, *verdicts, hooknum=NF_IP_PRE_ROUTING, priority=NF_IP_PRI_FILTER):
        answers = list(verdicts)

        def fn(_hooknum, _skb, _indev, _outdev, _okfn):
            self.names.append(name)
            return answers.pop(0)

        ops = NfHookOps(fn, hooknum, priority, name)
        self.host.nf.nf_register_hook(ops)
        return ops

    def send(self, hooknum=NF_IP_PRE_ROUTING):
        skb = filled(self.host.skbs, b"packet")

        def okfn(skb):
            self.names.append("ok")
            self.host.skbs.kfree_skb(skb)
            return 7

        return self.host.nf.nf_hook_slow(hooknum, skb, self.host.nic, None, okfn)


def test_hooks_are_asked_by_priority_and_then_the_packet_goes_on(host):
    asked = Asked(host)
    asked.hook("filter", NF_ACCEPT)
    asked.hook("conntrack", NF_ACCEPT, priority=NF_IP_PRI_CONNTRACK)
    asked.hook("later filter", NF_ACCEPT)
    assert asked.send() == 7
    assert asked.names == ["conntrack", "filter", "later filter", "ok"]


def test_a_dropped_packet_is_freed_and_nobody_else_asked(host):
    asked = Asked(host)
    asked.hook("first", NF_DROP)
    asked.hook("second")
    assert asked.send() == -EPERM
    assert asked.names == ["first"]
    assert host.skbs.live == 0
    assert host.stats.ignored["netfilter"] == 1


def test_stop_asks_nobody_else_and_lets_it_go_on(host):
    asked = Asked(host)
    asked.hook("first", NF_STOP)
    asked.hook("second")
    assert asked.send() == 7
    assert asked.names == ["first", "ok"]


def test_a_repeating_hook_is_asked_again(host):
    asked = Asked(host)
    asked.hook("first", NF_REPEAT, NF_REPEAT, NF_ACCEPT)
    assert asked.send() == 7
    assert asked.names == ["first", "first", "first", "ok"]


def test_a_stolen_packet_is_the_hook_s(host):
    stolen = []
    host.nf.nf_register_hook(NfHookOps(lambda _n, skb, *_rest: stolen.append(skb) or NF_STOLEN, NF_IP_PRE_ROUTING))
    assert Asked(host).send() == 0
    assert host.skbs.live == 1
    host.skbs.kfree_skb(stolen[0])


def test_without_a_queue_a_packet_for_it_is_dropped_to_be_safe(host):
    asked = Asked(host)
    asked.hook("queues", NF_QUEUE)
    asked.hook("second")
    assert asked.send() == 0
    assert asked.names == ["queues"]
    assert host.skbs.live == 0


def test_a_hook_can_go(host):
    asked = Asked(host)
    ops = asked.hook("first", NF_DROP)
    host.nf.nf_unregister_hook(ops)
    assert asked.send() == 7
    with pytest.raises(KernelBug, match="not registered"):
        host.nf.nf_unregister_hook(ops)


@pytest.mark.parametrize("place", [NF_IP_PRE_ROUTING, NF_IP_LOCAL_IN])
def test_received_packets_pass_the_hooks_of_the_way_in(place):
    with two_hosts() as net:
        seen = []

        def fn(_hooknum, skb, indev, outdev, _okfn):
            seen.append((skb.buf[skb.nh] >> 4, indev is net.a.nic, outdev))
            return NF_DROP if len(seen) == 1 else NF_ACCEPT

        net.a.nf.nf_register_hook(NfHookOps(fn, place))
        sk = net.a.socket(7)
        net.flood(udp_frame(b"one"))
        net.flood(udp_frame(b"two"))
        net.run(5)
        assert net.a.udp.recvfrom(sk, nonblock=True)[0] == b"two"
        assert seen == [(4, True, None)] * 2
        net.a.udp.close(sk)


@pytest.mark.parametrize("place", [NF_IP_LOCAL_OUT, NF_IP_POST_ROUTING])
def test_sent_packets_pass_the_hooks_of_the_way_out(place):
    with two_hosts() as net:
        net.greet()
        verdicts = [NF_DROP, NF_ACCEPT]
        net.a.nf.nf_register_hook(NfHookOps(lambda *_args: verdicts.pop(0), place))
        sink = net.b.socket(7)
        sk = net.a.socket(9)
        for word in (b"one", b"two"):
            net.a.udp.sendto(sk, word, IP_B, 7)
        net.run(5)
        assert net.b.udp.recvfrom(sink, nonblock=True)[:2] == (b"two", IP_A)
        assert verdicts == []
        net.a.udp.close(sk)
        net.b.udp.close(sink)
