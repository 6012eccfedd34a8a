"""nfs: enable swap on NFS."""

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
)
