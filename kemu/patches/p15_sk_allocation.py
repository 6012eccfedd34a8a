"""net: sk_allocation() - concentrate socket related allocations.

Problem
    TCP allocates on behalf of a socket in many places with a literal GFP_ATOMIC or GFP_KERNEL. Such a
    request cannot be given the rights of its socket. The plain ACK of a swap socket, its window
    probe, its SYN, compete with everybody's; without ACKs the server's window stays shut and the
    stream of replies stops.

Change
    sk_allocation(sk, gfp), which returns gfp as it came; 16 will let it add __GFP_MEMALLOC for sockets
    that carry swap. Data segments, tcp_send_ack(), tcp_make_synack(), tcp_send_active_reset(), window
    probes and the MD5 keys of IPv6 ask through it. tcp_send_fin() takes sk->sk_allocation instead of
    GFP_KERNEL, which for a socket of RPC also ends a reclaim from under the socket lock.

What to watch
    * Without a swap socket every request is as before, except those that had GFP_KERNEL.
    * The function adds flags and never takes any away.
    * When an ACK cannot be allocated, the delayed ACK timer is armed: it will be tried again.
    * Control replies of IPv4 that belong to no socket are not covered.
    * Off it is a collapse of throughput more than a deadlock: no ACK at the floor, and the server
      sends again after 200 ms, then twice that, up to 120 s. To see it, fill the ring with ordinary
      buffers, take free memory to the floor, and swap in eight pages at once: their 24 segments are
      more than the server's first window. The fault takes 200 ms or more instead of about 10 ms.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=15,
    name="sk_allocation",
    subject="net: sk_allocation() - concentrate socket related allocations",
    part=2,
    message_id="20071030160913.688222000@chello.nl",
    needs=(),
    wants=("netvm_reserve",),
    touches=(
        "kemu_net.core.stream.Streams.sk_stream_alloc_pskb",
        "kemu_net.ipv4.tcp_control.TcpControl.tcp_send_ack",
        "kemu_net.ipv4.tcp_control.TcpControl.tcp_send_active_reset",
        "kemu_net.ipv4.tcp_control.TcpControl.tcp_send_fin",
        "kemu_net.ipv4.tcp_control.TcpControl.tcp_xmit_probe_skb",
        "kemu_net.ipv4.tcp_reply.TcpReply.tcp_make_synack",
    ),
    fate=("Merged in 3.6 as sk_gfp_atomic() (commit 99a1dec70d5a), renamed sk_gfp_mask() in 4.4."),
)
