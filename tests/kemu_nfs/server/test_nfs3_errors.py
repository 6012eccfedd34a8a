"""Which error each procedure tells, for each that the server itself can find (RFC 1813, 3.3); and that a failure changes nothing.

IO, JUKEBOX, SERVERFAULT and what else a disk may do come from faults (test_faults.py) or a real disk (test_real_files.py);
BADHANDLE and STALE are tested for every procedure in test_nfs3_proc.py. XDEV, NODEV, NXIO, REMOTE, DQUOT and NOTSUPP cannot happen
in the tree in memory: it is one device without quotas, and has all that NFS asks for.
"""

from __future__ import annotations

import struct

import pytest

from kemu_nfs.server.tree import LINK_MAX
from kemu_nfs.sunrpc import nfs3_const
from kemu_nfs.sunrpc.nfs3_const import NFS3_PROC_NAMES
from nfs_home import NfsHome
from nfs_speaker import Client, opaque, right_args, sattr, words

LONG = b"n" * 256


class Home(NfsHome):
    """The objects that errors need, by one letter: the root, a file, a folder with ``inner``, a link, somebody's private folder."""

    def __init__(self):
        super().__init__()
        results = self.client.call(10, opaque(self.root) + opaque(b"link") + sattr() + opaque(b"to"))
        results.unpack_uint(), results.unpack_bool()
        link = results.unpack_opaque()
        private = self.client.mkdir(self.root, b"private", mode=0o700)
        self.client.create(private, b"inner")
        sticky = self.client.mkdir(self.root, b"sticky", mode=0o1777)
        self.client.create(sticky, b"inner")
        self.at = {"r": self.root, "f": self.file, "d": self.folder, "l": link, "p": private, "s": sticky}
        self.user = Client(self.server, 500, 100)
        self.user.xid += 1 << 20

    def nlink(self, letter, count):
        self.tree.by_handle[self.at[letter]].nlink = count


def read_only(home):
    home.server.nfs.read_only = True


def full(home):
    home.tree.bounded, home.tree.capacity, home.tree.max_files = True, 0, 0


def many_links(home):
    home.nlink("f", LINK_MAX)
    home.nlink("d", LINK_MAX)


def hand(letter, name=None):
    """Begin arguments: a handle, and a name if there is one."""
    return lambda home: opaque(home.at[letter]) + (b"" if name is None else opaque(name))


def then(begin, *more):
    """Go on with bytes, or with more handles."""
    return lambda home: begin(home) + b"".join(part if isinstance(part, bytes) else part(home) for part in more)


def read_args(letter):
    return then(hand(letter), struct.pack("!QI", 0, 100))


def write_args(letter, data=b"data", *, count=None, offset=0):
    return then(hand(letter), struct.pack("!QII", offset, len(data) if count is None else count, 2), opaque(data))


def new(proc, letter, name):
    """CREATE guarded, MKDIR, SYMLINK, MKNOD of a fifo."""
    tail = {8: words(1) + sattr(), 9: sattr(), 10: sattr() + opaque(b"t"), 11: words(7) + sattr()}[proc]
    return then(hand(letter, name), tail)


def rename(source, old, goal, name):
    return then(hand(source, old), hand(goal, name))


def link(letter, folder, name):
    return then(hand(letter), hand(folder, name))


def listing(proc, letter, cookie=0, verf=bytes(8), count=4096):
    return then(hand(letter), struct.pack("!Q", cookie), verf, words(count, count) if proc == 17 else words(count))


def change(letter, guard=b"", **what):
    return then(hand(letter), sattr(**what), guard or words(0))


