"""The procedures on names: what they make, move and take away, and what they refuse."""

from __future__ import annotations

import struct

import pytest

from kemu_nfs.sunrpc.nfs3_const import (
    NFS3ERR_ACCES,
    NFS3ERR_BAD_COOKIE,
    NFS3ERR_BADTYPE,
    NFS3ERR_EXIST,
    NFS3ERR_INVAL,
    NFS3ERR_ISDIR,
    NFS3ERR_NAMETOOLONG,
    NFS3ERR_NOENT,
    NFS3ERR_NOTDIR,
    NFS3ERR_NOTEMPTY,
    NFS3ERR_PERM,
    NFS3ERR_TOOSMALL,
)


def entry(client, folder, name):
    return client.opaque(folder) + client.opaque(name)


def listing(client, folder, count=4096, *, plus=False):
    """Read a whole directory; return names, cookies and how many calls it took."""
    names, cookies, calls, cookie, eof = [], [], 0, 0, False
    while not eof:
        sizes = client.words(count, count) if plus else client.words(count)
        results = client.call(17 if plus else 16, client.opaque(folder) + struct.pack("!Q8x", cookie) + sizes)
        assert len(results.data) - 24 <= count
        assert results.unpack_uint() == 0
        results.attributes()
        results.unpack_fopaque(8)
        while results.unpack_bool():
            results.unpack_uhyper()
            names.append(results.unpack_opaque())
            cookie = results.unpack_uhyper()
            cookies.append(cookie)
            if plus:
                assert results.attributes() is not None
                assert results.unpack_bool()
                assert len(results.unpack_opaque()) == 32
        eof = results.unpack_bool()
        results.done()
        calls += 1
    return names, cookies, calls


def test_lookup_gives_handle_and_attributes_of_both(client, root, swapfile):
    results = client.call(3, entry(client, root, b"swapfile"))
    assert results.unpack_uint() == 0
    assert results.unpack_opaque() == swapfile
    assert results.attributes().type == 1
    assert results.attributes().type == 2
    results.done()


def test_lookup_of_nothing_still_tells_the_directory(client, root):
    results = client.call(3, entry(client, root, b"nothing"))
    assert results.unpack_uint() == NFS3ERR_NOENT
    assert results.attributes().type == 2
    results.done()


@pytest.mark.parametrize(
    ("name", "status"), [(b"", NFS3ERR_ACCES), (b"a/b", NFS3ERR_ACCES), (b"a\0", NFS3ERR_ACCES), (b"n" * 256, NFS3ERR_NAMETOOLONG)]
)
def test_names_that_cannot_be(client, root, name, status):
    assert client.status(3, entry(client, root, name)) == status
    assert client.status(8, entry(client, root, name) + client.words(0) + client.sattr()) == status
    assert client.status(9, entry(client, root, name) + client.sattr()) == status


def test_dotdot_never_leads_out_of_the_export(client, root):
    assert client.lookup(root, b"..") == root
    assert client.lookup(root, b".") == root
    below = client.mkdir(root, b"below")
    assert client.lookup(below, b"..") == root


def test_dots_are_no_names_to_make_or_take_away(client, root):
    for name, removed in ((b".", NFS3ERR_INVAL), (b"..", NFS3ERR_EXIST)):
        assert client.status(8, entry(client, root, name) + client.words(0) + client.sattr()) == NFS3ERR_EXIST
        assert client.status(9, entry(client, root, name) + client.sattr()) == NFS3ERR_EXIST
        assert client.status(12, entry(client, root, name)) == NFS3ERR_INVAL
        assert client.status(13, entry(client, root, name)) == removed
        assert client.status(14, entry(client, root, name) + entry(client, root, b"x")) == NFS3ERR_INVAL


def test_a_file_is_no_directory(client, swapfile):
    for proc, tail in ((3, b""), (8, client.words(0) + client.sattr()), (9, client.sattr()), (12, b""), (13, b"")):
        assert client.status(proc, entry(client, swapfile, b"x") + tail) == NFS3ERR_NOTDIR


