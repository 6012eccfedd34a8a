"""mm: add support for non block device backed swap files.

Problem
    A swap file is a list of disk blocks: swapon asks bmap() where each page lies, and I/O goes to the
    block device without the filesystem. A file on a server has neither blocks nor device. swapon
    answers -EINVAL, "has holes"; forced, it would send I/O to a device that is NULL.

Change
    * A new operation, a_ops->swapfile(mapping, enable): does this mapping take swap I/O itself? If so
      swapon sets SWP_FILE and makes one extent for the whole area; no block is asked for.
    * swap_writepage() and swap_readpage() then call the file's own writepage and readpage; sync_page
      and set_page_dirty likewise. PSWPOUT and PSWPIN count only what succeeded.
    * swapon adds to the area's flags at the end instead of overwriting them, which would have wiped
      SWP_FILE.
    * swapoff reads everything back first, and calls ->swapfile(mapping, 0) last.

What to watch
    * Block swap behaves as before, bit for bit.
    * ->swapfile(1) and ->swapfile(0) are balanced, however swapon ends after the first.
    * On this path the filesystem sets PG_writeback and unlocks the page; swap code no longer does.
    * Every page goes through the operations of its own file, with the page locked. Areas of both kinds
      can be on at once.
    * S_SWAPFILE is set at the very end, after the area can be used: b30d.
    * Off: swapon of a file on NFS is -EINVAL. 30 and 31 cannot stand without this patch.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=25,
    name="swap_file_aops",
    subject="mm: add support for non block device backed swap files",
    part=4,
    message_id="20071030160914.987987000@chello.nl",
    needs=(),
    wants=("swap_entry_methods",),
    touches=(
        "kemu.mm.page_io.PageIo.swap_readpage",
        "kemu.mm.page_io.PageIo.swap_set_page_dirty",
        "kemu.mm.page_io.PageIo.swap_sync_page",
        "kemu.mm.page_io.PageIo.swap_writepage",
        "kemu.mm.swapfile.Swapfile._enable",
        "kemu.mm.swapfile.Swapfile.destroy_swap_extents",
        "kemu.mm.swapfile.Swapfile.setup_swap_extents",
    ),
    fate=(
        "v15 turned it into swap_out and swap_in, v17 added swapon and swapoff. 3.6 merged swap_activate() "
        "and swap_deactivate() (commit 62c230bc1790), which write by direct I/O and dirty the page again when "
        "a write fails. ->swap_rw came in 5.19."
    ),
)
