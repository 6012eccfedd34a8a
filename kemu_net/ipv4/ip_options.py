"""IP options of received packets (2.6.23 net/ipv4/ip_options.c; RFC 791, 3.1).

Interface
    ip_options_compile(header, own, milliseconds)   check and fill in: IpOptions, or the offset of what is wrong
    IpOptions                                       where the options stand, and the header as they changed it

Rules
    * Offsets count from the start of the IP header: the pointer of an ICMP parameter problem.
    * Record route and timestamp are filled in as the kernel does, in the received header only: options are not sent back.
    * A source route is found here; refusing it is ip_input's business (accept_source_route is off).
    * An option that is not known is stepped over by its length.
    * Left out: options on packets that this host sends (ip_options_build(), ip_options_echo()), CIPSO.
"""

from __future__ import annotations

import attrs

IPOPT_END = 0
IPOPT_NOOP = 1
IPOPT_RR = 7
IPOPT_TIMESTAMP = 68
IPOPT_LSRR = 131
IPOPT_SSRR = 137
IPOPT_RA = 148

IPOPT_TS_TSONLY = 0
IPOPT_TS_TSANDADDR = 1
IPOPT_TS_PRESPEC = 3


class _Malformed(Exception):
    """An option is wrong; the argument is the offset of the octet at fault."""


@attrs.define(eq=False)
class IpOptions:
    """``struct ip_options``: offsets in the header, 0 for what is not there.

    :ivar header: the IP header with options filled in.
    """

    header: bytearray
    srr: int = 0
    is_strictroute: bool = False
    rr: int = 0
    ts: int = 0
    router_alert: bool = False
    is_changed: bool = False


def ip_options_compile(header: bytes, own: int, milliseconds: int) -> IpOptions | int:
    """Check the options of an IP header (``ip_options_compile()``).

    :param header: the whole header, 24 to 60 bytes.
    :param own: address of this host, for record route.
    :param milliseconds: since midnight, for timestamps.
    :returns: the options, or the offset of the octet that is wrong.
    """
    opt = IpOptions(bytearray(header))
    stamp = (milliseconds & 0xFFFFFFFF).to_bytes(4, "big")
    try:
        _compile(opt, own.to_bytes(4, "big"), stamp)
    except _Malformed as problem:
        return int(problem.args[0])
    return opt


def _compile(opt: IpOptions, own: bytes, stamp: bytes) -> None:
    data = opt.header
    at = 20
    end = len(data)
    while at < end:
        kind = data[at]
        if kind == IPOPT_END:
            if any(data[at:]):
                data[at:] = bytes(end - at)
                opt.is_changed = True
            return
        if kind == IPOPT_NOOP:
            at += 1
            continue
        if end - at < 2:
            raise _Malformed(at)
        length = data[at + 1]
        if length < 2 or length > end - at:
            raise _Malformed(at)
        if kind in (IPOPT_SSRR, IPOPT_LSRR):
            _source_route(opt, at, length)
        elif kind == IPOPT_RR:
            _record_route(opt, at, length, own)
        elif kind == IPOPT_TIMESTAMP:
            _timestamp(opt, at, length, own, stamp)
        elif kind == IPOPT_RA:
            if length < 4:
                raise _Malformed(at + 1)
            opt.router_alert = data[at + 2] == 0 and data[at + 3] == 0
        at += length


def _source_route(opt: IpOptions, at: int, length: int) -> None:
    """Note a source route; there may be one."""
    if length < 3:
        raise _Malformed(at + 1)
    if opt.header[at + 2] < 4:
        raise _Malformed(at + 2)
    if opt.srr:
        raise _Malformed(at)
    opt.srr = at
    opt.is_strictroute = opt.header[at] == IPOPT_SSRR


def _record_route(opt: IpOptions, at: int, length: int, own: bytes) -> None:
    """Write this host into the next free slot, if there is one."""
    data = opt.header
    if opt.rr:
        raise _Malformed(at)
    if length < 3:
        raise _Malformed(at + 1)
    pointer = data[at + 2]
    if pointer < 4:
        raise _Malformed(at + 2)
    if pointer <= length:
        if pointer + 3 > length:
            raise _Malformed(at + 2)
        data[at + pointer - 1 : at + pointer + 3] = own
        data[at + 2] = pointer + 4
        opt.is_changed = True
    opt.rr = at


def _timestamp(opt: IpOptions, at: int, length: int, own: bytes, stamp: bytes) -> None:
    """Write the time into the next free slot, or count that there is none."""
    data = opt.header
    if opt.ts:
        raise _Malformed(at)
    if length < 4:
        raise _Malformed(at + 1)
    pointer = data[at + 2]
    if pointer < 5:
        raise _Malformed(at + 2)
    if pointer > length:
        overflow = data[at + 3] >> 4
        if overflow == 15:
            raise _Malformed(at + 3)
        data[at + 3] = (data[at + 3] & 0xF) | (overflow + 1) << 4
        opt.is_changed = True
    else:
        _stamp_slot(opt, at, length, own, stamp)
    opt.ts = at


def _stamp_slot(opt: IpOptions, at: int, length: int, own: bytes, stamp: bytes) -> None:
    data = opt.header
    pointer = data[at + 2]
    if pointer + 3 > length:
        raise _Malformed(at + 2)
    slot = at + pointer - 1
    flag = data[at + 3] & 0xF
    if flag == IPOPT_TS_TSONLY:
        data[slot : slot + 4] = stamp
        data[at + 2] = pointer + 4
    elif flag in (IPOPT_TS_TSANDADDR, IPOPT_TS_PRESPEC):
        if pointer + 7 > length:
            raise _Malformed(at + 2)
        if flag == IPOPT_TS_PRESPEC and data[slot : slot + 4] != own:
            return  # the slot is for another host
        data[slot : slot + 4] = own
        data[slot + 4 : slot + 8] = stamp
        data[at + 2] = pointer + 8
    else:
        return  # another kind of stamp: only a sender without privilege is refused
    opt.is_changed = True
