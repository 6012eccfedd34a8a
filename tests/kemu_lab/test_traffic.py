"""Foreign hosts: a background, floods of UDP in turn, fragments that never become a packet."""

import pytest

from kemu_lab.hosts import Pair
from kemu_lab.run_config import RunConfig
from kemu_lab.traffic import BACKGROUND_RATE, FLOOD_NS, FLOOD_RATE, FRAGMENT_IDS, ForeignHosts

SECOND = 10**9


class Recorder:
    """The IPv4 packets that passed the wire, by sender; the hosts also answer ARP."""

    def __init__(self, wire):
        self.frames = []
        wire.taps.append(lambda time, frame: self.frames.append((time, frame)))

    def of(self, host):
        return [(time, frame) for time, frame in self.frames if frame[6:14] == host.mac + b"\x08\x00"]


@pytest.fixture
def pair():
    with Pair(RunConfig(mem=16 << 20)) as pair:
        yield pair


def hosts(pair, kinds):
    return ForeignHosts(pair, kinds, [40000, 40001], [[40002, 40003], [40004], [40005]])


def ports(frames):
    return {int.from_bytes(frame[36:38], "big") for _, frame in frames}


def test_the_background_goes_on_between_the_floods(pair):
    foreign, seen = hosts(pair, ["udp-flood"]), Recorder(pair.wire)
    foreign.begin()
    pair.world.run(for_ns=5 * SECOND)
    foreign.flood()
    pair.world.run(for_ns=5 * SECOND)
    background = seen.of(foreign.background)

    assert len(background) == pytest.approx(10 * BACKGROUND_RATE, abs=2)
    assert ports(background) == {40000, 40001}


def test_a_flood_lasts_two_seconds(pair):
    foreign, seen = hosts(pair, ["udp-flood"]), Recorder(pair.wire)
    foreign.flood()
    assert foreign.flooding
    pair.world.run(for_ns=4 * SECOND)
    frames = seen.of(foreign.udp[0])

    assert not foreign.flooding
    assert len(frames) == FLOOD_RATE * FLOOD_NS // SECOND
    assert frames[-1][0] - frames[0][0] == pytest.approx(FLOOD_NS, rel=0.01)


def test_each_flood_of_udp_has_sockets_of_its_own(pair):
    foreign, seen = hosts(pair, ["udp-flood"]), Recorder(pair.wire)
    for _ in range(3):
        foreign.flood()
        pair.world.run(for_ns=SECOND // 10)

    assert [ports(seen.of(host)) for host in foreign.udp] == [{40002, 40003}, {40004}, {40005}]


def test_mixed_floods_come_in_turn(pair):
    foreign = hosts(pair, ["udp-flood", "fragments"])
    running = []
    for _ in range(4):
        foreign.flood()
        running.append(foreign.fragments.running)

    assert running == [False, True, False, True]


def test_fragments_are_first_ones_of_different_datagrams(pair):
    foreign, seen = hosts(pair, ["fragments"]), Recorder(pair.wire)
    foreign.flood()
    pair.world.run(for_ns=SECOND // 2)
    heads = [frame[14:34] for _, frame in seen.of(foreign.fragments)]
    idents = [head[4:6] for head in heads]

    assert {head[6:8] for head in heads} == {b"\x20\x00"}
    assert len(set(idents)) == FRAGMENT_IDS
    assert len(set(idents[:FRAGMENT_IDS])) == FRAGMENT_IDS
    assert pair.client_net.inet.frags.mem > 0


def test_without_kinds_a_flood_is_nothing(pair):
    foreign = hosts(pair, [])
    foreign.flood()

    assert not foreign.flooding
    assert foreign.sent == 0


def test_the_end_ends_everything(pair):
    foreign = hosts(pair, ["udp-flood"])
    foreign.begin()
    foreign.flood()
    foreign.end()
    sent = foreign.sent
    pair.world.run(for_ns=SECOND)

    assert foreign.sent == sent
