"""Who may do what."""

from types import SimpleNamespace

import pytest

from kemu_nfs.server.cred import MAY_EXEC, MAY_READ, MAY_WRITE, Cred, permitted

FILE = 1


def inode(mode, uid=1, gid=2):
    return SimpleNamespace(mode=mode, uid=uid, gid=gid, ftype=FILE)


@pytest.mark.parametrize(
    ("cred", "granted"),
    [(Cred(1, 9), 0o6), (Cred(9, 2), 0o4), (Cred(9, 9, (5, 2)), 0o4), (Cred(9, 9), 0o1)],
    ids=["owner", "group", "further group", "others"],
)
def test_each_class_has_its_own_bits(cred, granted):
    for want in (MAY_READ, MAY_WRITE, MAY_EXEC):
        assert permitted(inode(0o641), cred, want) == bool(granted & want)


def test_the_owner_is_judged_by_the_owners_bits_alone():
    assert not permitted(inode(0o077), Cred(1, 2), MAY_READ)


def test_root_may_write_but_not_execute_what_nobody_may():
    assert permitted(inode(0), Cred(0, 0), MAY_READ | MAY_WRITE)
    assert not permitted(inode(0o666), Cred(0, 0), MAY_EXEC)
    assert permitted(inode(0o100), Cred(0, 0), MAY_EXEC)