def test_searching_and_changing_need_permission(client, user, root):
    private = client.mkdir(root, b"private", 0o700)
    assert user.status(3, entry(user, private, b"x")) == NFS3ERR_ACCES
    assert user.status(8, entry(user, root, b"x") + user.words(0) + user.sattr()) == NFS3ERR_ACCES
    assert user.status(16, user.opaque(private) + bytes(16) + user.words(4096)) == NFS3ERR_ACCES


def test_in_a_sticky_directory_only_owners_take_away(client, user, root):
    shared = client.mkdir(root, b"tmp", 0o1777)
    client.create(shared, b"roots")
    assert user.create(shared, b"mine")
    assert user.status(12, entry(user, shared, b"roots")) == NFS3ERR_ACCES
    assert user.status(12, entry(user, shared, b"mine")) == 0


def test_create_belongs_to_the_caller(user, client, root):
    shared = client.mkdir(root, b"tmp", 0o777)
    attributes = client.getattr(user.create(shared, b"f"))
    assert (attributes.uid, attributes.gid) == (500, 100)


def test_create_unchecked_takes_what_is_there_and_cuts_it(client, root, swapfile):
    client.write(swapfile, 0, b"x" * 10)
    assert client.create(root, b"swapfile", client.sattr(mode=0o600)) == swapfile
    assert (client.getattr(swapfile).size, client.getattr(swapfile).mode) == (10, 0o644)
    assert client.create(root, b"swapfile", client.sattr(size=4)) == swapfile
    assert client.getattr(swapfile).size == 4


@pytest.mark.usefixtures("swapfile")
def test_create_guarded_refuses_what_is_there(client, root):
    assert client.status(8, entry(client, root, b"swapfile") + client.words(1) + client.sattr()) == NFS3ERR_EXIST


def test_create_exclusive_can_be_repeated_by_its_maker_only(client, root):
    args = entry(client, root, b"lock") + client.words(2)
    assert client.status(8, args + b"verifier") == 0
    assert client.status(8, args + b"verifier") == 0
    assert client.status(8, args + b"another!") == NFS3ERR_EXIST


def test_create_over_a_directory_is_refused(client, root):
    client.mkdir(root, b"d")
    assert client.status(8, entry(client, root, b"d") + client.words(0) + client.sattr()) == NFS3ERR_EXIST


def test_mkdir_counts_links(client, root):
    below = client.mkdir(root, b"d")
    assert (client.getattr(below).nlink, client.getattr(root).nlink) == (2, 3)
    assert client.status(13, entry(client, root, b"d")) == 0
    assert client.getattr(root).nlink == 2


def test_mknod_makes_devices_fifos_and_sockets(client, root):
    for ftype, name in ((3, b"blk"), (4, b"chr"), (6, b"sock"), (7, b"fifo")):
        numbers = client.words(8, 1) if ftype < 5 else b""
        results = client.call(11, entry(client, root, name) + client.words(ftype) + client.sattr(mode=0o600) + numbers)
        assert results.unpack_uint() == 0
        assert results.unpack_bool()
        attributes = client.getattr(results.unpack_opaque())
        assert attributes.type == ftype
        assert attributes.rdev == ((8, 1) if ftype < 5 else (0, 0))
    for ftype in (1, 2, 5):
        assert client.status(11, entry(client, root, b"no") + client.words(ftype)) == NFS3ERR_BADTYPE


@pytest.mark.usefixtures("swapfile")
def test_remove_and_rmdir_ask_for_the_kind(client, root):
    client.mkdir(root, b"d")
    assert client.status(12, entry(client, root, b"d")) == NFS3ERR_ISDIR
    assert client.status(13, entry(client, root, b"swapfile")) == NFS3ERR_NOTDIR
    assert client.status(12, entry(client, root, b"nothing")) == NFS3ERR_NOENT


