"""Handles, names and attributes on the wire."""

import pytest

from kemu_nfs.server.filetree import FileTree
from kemu_nfs.server.nfs3_attr import pack_fattr3, pack_post_op_attr, unpack_diropargs, unpack_fh
from kemu_nfs.sunrpc.xdr import Packer, Unpacker, XdrError


def packed(*opaques):
    out = Packer()
    for opaque in opaques:
        out.pack_opaque(opaque)
    return Unpacker(out.bytes())


def test_a_handle_has_at_most_64_bytes():
    assert unpack_fh(packed(b"h" * 64)) == b"h" * 64
    with pytest.raises(XdrError):
        unpack_fh(packed(b"h" * 65))


def test_a_directory_and_a_name_are_two_opaques():
    assert unpack_diropargs(packed(b"handle", b"name")) == (b"handle", b"name")


def test_attributes_have_84_bytes_and_optional_ones_a_word_more():
    inode = FileTree(lambda: 1_500_000_000).make_file("/a", 5000)
    plain, optional, missing = Packer(), Packer(), Packer()
    pack_fattr3(plain, inode, 1)
    pack_post_op_attr(optional, inode, 1)
    pack_post_op_attr(missing, None, 1)

    assert len(plain.bytes()) == 84
    assert optional.bytes() == b"\0\0\0\1" + plain.bytes()
    assert missing.bytes() == b"\0\0\0\0"
