"""The generator of foreign traffic."""

from __future__ import annotations

import pytest

from kemu.errors import ConfigError
from kemu_net.drivers.generator import FrameGenerator
from net_ground import IP_A, IP_C, MAC_A, MAC_C, two_hosts


@pytest.fixture
def net():
    with two_hosts() as net:
        yield net


def generator(net, ports=(7, 8), **options):
    return FrameGenerator(net.world, net.wire, MAC_C, IP_C, MAC_A, [(IP_A, port) for port in ports], **options)


def test_a_burst_has_rate_times_duration_frames(net):
    gen = generator(net, rate=5000, burst_ns=20_000_000)
    gen.start(net.world.now)
    net.run(40)
    assert gen.sent == 100
    assert not gen.running


def test_frames_reach_the_sockets_in_turn(net):
    sockets = [net.a.socket(port) for port in (7, 8)]
    gen = generator(net, rate=10_000, burst_ns=2_000_000, payload=100)
    gen.start(net.world.now)
    net.run(10)
    assert [len(sk.sk_receive_queue) for sk in sockets] == [10, 10]


def test_bursts_come_once_a_period(net):
    gen = generator(net, rate=1000, burst_ns=5_000_000, period_ns=20_000_000, bursts=3)
    gen.start(net.world.now)
    net.run(27)
    assert gen.sent == 10
    net.run(100)
    assert gen.sent == 15


def test_an_endless_generator_can_be_stopped(net):
    gen = generator(net, rate=1000, burst_ns=1_000_000, period_ns=2_000_000, bursts=0)
    gen.start(net.world.now)
    net.run(11)
    gen.stop()
    sent = gen.sent
    net.run(20)
    assert gen.sent == sent > 3


def test_it_answers_arp(net):
    gen = generator(net)
    sk = net.a.udp.sock_create()
    assert net.a.udp.sendto(sk, b"anybody?", IP_C, 7) == 8
    net.run(5)
    assert net.a.inet.arp.table[IP_C].ha == MAC_C
    assert gen.received == 2


def test_the_same_seed_gives_the_same_frames(net):
    wires = [generator(net, seed=3)._frames]
    with two_hosts() as other:
        wires.append(generator(other, seed=3)._frames)
    assert wires[0] == wires[1]


@pytest.mark.parametrize("bad", [{"rate": 0}, {"payload": 1473}, {"bursts": 2}, {"ports": ()}])
def test_impossible_traffic_is_refused(net, bad):
    with pytest.raises(ConfigError):
        generator(net, **bad)
