"""TCP's options: parsing, building, time stamps, the first window."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu_net.ipv4.tcp_options import (
    TCP_PAWS_24DAYS,
    TcpOptionsReceived,
    tcp_fast_parse_options,
    tcp_initial_window,
    tcp_parse_options,
    tcp_paws_check,
    tcp_replace_ts_recent,
    tcp_sack_blocks,
    tcp_syn_options,
)
from tcp_options_ground import MSS_1460, ts, wscale

ON = SimpleNamespace(sysctl_tcp_timestamps=1, sysctl_tcp_sack=1, sysctl_tcp_window_scaling=1)
OFF = SimpleNamespace(sysctl_tcp_timestamps=0, sysctl_tcp_sack=0, sysctl_tcp_window_scaling=0)
SYN_BIT = 2 << 16


def segment(options, *, syn=True):
    options += b"\0" * (-len(options) % 4)
    return SimpleNamespace(buf=b"?" * 20 + options, h=0, data=0, flags=(5 + len(options) // 4) << 28 | (SYN_BIT if syn else 0))


def parsed(options, *, syn=True, established=False, sysctl=ON, **fields):
    opt = TcpOptionsReceived()
    for name, value in fields.items():
        setattr(opt, name, value)
    tcp_parse_options(segment(options, syn=syn), opt, established, sysctl)
    return opt


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=40), st.booleans(), st.booleans())
def test_any_bytes_leave_sane_options(options, syn, established):
    opt = parsed(options, syn=syn, established=established, tstamp_ok=1, sack_ok=1)
    assert 0 < opt.mss_clamp <= 65535
    assert 0 <= opt.snd_wscale <= 14
    assert len(opt.sack_blocks) <= 4


@pytest.mark.parametrize(
    ("options", "mss"),
    [
        (b"\1\1\2\4\5\xb4\0\0", 1460),
        (b"\3\3\7\1\2\4\2\0", 512),
        (b"\2\4\0\1", 1),  # what is sent never has less than 48 bytes; that is another place's rule
        (b"\2\4\0\0", 536),
        (b"\0\2\4\5", 536),
        (b"\2\4\5\xb4\2\4\2\0", 512),  # the last one counts
        (b"\2\3\5\xb4", 536),
        (b"\2\x20\5\xb4", 536),  # longer than the header
    ],
)
def test_the_segment_size(options, mss):
    assert parsed(options).mss_clamp == mss


def test_the_users_limit_bounds_the_segment_size():
    assert parsed(MSS_1460, user_mss=900).mss_clamp == 900
    assert parsed(b"\2\4\2\0", user_mss=900).mss_clamp == 512


def test_a_scale_above_14_is_14():
    assert parsed(wscale(200)).snd_wscale == 14
    assert parsed(wscale(7)).snd_wscale == 7


def test_what_opens_a_connection_is_for_syns_only():
    opt = parsed(MSS_1460 + wscale(7) + b"\4\2\1\1", syn=False)
    assert (opt.mss_clamp, opt.wscale_ok, opt.sack_ok) == (536, 0, 0)
    opt = parsed(MSS_1460 + wscale(7) + b"\4\2\1\1", established=True)
    assert (opt.mss_clamp, opt.wscale_ok, opt.sack_ok) == (536, 0, 0)


def test_switches_turn_options_off():
    opt = parsed(ts(5) + wscale(7) + b"\4\2\1\1", sysctl=OFF)
    assert (opt.saw_tstamp, opt.wscale_ok, opt.sack_ok) == (0, 0, 0)
    opt = parsed(ts(5) + wscale(7) + b"\4\2\1\1")
    assert (opt.saw_tstamp, opt.wscale_ok, opt.sack_ok) == (1, 1, 1)


def test_blocks_are_read_as_sent_if_they_were_agreed_upon():
    blocks = b"\1\1\5\x12" + bytes(range(16))
    assert parsed(blocks, syn=False, established=True, sack_ok=1).sack_blocks == (
        (0x00010203, 0x04050607),
        (0x08090A0B, 0x0C0D0E0F),
    )
    assert parsed(blocks, syn=False, established=True).sack_blocks == ()
    assert parsed(b"\1\1\5\x11" + bytes(16), syn=False, established=True, sack_ok=1).sack_blocks == ()


@pytest.mark.parametrize(("options", "saw"), [(ts(7, 9), 1), (b"\x08\x0a" + ts(7, 9)[4:] + b"\1\1", 1), (b"", 0), (b"\1\1\1\1", 0)])
def test_fast_parsing_sees_the_same(options, saw):
    opt = TcpOptionsReceived()
    opt.tstamp_ok = 1
    opt.saw_tstamp = 1
    tcp_fast_parse_options(segment(options, syn=False), opt, ON)
    assert opt.saw_tstamp == saw
    if saw:
        assert (opt.rcv_tsval, opt.rcv_tsecr) == (7, 9)


@pytest.mark.parametrize("stamps", [None, (11, 22)])
@pytest.mark.parametrize("sack", [0, 1])
@pytest.mark.parametrize("scale", [None, 0, 5])
def test_what_a_syn_offers_is_understood(stamps, sack, scale):
    options = tcp_syn_options(1400, stamps, sack, scale)
    assert len(options) % 4 == 0
    opt = parsed(options)
    assert (opt.mss_clamp, opt.sack_ok) == (1400, sack)
    assert (opt.saw_tstamp, opt.wscale_ok) == (stamps is not None, scale is not None)
    if stamps:
        assert (opt.rcv_tsval, opt.rcv_tsecr) == stamps
    if scale is not None:
        assert opt.snd_wscale == scale


def test_a_syn_with_all_options_looks_as_linux_sends_it():
    assert tcp_syn_options(1460, (1, 0), 1, 2) == b"\2\4\5\xb4\4\2\x08\x0a\0\0\0\1\0\0\0\0\1\3\3\2"


# time stamps


@pytest.mark.parametrize(
    ("tsval", "age", "rst", "old"),
    [
        (100, 0, 0, False),
        (101, 0, 0, False),
        (99, 0, 0, True),
        (99, TCP_PAWS_24DAYS, 0, False),
        (99, TCP_PAWS_24DAYS - 1, 0, True),
        (99, 59, 1, True),
        (99, 60, 1, False),
        (100 - (1 << 31) & 0xFFFFFFFF, 0, 0, True),
    ],
)
def test_old_duplicates(tsval, age, rst, old):
    opt = TcpOptionsReceived()
    opt.ts_recent, opt.ts_recent_stamp, opt.rcv_tsval = 100, 1000, tsval
    assert tcp_paws_check(opt, rst, 1000 + age) is old


@pytest.mark.parametrize(
    ("seq", "tsval", "seconds", "kept"),
    [
        (500, 101, 1000, 101),
        (501, 101, 1000, 100),  # it does not reach the last acknowledgement
        (500, 99, 1000, 100),
        (500, 99, 1000 + TCP_PAWS_24DAYS, 99),
    ],
)
def test_which_stamp_is_echoed(seq, tsval, seconds, kept):
    opt = TcpOptionsReceived()
    opt.saw_tstamp, opt.ts_recent, opt.ts_recent_stamp, opt.rcv_tsval = 1, 100, 1000, tsval
    tcp_replace_ts_recent(SimpleNamespace(rx_opt=opt, rcv_wup=500), seq, seconds)
    assert opt.ts_recent == kept


# blocks that we send


@pytest.mark.parametrize(("tstamp", "count"), [(0, 4), (1, 3)])
def test_a_dsack_comes_first_once_and_pushes_the_last_out(tstamp, count):
    opt = TcpOptionsReceived()
    opt.tstamp_ok = tstamp
    opt.num_sacks = count
    blocks = [(n, n + 1) for n in range(10, 50, 10)]
    sk = SimpleNamespace(rx_opt=opt, selective_acks=list(blocks), duplicate_sack=(1, 2))
    assert tcp_sack_blocks(sk) == [(1, 2), *blocks][:count]
    assert tcp_sack_blocks(sk) == blocks[:count]
    assert sk.selective_acks == blocks


# the first window


@pytest.mark.parametrize(
    ("space", "mss", "clamp", "scaling", "largest", "expect"),
    [
        (65535, 1460, 0, 0, 174760, (5840, 65535, 0)),
        (65535, 1460, 0, 1, 174760, (5840, 65535 << 2, 2)),
        (65535, 536, 0, 1, 65535, (2144, 65535, 0)),
        (65535, 2000, 0, 1, 65535, (6000, 65535, 0)),
        (65535, 8960, 0, 1, 4 << 20, (17920, 65535 << 7, 7)),
        (750, 1460, 0, 0, 174760, (750, 65535, 0)),
        (65535, 1460, 3000, 1, 4 << 20, (2920, 3000, 0)),
        (-5, 1460, 0, 0, 174760, (0, 65535, 0)),
        (65535, 1460, 0, 1, 1 << 40, (64240, 65535 << 14, 14)),
    ],
)
def test_the_first_window(space, mss, clamp, scaling, largest, expect):
    assert tcp_initial_window(space, mss, clamp, scaling, largest) == expect
