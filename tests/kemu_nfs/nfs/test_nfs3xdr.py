"""NFSv3 on the client's side: it speaks to the real server, and no reply raises anything but XdrError."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.errno import EIO, EJUKEBOX, ENOSPC, ESTALE
from kemu_nfs.nfs import nfs3xdr, nfs3xdr_names
from kemu_nfs.nfs.nfs3xdr import Fattr3, ReadArgs, WriteArgs, encode_fh, nfs_stat_to_errno, sattr3
from kemu_nfs.sunrpc.rpc_task import RpcProc
from kemu_nfs.sunrpc.xdr import XdrError

PROCS = [
    value
    for module in (nfs3xdr, nfs3xdr_names)
    for name, value in vars(module).items()
    if name.startswith("PROC_") and isinstance(value, RpcProc)
]
FATTR = struct.pack("!5I5Q6I", 1, 0o644, 1, 5, 6, 4097, 8192, 7, 8, 9, 1, 2, 3, 4, 5, 6)
WCC = struct.pack("!I3Q", 1, 10, 11, 12) + b"\0\0\0\1" + FATTR
NO_WCC = bytes(8)


def arguments(proc):
    return {"WRITE": WriteArgs(b"", 0, 4096, 2, None), "READ": ReadArgs(b"", 0, 4096)}.get(proc.name, b"")


class FakePage:
    contents = bytes(4096)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(PROCS), st.binary(max_size=300))
def test_garbage_raises_nothing_but_xdr_error(proc, data):
    try:
        proc.decode(data, 0, arguments(proc))
    except XdrError:
        pass


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(PROCS), st.integers(0, 220), st.integers(0, 160), st.binary(min_size=1, max_size=4))
def test_neither_does_a_good_reply_that_was_cut_or_bent(proc, end, at, bend):
    good = {
        "WRITE": bytes(4) + WCC + struct.pack("!II", 4096, 2) + bytes(8),
        "READ": bytes(4) + b"\0\0\0\1" + FATTR + struct.pack("!3I", 4, 0, 4) + b"data",
    }
    data = good.get(proc.name, bytes(4) + WCC + bytes(40))
    bent = (data[:at] + bend + data[at + len(bend) :])[:end]
    try:
        proc.decode(bent, 0, arguments(proc))
    except XdrError:
        pass


def test_a_write_is_handle_offset_count_stability_and_data():
    page = FakePage()
    head, pages, tail = nfs3xdr.PROC_WRITE.encode(WriteArgs(encode_fh(b"handle"), 1 << 33, 4096, 2, [(page, 0, 4096)]))
    assert head == b"\0\0\0\6handle\0\0" + struct.pack("!QIII", 1 << 33, 4096, 2, 4096)
    assert pages == [(page, 0, 4096)]
    assert tail == b""


def test_data_of_odd_length_is_padded_after_the_page():
    _, _, tail = nfs3xdr.PROC_WRITE.encode(WriteArgs(b"", 0, 10, 2, [(FakePage(), 0, 10)]))
    assert tail == b"\0\0"
    head, pages, tail = nfs3xdr.PROC_WRITE.encode(WriteArgs(b"", 0, 5, 2, None, b"12345"))
    assert (head[-8:], pages, tail) == (b"12345\0\0\0", None, b"")


@pytest.mark.parametrize("wcc", [WCC, NO_WCC])
def test_a_write_result_has_count_commitment_and_verifier(wcc):
    reply = b"HEAD" + bytes(4) + wcc + struct.pack("!II", 4096, 2) + b"verifier"
    result = nfs3xdr.PROC_WRITE.decode(reply, 4, WriteArgs(b"", 0, 4096, 2, None))
    assert (result.status, result.count, result.committed, result.verf) == (0, 4096, 2, b"verifier")
    assert result.fattr == (FATTR if wcc is WCC else None)


def test_more_written_than_was_sent_is_nonsense():
    reply = bytes(4) + NO_WCC + struct.pack("!II", 5000, 2) + bytes(8)
    with pytest.raises(XdrError):
        nfs3xdr.PROC_WRITE.decode(reply, 0, WriteArgs(b"", 0, 4096, 2, None))


def test_a_read_result_has_its_data():
    reply = bytes(4) + b"\0\0\0\1" + FATTR + struct.pack("!III", 5, 1, 5) + b"bytes\0\0\0"
    result = nfs3xdr.PROC_READ.decode(reply, 0, ReadArgs(b"", 0, 4096))
    assert (result.count, result.eof, result.data) == (5, True, b"bytes")


@pytest.mark.parametrize("words", [(5, 1, 4), (5000, 0, 5000), (5, 2, 5), (9, 0, 9)])
def test_a_read_result_that_contradicts_itself_is_nonsense(words):
    reply = bytes(4) + bytes(4) + struct.pack("!III", *words) + b"bytes\0\0\0"
    with pytest.raises(XdrError):
        nfs3xdr.PROC_READ.decode(reply, 0, ReadArgs(b"", 0, 4096))


def test_an_error_may_bring_attributes():
    result = nfs3xdr.PROC_WRITE.decode(struct.pack("!I", 28) + WCC, 0, WriteArgs(b"", 0, 4096, 2, None))
    assert result.status == -ENOSPC
    assert result.fattr == FATTR


def test_statuses_become_errnos_and_unknown_ones_eio():
    assert [nfs_stat_to_errno(status) for status in (0, 70, 10008, 4711)] == [0, -ESTALE, -EJUKEBOX, -EIO]


def test_attributes_can_be_read():
    fattr = Fattr3.read(FATTR)
    assert (fattr.size, fattr.fileid, fattr.mtime, fattr.ctime) == (4097, 9, (3, 4), (5, 6))


def test_a_sattr_says_what_to_change_and_what_not():
    assert sattr3(size=4096) == bytes(12) + b"\0\0\0\1" + (4096).to_bytes(8, "big") + bytes(8)
    assert sattr3(mode=0o600) == b"\0\0\0\1" + (0o600).to_bytes(4, "big") + bytes(20)
