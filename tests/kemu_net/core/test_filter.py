"""Classic BPF: the checker and the machine."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.errno import EINVAL
from kemu_net.core import filter as bpf
from kemu_net.core.filter import SockFilter, sk_chk_filter, sk_run_filter
from net_ground import filled, one_host, udp_frame

RET_ALL = SockFilter(bpf.BPF_RET | bpf.BPF_K, 0, 0, 0xFFFFFFFF)
RET_A = SockFilter(bpf.BPF_RET | bpf.BPF_A, 0, 0, 0)

#: What tcpdump -d makes of "udp port 7" on Ethernet, without IPv6.
UDP_PORT_7 = [
    SockFilter(0x28, 0, 0, 12),
    SockFilter(0x15, 0, 10, 0x800),
    SockFilter(0x30, 0, 0, 23),
    SockFilter(0x15, 0, 8, 17),
    SockFilter(0x28, 0, 0, 20),
    SockFilter(0x45, 6, 0, 0x1FFF),
    SockFilter(0xB1, 0, 0, 14),
    SockFilter(0x48, 0, 0, 14),
    SockFilter(0x15, 2, 0, 7),
    SockFilter(0x48, 0, 0, 16),
    SockFilter(0x15, 0, 1, 7),
    SockFilter(0x06, 0, 0, 96),
    SockFilter(0x06, 0, 0, 0),
]


@pytest.fixture(scope="module")
def host():
    with one_host() as host:
        yield host


def run(host, program, packet=bytes(range(1, 41))):
    """Check a program and run it over a packet whose network header is at 14."""
    assert sk_chk_filter(program) == 0
    skb = filled(host.skbs, packet)
    skb.nh, skb.protocol, skb.pkt_type = 14, 0x0800, 3
    try:
        return sk_run_filter(skb, program)
    finally:
        host.skbs.kfree_skb(skb)


def test_a_real_program_finds_its_packets(host):
    assert run(host, UDP_PORT_7, udp_frame(dport=7)) == 96
    assert run(host, UDP_PORT_7, udp_frame(dport=8, sport=7)) == 96
    assert run(host, UDP_PORT_7, udp_frame(dport=8)) == 0
    assert run(host, UDP_PORT_7, b"\0" * 60) == 0


@pytest.mark.parametrize(
    ("code", "k", "result"),
    [
        (bpf.BPF_LD | bpf.BPF_W | bpf.BPF_ABS, 0, 0x01020304),
        (bpf.BPF_LD | bpf.BPF_H | bpf.BPF_ABS, 38, 0x2728),
        (bpf.BPF_LD | bpf.BPF_B | bpf.BPF_ABS, 39, 40),
        (bpf.BPF_LD | bpf.BPF_B | bpf.BPF_ABS, 40, 0),
        (bpf.BPF_LD | bpf.BPF_W | bpf.BPF_ABS, 37, 0),
        (bpf.BPF_LD | bpf.BPF_W | bpf.BPF_LEN, 0, 40),
        (bpf.BPF_LD | bpf.BPF_W | bpf.BPF_IMM, -1, 0xFFFFFFFF),
        (bpf.BPF_LD | bpf.BPF_B | bpf.BPF_IND, 2, 3),
        (bpf.BPF_LD | bpf.BPF_B | bpf.BPF_ABS, bpf.SKF_NET_OFF, 15),
        (bpf.BPF_LD | bpf.BPF_B | bpf.BPF_ABS, bpf.SKF_LL_OFF + 1, 2),
        (bpf.BPF_LD | bpf.BPF_B | bpf.BPF_ABS, bpf.SKF_LL_OFF - 1, 0),
        (bpf.BPF_LD | bpf.BPF_W | bpf.BPF_ABS, bpf.SKF_AD_OFF + bpf.SKF_AD_PROTOCOL, 0x0800),
        (bpf.BPF_LD | bpf.BPF_W | bpf.BPF_ABS, bpf.SKF_AD_OFF + bpf.SKF_AD_PKTTYPE, 3),
        (bpf.BPF_LD | bpf.BPF_W | bpf.BPF_ABS, bpf.SKF_AD_OFF + bpf.SKF_AD_IFINDEX, 2),
        (bpf.BPF_LD | bpf.BPF_W | bpf.BPF_ABS, bpf.SKF_AD_OFF + 99, 0),
    ],
)
def test_loads(host, code, k, result):
    assert run(host, [SockFilter(code, 0, 0, k), RET_A]) == result


@pytest.mark.parametrize(
    ("op", "b", "result"),
    [
        (bpf.BPF_ADD, 0xFFFFFFFF, 9),
        (bpf.BPF_SUB, 11, 0xFFFFFFFF),
        (bpf.BPF_MUL, 1 << 31, 0),
        (bpf.BPF_DIV, 3, 3),
        (bpf.BPF_OR, 5, 15),
        (bpf.BPF_AND, 6, 2),
        (bpf.BPF_LSH, 30, 0x80000000),
        (bpf.BPF_RSH, 1, 5),
    ],
)
@pytest.mark.parametrize("source", [bpf.BPF_K, bpf.BPF_X])
def test_arithmetic_on_10_is_of_32_bits(host, op, b, source, result):
    program = [
        SockFilter(bpf.BPF_LDX | bpf.BPF_W | bpf.BPF_IMM, 0, 0, b),
        SockFilter(bpf.BPF_LD | bpf.BPF_W | bpf.BPF_IMM, 0, 0, 10),
        SockFilter(bpf.BPF_ALU | op | source, 0, 0, b),
        RET_A,
    ]
    assert run(host, program) == result


def test_a_division_by_an_index_of_0_refuses_the_packet(host):
    assert run(host, [SockFilter(bpf.BPF_ALU | bpf.BPF_DIV | bpf.BPF_X, 0, 0, 0), RET_ALL]) == 0


def test_negation_memory_and_moves(host):
    program = [
        SockFilter(bpf.BPF_LD | bpf.BPF_IMM, 0, 0, 1),
        SockFilter(bpf.BPF_ALU | bpf.BPF_NEG, 0, 0, 0),
        SockFilter(bpf.BPF_ST, 0, 0, 15),
        SockFilter(bpf.BPF_LDX | bpf.BPF_MEM, 0, 0, 15),
        SockFilter(bpf.BPF_LD | bpf.BPF_IMM, 0, 0, 0),
        SockFilter(bpf.BPF_MISC | bpf.BPF_TXA, 0, 0, 0),
        RET_A,
    ]
    assert run(host, program) == 0xFFFFFFFF
    program[3:6] = [
        SockFilter(bpf.BPF_LDX | bpf.BPF_LEN, 0, 0, 0),
        SockFilter(bpf.BPF_STX, 0, 0, 0),
        SockFilter(bpf.BPF_MISC | bpf.BPF_TAX, 0, 0, 0),
        SockFilter(bpf.BPF_LD | bpf.BPF_MEM, 0, 0, 0),
    ]
    assert run(host, program) == 40


@pytest.mark.parametrize(
    ("op", "k", "taken"),
    [
        *((bpf.BPF_JEQ, 10, True), (bpf.BPF_JEQ, 11, False), (bpf.BPF_JGT, 9, True), (bpf.BPF_JGT, 10, False)),
        *((bpf.BPF_JGE, 10, True), (bpf.BPF_JGE, 11, False), (bpf.BPF_JSET, 2, True), (bpf.BPF_JSET, 5, False)),
        (bpf.BPF_JA, 0, True),
    ],
)
def test_jumps(host, op, k, taken):
    program = [
        SockFilter(bpf.BPF_LD | bpf.BPF_IMM, 0, 0, 10),
        SockFilter(bpf.BPF_JMP | op, 0, 1, k),
        SockFilter(bpf.BPF_RET, 0, 0, 1),
        SockFilter(bpf.BPF_RET, 0, 0, 2),
    ]
    assert run(host, program) == (1 if taken else 2)


@pytest.mark.parametrize(
    "program",
    [
        [],
        [RET_ALL] * 4097,
        [SockFilter(0, 0, 0, 0)],  # no return
        [SockFilter(bpf.BPF_JMP | bpf.BPF_JA, 0, 0, 1), RET_ALL],  # beyond the end
        [SockFilter(bpf.BPF_JMP | bpf.BPF_JA, 0, 0, -2), RET_ALL],  # backwards
        [SockFilter(bpf.BPF_JMP | bpf.BPF_JEQ, 0, 1, 0), RET_ALL],
        [SockFilter(bpf.BPF_JMP | bpf.BPF_JEQ, 1, 0, 0), RET_ALL],
        [SockFilter(bpf.BPF_ST, 0, 0, 16), RET_ALL],
        [SockFilter(bpf.BPF_LDX | bpf.BPF_MEM, 0, 0, -1), RET_ALL],
        [SockFilter(bpf.BPF_ALU | bpf.BPF_DIV | bpf.BPF_K, 0, 0, 0), RET_ALL],
        [SockFilter(0xFF, 0, 0, 0), RET_ALL],
        [SockFilter(bpf.BPF_LDX | bpf.BPF_ABS, 0, 0, 0), RET_ALL],
    ],
)
def test_what_must_not_run(program):
    assert sk_chk_filter(program) == -EINVAL


INSTRUCTIONS = st.builds(
    SockFilter,
    st.sampled_from(sorted(bpf.VALID)) | st.integers(0, 0xFFFF),
    st.integers(0, 4),
    st.integers(0, 4),
    st.integers(0, 20) | st.integers(-(1 << 31), (1 << 32) - 1) | st.integers(-0x200010, -0x1FFFF0) | st.integers(-0x1010, -0xFF0),
)


@settings(max_examples=50, deadline=None)
@given(program=st.lists(INSTRUCTIONS, max_size=12), packet=st.binary(max_size=64))
def test_every_checked_program_ends(host, program, packet):
    program = [*program, RET_A]
    while program and sk_chk_filter(program):
        program.pop(0)
    assert 0 <= run(host, program, packet) <= 0xFFFFFFFF
