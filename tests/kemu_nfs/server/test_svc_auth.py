"""AUTH_SYS bodies."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemu_nfs.server.cred import Cred
from kemu_nfs.server.svc_auth import parse_auth_unix
from kemu_nfs.sunrpc.xdr import XdrError


def body(name=b"client", uid=7, gid=8, gids=()):
    padded = name + b"\0" * (-len(name) % 4)
    return struct.pack(f"!II{len(padded)}sIII{len(gids)}I", 1, len(name), padded, uid, gid, len(gids), *gids)


def test_uid_gid_and_groups_are_read():
    assert parse_auth_unix(body(gids=(1, 2, 3))) == Cred(7, 8, (1, 2, 3))


def test_sixteen_groups_are_the_most():
    assert len(parse_auth_unix(body(gids=range(16))).gids) == 16
    with pytest.raises(XdrError):
        parse_auth_unix(body(gids=range(17)))


def test_a_name_of_more_than_255_bytes_is_refused():
    parse_auth_unix(body(name=b"x" * 255))
    with pytest.raises(XdrError):
        parse_auth_unix(body(name=b"x" * 256))


@given(st.integers(0, 39))
def test_a_body_that_is_cut_short_is_refused(length):
    whole = body(gids=(1, 2, 3))
    assert len(whole) == 40
    with pytest.raises(XdrError):
        parse_auth_unix(whole[:length])


@given(st.binary(max_size=80))
def test_no_bytes_raise_anything_else(data):
    try:
        parse_auth_unix(data)
    except XdrError:
        pass


def test_everybody_may_be_treated_as_one(client, server, root):
    """As a server that is not root must do it (kemu serve)."""
    server.auth.all_as = Cred(500, 100)
    server.tree.lookup_path("/export").mode = 0o777
    client.auth = client.auth_unix(0, 0, (1,))
    made = client.getattr(client.create(root, b"f"))
    assert (made.uid, made.gid) == (500, 100)
