"""Join a network to a machine: everything from the NIC to the sockets, handed to each other in one place.

Interface
    NetStack(kernel, page_alloc, slub, reserves, wire, mac=..., ip=..., ...)
        stats, net_reserves, skbs, dev, nic, nf, socks, inet, inet6, arp, udp, raw, tcp, inet_reserves
        sockets()             the socket calls of a process
        load_conntrack()      track connections from now on
        check()               all invariants of the parts
        check_reserve_use()   no normal packet lies in the reserve while memory is short
        close()               close the NIC and free routes and neighbours; sockets are their owners' business

Rules
    * What is handed up here: the NIC gets the device layer, IP its protocols' handlers, the skb allocator the reserve that pays.
    * The wait graph: ``("reply", nic)`` explains a task that waits for a packet. ``judged=True`` (the machine whose life is at
      stake) also makes a dry ring a reason why nothing can come in any more.
    * ``build`` is Machine.build where there is a machine: a class may be overridden by one's own patch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from kemu.errors import ConfigError, KernelBug
from kemu.mm.gfp import PAGE_SHIFT
from kemu.mm.page import PAGE_OFFSET
from kemu_net.core.dev import Dev
from kemu_net.core.net_reserve import NetReserves
from kemu_net.core.skb_alloc import SkbAlloc
from kemu_net.core.skb_variants import Recycling, skb_alloc_class
from kemu_net.core.skbuff import NET_SKB_PAD
from kemu_net.core.sock import SecurityHooks, Socks
from kemu_net.core.stats import NetStats
from kemu_net.core.stream import MAX_TCP_HEADER
from kemu_net.core.uapi import AF_INET, AF_PACKET
from kemu_net.core.vlan import Vlans
from kemu_net.drivers.nic import Nic
from kemu_net.ipv4.inet import Inet
from kemu_net.ipv4.inet_reserves import InetReserves
from kemu_net.ipv4.raw import Raw
from kemu_net.ipv4.tcp import Tcp
from kemu_net.ipv4.udp import Udp
from kemu_net.ipv6.inet6 import Inet6
from kemu_net.ipv6.reserves import IP6_RT_MAX_SIZE, IP6FRAG_HIGH_THRESH
from kemu_net.netfilter.core import NfHooks
from kemu_net.netfilter.nf_conntrack import NfConntrack
from kemu_net.packet.af_packet import PacketFamily
from kemu_net.socket.af_inet import InetFamily
from kemu_net.socket.inet_dgram import InetDgram
from kemu_net.socket.inet_raw import InetRaw
from kemu_net.socket.inet_stream import InetStream
from kemu_net.socket.sockets import Sockets

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.page_alloc import PageAllocator
    from kemu.mm.reserve import Reserves
    from kemu.mm.slub import Slub
    from kemu_net.core.dev import NetDevice
    from kemu_net.core.skbuff import SkBuff
    from kemu_net.drivers.wire import Wire
    from kemu_net.socket.ops import Family

T = TypeVar("T")


def _build(cls: type[T], *args: object, **kwargs: object) -> T:
    """Make a subsystem of its own class."""
    return cls(*args, **kwargs)


def _explain_reply(nic: object) -> tuple[str, tuple[str, Any] | None]:
    """Tell the judge what a task that waits for a packet waits for."""
    if isinstance(nic, Nic):
        return nic.explain_reply()
    return "a reply needs a receive buffer here and the peer's answer", None


class NetStack:
    """The network of one machine.

    :param mac: six bytes; :param ip: own address as an int.
    :param ipv6: build IPv6 in, and count its demands in the reserve.
    :param constant_budget: bytes of emergency receive buffers if patch 18 is off.
    :param security: the security module, if the machine has one.
    :param nic_options: of :class:`~kemu_net.drivers.nic.Nic`: tx_checksum, promiscuous, copybreak.
    :param rx_buffers: where receive buffers come from: kmalloc, or fixed; ``recycle``: use skbs again (skb_variants.py).
    :param vlan: let IP use the VLAN of that number on the card, and nothing else; 0: no VLAN.
    :param judged: let the judge ask this NIC whether anything can still come in.
    """

    def __init__(
        self,
        kernel: Kernel,
        page_alloc: PageAllocator,
        slub: Slub,
        reserves: Reserves,
        wire: Wire,
        *,
        mac: bytes,
        ip: int,
        mtu: int = 1500,
        ring: int = 256,
        packet_split: bool = False,
        rx_checksum: bool | str = True,
        itr_ns: int = 30_000,
        prefix: int = 24,
        gateway: int = 0,
        ipv6: bool = True,
        constant_budget: int = 0,
        security: SecurityHooks | None = None,
        nic_options: Mapping[str, Any] | None = None,
        rx_buffers: str = "kmalloc",
        recycle: bool = False,
        vlan: int = 0,
        judged: bool = False,
        build: Callable[..., Any] = _build,
    ) -> None:
        self.kernel = kernel
        self.page_alloc = page_alloc
        self.slub = slub
        self.stats = NetStats()
        self.net_reserves: NetReserves = build(NetReserves, kernel, reserves)
        self.skbs: SkbAlloc = build(skb_alloc_class(rx_buffers, recycle), kernel, page_alloc, slub, self.net_reserves, self.stats)
        self.dev: Dev = build(Dev, kernel, self.skbs)
        self.nic: Nic = build(
            Nic,
            kernel,
            self.dev,
            wire,
            mac,
            mtu=mtu,
            ring=ring,
            packet_split=packet_split,
            rx_checksum=rx_checksum,
            itr_ns=itr_ns,
            **(nic_options or {}),
        )
        pages = page_alloc.total_pages
        self.nf: NfHooks = build(NfHooks, kernel, self.skbs)
        self.conntrack: NfConntrack | None = None
        link = self._link(vlan)
        self.inet: Inet = build(Inet, kernel, self.dev, slub, link, ip, pages, prefix=prefix, gateway=gateway, nf=self.nf)
        self.arp = self.inet.arp
        self.socks: Socks = build(Socks, kernel, page_alloc, slub, self.net_reserves, self.skbs, self.stats, security)
        self.udp: Udp = build(Udp, kernel, self.socks, self.skbs, self.inet, self.stats)
        self.raw: Raw = build(Raw, kernel, self.socks, self.skbs, self.inet)
        self.tcp: Tcp = build(Tcp, kernel, self.socks, self.skbs, self.inet, self.stats)
        self.tcp.csum_offload = self.nic.tx_checksum
        self.nic.mtu_changed.append(self.inet.route.rt_cache_flush)
        if isinstance(self.skbs, Recycling):
            self.skbs.keep(self.nic.rx.data_size + NET_SKB_PAD, MAX_TCP_HEADER, MAX_TCP_HEADER + 15)
        self.inet6: Inet6 | None = build(Inet6, kernel, self.dev, slub, link) if ipv6 else None
        ip6 = None if self.inet6 is None else (self.inet6.route.cache, IP6_RT_MAX_SIZE, IP6FRAG_HIGH_THRESH)
        self.inet_reserves: InetReserves = build(
            InetReserves, kernel, reserves, self.net_reserves, self.inet.route, ip6, constant_budget
        )
        self.inet_reserves.bind(self.inet.tunables)
        if self.inet6 is not None:
            self.inet_reserves.bind(self.inet6.tunables)
        self.families: dict[int, Family] = {
            AF_INET: InetFamily(
                InetStream(kernel, self.socks, self.tcp), InetDgram(kernel, self.socks, self.udp), InetRaw(self.raw)
            ),
            AF_PACKET: build(PacketFamily, kernel, self.socks, self.skbs, self.dev, self.nic),
        }
        kernel.judge.explainers["reply"] = _explain_reply
        if judged:
            kernel.judge.closed_probes.append(self.nic.dry_probe)
        self.nic.open()

    def _link(self, vlan: int) -> NetDevice:
        """Give the device that IP uses: the card, or a VLAN on it."""
        if not vlan:
            return self.nic
        device = Vlans(self.dev).register_vlan_device(self.nic, vlan)
        if isinstance(device, int):
            raise ConfigError(f"vlan: 1 to 4095, not {vlan}")
        return device

    def sockets(self) -> Sockets:
        """Give the descriptors and the socket calls of one more process."""
        return Sockets(self.kernel, self.socks, self.families)

    def load_conntrack(self) -> NfConntrack:
        """Track connections from now on (``modprobe nf_conntrack_ipv4``); until then they cost nothing."""
        conntrack = self.conntrack
        if conntrack is None:
            pages = self.page_alloc.total_pages
            conntrack = self.conntrack = NfConntrack(self.kernel, self.nf, pages, self.inet.frags.ip_defrag)
            conntrack.load()
        return conntrack

    def _received(self) -> list[SkBuff]:
        """Give every received packet that rests somewhere: ring, backlog, fragments, netfilter's queue, sockets."""
        found = [skb for skb, _pages in self.nic.rx.buffers]
        found += [skb for (skb, _pages), _frame in self.nic.rx.done]
        for softnet in self.dev.softnet:
            found += softnet.input_pkt_queue
        for inet in (self.inet, self.inet6):
            if inet is not None:
                for queue in inet.frags.queues.values():
                    found += queue.fragments
        found += [info.skb for info in self.nf.queue.waiting.values() if info.indev is not None]
        for sk in self.socks.live:
            found += sk.sk_receive_queue
            found += sk.sk_backlog
        return found

    def trespassers(self) -> int:
        """Count the normal received packets whose page was taken without watermarks and not exchanged for an ordinary one since."""
        reserve_pfns = self.page_alloc.reserve_pfns
        # a packet's data come from kmalloc(): what other caches hold of the reserve, as nearly always, is not asked about
        if not any(holder == "pages" or holder.startswith("kmalloc") for holder in self.slub.reserve_pages_by_holder()):
            return 0
        # Slub.is_reserve_backed() in line: a run samples this, and looks at thousands of packets
        return sum([not skb.emergency and (skb.head - PAGE_OFFSET) >> PAGE_SHIFT in reserve_pfns for skb in self._received()])

    def check_reserve_use(self) -> None:
        """Assert that no normal received packet lies in the reserve; holds with patch 03 and its holes mended (b03a, b03b)."""
        found = self.trespassers()
        if found:
            raise KernelBug(f"{found} normal packets lie in the reserve", state=self.stats)

    def check(self) -> None:
        """Assert the invariants of all parts."""
        self.net_reserves.check()
        self.inet.route.check()
        self.inet.frags.check()
        if self.inet6 is not None:
            self.inet6.check()
        self.nf.check()
        if self.conntrack is not None:
            self.conntrack.check()
        emergency = sum(skb.emergency for skb in self._received())
        if emergency > self.skbs.emergency_live:
            raise KernelBug(f"{emergency} emergency packets rest, but only {self.skbs.emergency_live} live", state=self.stats)
        self.tcp.check()

    def close(self) -> None:
        """Close the NIC; free routes and neighbours."""
        self.nic.close()
        for softnet in self.dev.softnet:
            self.socks.skb_queue_purge(softnet.input_pkt_queue)
        self.inet.close()
        if self.conntrack is not None:
            self.conntrack.unload()
            self.conntrack = None
        if self.inet6 is not None:
            self.inet6.close()
        if isinstance(self.skbs, Recycling):
            self.skbs.drain()
