"""Classic BPF: the programs that SO_ATTACH_FILTER takes (2.6.23 net/core/filter.c, include/linux/filter.h).

Interface
    SockFilter(code, jt, jf, k)       one instruction (struct sock_filter)
    sk_chk_filter(program)            0, or -EINVAL for what must not run
    sk_run_filter(skb, program)       how many bytes of the packet to keep; 0 refuses it

Rules
    * Two registers, sixteen words of memory, jumps forward only: a checked program ends.
    * A load beyond the packet, and a division by X = 0, end the program with 0.
    * Offset 0 is where the packet's data begin. Negative offsets: -0x100000 the network header, -0x200000 the link header, -0x1000
      what is known beside the bytes (protocol, packet type, device).
    * Memory that was not written reads 0; the kernel reads its stack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kemu.kernel.errno import EINVAL
from kemu_net.core.skbuff import skb_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kemu_net.core.skbuff import SkBuff

BPF_MAXINSNS = 4096
BPF_MEMWORDS = 16

SKF_AD_OFF = -0x1000
SKF_NET_OFF = -0x100000
SKF_LL_OFF = -0x200000
SKF_AD_PROTOCOL = 0
SKF_AD_PKTTYPE = 4
SKF_AD_IFINDEX = 8
_IFINDEX = 2  # of the one device

# classes, sizes, modes and operations of a code
BPF_LD, BPF_LDX, BPF_ST, BPF_STX, BPF_ALU, BPF_JMP, BPF_RET, BPF_MISC = range(8)
BPF_W, BPF_H, BPF_B = 0x00, 0x08, 0x10
BPF_IMM, BPF_ABS, BPF_IND, BPF_MEM, BPF_LEN, BPF_MSH = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0
BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_OR, BPF_AND, BPF_LSH, BPF_RSH, BPF_NEG = range(0x00, 0x90, 0x10)
BPF_JA, BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET = range(0x00, 0x50, 0x10)
BPF_K, BPF_X, BPF_A = 0x00, 0x08, 0x10
BPF_TAX, BPF_TXA = 0x00, 0x80

_U32 = 0xFFFFFFFF
_SIZES = {BPF_W: 4, BPF_H: 2, BPF_B: 1}
_ALU = (BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_OR, BPF_AND, BPF_LSH, BPF_RSH)
_CONDITIONS = (BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET)
_MEMORY = frozenset((BPF_ST, BPF_STX, BPF_LD | BPF_MEM, BPF_LDX | BPF_MEM))

#: The instructions that there are.
VALID = frozenset(
    (
        *(BPF_LD | size | mode for size in _SIZES for mode in (BPF_ABS, BPF_IND)),
        *(BPF_LD | BPF_LEN, BPF_LD | BPF_IMM, BPF_LDX | BPF_LEN, BPF_LDX | BPF_IMM, BPF_LDX | BPF_B | BPF_MSH),
        *_MEMORY,
        *(BPF_ALU | op | source for op in _ALU for source in (BPF_K, BPF_X)),
        BPF_ALU | BPF_NEG,
        BPF_JMP | BPF_JA,
        *(BPF_JMP | op | source for op in _CONDITIONS for source in (BPF_K, BPF_X)),
        *(BPF_RET | BPF_K, BPF_RET | BPF_A, BPF_MISC | BPF_TAX, BPF_MISC | BPF_TXA),
    )
)


class SockFilter(NamedTuple):
    """``struct sock_filter``: jumps are counted from the next instruction."""

    code: int
    jt: int
    jf: int
    k: int


def sk_chk_filter(program: Sequence[SockFilter]) -> int:
    """Tell whether a program may run (``sk_chk_filter()``): 0 or -EINVAL."""
    length = len(program)
    if not 0 < length <= BPF_MAXINSNS:
        return -EINVAL
    for at, (code, jt, jf, k) in enumerate(program):
        left = length - at - 1
        if code not in VALID:
            return -EINVAL
        if code in _MEMORY and not 0 <= k < BPF_MEMWORDS:
            return -EINVAL
        if code == BPF_ALU | BPF_DIV | BPF_K and not k:
            return -EINVAL
        if code & 7 == BPF_JMP:
            farthest = k & _U32 if code == BPF_JMP | BPF_JA else max(jt, jf)
            if farthest >= left or min(jt, jf) < 0:
                return -EINVAL
    return 0 if program[-1].code & 7 == BPF_RET else -EINVAL


class _Machine:
    """The registers of one run over one packet."""

    __slots__ = ("a", "data", "mem", "skb", "x")

    def __init__(self, skb: SkBuff) -> None:
        self.skb = skb
        self.data = skb_bytes(skb)
        self.a = self.x = 0
        self.mem = [0] * BPF_MEMWORDS

    def load(self, k: int, size: int) -> int | None:
        """Read a number in network order; None beyond the packet (``load_pointer()``)."""
        k = (k + (1 << 31)) % (1 << 32) - (1 << 31)
        data = self.data
        if k < 0:
            if k >= SKF_AD_OFF:
                return self._ancillary(k - SKF_AD_OFF)
            data = self.skb.buf
            if k >= SKF_NET_OFF:
                k += self.skb.nh - SKF_NET_OFF
            elif k >= SKF_LL_OFF:
                k += self.skb.mac - SKF_LL_OFF
            else:
                return None
        return int.from_bytes(data[k : k + size], "big") if k + size <= len(data) else None

    def _ancillary(self, what: int) -> int | None:
        skb = self.skb
        return {SKF_AD_PROTOCOL: skb.protocol, SKF_AD_PKTTYPE: skb.pkt_type, SKF_AD_IFINDEX: _IFINDEX}.get(what)

    def load_a(self, code: int, k: int) -> bool:
        """Load the accumulator; False when the program ends."""
        mode = code & 0xE0
        value: int | None
        if mode == BPF_IMM:
            value = k
        elif mode == BPF_MEM:
            value = self.mem[k]
        elif mode == BPF_LEN:
            value = self.skb.len
        else:
            value = self.load(k + self.x if mode == BPF_IND else k, _SIZES[code & 0x18])
        if value is None:
            return False
        self.a = value & _U32
        return True

    def load_x(self, code: int, k: int) -> bool:
        """Load the index register; False when the program ends."""
        mode = code & 0xE0
        if mode == BPF_MSH:
            value = self.load(k, 1)
            if value is None:
                return False
            self.x = (value & 0xF) << 2
        else:
            self.x = (k if mode == BPF_IMM else self.mem[k] if mode == BPF_MEM else self.skb.len) & _U32
        return True

    def alu(self, code: int, k: int) -> bool:
        """Calculate; False for a division by zero."""
        op = code & 0xF0
        a = self.a
        b = (self.x if code & BPF_X else k) & _U32
        if op == BPF_DIV:
            if not b:
                return False
            a //= b
        elif op == BPF_NEG:
            a = -a
        else:
            a = (a + b, a - b, a * b, 0, a | b, a & b, a << (b & 31), a >> (b & 31))[op >> 4]
        self.a = a & _U32
        return True

    def jumps(self, code: int, k: int) -> bool:
        """Tell whether a condition holds."""
        b = (self.x if code & BPF_X else k) & _U32
        op = code & 0xF0
        return (self.a == b, self.a > b, self.a >= b, bool(self.a & b))[(op >> 4) - 1]


def sk_run_filter(skb: SkBuff, program: Sequence[SockFilter]) -> int:
    """Run a checked program over a packet (``sk_run_filter()``): how many bytes to keep."""
    machine = _Machine(skb)
    at = 0
    while True:
        code, jt, jf, k = program[at]
        at += 1
        kind = code & 7
        alive = True
        if kind == BPF_RET:
            return machine.a if code & 0x18 == BPF_A else k & _U32
        if kind == BPF_LD:
            alive = machine.load_a(code, k)
        elif kind == BPF_LDX:
            alive = machine.load_x(code, k)
        elif kind == BPF_ALU:
            alive = machine.alu(code, k)
        elif kind == BPF_JMP:
            at += k if code & 0xF0 == BPF_JA else jt if machine.jumps(code, k) else jf
        elif kind == BPF_MISC:
            if code & 0xF8 == BPF_TAX:
                machine.x = machine.a
            else:
                machine.a = machine.x
        else:
            machine.mem[k] = machine.a if kind == BPF_ST else machine.x
        if not alive:
            return 0
