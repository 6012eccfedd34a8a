"""Who may take a received frame before its protocol gets it (2.6.23 net/core/dev.c: what netif_receive_skb() calls on the way).

The kernel has fixed places for netpoll, bonding, the ingress classifier, the bridge and macvlan. Here each place is a hook that
counts what it sees and does what its function says; a machine without hooks never comes by.

Interface
    RxHook(place, fn)                 counters seen, emergency, taken
    place "netpoll", "bond"           fn(skb) -> True: the frame is gone, its function has freed it
    place "ingress"                   fn(skb) -> TC_ACT_OK, or TC_ACT_SHOT or TC_ACT_STOLEN: it is freed for the function
    place "bridge", "macvlan"         fn(skb) -> the frame (or another), or None: the function has it

Rules
    * The order is that of PLACES; taps are fed between bond and ingress. See dev_rx.py for what patch 23 changes.
    * A function may not raise: frames come from the wire.
    * Left out: what a real bridge, bond, classifier does. These are places to stand at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu_net.core.skbuff import SkBuff

PLACES: Final = ("netpoll", "bond", "ingress", "bridge", "macvlan")


class RxHook:
    """One place, occupied.

    :ivar seen: frames that came by; :ivar emergency: emergency frames among them; :ivar taken: frames that went no further.
    """

    __slots__ = ("emergency", "fn", "place", "seen", "taken")

    def __init__(self, place: str, fn: Callable[[SkBuff], Any]) -> None:
        self.place = place
        self.fn = fn
        self.seen = self.emergency = self.taken = 0

    def _see(self, skb: SkBuff) -> Any:
        """Count a frame and ask the function."""
        self.seen += 1
        self.emergency += skb.emergency
        return self.fn(skb)

    def take(self, skb: SkBuff) -> bool:
        """Ask netpoll or bonding: True when the frame is gone (``netpoll_receive_skb()``, ``skb_bond()``)."""
        gone = bool(self._see(skb))
        self.taken += gone
        return gone

    def classify(self, skb: SkBuff) -> int:
        """Ask the ingress classifier: 0 when the frame goes on (``ing_filter()``)."""
        verdict: int = self._see(skb)
        self.taken += verdict != 0
        return verdict

    def handle(self, skb: SkBuff) -> SkBuff | None:
        """Ask the bridge or macvlan: the frame to go on with (``handle_bridge()``, ``handle_macvlan()``)."""
        kept: SkBuff | None = self._see(skb)
        self.taken += kept is None
        return kept
