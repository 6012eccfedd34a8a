"""The three gates under one flood (A.3): the full series, a gate's patch left out, its neighbour left out; the books balance.

The flood is the same each time: a host at the floor whose ring holds emergency buffers gets datagrams for a socket that nobody
reads, frames of a protocol that is not let in, datagrams for nobody, and frames for another host.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from kemu_net.netfilter.core import NF_ACCEPT, NF_IP_LOCAL_IN, NF_QUEUE, NfHookOps
from kemu_net.netfilter.nfnetlink_queue import NfnlQueue
from net_ground import MAC_A, MAC_B, MAC_C, two_hosts, udp_frame

AOE = (MAC_A + MAC_B + b"\x88\xa2" + bytes(40)).ljust(60, b"\0")
FOREIGN = MAC_C + udp_frame()[6:]
ROUNDS = 20
FLOOD = {"sleeper": 3, "aoe": 2, "queued": 1, "nobody": 1, "foreign": 1}  # frames of each kind in a round
FRAMES = {
    "sleeper": udp_frame(dport=7),
    "aoe": AOE,
    "queued": udp_frame(dport=8),
    "nobody": udp_frame(dport=999),
    "foreign": FOREIGN,
}


GREETING = 2  # frames that come in while two hosts greet: an answer of ARP, and a datagram


class Before:
    """What was counted before the flood."""

    def __init__(self, host) -> None:
        self.gates = host.stats.gates
        self.drops = dict(host.stats.drops)
        self.usage = host.usage


class Flood:
    """What the flood has changed.

    :ivar wire: all frames that came; :ivar kept: packets in sockets and in the queue to user space.
    """

    def __init__(self, host, before, wire, kept) -> None:
        stats = host.stats
        self.stats = stats
        self.wire = wire
        self.kept = kept
        self.usage = host.usage - before.usage
        self.drops = {gate: count - before.drops[gate] for gate, count in stats.drops.items()}
        self.gates = {
            gate: {name: count - before.gates[gate][name] for name, count in counts.items()} for gate, counts in stats.gates.items()
        }


@contextmanager
def flooded(patches="all"):
    """Flood a host at the floor; give it with what it received before, and what its sockets and queues hold."""
    with two_hosts(patches=patches, ring=16, b={}) as net:
        host = net.a
        net.greet()
        sleeper, keeper = host.socket(7), host.socket(1)
        host.swap_over_network()
        host.nf.nf_register_hook(
            NfHookOps(lambda _h, skb, *_r: NF_QUEUE if skb.buf[36:38] == b"\0\x08" else NF_ACCEPT, NF_IP_LOCAL_IN)
        )
        queue = NfnlQueue(host.kernel, host.nf)
        queue.bind()
        host.hog()
        wire = host.stats.rx_frames
        assert wire == GREETING
        for _ in range(3):  # the ring's normal buffers go to a socket that keeps them, emergency ones follow
            net.flood(udp_frame(dport=1), 20)
            net.run(5)
        wire += 60
        host.hog()
        before = Before(host)
        for _ in range(ROUNDS):
            for kind, count in FLOOD.items():
                net.flood(FRAMES[kind], count)
                wire += count
                net.run(1)
        yield Flood(host, before, wire, len(keeper.sk_receive_queue) + len(sleeper.sk_receive_queue) + queue.queue_total)
        queue.unbind()
        host.udp.close(sleeper)
        host.udp.close(keeper)
        host.unhog()


def sent(*kinds):
    """Count the frames of some kinds."""
    return sum(FLOOD[kind] for kind in kinds) * ROUNDS


@pytest.mark.parametrize("patches", ["all", "all,-19", "all,-20", "all,-22", "all,-23", "all,-20,-22", "none"])
def test_every_frame_is_somewhere(patches):
    """Frames on the wire are those lost at a gate, those ignored, and those that were used or are kept."""
    with flooded(patches) as flood:
        stats = flood.stats
        assert flood.wire == sum(stats.drops.values()) + sum(stats.ignored.values()) + GREETING + flood.kept
        gates = stats.gates
        assert gates["socket"]["normal"] + gates["socket"]["emergency"] == GREETING + flood.kept
        first = gates["allocation"]
        outside = stats.ignored["not for this NIC"]
        assert flood.wire == first["normal"] + first["emergency"] + first["dropped"] + outside
        assert gates["protocol"]["emergency"] + gates["protocol"]["dropped"] == first["emergency"]


def test_with_the_full_series_each_gate_drops_its_own():
    with flooded() as flood:
        assert flood.drops == {
            "nic": 0,
            "charge": 0,
            "protocol": sent("aoe"),
            "socket": sent("sleeper"),
            "nfqueue": sent("queued"),
            "rmem": 0,
        }
        assert flood.usage == 0
        assert flood.gates == {
            "allocation": {
                "normal": 0,
                "emergency": sent("sleeper", "aoe", "queued", "nobody"),
                "dropped": 0,
                "dropped_bytes": 0,
            },
            "protocol": {
                "normal": 0,
                "emergency": sent("sleeper", "queued", "nobody"),
                "dropped": sent("aoe"),
                "dropped_bytes": 2048 * sent("aoe"),
            },
            "socket": {
                "normal": 0,
                "emergency": 0,
                "dropped": sent("sleeper", "queued"),
                "dropped_bytes": 2048 * sent("sleeper", "queued"),
            },
        }


# the allocation gate: patch 19, and its neighbour 23


def test_without_19_the_first_gate_drops_and_no_other_sees_an_emergency():
    with flooded("all,-19") as flood:
        gates = flood.gates
        assert gates["allocation"]["dropped"] > 0
        assert gates["allocation"]["emergency"] == gates["protocol"]["dropped"] == gates["socket"]["dropped"] == 0


def test_the_first_gate_does_not_care_about_23():
    with flooded("all,-23") as flood:
        assert flood.gates["allocation"]["emergency"] == sent("sleeper", "aoe", "queued", "nobody")
        assert flood.gates["allocation"]["dropped"] == 0


# the protocol gate: patch 23, and its neighbour 20


def test_without_23_what_it_dropped_goes_on_and_finds_nobody():
    with flooded("all,-23") as flood:
        assert flood.drops["protocol"] == 0
        assert flood.gates["protocol"]["emergency"] == flood.gates["allocation"]["emergency"]
        assert flood.stats.ignored["no protocol handler"] == sent("aoe")


def test_the_protocol_gate_does_not_care_about_20():
    with flooded("all,-20") as flood:
        assert flood.drops["protocol"] == sent("aoe")
        assert flood.drops["socket"] == 0


# the socket gate: patches 20 and 22


def test_without_20_the_sleeper_s_socket_keeps_its_frames_and_their_charge():
    with flooded("all,-20") as flood:
        assert flood.gates["socket"]["dropped"] == sent("queued")
        assert flood.gates["socket"]["emergency"] + flood.drops["rmem"] == sent("sleeper")
        assert flood.usage >= 2048 * flood.gates["socket"]["emergency"]


def test_without_22_the_queue_keeps_its_frames_and_their_charge():
    with flooded("all,-22") as flood:
        assert flood.gates["socket"]["dropped"] == sent("sleeper")
        assert flood.gates["socket"]["emergency"] == sent("queued")
        assert flood.usage >= 2048 * sent("queued")


def test_the_socket_gate_does_not_care_about_23():
    with flooded("all,-23") as flood:
        assert flood.drops["socket"] == sent("sleeper")
