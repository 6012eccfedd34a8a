"""The wire: when a frame arrives, and what a bad cable does to it."""

from __future__ import annotations

import pytest

from kemu.errors import ConfigError
from kemu.kernel.world import World
from kemu_net.drivers.wire import BROADCAST, FRAME_OVERHEAD, Wire

MAC_1, MAC_2, MAC_3 = (bytes((2, 0, 0, 0, 0, last)) for last in (1, 2, 3))


class Ear:
    """A port that remembers."""

    def __init__(self, mac: bytes) -> None:
        self.mac = mac
        self.heard: list[tuple[int, bytes]] = []

    def deliver(self, time: int, frame: bytes) -> None:
        self.heard.append((time, frame))


@pytest.fixture
def world():
    with World() as world:
        yield world


def three(world, **options):
    wire = Wire(world, **options)
    ears = [Ear(mac) for mac in (MAC_1, MAC_2, MAC_3)]
    for ear in ears:
        wire.attach(ear)
    return wire, *ears


def frame(to: bytes, size: int = 126, mark: int = 0) -> bytes:
    return to + MAC_1 + b"\x88\xb5" + mark.to_bytes(4, "big") + bytes(size - 18)


def test_a_frame_takes_its_bits_and_the_latency(world):
    wire, one, two, _ = three(world, latency_ns=50_000, bandwidth_bps=1_000_000_000)
    assert wire.transmit(one, frame(MAC_2), 1000) == 1000 + (126 + FRAME_OVERHEAD) * 8
    assert two.heard[0][0] == 1000 + 1200 + 50_000


def test_frames_of_one_sender_queue(world):
    wire, one, two, _ = three(world)
    wire.transmit(one, frame(MAC_2), 0)
    wire.transmit(one, frame(MAC_2), 0)
    assert [time for time, _ in two.heard] == [51_200, 52_400]


def test_two_senders_share_the_receivers_cable(world):
    wire, one, two, three_ = three(world)
    wire.transmit(one, frame(MAC_2), 0)
    wire.transmit(three_, frame(MAC_2), 0)
    assert [time for time, _ in two.heard] == [51_200, 52_400]


def test_the_switch_drops_what_its_queue_cannot_hold(world):
    wire, one, two, three_ = three(world, queue=4)
    for _ in range(20):
        wire.transmit(one, frame(MAC_2), 0)
        wire.transmit(three_, frame(MAC_2), 0)
    assert wire.dropped["queue"] == 40 - len(two.heard) > 0


def test_a_unicast_frame_goes_to_its_owner_alone(world):
    wire, one, two, three_ = three(world)
    wire.transmit(one, frame(MAC_2), 0)
    assert (len(one.heard), len(two.heard), len(three_.heard)) == (0, 1, 0)


@pytest.mark.parametrize("address", [BROADCAST, b"\x02\0\0\0\0\x77"])
def test_a_broadcast_or_unknown_address_goes_to_all_others(world, address):
    wire, one, two, three_ = three(world)
    wire.transmit(one, frame(address), 0)
    assert (len(one.heard), len(two.heard), len(three_.heard)) == (0, 1, 1)


def test_a_cut_wire_loses_and_a_mended_one_carries(world):
    wire, one, two, _ = three(world)
    wire.cut()
    wire.transmit(one, frame(MAC_2), 0)
    wire.mend()
    wire.transmit(one, frame(MAC_2), 0)
    assert (len(two.heard), wire.dropped["cut"]) == (1, 1)


def test_loss_is_a_chance(world):
    wire, one, two, _ = three(world, loss=0.25, seed=1)
    for index in range(1000):
        wire.transmit(one, frame(MAC_2), index * 10_000)
    assert 700 < len(two.heard) < 800
    assert wire.dropped["loss"] == 1000 - len(two.heard)


def test_a_corrupt_frame_differs_in_one_bit(world):
    wire, one, two, _ = three(world, corrupt=1.0, seed=3)
    sent = frame(MAC_2)
    for _ in range(5):
        wire.transmit(one, sent, 0)
    received = [got for ear in (two, *[]) for _, got in ear.heard]
    for got in received:
        assert (int.from_bytes(got, "big") ^ int.from_bytes(sent, "big")).bit_count() == 1


def test_a_duplicate_arrives_twice(world):
    wire, one, two, _ = three(world, duplicate=1.0)
    wire.transmit(one, frame(MAC_2), 0)
    assert len(two.heard) == 2


def test_a_late_frame_lets_others_pass(world):
    wire, one, two, _ = three(world, reorder=0.3, reorder_ns=300_000, seed=5)
    for mark in range(100):
        wire.transmit(one, frame(MAC_2, mark=mark), 0)
    order = [got[14:18] for _, got in sorted(two.heard)]
    assert len(order) == 100
    assert order != sorted(order)


