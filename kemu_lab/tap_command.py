"""``kemu tap``: an emulated machine on a TAP device, to play with from the real one.

It answers ping, and echoes what comes to TCP port 7 (as inetd did).
"""

from __future__ import annotations

import ipaddress
from functools import partial

from kemu.errors import ConfigError
from kemu_lab.capture import capturing, prepare_capture
from kemu_lab.tap import TapHost
from kemu_net.ipv4.tcp import Tcp
from kemu_net.ipv4.tcp_sock import TcpSock

ECHO_PORT = 7
PREFIX = 24
BACKLOG = 8
CHUNK = 65536
MAX_SECONDS = 10**6


def tap_command(name: str, ip: str, peer: str, seconds: str | None, pcap: str | None) -> int:
    """Run the machine until Ctrl-C or for so many seconds; return the exit status."""
    ours, theirs = (_address(text, option) for text, option in ((ip, "--ip"), (peer, "--peer")))
    if theirs not in ipaddress.IPv4Interface(f"{ours}/{PREFIX}").network or theirs == ours:
        raise ConfigError(f"--peer {peer} must be another address of the network {ours}/{PREFIX}")
    limit = _seconds(seconds)
    if pcap is not None:
        prepare_capture(pcap)
    host = TapHost(name, str(ours), str(theirs), PREFIX)
    try:
        host.stack.kernel.sched.spawn("echo", partial(_serve, host))
        print(f"{ours} is on {name}: ping {ours}, nc {ours} {ECHO_PORT}; Ctrl-C ends it", flush=True)
        with capturing(pcap, host.wire, kemu=host.stack):
            try:
                host.run(lambda: False, limit)
            except KeyboardInterrupt:  # the way to end it, so the capture is whole
                print()
        stats = host.stack.stats
        print(f"received {stats.rx_frames} frames, sent {stats.tx_frames}, retransmitted {stats.retransmits}")
    finally:
        host.close()
    return 0


def _address(text: str, option: str) -> ipaddress.IPv4Address:
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        raise ConfigError(f"{option} {text!r} is no IPv4 address") from None
    if address.is_multicast or address.is_unspecified or address.is_loopback or address.is_reserved:
        raise ConfigError(f"{option} {text} is not the address of one host")
    return address


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= MAX_SECONDS:
        raise ConfigError(f"--seconds {text!r} cannot be used; it is a number above 0, at most {MAX_SECONDS}")
    return value


def _serve(host: TapHost) -> None:
    """Accept for ever; every connection is a task of its own."""
    tcp = host.stack.tcp
    listener = tcp.sock_create()
    assert listener is not None
    tcp.bind(listener, 0, ECHO_PORT)
    tcp.listen(listener, BACKLOG)
    while True:
        sk = tcp.accept(listener)
        if sk is not None:
            host.stack.kernel.sched.spawn("echo", partial(_echo, tcp, sk))


def _echo(tcp: Tcp, sk: TcpSock) -> None:
    """Send everything back until the peer has finished."""
    while True:
        data = tcp.recvmsg(sk, CHUNK)
        if isinstance(data, int) or not data:
            break
        at = 0
        while at < len(data):
            sent = tcp.sendmsg(sk, data[at:])
            if sent <= 0:
                break
            at += sent
    tcp.close(sk)
