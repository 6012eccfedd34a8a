"""mm: system wide ALLOC_NO_WATERMARK.

Problem
    The reserve is spread over the zones of all nodes. A task that is bound to some nodes (MPOL_BIND)
    sees only the zonelist of its policy. If reclaim, or a task that swaps, is bound to a node that is
    empty, its entitled request fails although another node holds free pages of the reserve.

Change
    In __alloc_pages(), just before the attempt without watermarks, the zonelist is replaced by the
    standard one of the local node for this kind of request: all nodes, by distance. The first two
    attempts still obey the policy. Cpusets are ignored there already.

What to watch
    * An entitled request fails only when no zone of an allowed type, on any node, has a free page.
    * A request that is not entitled never leaves the list of its policy.
    * Types of zones still bind: a GFP_DMA request is not served from NORMAL.
    * On a machine with one node there is no difference at all.
    * A request with __GFP_THISNODE for another node is served from the local one, because the scan
      stops where the node changes and the list now begins at home (b09).
    * Off, on two nodes, bound to node 1 which is empty: NULL, while node 0 has the reserve.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=9,
    name="system_wide_no_watermark",
    subject="mm: system wide ALLOC_NO_WATERMARK",
    part=1,
    message_id="20071030160912.283002000@chello.nl",
    needs=(),
    wants=("emergency_pool",),
    touches=("kemu.mm.slow_path.SlowPath._alloc_no_watermarks",),
    fate=(
        "The idea is still there: for ALLOC_NO_WATERMARKS the slow path of 3.6 starts again from the standard "
        "zonelist, ignoring policies, and later kernels drop the node mask too."
    ),
)
