"""Results of procedures on names, as the client reads them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.errno import EACCES, ENAMETOOLONG, ENOENT
from kemu_nfs.nfs import nfs3xdr_names as x
from kemu_nfs.nfs.nfs3xdr import encode_fh
from kemu_nfs.sunrpc.xdr import Packer, XdrError

FATTR = struct.pack("!5I5Q6I", 1, 0o644, 1, 5, 6, 4097, 8192, 7, 8, 9, 1, 2, 3, 4, 5, 6)
OTHER = struct.pack("!5I5Q6I", 2, 0o755, 2, 5, 6, 4096, 8192, 7, 8, 1, 1, 2, 3, 4, 5, 6)
YES, NO = b"\0\0\0\1", b"\0\0\0\0"
WCC = YES + struct.pack("!3Q", 10, 11, 12) + YES + OTHER


def packed(*words) -> bytes:
    return struct.pack(f"!{len(words)}I", *words)


def entry(name: bytes, cookie: int, *, plus: bool = False) -> bytes:
    packer = Packer()
    packer.pack_bool(True)
    packer.pack_uhyper(77)
    packer.pack_opaque(name)
    packer.pack_uhyper(cookie)
    if plus:
        packer.pack_raw(YES + FATTR + YES + encode_fh(b"handle"))
    return packer.bytes()


def test_a_lookup_brings_the_object_and_its_directory():
    result = x.PROC_LOOKUP.decode(NO + encode_fh(b"12345") + YES + FATTR + YES + OTHER, 0, b"")
    assert (result.fh, result.fattr, result.value.fattr) == (b"12345", FATTR, OTHER)


def test_a_create_may_say_less():
    result = x.PROC_CREATE.decode(NO + NO + NO + NO + NO, 0, b"")
    assert (result.fh, result.fattr, result.value.fattr, result.value.pre_op) == (None, None, None, None)
    result = x.PROC_MKDIR.decode(NO + YES + encode_fh(b"fh") + YES + FATTR + WCC, 0, b"")
    assert (result.fh, result.fattr) == (b"fh", FATTR)
    assert result.value.pre_op == WCC[4:28]


def test_a_rename_has_two_directories_and_a_link_one():
    before, after = x.PROC_RENAME.decode(NO + WCC + NO + NO, 0, b"").value
    assert (before.fattr, after.fattr) == (OTHER, None)
    result = x.PROC_LINK.decode(NO + YES + FATTR + WCC, 0, b"")
    assert (result.fattr, result.value.fattr) == (FATTR, OTHER)


def test_of_a_call_that_failed_only_the_status_is_read():
    for proc in (x.PROC_LOOKUP, x.PROC_CREATE, x.PROC_RENAME, x.PROC_LINK, x.PROC_READDIR, x.PROC_READLINK):
        assert proc.decode(packed(2), 0, b"").status == -ENOENT


def test_a_link_leads_somewhere():
    read = x.PROC_READLINK.decode
    assert read(NO + NO + encode_fh(b"../a\xff"), 0, b"").value == "../a\udcff"
    assert read(NO + NO + encode_fh(b""), 0, b"").status == -ENAMETOOLONG
    assert read(NO + NO + encode_fh(b"x" * 1025), 0, b"").status == -ENAMETOOLONG


@pytest.mark.parametrize("plus", [False, True])
def test_a_page_of_names(plus):
    proc = x.PROC_READDIRPLUS if plus else x.PROC_READDIR
    names = [b"a", b"bcd", b"x" * 255]
    reply = NO + NO + b"verifier" + b"".join(entry(name, i, plus=plus) for i, name in enumerate(names)) + NO + YES
    page = proc.decode(reply, 0, b"").value
    assert (page.verf, page.eof) == (b"verifier", True)
    assert [one.name.encode() for one in page.entries] == names
    assert [one.cookie for one in page.entries] == [0, 1, 2]
    assert {one.fh for one in page.entries} == ({b"handle"} if plus else {None})


@pytest.mark.parametrize("name", [b"", b"a/b", b"a\0b", b"/", b"x" * 256])
def test_what_cannot_be_a_name_is_refused(name):
    with pytest.raises(XdrError):
        x.PROC_READDIR.decode(NO + NO + bytes(8) + entry(name, 1) + NO + YES, 0, b"")


def test_a_page_without_names_must_be_the_last():
    assert x.PROC_READDIR.decode(NO + NO + bytes(8) + NO + YES, 0, b"").value.entries == []
    with pytest.raises(XdrError):
        x.PROC_READDIR.decode(NO + NO + bytes(8) + NO + NO, 0, b"")


def test_numbers_of_file_systems():
    assert x.PROC_FSSTAT.decode(NO + NO + struct.pack("!6QI", 1, 2, 3, 4, 5, 6, 0), 0, b"").value == x.FsStat(1, 2, 3, 4, 5, 6)
    info = x.PROC_FSINFO.decode(NO + NO + struct.pack("!7IQ2II", 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 27), 0, b"").value
    assert (info.rtmax, info.wtpref, info.dtpref, info.maxfilesize) == (1, 5, 7, 8)
    assert x.PROC_PATHCONF.decode(NO + NO + packed(32000, 255, 1, 1, 0, 1), 0, b"").value == x.PathConf(32000, 255)
    assert x.PROC_ACCESS.decode(NO + NO + packed(0x3F), 0, b"").value == 0x3F


def test_mountd_gives_a_handle_and_flavours():
    result = x.PROC_MNT.decode(NO + encode_fh(b"root") + packed(2, 1, 0), 0, b"")
    assert (result.fh, result.value) == (b"root", [1, 0])
    assert x.PROC_MNT.decode(packed(13), 0, b"").status == -EACCES
    with pytest.raises(XdrError):
        x.PROC_MNT.decode(NO + encode_fh(b"root") + packed(0xFFFFFFFF), 0, b"")


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 400), st.integers(0, 90), st.sampled_from([0, 1, 2, 255, 0x7FFFFFFF, 0xFFFFFFFF]))
def test_a_bent_page_of_names_is_read_or_refused(end, word, value):
    good = NO + YES + OTHER + b"verifier" + entry(b"one", 1, plus=True) + entry(b"three", 2, plus=True) + NO + YES
    reply = (good[: 4 * word] + packed(value) + good[4 * word + 4 :])[:end]
    for proc in (x.PROC_READDIR, x.PROC_READDIRPLUS):
        try:
            result = proc.decode(reply, 0, b"")
        except XdrError:
            continue
        assert result.status or len(result.value.entries) <= len(reply) // 24


def test_arguments():
    assert x.diropargs(encode_fh(b"d"), "n\u00e9", b"rest") == b"\0\0\0\1d\0\0\0" + b"\0\0\0\3n\xc3\xa9\0" + b"rest"
    assert x.readdirargs(b"FH", 5, b"verifier", 512, 4096) == b"FH" + struct.pack("!Q", 5) + b"verifier" + packed(512, 4096)
