"""What one network stack counts for people: the ``net`` object of a run's report.

Interface
    NetStats: plain ints and dicts, incremented in place by whoever sees the event
    NetStats.gates: what passed each of the three gates as normal, as emergency, and what it dropped

Rules
    * Every lost frame is counted once, under the first gate that stopped it (``drops``):
      nic       no receive descriptor was free, and no charge had been refused for it;
      charge    no receive descriptor was free, because the SKB data reserve had refused to pay for a refill;
      protocol  an emergency frame of a protocol that patch 23 does not let in;
      socket    an emergency frame for a socket that does not carry swap (patch 20);
      nfqueue   an emergency frame for a userspace queue (patch 22);
      rmem      the socket's own limit or the protocol's memory limit.
    * What is malformed, for somebody else, or for nobody stands in ``ignored`` by reason: it would have been lost anyway. All words
      are explained in drop_reasons.py.
    * Only emergency frames are counted one by one at the gates; what passed as normal is what remains of ``rx_frames``.
    * Gates count frames. A datagram in pieces is as many frames; a frame of a VLAN, which is handed up twice, is one.
"""

from __future__ import annotations

import attrs

from kemu_net.core.drop_reasons import IGNORED_IN

DROP_GATES = ("nic", "charge", "protocol", "socket", "nfqueue", "rmem")


@attrs.define(eq=False)
class NetStats:
    """Counters of one stack.

    :ivar rx_emergency: how often an emergency frame was handed up; ``rx_again``: second times among them (VLAN).
    :ivar lost_emergency: of emergency packets that were lost, by reason: packets, and bytes that had been charged for them.
    """

    rx_frames: int = 0
    tx_frames: int = 0
    retransmits: int = 0
    emergency_skbs: int = 0  # receive buffers that came from the reserve
    rx_emergency: int = 0
    rx_again: int = 0
    drops: dict[str, int] = attrs.Factory(lambda: dict.fromkeys(DROP_GATES, 0))
    ignored: dict[str, int] = attrs.Factory(dict)
    lost_emergency: dict[str, list[int]] = attrs.Factory(dict)

    def ignore(self, reason: str) -> None:
        """Count a frame that no gate of the series had to stop."""
        self.ignored[reason] = self.ignored.get(reason, 0) + 1

    def lose_emergency(self, reason: str, charge: int) -> None:
        """Count a lost packet as an emergency packet too; who loses it counts it under its reason besides."""
        lost = self.lost_emergency.setdefault(reason, [0, 0])
        lost[0] += 1
        lost[1] += charge

    @property
    def gates(self) -> dict[str, dict[str, int]]:
        """Give, for the gates of patches 19, 23, and 20 with 22, what passed as normal, as emergency, and what was dropped.

        ``socket`` counts as passed what was lost nowhere on the way in. A frame that the first gate drops never had a charge.
        """
        drops = self.drops
        lost = self.lost_emergency
        emergency = self.rx_emergency - self.rx_again
        normal = self.rx_frames - emergency
        beside = [reason for reason in IGNORED_IN if reason not in ("protocol", "socket", "nfqueue")]
        lost_in = sum(drops.get(reason, 0) + self.ignored.get(reason, 0) for reason in beside)
        lost_in_emergency = sum(lost[reason][0] for reason in beside if reason in lost)
        queue_gate = drops["socket"] + drops["nfqueue"]
        past_protocol = emergency - drops["protocol"]
        return {
            "allocation": {
                "normal": normal,
                "emergency": emergency,
                "dropped": drops["nic"] + drops["charge"],
                "dropped_bytes": 0,
            },
            "protocol": {
                "normal": normal,
                "emergency": past_protocol,
                "dropped": drops["protocol"],
                "dropped_bytes": self._bytes("protocol"),
            },
            "socket": {
                "normal": normal - (lost_in - lost_in_emergency),
                "emergency": past_protocol - queue_gate - lost_in_emergency,
                "dropped": queue_gate,
                "dropped_bytes": self._bytes("socket") + self._bytes("nfqueue"),
            },
        }

    def _bytes(self, reason: str) -> int:
        """Give the bytes that had been charged for what was lost for one reason."""
        return self.lost_emergency.get(reason, (0, 0))[1]

    def as_dict(self) -> dict[str, int | dict[str, int] | dict[str, dict[str, int]]]:
        """Give the part of a report that design.md, 6 names."""
        return {
            "rx_frames": self.rx_frames,
            "tx_frames": self.tx_frames,
            "retransmits": self.retransmits,
            "emergency_skbs": self.emergency_skbs,
            "drops": dict(self.drops),
            "gates": self.gates,
        }
