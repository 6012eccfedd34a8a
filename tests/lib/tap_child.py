"""Test helper, a program: one case of the TAP tests, for a network namespace of its own (``unshare -n python tap_child.py CASE``).

It prints one JSON object. Emulated and real sockets are both served from one loop, so nothing here can wait for ever.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2])]

from kemu.mm.gfp import GFP_KERNEL  # noqa: E402  # the path comes first
from kemu_lab.capture import capturing  # noqa: E402
from kemu_lab.tap import TapHost  # noqa: E402
from kemu_net.core.checksum import csum_fold, csum_partial  # noqa: E402
from kemu_net.core.skbuff import skb_put_bytes  # noqa: E402

KEMU, LINUX = "10.99.0.2", "10.99.0.1"
KEMU_IP, LINUX_IP = 0x0A630002, 0x0A630001
PORT = 7777
SECONDS = 40
MIB = 1 << 20
DATA = bytes(range(251)) * (MIB // 251 + 1)
UP, DOWN = DATA[:MIB], DATA[7 : 7 + MIB]  # different both ways


def echo_request(sequence: int) -> bytes:
    head = struct.pack("!BBHHH", 8, 0, 0, 77, sequence) + b"kemu" * 8
    return head[:2] + csum_fold(csum_partial(head)).to_bytes(2, "big") + head[4:]


def ping_in(host: TapHost) -> dict:
    """Ping the emulated machine from real Linux."""
    answers = []
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.setblocking(False)
        for sequence in range(3):
            raw.sendto(echo_request(sequence), (KEMU, 0))

            def answered() -> bool:
                try:
                    packet = raw.recv(2048)
                except BlockingIOError:
                    return False
                if packet[20] == 0 and packet[28:] == b"kemu" * 8:  # an echo reply, not our own request
                    answers.append(struct.unpack_from("!H", packet, 26)[0])
                return len(answers) > sequence  # noqa: B023  # called in this round only

            host.run(answered, SECONDS)
    return {"answers": answers}


def ping_out(host: TapHost) -> dict:
    """Ping real Linux from the emulated machine; the answers are seen on the wire."""
    answers = []

    def tap(_time: int, frame: bytes) -> None:
        if frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[34] == 0 and frame[42:].startswith(b"kemu" * 8):
            answers.append(struct.unpack_from("!H", frame, 40)[0])

    host.wire.taps.append(tap)
    stack = host.stack

    def ping() -> None:
        for sequence in range(3):
            message = echo_request(sequence)
            skb = stack.skbs.alloc_skb(len(message) + 64, GFP_KERNEL)
            skb_put_bytes(skb, message)
            stack.inet.ip_send_skb(skb, KEMU_IP, LINUX_IP, 1)

    stack.kernel.sched.spawn("ping", ping)
    host.run(lambda: len(answers) == 3, SECONDS)
    return {"answers": answers}


def _emulated_side(host: TapHost, connects: bool) -> dict:
    """Start a task that sends DOWN, then reads UP; or a listener's task that does."""
    tcp = host.stack.tcp
    seen = {"got": b"", "done": False}

    def talk(sk) -> None:
        at = 0
        while at < MIB:
            sent = tcp.sendmsg(sk, DOWN[at : at + 16384])
            if sent <= 0:
                seen["error"] = sent
                break
            at += sent
        pieces = []
        while sum(map(len, pieces)) < MIB:
            piece = tcp.recvmsg(sk, 65536)
            if isinstance(piece, int) or not piece:
                seen["error"] = piece if isinstance(piece, int) else 0
                break
            pieces.append(piece)
        seen["got"] = b"".join(pieces)
        tcp.close(sk)
        seen["done"] = True

    def client() -> None:
        sk = tcp.sock_create()
        seen["connect"] = tcp.connect(sk, LINUX_IP, PORT)
        talk(sk)

    def server() -> None:
        listener = tcp.sock_create()
        tcp.bind(listener, 0, PORT)
        tcp.listen(listener, 4)
        seen["listening"] = True
        talk(tcp.accept(listener))
        tcp.close(listener)

    host.stack.kernel.sched.spawn("peer", client if connects else server)
    return seen


def _real_side(host: TapHost, conn: socket.socket, seen: dict) -> bytes:
    """Send UP and read to the end, at once."""
    conn.setblocking(False)
    got, at = [], 0
    closed = False

    def turn() -> bool:
        nonlocal at, closed
        readable, writable, _ = select.select([conn] if not closed else [], [conn] if at < MIB else [], [], 0)
        if writable:
            at += conn.send(UP[at : at + 65536])
        if readable:
            piece = conn.recv(1 << 18)
            got.append(piece)
            closed = not piece
        return closed and seen["done"]

    host.run(turn, SECONDS)
    return b"".join(got)


def _result(seen: dict, got: bytes) -> dict:
    return {
        "to_linux": got == DOWN,
        "to_kemu": seen["got"] == UP,
        "sizes": [len(got), len(seen["got"])],
        **{key: value for key, value in seen.items() if key not in ("got", "done")},
    }


def connect(host: TapHost) -> dict:
    """Let the emulated machine connect to a real socket."""
    with socket.socket() as listener:
        listener.bind((LINUX, PORT))
        listener.listen(1)
        listener.setblocking(False)
        seen = _emulated_side(host, connects=True)
        host.run(lambda: bool(select.select([listener], [], [], 0)[0]), SECONDS)
        conn, _ = listener.accept()
        with conn:
            return _result(seen, _real_side(host, conn, seen))


def listen(host: TapHost) -> dict:
    """Let a real socket connect to the emulated machine."""
    seen = _emulated_side(host, connects=False)
    host.run(lambda: "listening" in seen, SECONDS)
    with socket.socket() as conn:
        conn.setblocking(False)
        conn.connect_ex((KEMU, PORT))
        host.run(lambda: bool(select.select([], [conn], [], 0)[1]), SECONDS)
        return _result(seen, _real_side(host, conn, seen))


def main(case: str, pcap: str | None) -> None:
    host = TapHost("kemu0", KEMU, LINUX)
    began = time.monotonic()
    with capturing(pcap, host.wire, kemu=host.stack):
        result = {"ping_in": ping_in, "ping_out": ping_out, "connect": connect, "listen": listen}[case](host)
    stack = host.stack
    result |= {
        "seconds": time.monotonic() - began,
        "lost": host.port.lost,
        "retransmits": stack.stats.retransmits,
        "arp": Path("/proc/net/arp").read_text(),
    }
    host.run(lambda: False, 0.05)  # the last FIN is acknowledged
    stack.close()
    result["left"] = stack.skbs.live
    host.close()
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
