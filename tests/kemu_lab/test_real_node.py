"""How an error of this machine is told to a client."""

from __future__ import annotations

import errno

import pytest

from kemu_lab.real_node import STATUSES, status_of
from kemu_nfs.sunrpc import nfs3_const
from kemu_nfs.sunrpc.nfs3_const import (
    NFS3ERR_ACCES,
    NFS3ERR_DQUOT,
    NFS3ERR_FBIG,
    NFS3ERR_IO,
    NFS3ERR_JUKEBOX,
    NFS3ERR_NOSPC,
    NFS3ERR_ROFS,
    NFS3ERR_STALE,
)


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (errno.EACCES, NFS3ERR_ACCES),
        (errno.EPERM, NFS3ERR_ACCES),
        (errno.ENOSPC, NFS3ERR_NOSPC),
        (errno.EDQUOT, NFS3ERR_DQUOT),
        (errno.EROFS, NFS3ERR_ROFS),
        (errno.EFBIG, NFS3ERR_FBIG),
        (errno.ELOOP, NFS3ERR_STALE),
        (errno.EMFILE, NFS3ERR_JUKEBOX),
        (errno.EBADF, NFS3ERR_IO),
    ],
)
def test_errors_have_the_words_of_the_rfc(number, status):
    assert status_of(OSError(number, "")) == status


def test_an_error_without_a_number_is_an_io_error():
    assert status_of(OSError("strange")) == NFS3ERR_IO


def test_every_word_is_one_of_nfs():
    known = {value for name, value in vars(nfs3_const).items() if name.startswith("NFS3ERR_")}
    assert set(STATUSES.values()) <= known


def test_names_of_errors_that_both_have_are_the_same():
    """NFS3ERR_X is what EX becomes, but for those that the server explains otherwise."""
    others = {errno.EPERM, errno.EDQUOT, errno.ELOOP}
    for number, status in STATUSES.items():
        name = "NFS3ERR_" + errno.errorcode[number][1:]
        if hasattr(nfs3_const, name) and number not in others:
            assert getattr(nfs3_const, name) == status
