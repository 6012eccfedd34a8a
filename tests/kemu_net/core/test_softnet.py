"""The receive softirq: budget, weight, time, and when ksoftirqd takes over."""

from __future__ import annotations

import pytest

from kemu.kernel.softirq import MAX_SOFTIRQ_RESTART, NET_RX_SOFTIRQ
from kemu.kernel.timer import NSEC_PER_JIFFY
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.dev import NETDEV_BUDGET, NETDEV_MAX_BACKLOG, WEIGHT
from kemu_net.core.skbuff import skb_put_bytes
from net_ground import one_host


@pytest.fixture
def host():
    with one_host() as host:
        yield host


def packet(host):
    skb = host.skbs.alloc_skb(50, GFP_ATOMIC)
    skb_put_bytes(skb, b"x" * 50)
    skb.protocol = 0x88B5
    skb.dev = host.nic
    return skb


class Driver:
    """Something to poll that has ``frames`` frames, each of which takes ``ns``."""

    def __init__(self, host, frames, ns=0):
        self.host = host
        self.frames = frames
        self.ns = ns
        self.polls: list[int] = []

    def poll(self, quota):
        work = min(quota, self.frames)
        self.frames -= work
        self.polls.append(work)
        if self.ns:
            self.host.kernel.sched.spend(self.ns * work)
        if work < quota:
            self.host.dev.netif_rx_complete(self)
        return work


def action(host, *drivers):
    """Run the softirq's function once; tell whether it wants to come again."""
    host.kernel.softirq.local_bh_disable()
    cpu = host.kernel.cpus[0]
    for driver in drivers:
        host.dev.netif_rx_schedule(driver)
    cpu.softirq_pending &= ~(1 << NET_RX_SOFTIRQ)
    host.dev.net_rx_action()
    return bool(cpu.softirq_pending & 1 << NET_RX_SOFTIRQ)


def test_a_driver_gets_64_frames_a_turn_and_all_300_together(host):
    driver = Driver(host, 1000)
    assert action(host, driver)
    assert driver.polls == [WEIGHT] * 4 + [NETDEV_BUDGET - 4 * WEIGHT]
    assert host.dev.softnet[0].time_squeeze == 1
    host.kernel.softirq.local_bh_enable()
    assert driver.frames == 0


def test_drivers_take_turns(host):
    one, other = Driver(host, 100), Driver(host, 100)
    assert not action(host, one, other)
    assert (one.polls, other.polls) == ([64, 36], [64, 36])
    host.kernel.softirq.local_bh_enable()


def test_two_jiffies_are_enough(host):
    slow = Driver(host, 500, ns=NSEC_PER_JIFFY // 40)
    assert action(host, slow)
    assert sum(slow.polls) == 128  # 64 frames take 1.6 jiffies
    host.kernel.softirq.local_bh_enable()


def test_after_ten_rounds_ksoftirqd_goes_on(host):
    softirq = host.kernel.softirq
    driver = Driver(host, 20 * NETDEV_BUDGET)
    softirq.local_bh_disable()
    host.dev.netif_rx_schedule(driver)
    rounds, wakes = softirq.rounds, softirq.ksoftirqd_wakes
    softirq.local_bh_enable()
    assert softirq.rounds - rounds == MAX_SOFTIRQ_RESTART
    assert driver.frames == 10 * NETDEV_BUDGET
    assert softirq.ksoftirqd_wakes == wakes + 1
    host.kernel.world.run(for_ns=10_000_000)
    assert driver.frames == 0


def test_ksoftirqd_works_as_itself(host):
    """What is left after ten rounds does not run on the interrupted task's back any more."""
    who = []
    host.dev.dev_add_pack(0x88B5, lambda skb: (who.append(host.task.comm), host.skbs.kfree_skb(skb)))
    driver = Driver(host, 11 * NETDEV_BUDGET)
    host.kernel.softirq.local_bh_disable()
    host.dev.netif_rx_schedule(driver)
    host.kernel.softirq.local_bh_enable()
    host.dev.netif_rx(packet(host))
    host.kernel.world.run(for_ns=10_000_000)
    assert who == ["ksoftirqd/0"]


def test_the_backlog_counts_as_softnet_stat_does(host):
    host.kernel.softirq.local_bh_disable()
    for _ in range(NETDEV_MAX_BACKLOG + 5):
        host.dev.netif_rx(packet(host))
    softnet = host.dev.softnet[0]
    assert (softnet.total, softnet.dropped) == (NETDEV_MAX_BACKLOG + 5, 4)
    host.kernel.softirq.local_bh_enable()
    host.kernel.world.run(for_ns=10_000_000)
    assert softnet.total == NETDEV_MAX_BACKLOG + 5 + NETDEV_MAX_BACKLOG + 1
    assert not softnet.poll_list


def test_the_backlog_s_limit_is_a_sysctl(host):
    host.kernel.sysctl.write("net.core.netdev_max_backlog", "2")
    host.kernel.softirq.local_bh_disable()
    for _ in range(5):
        host.dev.netif_rx(packet(host))
    assert host.dev.softnet[0].dropped == 2
    host.kernel.softirq.local_bh_enable()


def test_a_slow_backlog_stays_on_the_list(host):
    host.dev.dev_add_pack(0x88B5, lambda skb: (host.kernel.sched.spend(NSEC_PER_JIFFY), host.skbs.kfree_skb(skb)))
    host.kernel.softirq.local_bh_disable()
    for _ in range(10):
        host.dev.netif_rx(packet(host))
    host.dev.net_rx_action()
    softnet = host.dev.softnet[0]
    assert (len(softnet.input_pkt_queue), softnet.scheduled, softnet.time_squeeze) == (8, True, 1)
    assert softnet.total == 10 + 2
    host.kernel.softirq.local_bh_enable()
    host.kernel.world.run(for_ns=100_000_000)
    assert not softnet.input_pkt_queue