def test_a_full_directory_stays(client, root):
    below = client.mkdir(root, b"d")
    client.create(below, b"f")
    assert client.status(13, entry(client, root, b"d")) == NFS3ERR_NOTEMPTY


def test_link_and_remove_count_names(client, root, swapfile):
    assert client.status(15, client.opaque(swapfile) + entry(client, root, b"other")) == 0
    assert client.getattr(swapfile).nlink == 2
    assert client.status(12, entry(client, root, b"swapfile")) == 0
    assert client.getattr(swapfile).nlink == 1
    assert client.lookup(root, b"other") == swapfile
    assert client.status(15, client.opaque(root) + entry(client, root, b"dirlink")) == NFS3ERR_ISDIR


def test_rename_moves_and_replaces(client, root, swapfile):
    below = client.mkdir(root, b"d")
    other = client.create(below, b"other")
    assert client.status(14, entry(client, root, b"swapfile") + entry(client, below, b"other")) == 0
    assert client.lookup(below, b"other") == swapfile
    assert client.status(1, client.opaque(other)) == 70


@pytest.mark.usefixtures("swapfile")
def test_rename_of_directories(client, root):
    one, two = client.mkdir(root, b"one"), client.mkdir(root, b"two")
    assert client.status(14, entry(client, root, b"one") + entry(client, root, b"two")) == 0
    assert client.status(1, client.opaque(two)) == 70
    below = client.mkdir(one, b"below")
    assert client.status(14, entry(client, root, b"two") + entry(client, below, b"loop")) == NFS3ERR_INVAL
    assert client.status(14, entry(client, root, b"swapfile") + entry(client, root, b"two")) == NFS3ERR_EXIST
    client.create(root, b"f")
    client.mkdir(root, b"three")
    assert client.status(14, entry(client, root, b"three") + entry(client, root, b"two")) == NFS3ERR_NOTEMPTY
    assert client.status(14, entry(client, one, b"below") + entry(client, root, b"three")) == 0
    assert client.lookup(below, b"..") == root


def test_rename_to_itself_changes_nothing(client, root, swapfile):
    assert client.status(14, entry(client, root, b"swapfile") + entry(client, root, b"swapfile")) == 0
    assert client.lookup(root, b"swapfile") == swapfile


@pytest.mark.parametrize("plus", [False, True])
def test_readdir_lists_each_name_once_however_it_is_cut(client, root, plus):
    for number in range(40):
        client.create(root, b"file%02d" % number)
    expected = [b".", b"..", *(b"file%02d" % number for number in range(40))]
    names, cookies, calls = listing(client, root, 32768, plus=plus)
    assert names == expected
    assert calls == 1
    assert cookies == sorted(cookies)
    names, _, calls = listing(client, root, 512, plus=plus)
    assert names == expected
    assert calls > 1


def test_readdir_goes_on_right_when_names_go(client, root):
    for number in range(10):
        client.create(root, b"f%d" % number)
    _, cookies, _ = listing(client, root)
    client.status(12, entry(client, root, b"f3"))
    results = client.call(16, client.opaque(root) + struct.pack("!Q8x", cookies[5]) + client.words(4096))
    results.unpack_uint()
    results.attributes()
    results.unpack_fopaque(8)
    assert results.unpack_bool()
    results.unpack_uhyper()
    assert results.unpack_opaque() == b"f4"


def test_readdir_into_too_little_room(client, root, swapfile):
    assert client.status(16, client.opaque(root) + bytes(16) + client.words(100)) == NFS3ERR_TOOSMALL
    assert client.status(16, client.opaque(swapfile) + bytes(16) + client.words(4096)) == NFS3ERR_NOTDIR


