"""Test helper: fragments of IPv4 packets, and what 2.6.23 makes of them."""

from __future__ import annotations

from kemu_net.core.checksum import csum_fold, csum_partial
from kemu_net.core.skbuff import skb_bytes
from net_ground import IP_A, IP_B, MAC_A, MAC_B

PROTO = 253


def fragment(offset: int, payload: bytes, *, more=True, ident=7, proto=PROTO, saddr=IP_B, options=b"", df=0) -> bytes:
    """Make a frame with a fragment; ``offset`` in bytes, a multiple of 8."""
    field = df | (0x2000 if more else 0) | offset >> 3
    ihl = 20 + len(options)
    head = (
        bytes((0x40 | ihl >> 2, 0)) + (ihl + len(payload)).to_bytes(2, "big") + ident.to_bytes(2, "big") + field.to_bytes(2, "big")
    )
    head += bytes((64, proto)) + b"\0\0" + saddr.to_bytes(4, "big") + IP_A.to_bytes(4, "big") + options
    head = head[:10] + csum_fold(csum_partial(head)).to_bytes(2, "big") + head[12:]
    return (MAC_A + MAC_B + b"\x08\x00" + head + payload).ljust(60, b"\0")


def listen(host, proto=PROTO) -> list[bytes]:
    """Collect the payloads that a protocol gets."""
    seen: list[bytes] = []

    def rcv(skb) -> None:
        seen.append(skb_bytes(skb))
        host.skbs.kfree_skb(skb)

    host.inet.inet_add_protocol(proto, rcv)
    return seen


class Model:
    """What 2.6.23 keeps of the fragments of one datagram: a new one yields to what begins earlier and overrides the rest.

    Written from the rule, not from the code: a sorted list of intervals with their bytes.
    """

    def __init__(self) -> None:
        self.pieces: list[tuple[int, bytes]] = []
        self.end = 0
        self.last = self.first = False

    def add(self, offset: int, payload: bytes, more: bool) -> bytes | None:
        """Enter a fragment; give the datagram if it is whole."""
        end = offset + len(payload)
        if more:
            payload = payload[: (end & ~7) - offset]
            end = offset + len(payload)
            if end > self.end:
                if self.last:
                    return None
                self.end = end
        else:
            if end < self.end or (self.last and end != self.end):
                return None
            self.last, self.end = True, end
        if not payload:
            return None
        before = [piece for piece in self.pieces if piece[0] < offset]
        after = [piece for piece in self.pieces if piece[0] >= offset]
        if before:
            covered = before[-1][0] + len(before[-1][1])
            if covered > offset:
                payload = payload[covered - offset :]
                offset = covered
                if not payload:
                    return None
        kept = []
        for start, piece in after:
            left = piece[max(end - start, 0) :]
            if left:
                kept.append((start + len(piece) - len(left), left))
        self.pieces = [*before, (offset, payload), *kept]
        whole = b"".join(piece for _start, piece in self.pieces)
        if self.last and self.pieces[0][0] == 0 and len(whole) == self.end:
            self.pieces = []
            self.__init__()
            return whole
        return None
