"""What is told of a phase."""

from types import SimpleNamespace

import pytest

from kemu.mm.vmstat import VmStat
from kemu_lab.phases import PhaseMeter
from kemu_net.core.net_reserve import NetReserves
from kemu_nfs.nfs.nfs_client import NfsStats

SECOND = 10**9


class Client:
    """The counters of a client that somebody else moves."""

    def __init__(self):
        self.now = 5 * SECOND
        self.free = 1000
        self.vmstat = VmStat()
        self.nfs = NfsStats()
        self.net = SimpleNamespace(rx_frames=0, emergency_skbs=0, drops={"nic": 0, "rmem": 0})
        self.reserves = SimpleNamespace(peak_usage=0, net_skb_reserve=SimpleNamespace(usage=0))
        self.pair = SimpleNamespace(
            world=SimpleNamespace(now=0),
            client=SimpleNamespace(vmstat=self.vmstat, page_alloc=SimpleNamespace(nr_free_pages=lambda: self.free)),
            mount=SimpleNamespace(stats=self.nfs),
            client_net=SimpleNamespace(stats=self.net, net_reserves=self.reserves),
        )
        self.meter = PhaseMeter(self.pair)

    def pass_time(self, seconds):
        self.pair.world.now += round(seconds * SECOND)


@pytest.fixture
def client():
    return Client()


def test_events_are_told_by_the_phase_in_which_they_happened(client):
    client.vmstat.pswpout = 7
    client.meter.begin("steady", 0)
    client.vmstat.pswpout += 10
    client.nfs.writes += 4
    client.net.drops["rmem"] += 3
    client.pass_time(2)
    client.meter.begin("outage", 0)
    client.vmstat.pswpout += 100
    client.nfs.reconnects += 1
    client.meter.end()
    steady, outage = client.meter.done

    assert (steady.pages_out, steady.writes, steady.drops, steady.virtual_ns) == (10, 4, {"nic": 0, "rmem": 3}, 2 * SECOND)
    assert (outage.pages_out, outage.writes, outage.reconnects, outage.drops) == (100, 0, 1, {"nic": 0, "rmem": 0})
    assert outage.begin_ns == steady.begin_ns + steady.virtual_ns


def test_lows_and_highs_are_what_was_seen_in_the_phase(client):
    client.meter.begin("steady", 0)
    for free in (900, 400, 1200, 800):
        client.free = free
        client.meter.sample(0)
    client.meter.begin("outage", 0)
    client.meter.end()
    steady, outage = client.meter.done

    assert (steady.free_low, steady.free_high) == (400, 1200)
    assert (outage.free_low, outage.free_high) == (800, 800)


def test_a_stall_is_time_in_which_nothing_was_touched(client):
    client.meter.begin("steady", 0)
    for seconds, position in ((1, 5), (1, 6), (3, 6), (1, 7), (2, 8)):
        client.pass_time(seconds)
        client.meter.sample(position)
    client.meter.end()

    assert client.meter.done[0].longest_stall_ns == 4 * SECOND
    assert client.meter.done[0].touches == 8


def test_a_stall_that_outlasts_a_phase_counts_in_both(client):
    client.meter.begin("outage", 50)
    client.pass_time(900)
    client.meter.sample(50)
    client.meter.begin("recovery", 50)
    client.pass_time(81)
    client.meter.sample(51)
    client.meter.end()

    assert [phase.longest_stall_ns // SECOND for phase in client.meter.done] == [900, 81]


def test_the_peak_of_the_reserve_begins_anew_with_each_phase(client):
    client.reserves.peak_usage = 4096  # before the load
    client.meter.begin("steady", 0)
    client.reserves.peak_usage = 9000
    client.reserves.net_skb_reserve.usage = 100
    client.meter.begin("outage", 0)
    client.meter.end()

    assert [phase.reserve_peak_bytes for phase in client.meter.done] == [9000, 100]
    assert client.meter.reserve_peak == 9000


def test_without_a_phase_samples_are_dropped(client):
    client.meter.sample(1)
    client.meter.end()

    assert client.meter.done == []


def test_the_machine_has_what_is_read():
    assert {"peak_usage", "net_skb_reserve"} <= set(NetReserves.__init__.__code__.co_names)