def entries_of(client, folder, dircount, maxcount=8192):
    results = client.call(17, client.opaque(folder) + bytes(16) + client.words(dircount, maxcount))
    assert results.unpack_uint() == 0
    results.attributes()
    results.unpack_fopaque(8)
    names = []
    while results.unpack_bool():
        results.unpack_uhyper()
        names.append(results.unpack_opaque())
        results.unpack_uhyper()
        results.attributes()
        results.unpack_bool()
        results.unpack_opaque()
    return names, results.unpack_bool()


def test_dircount_bounds_names_and_not_attributes(client, root):
    for number in range(8):
        client.create(root, b"f%03d" % number)
    size = 4 + 8 + 4 + 4 + 8  # follows, fileid, the name with its length, cookie
    assert entries_of(client, root, 5 * size) == ([b".", b"..", b"f000", b"f001", b"f002"], False)
    assert entries_of(client, root, 1) == ([b"."], False)
    assert len(entries_of(client, root, 8192)[0]) == 10


@pytest.mark.parametrize("proc", [16, 17])
def test_a_verifier_that_is_not_ours_is_a_bad_cookie(client, root, proc):
    def status(cookie, verf):
        return client.status(
            proc, client.opaque(root) + struct.pack("!Q", cookie) + verf + client.words(4096, 4096)[: 4 * (proc - 15)]
        )

    assert status(1, b"another1") == NFS3ERR_BAD_COOKIE
    assert status(0, b"another1") == 0
    assert status(1, bytes(8)) == 0


def test_devices_are_for_root(client, user, root):
    client.status(2, client.opaque(root) + client.sattr(mode=0o777) + client.words(0))
    for kind in (3, 4):
        args = entry(user, root, b"dev") + user.words(kind) + user.sattr() + user.words(1, 2)
        assert user.status(11, args) == NFS3ERR_PERM
        assert client.status(11, entry(client, root, b"dev%d" % kind) + args[len(entry(user, root, b"dev")) :]) == 0
    assert user.status(11, entry(user, root, b"fifo") + user.words(7) + user.sattr()) == 0


def test_a_directory_inherits_the_group_and_that_it_is_inherited(client, root):
    folder = client.mkdir(root, b"d", mode=0o777)
    client.status(2, client.opaque(folder) + client.sattr(mode=0o2777, gid=42) + client.words(0))
    below = client.getattr(client.mkdir(folder, b"below"))
    assert (below.gid, below.mode) == (42, 0o2755)


@pytest.mark.parametrize("proc", [8, 9, 10, 11])
def test_attributes_that_cannot_be_make_nothing(client, root, proc):
    """A billion nanoseconds are no time, and nobody has the uid -1."""
    tails = {8: client.words(0), 9: b"", 10: b"", 11: client.words(7)}
    for bad in (client.sattr()[:-4] + client.words(2, 5, 10**9), client.sattr(uid=0xFFFFFFFF), client.sattr(gid=0xFFFFFFFF)):
        args = entry(client, root, b"new") + tails[proc] + bad + (client.opaque(b"t") if proc == 10 else b"")
        assert client.status(proc, args) == NFS3ERR_INVAL
    assert client.names(root) == [b".", b".."]


def test_who_may_not_give_a_new_file_away_keeps_it(client, user, root):
    client.status(2, client.opaque(root) + client.sattr(mode=0o777) + client.words(0))
    made = user.getattr(user.create(root, b"f", user.sattr(mode=0o600, uid=7, gid=7, size=5)))
    assert (made.uid, made.gid, made.size) == (500, 100, 5)


@pytest.mark.parametrize("target", [b"", b"a\0b"])
def test_a_link_to_nothing_cannot_be_made(client, root, target):
    assert client.status(10, entry(client, root, b"l") + client.sattr() + client.opaque(target)) == NFS3ERR_ACCES
    assert client.names(root) == [b".", b".."]


def test_a_link_may_be_1024_bytes_long(client, root):
    for length, status in ((1024, 0), (1025, NFS3ERR_NAMETOOLONG)):
        args = entry(client, root, b"l%d" % length) + client.sattr() + client.opaque(b"t" * length)
        assert client.status(10, args) == status
