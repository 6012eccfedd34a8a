"""10,000 segments each way in random order, a fifth lost, with duplicates, overlaps and cuts in between, arrive whole."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings

from tcp_ground import ACK, FIN, IP_B, PSH, RST, SECOND, SYN, Seg, segment, two_tcps

SEGMENTS = 10_000
MTU = 100 + 52  # 100 bytes of data next to time stamps: small segments make many of them cheap
MS = 1_000_000
SEEDS = range(100) if settings.default.stateful_step_count >= 100 else range(5)


class Spoiler:
    """A cable that loses, delays, repeats, cuts and overlaps what it carries."""

    def __init__(self, link, seed: int) -> None:
        self.rng = random.Random(seed)
        self.lost = self.late = self.repeated = self.recut = 0
        self.carried = 0
        self.history: dict[int, list[Seg]] = {}
        link.log = _Nothing()

    def pieces(self, seg: Seg) -> list[bytes]:
        """Cut a segment, or join it with what went before it, as a middlebox that re-segments would."""
        rng = self.rng
        if seg.flags & (SYN | RST | FIN) or len(seg.data) < 2:
            return [seg.raw]
        past = self.history.setdefault(seg.saddr, [])
        roll = rng.random()
        made = [seg.raw]
        if roll < 0.05:
            at = rng.randrange(1, len(seg.data))
            over = rng.randrange(0, min(at, 20) + 1)
            made = [_rebuild(seg, 0, seg.data[:at]), _rebuild(seg, at - over, seg.data[at - over :])]
            self.recut += 1
        elif roll < 0.10:
            before = [old for old in past[-20:] if (old.seq + len(old.data)) & 0xFFFFFFFF == seg.seq]
            if before:
                tail = before[0].data[-rng.randrange(1, len(before[0].data) + 1) :]
                made = [_rebuild(seg, -len(tail), tail + seg.data)]
                self.recut += 1
        past.append(seg)
        del past[:-40]
        return made

    def fate(self, seg: Seg, _number: int) -> list[int]:
        """Give the delays of the copies; none is a loss."""
        rng = self.rng
        self.carried += 1
        if rng.random() < 0.2:
            self.lost += 1
            return []
        delays = [0]
        if rng.random() < 0.3:
            self.late += 1
            delays = [rng.randrange(3 * MS)]
        if rng.random() < 0.1:
            self.repeated += 1
            delays.append(rng.randrange(5 * MS))
        return delays


class _Nothing(list):
    """A log that keeps nothing."""

    def append(self, _item) -> None:
        pass


def _rebuild(seg: Seg, offset: int, data: bytes) -> bytes:
    """Make a segment with the header of ``seg`` and other data of the same stream."""
    flags = seg.flags & ~PSH | ACK
    return segment(
        seg.sport, seg.dport, seg.seq + offset, seg.ack, flags, data, seg.win, seg.options, saddr=seg.saddr, daddr=seg.daddr
    )


def _exchange(seed: int) -> dict:
    """Let both sides send and read at once over a spoiled link; give what arrived and what was done to it."""
    rng = random.Random(seed)
    with two_tcps(mtu=MTU) as (world, a, b, link):
        data = {name: rng.randbytes(SEGMENTS * 100) for name in "ab"}
        spoiler = Spoiler(link, seed)
        link.fate = spoiler.fate
        real = link.carry

        def carry(seg, to):
            for raw in spoiler.pieces(seg):
                real(seg if raw is seg.raw else Seg(raw, seg.saddr, seg.daddr, seg.time), to)

        a.inet.forward = lambda seg: carry(seg, b)
        b.inet.forward = lambda seg: carry(seg, a)
        got: dict[str, list[bytes]] = {"a": [], "b": []}
        done: list[str] = []

        def reader(host, sk, name):
            while True:
                piece = host.tcp.recvmsg(sk, 65536)
                if isinstance(piece, int) or not piece:
                    got[name].append(piece if isinstance(piece, bytes) else str(piece).encode())
                    break
                got[name].append(piece)
                host.kernel.judge.progress()  # half an hour of a slow stream is not a deadlock
            done.append(name + " read")

        def writer(host, sk, name):
            at = 0
            while at < len(data[name]):
                taken = host.tcp.sendmsg(sk, data[name][at : at + rng.randrange(1, 8000)])
                assert taken > 0
                at += taken
            host.tcp.shutdown(sk)
            done.append(name + " wrote")

        def side(host, name, sk):
            host.kernel.sched.spawn(f"writer {name}", lambda: writer(host, sk, name))
            reader(host, sk, name)
            while f"{name} wrote" not in done:
                host.kernel.sched.schedule_timeout(10)
            host.tcp.close(sk)
            done.append(name + " closed")

        def server():
            listener = b.tcp.sock_create()
            b.tcp.bind(listener, 0, 2049)
            b.tcp.listen(listener, 5)
            sk = b.tcp.accept(listener)
            b.tcp.close(listener)
            side(b, "b", sk)

        def client():
            sk = a.tcp.sock_create()
            while a.tcp.connect(sk, IP_B, 2049):
                pass
            side(a, "a", sk)

        b.kernel.sched.spawn("server", server)
        a.kernel.sched.spawn("client", client)
        world.run(lambda: "a closed" in done and "b closed" in done, for_ns=20_000 * SECOND)
        link.fate = None
        world.run(for_ns=300 * SECOND)
        for host in (a, b):
            host.assert_nothing_left()
        return {
            "whole": (b"".join(got["b"]) == data["a"], b"".join(got["a"]) == data["b"]),
            "spoiler": spoiler,
            "retransmits": a.stats.retransmits + b.stats.retransmits,
        }


@pytest.mark.parametrize("seed", SEEDS)
def test_both_streams_arrive_whole(seed):
    result = _exchange(seed)
    assert result["whole"] == (True, True)
    spoiler = result["spoiler"]
    assert spoiler.carried > 2 * SEGMENTS
    assert 0.18 < spoiler.lost / spoiler.carried < 0.22
    assert spoiler.late and spoiler.repeated and spoiler.recut
    assert result["retransmits"] > SEGMENTS // 5