ROOT, USER = "client", "user"
CASES = [
    (2, "PERM", USER, change("f", mode=0o777), None),
    (2, "PERM", USER, change("f", uid=500), None),
    (2, "ACCES", USER, change("f", size=0), None),
    (2, "INVAL", ROOT, change("l", size=0), None),
    (2, "ISDIR", ROOT, change("d", size=0), None),
    (2, "INVAL", ROOT, change("f", uid=0xFFFFFFFF), None),
    (2, "FBIG", ROOT, change("f", size=1 << 63), None),
    (2, "NOT_SYNC", ROOT, change("f", guard=words(1, 1, 1), size=0), None),
    (2, "ROFS", ROOT, change("f", size=0), read_only),
    (3, "NOENT", ROOT, hand("d", b"nothing"), None),
    (3, "ACCES", USER, hand("p", b"inner"), None),
    (3, "ACCES", ROOT, hand("d", b""), None),
    (3, "NOTDIR", ROOT, hand("f", b"x"), None),
    (3, "NAMETOOLONG", ROOT, hand("d", LONG), None),
    (5, "INVAL", ROOT, hand("f"), None),
    (6, "ACCES", USER, read_args("f"), None),
    (6, "ISDIR", ROOT, read_args("d"), None),
    (6, "INVAL", ROOT, read_args("l"), None),
    (7, "ACCES", USER, write_args("f"), None),
    (7, "ISDIR", ROOT, write_args("d"), None),
    (7, "INVAL", ROOT, write_args("l"), None),
    (7, "INVAL", ROOT, write_args("f", count=100), None),
    (7, "FBIG", ROOT, write_args("f", offset=(1 << 63) - 2), None),
    (7, "NOSPC", ROOT, write_args("f", offset=1 << 20), full),
    (7, "ROFS", ROOT, write_args("f"), read_only),
    *[
        case
        for proc in (8, 9, 10, 11)
        for case in (
            (proc, "ACCES", USER, new(proc, "p", b"new"), None),
            (proc, "ACCES", ROOT, new(proc, "d", b"a/b"), None),
            (proc, "EXIST", ROOT, new(proc, "d", b"inner"), None),
            (proc, "EXIST", ROOT, new(proc, "d", b".."), None),
            (proc, "NOTDIR", ROOT, new(proc, "f", b"new"), None),
            (proc, "NAMETOOLONG", ROOT, new(proc, "d", LONG), None),
            (proc, "NOSPC", ROOT, new(proc, "d", b"new"), full),
            (proc, "ROFS", ROOT, new(proc, "d", b"new"), read_only),
        )
    ],
    (8, "EXIST", ROOT, then(hand("r", b"folder"), words(0), sattr()), None),
    (8, "EXIST", ROOT, then(hand("r", b"file"), words(2), b"verifier"), None),
    (8, "ACCES", USER, then(hand("r", b"file"), words(0), sattr(size=0)), None),
    (9, "MLINK", ROOT, new(9, "d", b"new"), many_links),
    (10, "NAMETOOLONG", ROOT, then(hand("d", b"new"), sattr(), opaque(b"t" * 1025)), None),
    (11, "BADTYPE", ROOT, then(hand("d", b"new"), words(1)), None),
    (11, "PERM", USER, then(hand("s", b"new"), words(3), sattr(), words(1, 2)), None),
    (12, "NOENT", ROOT, hand("d", b"nothing"), None),
    (12, "ACCES", USER, hand("d", b"inner"), None),
    (12, "ACCES", USER, hand("s", b"inner"), None),
    (12, "ISDIR", ROOT, hand("r", b"folder"), None),
    (12, "NOTDIR", ROOT, hand("f", b"x"), None),
    (12, "NAMETOOLONG", ROOT, hand("d", LONG), None),
    (12, "ROFS", ROOT, hand("d", b"inner"), read_only),
    (13, "NOENT", ROOT, hand("d", b"nothing"), None),
    (13, "ACCES", USER, hand("r", b"sticky"), None),
    (13, "INVAL", ROOT, hand("d", b"."), None),
    (13, "EXIST", ROOT, hand("d", b".."), None),
    (13, "NOTDIR", ROOT, hand("d", b"inner"), None),
    (13, "NAMETOOLONG", ROOT, hand("d", LONG), None),
    (13, "NOTEMPTY", ROOT, hand("r", b"folder"), None),
    (13, "ROFS", ROOT, hand("r", b"folder"), read_only),
    (14, "NOENT", ROOT, rename("d", b"nothing", "r", b"x"), None),
    (14, "ACCES", USER, rename("p", b"inner", "s", b"x"), None),
    (14, "ACCES", USER, rename("s", b"inner", "s", b"x"), None),
    (14, "EXIST", ROOT, rename("d", b"inner", "r", b"private"), None),
    (14, "EXIST", ROOT, rename("r", b"folder", "r", b"file"), None),
    (14, "NOTDIR", ROOT, rename("d", b"inner", "f", b"x"), None),
    (14, "INVAL", ROOT, rename("r", b"folder", "d", b"below itself"), None),
    (14, "INVAL", ROOT, rename("r", b".", "d", b"x"), None),
    (14, "MLINK", ROOT, rename("r", b"private", "d", b"x"), many_links),
    (14, "NAMETOOLONG", ROOT, rename("d", b"inner", "r", LONG), None),
    (14, "NOTEMPTY", ROOT, rename("r", b"folder", "r", b"private"), None),
    (14, "ROFS", ROOT, rename("d", b"inner", "r", b"x"), read_only),
    (15, "ACCES", USER, link("f", "d", b"x"), None),
    (15, "EXIST", ROOT, link("f", "d", b"inner"), None),
    (15, "NOTDIR", ROOT, link("f", "f", b"x"), None),
    (15, "ISDIR", ROOT, link("d", "r", b"x"), None),
    (15, "MLINK", ROOT, link("f", "d", b"x"), many_links),
    (15, "NAMETOOLONG", ROOT, link("f", "d", LONG), None),
    (15, "ROFS", ROOT, link("f", "d", b"x"), read_only),
    *[
        case
        for proc in (16, 17)
        for case in (
            (proc, "ACCES", USER, listing(proc, "p"), None),
            (proc, "NOTDIR", ROOT, listing(proc, "f"), None),
            (proc, "BAD_COOKIE", ROOT, listing(proc, "d", 1, b"not ours"), None),
            (proc, "TOOSMALL", ROOT, listing(proc, "d", count=100), None),
        )
    ],
    (21, "ACCES", USER, read_args("f"), None),
    (21, "ISDIR", ROOT, read_args("d"), None),
]


@pytest.mark.parametrize(
    ("proc", "error", "who", "args", "before"), CASES, ids=[f"{NFS3_PROC_NAMES[case[0]]}-{case[1]}" for case in CASES]
)
def test_each_error_is_told_and_changes_nothing(proc, error, who, args, before):
    home = Home()
    if before is not None:
        before(home)
    kept = home.snapshot()
    assert getattr(home, who).status(proc, args(home)) == getattr(nfs3_const, f"NFS3ERR_{error}")
    assert home.snapshot() == kept


@pytest.mark.parametrize("proc", range(1, 22))
def test_the_same_calls_succeed_when_nothing_is_wrong(proc):
    """Otherwise the errors above could have other causes than theirs."""
    home = Home()
    name = b"link" if proc == 3 else b"new"
    folder = home.root if proc == 3 else home.folder
    args = right_args(proc, folder, home.file, name)
    if proc == 2:
        args = change("f", mode=0o600)(home)
    if proc == 5:
        args = hand("l")(home)
    if proc == 12:
        args = hand("d", b"inner")(home)
    if proc == 13:
        home.client.mkdir(home.folder, b"new")
    if proc == 14:
        args = rename("d", b"inner", "r", b"new")(home)
    assert home.client.status(proc, args) == 0
    home.server.check()
