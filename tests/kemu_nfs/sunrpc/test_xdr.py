"""XDR: what is packed comes back, and no bytes raise anything but XdrError."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu_nfs.sunrpc.xdr import Packer, Unpacker, XdrError

ITEMS = st.lists(
    st.one_of(
        st.tuples(st.just("uint"), st.integers(0, 2**32 - 1)),
        st.tuples(st.just("int"), st.integers(-(2**31), 2**31 - 1)),
        st.tuples(st.just("uhyper"), st.integers(0, 2**64 - 1)),
        st.tuples(st.just("hyper"), st.integers(-(2**63), 2**63 - 1)),
        st.tuples(st.just("bool"), st.booleans()),
        st.tuples(st.just("opaque"), st.binary(max_size=40)),
        st.tuples(st.just("string"), st.text(max_size=20)),
    ),
    max_size=12,
)
NAMES = ("uint", "int", "uhyper", "hyper", "bool", "opaque", "string")


@settings(max_examples=50, deadline=None)
@given(ITEMS)
def test_what_is_packed_comes_back_and_nothing_is_left(items):
    packer = Packer()
    for kind, value in items:
        getattr(packer, f"pack_{kind}")(value)
    data = packer.bytes()
    assert len(data) == len(packer)
    assert len(data) % 4 == 0
    unpacker = Unpacker(data)
    assert [(kind, getattr(unpacker, f"unpack_{kind}")()) for kind, _ in items] == items
    unpacker.done()


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=60), st.lists(st.sampled_from((*NAMES, "fopaque", "enum")), max_size=10))
def test_no_bytes_raise_anything_but_xdr_error(data, kinds):
    unpacker = Unpacker(data)
    arguments = {"fopaque": (7,), "enum": ((0, 1, 5),), "opaque": (30,), "string": (30,)}
    try:
        for kind in kinds:
            getattr(unpacker, f"unpack_{kind}")(*arguments.get(kind, ()))
        unpacker.done()
    except XdrError:
        pass
    assert 0 <= unpacker.offset <= len(data) or unpacker.offset <= unpacker.end


def test_opaque_is_padded_to_four():
    packer = Packer()
    packer.pack_opaque(b"abcde")
    assert packer.bytes() == b"\0\0\0\5abcde\0\0\0"


def test_bytes_of_known_length_have_no_length_in_front():
    packer = Packer()
    packer.pack_fopaque(b"abc")
    assert packer.bytes() == b"abc\0"
    assert Unpacker(b"abc\0").unpack_fopaque(3) == b"abc"


def test_padding_that_is_not_zero_is_accepted():
    assert Unpacker(b"\0\0\0\1aXYZ").unpack_opaque() == b"a"


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\5abcd", b"\0\0\0\1a", b"\0\0\0"])
def test_a_length_is_judged_before_a_byte_is_copied(data):
    with pytest.raises(XdrError):
        Unpacker(data).unpack_opaque()


def test_a_length_above_its_limit_is_refused():
    with pytest.raises(XdrError, match="allowed are 4"):
        Unpacker(b"\0\0\0\5abcde\0\0\0").unpack_opaque(4)


def test_a_boolean_is_zero_or_one():
    assert [Unpacker(word).unpack_bool() for word in (bytes(4), b"\0\0\0\1")] == [False, True]
    with pytest.raises(XdrError):
        Unpacker(b"\0\0\0\2").unpack_bool()


def test_what_is_left_over_is_an_error():
    with pytest.raises(XdrError, match="4 bytes are left"):
        Unpacker(bytes(4)).done()


def test_skip_moves_over_padding_too():
    unpacker = Unpacker(b"abcde\0\0\0\0\0\0\7")
    unpacker.skip(5)
    assert unpacker.unpack_uint() == 7
    with pytest.raises(XdrError):
        unpacker.skip(1)


def test_a_caller_that_packs_nonsense_is_told_at_once():
    with pytest.raises(struct.error):
        Packer().pack_uint(-1)


def test_strings_that_are_not_utf8_survive():
    packer = Packer()
    packer.pack_string(Unpacker(b"\0\0\0\2\xff\xfe\0\0").unpack_string())
    assert packer.bytes() == b"\0\0\0\2\xff\xfe\0\0"
