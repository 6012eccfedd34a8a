"""netvm: INET reserves.

Problem
    Two consumers can hold received memory for long: half-assembled datagrams and route cache entries.
    If fragments may hold 256 KiB and the receive budget is smaller, then plain loss, or somebody with
    bad intentions, fills the budget with first fragments; the packet that would complete one can no
    longer be received. A stream of new sources does the same to the route cache.

Change
    Four leaves of the reserve tree, made at boot and following their tunables:

        IPv4 route cache      objects, ip_rt_max_size              below network RX reserve
        IPv6 route cache      objects, ip6_rt_max_size             below network RX reserve
        IPv4 fragment cache   bytes, ipfrag_high_thresh 262144     below SKB data reserve
        IPv6 fragment cache   bytes, ip6frag_high_thresh 262144    below SKB data reserve

    Writing a tunable asks the reserve first; a refusal leaves the variable alone (17 reports it).
    Routes and fragments themselves are not charged; fragments are packets, and 19 charges packets.

What to watch
    * This is what gives 19 its budget: the limit of the SKB data reserve is the sum of the two
      fragment limits, 524288 bytes, and nothing on top.
    * The evictor of fragments counts truesize, the budget counts powers of two. A ring buffer of 1536
      bytes is 1832 to the one and 2048 to the other. Eviction begins after 143 fragments. The budget
      ends at 255 buffers with both families, but at 127 with IPv4 alone: then a flood of fragments
      exhausts it before eviction helps, until the timers fire after 30 s.
    * Lowering a tunable always succeeds.
    * b18a: sysctl(2) goes around the conversion. b18b: a negative value.
    * Off: the limit is 0, every charge fails, and there is no emergency receive at all.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=18,
    name="inet_reserves",
    subject="netvm: INET reserves.",
    part=3,
    message_id="20071030160914.070739000@chello.nl",
    needs=(),
    wants=("mem_reserve", "netvm_reserve", "sysctl_conv_errors"),
    touches=(
        "kemu_net.ipv4.inet_reserves",
        "kemu_net.ipv6.reserves",
        "kemu.mm.reserve.Reserves._adjust",
        "kemu.mm.reserve.Reserves.mem_reserve_kmalloc_set",
        "kemu.mm.reserve.Reserves.mem_reserve_kmem_cache_set",
        "kemu_net.ipv4.inet_reserves.InetReserves.__init__",
        "kemu_net.ipv4.inet_reserves.InetReserves._add",
        "kemu_net.ipv4.inet_reserves.InetReserves._write",
        "kemu_net.ipv4.inet_reserves.InetReserves.sysctl_binary",
    ),
    fate=(
        "v15 wrote separate handlers, later versions one set per network namespace. Not in 3.6; the route "
        "cache itself was removed in that release."
    ),
)
