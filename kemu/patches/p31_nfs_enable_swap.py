"""nfs: enable swap on NFS.

Problem
    The parts are there and nothing uses them. The hard case is a server that comes back: the
    connection must be made anew, with a new socket, inode, port, route, and an exchange of SYNs, while
    memory is exhausted. If the new socket is declared a swap socket only once it is connected, then the
    SYN|ACK arrives as an emergency packet for an ordinary socket and is filtered (20): the machine
    never finds its swap again.

Change
    * nfs_swapfile(), NFS's answer to ->swapfile (25), calls xs_swapper() on the transport: one more
      reference on the network reserve, RPC_RESERVE_PAGES (49 on one CPU), and sk_set_memalloc() on the
      current socket.
    * Every RPC task of that client is marked RPC_TASK_SWAPPER, and rpc_malloc() takes its buffers with
      __GFP_MEMALLOC and without waiting.
    * The connect workers run with PF_MEMALLOC.
    * A new socket is declared before it connects.

What to watch
    * swapon and swapoff leave memalloc_socks, the tree and var_free_kbytes as they were.
    * During a reconnect memalloc_socks stays at 1 or more: the extra reference keeps the reserve.
    * sk->sk_allocation of the socket is 0x2020 while swap is on. The assignment GFP_ATOMIC comes before
      the declaration; the other order would wipe the bit.
    * rpciod itself has no PF_MEMALLOC: routes and ARP entries on the way out are plain GFP_ATOMIC, and
      an entry that expires at the floor can block the swap WRITE.
    * Ordinary file traffic of the mount is served as swap traffic too.
    * b31a: two swap files. b31b: hotplug. b31c: a mutex in a softirq.
    * Off: -EINVAL from swapon. The two halves are worth trying: without PF_MEMALLOC in the worker rpciod
      gets stuck beneath its own connect; without the early declaration the SYN|ACK is filtered.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=31,
    name="nfs_enable_swap",
    subject="nfs: enable swap on NFS",
    part=5,
    message_id="20071030160915.763378000@chello.nl",
    needs=("swap_file_aops",),
    wants=(
        "gfp_to_alloc_flags",
        "tag_reserve_pages",
        "slub_reserve",
        "mempool_fallback",
        "kmem_estimate_pages",
        "softirq_memalloc",
        "serialize_min_free",
        "emergency_pool",
        "system_wide_no_watermark",
        "gfp_memalloc",
        "mem_reserve",
        "avc_nomemalloc",
        "sk_backlog_rcv",
        "packet_split",
        "sk_allocation",
        "netvm_reserve",
        "sysctl_conv_errors",
        "inet_reserves",
        "skb_alloc_reserve",
        "sk_filter_emergency",
        "tcp_deadlock",
        "nf_queue_emergency",
        "skb_processing",
    ),
    touches=(
        "kemu_nfs.sunrpc.xs_swapper",
        "kemu_nfs.nfs.file.NfsFileOps.__init__",
        "kemu_nfs.sunrpc.rpc_sched.RpcSched.rpc_alloc_task",
        "kemu_nfs.sunrpc.rpc_sched.RpcSched.rpc_malloc",
        "kemu_nfs.sunrpc.xs_connect.XsTcpConnect._xs_tcp_connect_worker4",
        "kemu_nfs.sunrpc.xs_connect.XsTcpConnect._xs_tcp_finish_connecting",
        "kemu_nfs.sunrpc.xs_connect.XsTcpConnect.xs_close",
        "kemu_nfs.sunrpc.xs_connect.XsTcpConnect.xs_tcp_state_change",
        "kemu_nfs.sunrpc.xs_connect.XsUdpConnect._xs_udp_connect_worker4",
        "kemu_nfs.sunrpc.xs_connect.XsUdpConnect._xs_udp_finish_connecting",
        "kemu_nfs.sunrpc.xs_connect.XsUdpConnect.xs_close",
        "kemu_nfs.sunrpc.xs_swapper.XsSwapper._off",
        "kemu_nfs.sunrpc.xs_swapper.XsSwapper._on",
        "kemu_nfs.sunrpc.xs_swapper.XsSwapper.xs_swapper",
    ),
    fate=(
        "Merged in 3.6: xprt->swapper became a counter, so several swap files nest. 4.2 moved the counters to "
        "the RPC client, 5.18 gave rpciod PF_MEMALLOC where it swaps."
    ),
)
