"""SELinux in the packet path: labels, and what sk_filter() asks."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import EACCES, EAGAIN, ENOMEM
from kemu.kernel.world import World
from kemu.machine import Machine, MachineConfig
from kemu.mm.gfp import GFP_KERNEL
from kemu.security.selinux import PACKET__RECV, SECCLASS_PACKET, SECINITSID_KERNEL, SECINITSID_UNLABELED
from kemu_net.core.sock import SOCK_MEMALLOC, Proto, Sock
from kemu_net.drivers.wire import Wire
from kemu_net.stack import NetStack


@pytest.fixture
def host():
    with Machine(MachineConfig(mem=16 << 20, selinux=True)) as machine:
        net = NetStack(
            machine.kernel,
            machine.page_alloc,
            machine.slub,
            machine.reserves,
            Wire(machine.world),
            mac=b"\2\0\0\0\0\1",
            ip=1,
            ring=16,
            security=machine.selinux,
        )
        machine.net = net
        yield machine
        machine.check()
        net.check()


def _socket(host):
    return host.net.socks.sk_alloc(Proto("TEST", host.slub.kmem_cache_create("TEST", 704)), GFP_KERNEL, Sock)


def test_a_machine_has_none_unless_asked():
    with Machine(MachineConfig(mem=16 << 20)) as machine:
        assert machine.selinux is None
        assert "avc_node" not in machine.slub.caches


def test_before_a_policy_is_loaded_everything_is_allowed(host):
    sk = _socket(host)
    skb = host.net.skbs.alloc_skb(100, GFP_KERNEL)
    assert host.net.socks.sk_filter(sk, skb) == 0
    assert host.selinux.avc.stats.lookups == 1
    host.net.skbs.kfree_skb(skb)


def test_the_question_is_who_may_receive_what(host):
    asked = []
    host.selinux.load_policy(lambda *question: asked.append(question) or PACKET__RECV)
    sk = _socket(host)
    skb = host.net.skbs.alloc_skb(100, GFP_KERNEL)
    host.net.socks.sk_filter(sk, skb)
    host.selinux.packet_label = lambda _skb: 77
    host.net.socks.sk_filter(sk, skb)
    assert asked == [(SECINITSID_KERNEL, SECINITSID_UNLABELED, SECCLASS_PACKET), (SECINITSID_KERNEL, 77, SECCLASS_PACKET)]
    host.net.skbs.kfree_skb(skb)


def test_a_denied_datagram_is_refused_with_the_modules_error_and_counted(host):
    host.selinux.load_policy(lambda *_question: 0)
    sk = _socket(host)
    skb = host.net.skbs.alloc_skb(100, GFP_KERNEL)
    assert host.net.socks.sock_queue_rcv_skb(sk, skb) == -EACCES
    assert not sk.sk_receive_queue
    assert host.net.stats.ignored == {"security": 1}
    host.net.skbs.kfree_skb(skb)


def test_patch_20_comes_first_so_that_foreign_emergency_packets_never_get_to_the_cache(host):
    sk = _socket(host)
    skb = host.net.skbs.alloc_skb(100, GFP_KERNEL)
    skb.emergency = 1
    assert host.net.socks.sk_filter(sk, skb) == -ENOMEM
    assert host.selinux.avc.stats.lookups == 0
    sk.sk_flags |= SOCK_MEMALLOC
    assert host.net.socks.sk_filter(sk, skb) == 0
    assert host.selinux.avc.stats.lookups == 1
    sk.sk_flags &= ~SOCK_MEMALLOC
    skb.emergency = 0
    host.net.skbs.kfree_skb(skb)


def test_another_policy_is_heeded_at_once(host):
    sk = _socket(host)
    skb = host.net.skbs.alloc_skb(100, GFP_KERNEL)
    host.selinux.load_policy(lambda *_question: PACKET__RECV)
    assert host.net.socks.sk_filter(sk, skb) == 0
    host.selinux.load_policy(lambda *_question: 0)
    assert host.net.socks.sk_filter(sk, skb) == -EACCES
    host.net.skbs.kfree_skb(skb)


NET = 0x0A000000


def _two_hosts(world):
    wire = Wire(world)
    for last, selinux in ((1, True), (2, False)):
        machine = Machine(MachineConfig(name=f"host{last}", mem=16 << 20, selinux=selinux), world)
        machine.net = NetStack(
            machine.kernel,
            machine.page_alloc,
            machine.slub,
            machine.reserves,
            wire,
            mac=bytes((2, 0, 0, 0, 0, last)),
            ip=NET | last,
            ring=16,
            security=machine.selinux,
        )
        yield machine


def test_a_policy_decides_which_datagrams_come_in():
    """From the wire to the socket: a denied datagram goes without a word, and the next policy lets its like in."""
    with World() as world:
        here, there = _two_hosts(world)
        inbox, outbox = here.net.udp.sock_create(), there.net.udp.sock_create()
        here.net.udp.bind(inbox, NET | 1, 7)
        here.selinux.load_policy(lambda *_question: 0)
        there.net.udp.sendto(outbox, b"denied", NET | 1, 7)
        world.run(for_ns=20_000_000)
        assert here.net.udp.recvfrom(inbox, nonblock=True) == -EAGAIN
        assert here.net.stats.ignored["security"] == 1
        here.selinux.load_policy(lambda *_question: PACKET__RECV)
        there.net.udp.sendto(outbox, b"allowed", NET | 1, 7)
        world.run(for_ns=20_000_000)
        assert here.net.udp.recvfrom(inbox, nonblock=True)[0] == b"allowed"
        here.check()
        here.net.check()
