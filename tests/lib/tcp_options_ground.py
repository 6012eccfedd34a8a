"""Test helper: connections with time stamps, SACK and window scaling, and what segments say of them."""

from __future__ import annotations

import struct

from tcp_ground import ACK, IP_B, MSS_1460, SYN, Peer, listen_on, state

SACK_PERM = b"\x04\x02"
NOP = b"\x01"


def ts(value: int, echo: int = 0) -> bytes:
    """Build the aligned time stamp option."""
    return b"\1\1\x08\x0a" + struct.pack("!II", value & 0xFFFFFFFF, echo & 0xFFFFFFFF)


def wscale(shift: int) -> bytes:
    """Build the window scale option, padded."""
    return b"\1\3\3" + bytes((shift,))


def syn_options(*, tsval=None, sack=True, scale=None) -> bytes:
    """Build a SYN's options."""
    options = MSS_1460
    if sack:
        options += SACK_PERM + NOP * 2
    if tsval is not None:
        options += ts(tsval)
    if scale is not None:
        options += wscale(scale)
    return options


def options_of(seg) -> dict:
    """Read a segment's options: {"mss", "sackok", "wscale", "ts": (val, ecr), "sack": [(start, end), ...]}."""
    found: dict = {}
    raw, at = seg.options, 0
    while at < len(raw):
        kind = raw[at]
        if kind == 0:
            break
        if kind == 1:
            at += 1
            continue
        size = raw[at + 1]
        body = raw[at + 2 : at + size]
        if kind == 2:
            found["mss"] = int.from_bytes(body, "big")
        elif kind == 3:
            found["wscale"] = body[0]
        elif kind == 4:
            found["sackok"] = True
        elif kind == 5:
            found["sack"] = [struct.unpack_from("!II", body, n) for n in range(0, len(body), 8)]
        elif kind == 8:
            found["ts"] = struct.unpack("!II", body)
        at += size
    return found


def opened(host, *, port=2049, isn=1000, win=65535, **options):
    """Open a connection from ``host`` to a peer with these options; give (socket, peer)."""
    sk = host.tcp.sock_create()
    assert host.tcp.connect_nonblock(sk, IP_B, port) == -115
    (syn,) = host.sent()
    peer = Peer(host, port, syn.sport, isn)
    peer.win = win
    peer.saw(syn)
    peer.syn = syn
    (peer.handshake,) = peer.send(SYN | ACK, options=syn_options(**options))
    assert state(sk) == "ESTABLISHED"
    return sk, peer


def taken(host, *, port=2049, isn=1000, listener=None, **options):
    """Let a peer with these options connect to ``host``; give (listener, socket, peer)."""
    listener = listener or listen_on(host, port)
    peer = Peer(host, 40000, port, isn)
    (synack,) = peer.send(SYN, options=syn_options(**options))
    peer.synack = synack
    peer.saw(synack)
    tsval = options.get("tsval")
    assert peer.send(ACK, options=b"" if tsval is None else ts(tsval + 1, options_of(synack)["ts"][0])) == []
    sk = host.tcp.accept(listener, nonblock=True)
    assert sk is not None
    return listener, sk, peer
