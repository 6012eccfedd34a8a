"""Numbers of RFC 1813."""

import errno

import pytest

from kemu_nfs.sunrpc import nfs3_const as c


def test_the_22_procedures_are_numbered_without_a_gap():
    numbers = [value for name, value in vars(c).items() if name.startswith("NFS3PROC_")]

    assert sorted(numbers) == list(range(22))


@pytest.mark.parametrize(
    "name", ["PERM", "NOENT", "IO", "NXIO", "EXIST", "XDEV", "NODEV", "NOTDIR", "ISDIR", "INVAL", "FBIG", "NOSPC", "ROFS", "MLINK"]
)
def test_low_status_codes_are_errno_values(name):
    assert getattr(c, f"NFS3ERR_{name}") == getattr(errno, f"E{name}")


def test_status_codes_differ():
    codes = [value for name, value in vars(c).items() if name.startswith("NFS3ERR_")]

    assert len(set(codes)) == len(codes)
    assert c.NFS3ERR_STALE == 70
    assert c.NFS3ERR_JUKEBOX == 10008
