"""What one network stack counts for people: the ``net`` object of a run's report.

Interface
    NetStats: plain ints and one dict, incremented in place by whoever sees the event.

Rules
    * Every lost frame is counted once, under the first gate that stopped it (``drops``):
      nic       no receive descriptor was free, and no charge had been refused for it;
      charge    no receive descriptor was free, because the SKB data reserve had refused to pay for a refill;
      protocol  an emergency frame of a protocol that patch 23 does not let in;
      socket    an emergency frame for a socket that does not carry swap (patch 20);
      nfqueue   an emergency frame for a userspace queue (patch 22);
      rmem      the socket's own limit or the protocol's memory limit.
    * What is malformed, for somebody else, or for nobody stands in ``ignored`` by reason: it would have been lost anyway.
"""

from __future__ import annotations

import attrs

DROP_GATES = ("nic", "charge", "protocol", "socket", "nfqueue", "rmem")


@attrs.define(eq=False)
class NetStats:
    """Counters of one stack."""

    rx_frames: int = 0
    tx_frames: int = 0
    retransmits: int = 0
    emergency_skbs: int = 0  # receive buffers that came from the reserve
    drops: dict[str, int] = attrs.Factory(lambda: dict.fromkeys(DROP_GATES, 0))
    ignored: dict[str, int] = attrs.Factory(dict)

    def ignore(self, reason: str) -> None:
        """Count a frame that no gate of the series had to stop."""
        self.ignored[reason] = self.ignored.get(reason, 0) + 1

    def as_dict(self) -> dict[str, int | dict[str, int]]:
        """Give the part of a report that design.md, 6 names."""
        return {
            "rx_frames": self.rx_frames,
            "tx_frames": self.tx_frames,
            "retransmits": self.retransmits,
            "emergency_skbs": self.emergency_skbs,
            "drops": dict(self.drops),
        }
