"""RPC headers: calls as they stand on the wire, replies of every kind, and garbage."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu_nfs.sunrpc import rpc_msg
from kemu_nfs.sunrpc.rpc_msg import call_header, decode_reply


def reply(*words: int) -> bytes:
    return struct.pack(f"!{len(words)}I", *words)


def test_a_call_begins_with_xid_version_program_and_procedure():
    assert call_header(7, 100003, 3, 1, b"CRED") == reply(7, 0, 2, 100003, 3, 1) + b"CRED"


def test_results_follow_a_null_verifier():
    assert decode_reply(reply(7, 1, 0, 0, 0, 0) + b"results!") == (rpc_msg.REPLY_OK, 24)


def test_a_verifier_with_a_body_is_stepped_over():
    assert decode_reply(reply(7, 1, 0, 1, 5) + b"abcde\0\0\0" + reply(0)) == (rpc_msg.REPLY_OK, 32)


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        ((7, 1, 0, 0, 0, 1), rpc_msg.REPLY_PROG_UNAVAIL),
        ((7, 1, 0, 0, 0, 2, 2, 2), rpc_msg.REPLY_PROG_MISMATCH),
        ((7, 1, 0, 0, 0, 3), rpc_msg.REPLY_PROC_UNAVAIL),
        ((7, 1, 0, 0, 0, 4), rpc_msg.REPLY_GARBAGE_ARGS),
        ((7, 1, 0, 0, 0, 5), rpc_msg.REPLY_SYSTEM_ERR),
        ((7, 1, 0, 0, 0, 9), rpc_msg.REPLY_GARBAGE),
        ((7, 1, 1, 0, 2, 2), rpc_msg.REPLY_DENIED_VERSION),
        ((7, 1, 1, 1, 1), rpc_msg.REPLY_AUTH_GARBLED),
        ((7, 1, 1, 1, 2), rpc_msg.REPLY_AUTH_STALE),
        ((7, 1, 1, 1, 3), rpc_msg.REPLY_AUTH_GARBLED),
        ((7, 1, 1, 1, 4), rpc_msg.REPLY_AUTH_STALE),
        ((7, 1, 1, 1, 5), rpc_msg.REPLY_AUTH_TOOWEAK),
        ((7, 1, 1, 1, 6), rpc_msg.REPLY_DENIED_AUTH),
        ((7, 1, 1, 1), rpc_msg.REPLY_GARBAGE),
        ((7, 1, 1, 5), rpc_msg.REPLY_ODD),
        ((7, 1, 1), rpc_msg.REPLY_GARBAGE),
        ((7, 1, 2), rpc_msg.REPLY_GARBAGE),
        ((7, 0, 2), rpc_msg.REPLY_GARBAGE),
        ((7, 1, 0, 0), rpc_msg.REPLY_GARBAGE),
        ((7, 1, 0, 0, 401), rpc_msg.REPLY_GARBAGE),
        ((7,), rpc_msg.REPLY_GARBAGE),
        ((), rpc_msg.REPLY_GARBAGE),
    ],
)
def test_every_other_reply_is_judged(words, verdict):
    assert decode_reply(reply(*words)) == (verdict, 0)


@pytest.mark.parametrize("extra", [1, 2, 3])
def test_a_reply_that_is_no_multiple_of_four_bytes_is_none(extra):
    assert decode_reply(reply(7, 1, 0, 0, 0, 0) + bytes(extra)) == (rpc_msg.REPLY_ODD, 0)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=60))
def test_garbage_raises_nothing(data):
    verdict, offset = decode_reply(data)
    assert 0 <= verdict <= rpc_msg.REPLY_ODD
    assert offset <= len(data)
