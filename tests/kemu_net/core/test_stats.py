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
    }