def test_nothing_arrives_before_the_latency(world):
    wire, one, two, _ = three(world, reorder=0.5, duplicate=0.5, corrupt=0.2, seed=7)
    for index in range(200):
        wire.transmit(one, frame(MAC_2), index * 1000)
        assert all(time >= index * 1000 + wire.latency_ns for time, _ in two.heard[-1:])


def test_the_same_seed_spoils_the_same_frames(world):
    runs = []
    for _ in range(2):
        wire, one, two, _ = three(world, loss=0.1, corrupt=0.1, duplicate=0.1, reorder=0.1, seed=11)
        for index in range(200):
            wire.transmit(one, frame(MAC_2, mark=index), index * 5000)
        runs.append(two.heard)
    assert runs[0] == runs[1]


def _arrived(wire, one, two, count=40):
    before = len(two.heard)
    for mark in range(count):
        wire.transmit(one, frame(MAC_2, mark=mark), mark * 1_000_000)
    return two.heard[before:]


@pytest.mark.parametrize(
    ("fault", "arrive"), [({"loss": 1.0}, 0), ({"duplicate": 1.0}, 80), ({"corrupt": 1.0}, 40), ({"reorder": 1.0}, 40)]
)
def test_a_fault_comes_and_goes_while_the_wire_is_in_use(world, fault, arrive):
    wire, one, two, _ = three(world, seed=2)
    well = _arrived(wire, one, two)
    wire.change(**fault)
    assert len(_arrived(wire, one, two)) <= arrive
    wire.change(**dict.fromkeys(fault, 0.0))
    assert [got for _, got in _arrived(wire, one, two)] == [got for _, got in well]


def test_a_fault_of_one_sender_leaves_the_others_alone(world):
    wire, one, two, three_ = three(world)
    wire.change(sender=MAC_1, loss=1.0)
    wire.transmit(one, frame(MAC_2), 0)
    wire.transmit(three_, frame(MAC_2), 0)
    assert len(two.heard) == 1
    assert wire.dropped["loss"] == 1


def test_latency_and_bandwidth_change_for_what_is_sent_from_now_on(world):
    wire, one, two, _ = three(world)
    wire.transmit(one, frame(MAC_2), 0)
    wire.change(latency_ns=10_000, bandwidth_bps=100_000_000)
    wire.transmit(one, frame(MAC_2), 1_000_000)
    assert [time for time, _ in two.heard] == [51_200, 1_000_000 + 12_000 + 10_000]
    assert world.lookahead_ns == 10_000


def test_a_short_queue_drops_what_comes_on_top(world):
    wire, one, two, three_ = three(world)
    wire.change(queue=2)
    for mark in range(10):
        wire.transmit(one, frame(MAC_2, mark=mark), 0)
        wire.transmit(three_, frame(MAC_2, mark=mark), 0)
    assert wire.dropped["queue"] == 20 - len(two.heard) > 0


def test_taps_see_what_leaves_the_switch(world):
    wire, one, two, _ = three(world)
    seen = []
    wire.taps.append(lambda time, got: seen.append((time, got)))
    wire.transmit(one, frame(MAC_2), 0)
    assert seen == two.heard


def test_the_latency_bounds_how_far_machines_run_ahead(world):
    Wire(world, latency_ns=7_000)
    assert world.lookahead_ns == 7_000


@pytest.mark.parametrize(
    "bad", [{"loss": 1.5}, {"corrupt": -0.1}, {"latency_ns": 0}, {"queue": 0}, {"reorder_ns": -1}, {"los": 0.1}]
)
def test_impossible_cables_are_refused(world, bad):
    with pytest.raises(ConfigError):
        Wire(world, **bad)


def test_two_ports_with_one_address_are_refused(world):
    wire = Wire(world)
    wire.attach(Ear(MAC_1))
    with pytest.raises(ConfigError, match="02:00"):
        wire.attach(Ear(MAC_1))


def test_a_pulled_cable_loses_what_its_port_sends_and_what_is_for_it(world):
    wire, one, two, three_ = three(world)
    wire.unplug(two)
    wire.transmit(one, frame(MAC_2), 0)
    wire.transmit(two, frame(MAC_1), 0)
    wire.transmit(one, frame(MAC_3), 0)
    wire.transmit(one, frame(BROADCAST), 0)

    assert (len(one.heard), len(two.heard), len(three_.heard)) == (0, 0, 2)
    assert wire.dropped["cut"] == 2


def test_a_cable_that_is_plugged_in_again_works(world):
    wire, one, two, _ = three(world)
    wire.unplug(two)
    wire.plug(two)
    wire.transmit(one, frame(MAC_2), 0)

    assert len(two.heard) == 1
    wire.plug(two)  # a second time does nothing
