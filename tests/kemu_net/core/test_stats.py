"""What a stack counts for people."""

from __future__ import annotations

from kemu_net.core.stats import DROP_GATES, NetStats


def test_every_gate_is_there_from_the_start():
    assert NetStats().drops == dict.fromkeys(DROP_GATES, 0)


def test_what_no_gate_stopped_is_counted_by_reason():
    stats = NetStats()
    for reason in ("arp: short", "fragment", "arp: short"):
        stats.ignore(reason)
    assert stats.ignored == {"arp: short": 2, "fragment": 1}


def test_two_stacks_share_no_counter():
    one, other = NetStats(), NetStats()
    one.drops["nic"] += 1
    one.ignore("fragment")
    assert (other.drops["nic"], other.ignored) == (0, {})


def test_a_report_does_not_change_with_the_run():
    stats = NetStats(rx_frames=3, emergency_skbs=1)
    report = stats.as_dict()
    stats.rx_frames += 1
    stats.drops["charge"] += 1
    assert report == {
        "rx_frames": 3,
        "tx_frames": 0,
        "retransmits": 0,
        "emergency_skbs": 1,
        "drops": dict.fromkeys(DROP_GATES, 0),
        "gates": {
            "allocation": {"normal": 3, "emergency": 0, "dropped": 0, "dropped_bytes": 0},
            "protocol": {"normal": 3, "emergency": 0, "dropped": 0, "dropped_bytes": 0},
            "socket": {"normal": 3, "emergency": 0, "dropped": 0, "dropped_bytes": 0},
        },
    }


def test_gates_tell_normal_from_emergency():
    stats = NetStats(rx_frames=100, rx_emergency=40, rx_again=5)  # 35 frames, five of them handed up twice
    stats.drops.update(nic=1, charge=2, protocol=3, socket=4, nfqueue=5, rmem=6)
    stats.ignored.update({"ip: short": 7, "transmit queue full": 50})  # what was to be sent is not a frame that came in
    stats.lose_emergency("protocol", 2048)
    stats.lose_emergency("socket", 2048)
    stats.lose_emergency("nfqueue", 4096)
    stats.lose_emergency("rmem", 2048)
    stats.lose_emergency("ip: short", 2048)
    assert stats.gates == {
        "allocation": {"normal": 65, "emergency": 35, "dropped": 3, "dropped_bytes": 0},
        "protocol": {"normal": 65, "emergency": 32, "dropped": 3, "dropped_bytes": 2048},
        "socket": {"normal": 65 - 11, "emergency": 32 - 9 - 2, "dropped": 9, "dropped_bytes": 6144},
    }
