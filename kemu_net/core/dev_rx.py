"""The way of a received frame up to its protocol (2.6.23 net/core/dev.c: netif_receive_skb()), with patch 23.

Interface
    DevReceive.netif_receive_skb(skb)          hand a frame, its data at the network header, to everybody who wants it
    DevReceive.dev_add_pack(protocol, fn)      the handler of a protocol: fn(skb) owns the skb
    DevReceive.ptype_all                       taps: tap(skb) owns a reference
    DevReceive.rx_hook(place, fn)              stand at one of the places of dev_hooks.py; fn None leaves it
    DevReceive.netif_rx_classified(skb)        queue a frame again behind the classifier (TC_NCLS)

Rules
    * An emergency frame is processed with PF_MEMALLOC set in ``current``; whoever takes it on the way, the bit is put back. Taps do
      not see it. Netpoll, bonding and the ingress classifier do; then only four protocols go on; then bridge and macvlan.
    * A frame that the classifier queued again comes back behind taps and classifier, but before the protocol gate.
    * A normal frame touches no flag.
    * A machine without hooks has the short way, one with hooks the long way: the choice is made when a hook is registered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kemu.errors import ConfigError
from kemu.kernel.task import PF_MEMALLOC, tsk_restore_flags
from kemu_net.core.dev_hooks import PLACES, RxHook
from kemu_net.core.if_ether import EMERGENCY_PROTOCOLS, NET_RX_DROP, NET_RX_SUCCESS
from kemu_net.core.softnet import SoftNet

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.skbuff import SkBuff


class DevReceive(SoftNet):
    """Reception of one machine.

    :ivar packet_types: protocol number to handler (``ptype_base``).
    :ivar ptype_all: taps; each is called with its own reference to every normal frame, and with a clone of every frame sent. A tap
        with an attribute ``owner`` (a socket) is spared the frames of that socket.
    """

    def __init__(self, kernel: Kernel, skbs: SkbAlloc) -> None:
        super().__init__(kernel, skbs)
        self.packet_types: dict[int, Callable[[SkBuff], object]] = {}
        self.ptype_all: list[Callable[[SkBuff], object]] = []
        self.bond: RxHook | None = None
        self.ingress: RxHook | None = None
        self.bridge: RxHook | None = None
        self.macvlan: RxHook | None = None
        self._classified: dict[SkBuff, bool] = {}
        self._tp_receive = kernel.trace.point("net:netif_receive_skb", ("skbaddr", "len", "protocol", "emergency", "name"))
        self._short_way: Callable[[SkBuff], int] = self.netif_receive_skb
        if not kernel.patched.skb_processing:  # [p23]
            self._short_way = self._receive_counted
            self.netif_receive_skb = self._receive_counted  # type: ignore[method-assign]  # chosen once, at boot

    def dev_add_pack(self, protocol: int, fn: Callable[[SkBuff], object]) -> None:
        """Register the handler of a protocol (``dev_add_pack()``)."""
        self.packet_types[protocol] = fn

    def rx_hook(self, place: str, fn: Callable[[SkBuff], Any] | None) -> RxHook | None:
        """Stand at one of PLACES, or leave it; give the hook with its counters."""
        if place not in PLACES:
            raise ConfigError(f"no hook {place!r}; there are {', '.join(PLACES)}")
        hook = None if fn is None else RxHook(place, fn)
        setattr(self, place, hook)
        hooked = any(getattr(self, name) is not None for name in PLACES)
        chosen = self._receive_hooked if hooked else self._short_way
        self.netif_receive_skb = chosen  # type: ignore[method-assign, assignment]  # a machine without hooks pays nothing
        return hook

    # the short way

    def netif_receive_skb(self, skb: SkBuff) -> int:
        """Hand a frame, its data at the network header, to everybody who wants it (``netif_receive_skb()``)."""
        if self._tp_receive.enabled:
            self._tp_receive(skb.addr, skb.len, skb.protocol, skb.emergency, getattr(skb.dev, "name", "?"))
        if self.patched.skb_processing and skb.emergency:  # [p23]
            return self._receive_emergency_skb(skb)
        for tap in self.ptype_all:
            skb.users += 1
            tap(skb)
        handler = self.packet_types.get(skb.protocol)
        if handler is None:
            self.skbs.kfree_skb(skb, "no protocol handler")
            return NET_RX_DROP
        handler(skb)
        return NET_RX_SUCCESS

    def _receive_emergency_skb(self, skb: SkBuff) -> int:
        """Process a frame that lies in the reserve: entitled, unseen by taps, and only a protocol that is known to free it soon."""
        self.stats.rx_emergency += 1
        current = self.sched.current
        pflags = current.flags
        current.flags = pflags | PF_MEMALLOC
        handler = self.packet_types.get(skb.protocol)
        if skb.protocol not in EMERGENCY_PROTOCOLS:
            self.skbs.kfree_skb(skb, "protocol")
            ret = NET_RX_DROP
        elif handler is None:
            self.skbs.kfree_skb(skb, "no protocol handler")
            ret = NET_RX_DROP
        else:
            handler(skb)
            ret = NET_RX_SUCCESS
        tsk_restore_flags(current, pflags, PF_MEMALLOC)
        return ret

    def _receive_counted(self, skb: SkBuff) -> int:
        """Be netif_receive_skb() of a machine without patch 23, which counts emergency frames itself."""
        self.stats.rx_emergency += skb.emergency
        return type(self).netif_receive_skb(self, skb)

    # the long way

    def netif_rx_classified(self, skb: SkBuff) -> int:
        """Queue a frame that the classifier has taken, to go on behind it (``netif_rx()`` with TC_NCLS)."""
        self._classified[skb] = True
        ret = self.netif_rx(skb)
        if ret == NET_RX_DROP:
            self._classified.pop(skb, None)
        return ret

    def _receive_hooked(self, skb: SkBuff) -> int:
        """Be netif_receive_skb() of a machine with hooks: all ways out lead past the one place that restores the flag."""
        if self._tp_receive.enabled:
            self._tp_receive(skb.addr, skb.len, skb.protocol, skb.emergency, getattr(skb.dev, "name", "?"))
        emergency = skb.emergency
        self.stats.rx_emergency += emergency
        current = self.sched.current
        pflags = current.flags
        if self.patched.skb_processing and emergency:  # [p23]
            current.flags = pflags | PF_MEMALLOC
        ret = self._receive_steps(skb)
        if self.patched.skb_processing and emergency:  # [p23]
            tsk_restore_flags(current, pflags, PF_MEMALLOC)
        return ret

    def _receive_steps(self, skb: SkBuff) -> int:
        """Take a frame through all places in the kernel's order."""
        netpoll = self.netpoll
        if netpoll is not None and netpoll.take(skb):
            return NET_RX_DROP
        bond = self.bond
        if bond is not None and bond.take(skb):
            return NET_RX_DROP
        if not self._classified.pop(skb, False) and not self._show_and_classify(skb):
            return NET_RX_DROP
        if self.patched.skb_processing and (skb.emergency and skb.protocol not in EMERGENCY_PROTOCOLS):  # [p23]
            self.skbs.kfree_skb(skb, "protocol")
            return NET_RX_DROP
        for hook in (self.bridge, self.macvlan):
            if hook is not None:
                kept = hook.handle(skb)
                if kept is None:
                    return NET_RX_SUCCESS
                skb = kept
        handler = self.packet_types.get(skb.protocol)
        if handler is None:
            self.skbs.kfree_skb(skb, "no protocol handler")
            return NET_RX_DROP
        handler(skb)
        return NET_RX_SUCCESS

    def _show_and_classify(self, skb: SkBuff) -> bool:
        """Feed the taps, then ask the ingress classifier; False: the frame is gone."""
        taps = self.ptype_all
        if self.patched.skb_processing and skb.emergency:  # [p23]
            taps = []
        for tap in taps:
            skb.users += 1
            tap(skb)
        ingress = self.ingress
        if ingress is not None and ingress.classify(skb):
            self.skbs.kfree_skb(skb, "ingress")
            return False
        return True
