"""Any error before the flush loses the page.

Trigger
    ->writepage of a swap page fails before the page is under writeback: -ENOMEM, -EBADF, -EINTR.

Consequence
    A negative return only marks the mapping. The page is neither dirty nor under writeback, so reclaim
    takes it for clean and frees it. One failed allocation is a lost page, not a retry.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b30c",
    patch=30,
    title="any error before the flush loses the page",
    mended_in="3.6: dirties the page again",
    expect="outcome: data_loss; counter: pages lost",
    touches=(
        "kemu_nfs.nfs.commit.NfsCommit.nfs_mark_request_dirty",
        "kemu_nfs.nfs.write.NfsWrite.nfs_do_writepage",
        "kemu_nfs.nfs.write.NfsWrite.swap_page_not_written",
    ),
)
