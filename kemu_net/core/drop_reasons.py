"""Why a packet is lost: every reason that kfree_skb() and the counters of NetStats know.

Interface
    REASONS: word -> Reason(side, where, meaning)

Rules
    * One lost packet, one word. DROP_GATES (stats.py) are the gates of the series and the limits beside them; all other words
      stand in ``NetStats.ignored``: those packets would have been lost without the series too.
    * ``side`` tells what was lost: ``wire`` a frame that never became a packet of this host, ``in`` a received packet, ``out`` one
      that was to be sent, ``both`` either.
    * A test holds this table against the code, both ways.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Reason(NamedTuple):
    """One reason.

    :ivar side: wire, in, out or both; :ivar where: the module that says it; :ivar meaning: what it means.
    """

    side: str
    where: str
    meaning: str


REASONS: Final[dict[str, Reason]] = {
    # the gates of the series, and the limits beside them
    "nic": Reason("wire", "drivers/rx_ring", "no descriptor had a buffer: there was no memory for one"),
    "charge": Reason("wire", "drivers/rx_ring", "no descriptor had a buffer: the SKB data reserve refused to pay for one"),
    "protocol": Reason("in", "core/dev_rx", "an emergency frame of a protocol that patch 23 does not let in"),
    "socket": Reason("in", "core/sock_receive, core/sock_lock", "an emergency packet for a socket without swap (patch 20)"),
    "nfqueue": Reason("in", "netfilter/core", "an emergency packet for a queue to user space (patch 22)"),
    "rmem": Reason("in", "core/sock_receive, ipv4/tcp_queues", "the socket's receive buffer, or its protocol's memory, is full"),
    # the device layer
    "not for this NIC": Reason("wire", "drivers/rx_ring", "another host's address, or a frame that fits no buffer"),
    "no protocol handler": Reason("in", "core/dev_rx", "nobody has asked for frames of this type"),
    "backlog full": Reason("in", "core/softnet", "the backlog of the CPU holds netdev_max_backlog frames"),
    "ingress": Reason("in", "core/dev_rx", "the ingress classifier has shot or stolen it"),
    "vlan": Reason("in", "core/vlan", "a tag of a VLAN that this host is not on, or a frame too short for one"),
    "transmit queue full": Reason("out", "core/dev", "the device's queue holds tx_queue_len frames"),
    # netfilter
    "netfilter": Reason("both", "netfilter/core, netfilter/nf_queue", "a hook, or user space, has said no"),
    "netfilter: no queue": Reason("both", "netfilter/nf_queue", "a hook wants it queued, but nobody listens"),
    "netfilter: no memory to queue": Reason("both", "netfilter/nf_queue", "no memory for the note of what waits"),
    "netfilter: queue full": Reason("both", "netfilter/nf_queue", "as many packets wait for user space as may"),
    "netfilter: queue refused": Reason("both", "netfilter/nf_queue", "no memory for the reader's copy, or another queue's packet"),
    # ARP and neighbours
    "arp: short": Reason("in", "ipv4/arp", "shorter than an ARP packet"),
    "arp: malformed": Reason("in", "ipv4/arp", "not Ethernet and IPv4, or an address that nobody may have"),
    "arp: for another host": Reason("in", "ipv4/arp", "a question or an answer that does not concern this host"),
    "host unreachable": Reason("out", "core/neighbour", "the neighbour did not answer"),
    "neighbour gone": Reason("out", "core/neighbour", "the neighbour's entry was taken away while the packet waited in it"),
    "neighbour queue full": Reason("out", "core/neighbour", "too many packets wait for the neighbour's answer"),
    # IP
    "ip: short": Reason("in", "ipv4/ip_input", "shorter than an IP header, or a frame for another host"),
    "ip: malformed": Reason("in", "ipv4/ip_input", "a version or a length that cannot be"),
    "ip: checksum": Reason("in", "ipv4/ip_input", "the checksum of the header is wrong"),
    "ip: no memory to trim": Reason("in", "ipv4/ip_input", "no memory to cut the padding off"),
    "ip: options": Reason("in", "ipv4/ip_input", "an option that is malformed or not allowed"),
    "ip: source route": Reason("in", "ipv4/ip_input", "a source route, which this host does not follow"),
    "ip: martian source": Reason("in", "ipv4/ip_input", "from an address that nobody has"),
    "ip: martian destination": Reason("in", "ipv4/ip_input", "to an address that nobody can be reached at"),
    "not for this host": Reason("in", "ipv4/ip_input, ipv6/ip6_input", "another host's address: there is no forwarding"),
    "no route": Reason("both", "ipv4/ip_input, ipv4/ip_output, ipv6/ip6_input", "no memory for a route, or none there"),
    "no neighbour": Reason("out", "ipv4/ip_output, ipv6/ip6_output", "no memory for a neighbour's entry"),
    "no transport protocol": Reason("in", "ipv4/ip_input", "a transport protocol that this host does not speak"),
    "above the MTU": Reason("out", "ipv4/ip_split", "too long for the path, and not to be split"),
    "fragment": Reason("both", "core/inet_frag, ipv4/ip_split", "part of a datagram that did not become whole or was not sent"),
    "fragment: no memory": Reason("in", "ipv4/ip_fragment, ipv6/reassembly", "no memory for the queue of a datagram"),
    "fragment: refused": Reason("in", "ipv4/ip_fragment, ipv6/reassembly", "a fragment that fits nowhere"),
    "icmp: malformed": Reason("in", "ipv4/icmp", "short, or with a wrong checksum"),
    "icmp: broadcast": Reason("in", "ipv4/icmp", "a question to everybody"),
    # IPv6
    "ipv6: short": Reason("in", "ipv6/ip6_input", "shorter than an IPv6 header, or a frame for another host"),
    "ipv6: malformed": Reason("in", "ipv6/ip6_input, ipv6/reassembly", "a version or a length that cannot be"),
    "ipv6: martian": Reason("in", "ipv6/ip6_input", "from an address that nobody has"),
    "ipv6: unknown option": Reason("in", "ipv6/ip6_input", "an option that says that who does not know it shall drop the packet"),
    "ipv6: source route": Reason("in", "ipv6/ip6_input", "a source route, which this host does not follow"),
    "ipv6: nothing for anybody": Reason("in", "ipv6/ip6_input", "headers, but no protocol behind them that this host speaks"),
    "icmpv6: malformed": Reason("in", "ipv6/icmpv6", "short, or with a wrong checksum"),
    "ndisc: malformed": Reason("in", "ipv6/ndisc", "an address or an option that cannot be, or a packet that passed a router"),
    # sockets
    "security": Reason("in", "core/sock_receive", "the security module has said no"),
    "socket filter": Reason("in", "core/sock_receive", "the socket's own filter has said no"),
    "error queue full": Reason("out", "ipv4/ip_sockglue", "no room for an error in the socket's queue of errors"),
    "udp: short": Reason("in", "ipv4/udp_recv", "shorter than a UDP header"),
    "udp: malformed": Reason("in", "ipv4/udp_recv", "a length that cannot be"),
    "udp: checksum": Reason("in", "ipv4/udp_recv", "the checksum is wrong"),
    "udp: no socket": Reason("in", "ipv4/udp_recv", "nobody is bound to the port"),
    "tcp: malformed": Reason("in", "ipv4/tcp_ipv4", "a length that cannot be"),
    "tcp: checksum": Reason("in", "ipv4/tcp_ipv4", "the checksum is wrong"),
    "tcp: no socket": Reason("in", "ipv4/tcp_ipv4", "neither a connection nor a listener"),
    "tcp: syn queue full": Reason("in", "ipv4/tcp_request", "a SYN beyond the listener's queue of unfinished connections"),
    "tcp: accept queue full": Reason("in", "ipv4/tcp_request", "a connection beyond the listener's backlog"),
}

#: Reasons that lose received packets: what NetStats.gates counts as lost on the way in.
IGNORED_IN: Final = tuple(word for word, reason in REASONS.items() if reason.side in ("in", "both"))
