"""Who calls, and what the mode bits of an object let him do (2.6.23 fs/namei.c: generic_permission()).

Interface: ``Cred``; ``permitted(inode, cred, MAY_READ | ...)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from kemu_nfs.sunrpc.nfs3_const import NF3DIR

if TYPE_CHECKING:
    from kemu_nfs.server.tree import Node

MAY_READ, MAY_WRITE, MAY_EXEC = 4, 2, 1


@attrs.frozen
class Cred:
    """Who calls: the numbers of AUTH_SYS."""

    uid: int
    gid: int
    gids: tuple[int, ...] = ()


def permitted(inode: Node, cred: Cred, want: int) -> bool:
    """Tell whether the mode bits grant all of ``want`` (MAY_*) to ``cred``; root may all but execute a file without an x bit."""
    mode = inode.mode
    if cred.uid == 0:
        return not want & MAY_EXEC or inode.ftype == NF3DIR or bool(mode & 0o111)
    if cred.uid == inode.uid:
        mode >>= 6
    elif cred.gid == inode.gid or inode.gid in cred.gids:
        mode >>= 3
    return mode & want == want
