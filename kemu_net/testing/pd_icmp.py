"""The names of ICMP types and codes in scripts (RFC 792, 1122, 1812).

Interface: :data:`ICMP_TYPES`, :data:`ICMP_CODES` (type -> name -> code), ``icmp_number()``, ``icmp_name(type, code)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

ICMP_TYPES: Final = {
    "echo_reply": 0,
    "unreachable": 3,
    "source_quench": 4,
    "redirect": 5,
    "echo_request": 8,
    "time_exceeded": 11,
    "parameter_problem": 12,
    "timestamp_request": 13,
    "timestamp_reply": 14,
    "information_request": 15,
    "information_reply": 16,
    "address_mask_request": 17,
    "address_mask_reply": 18,
}

ICMP_CODES: Final[dict[int, dict[str, int]]] = {
    3: {
        "net_unreachable": 0,
        "host_unreachable": 1,
        "protocol_unreachable": 2,
        "port_unreachable": 3,
        "frag_needed": 4,
        "source_route_failed": 5,
        "net_unknown": 6,
        "host_unknown": 7,
        "source_host_isolated": 8,
        "net_prohibited": 9,
        "host_prohibited": 10,
        "net_unreachable_for_tos": 11,
        "host_unreachable_for_tos": 12,
        "packet_filtered": 13,
        "precedence_violation": 14,
        "precedence_cutoff": 15,
    },
    5: {"net": 0, "host": 1, "net_tos": 2, "host_tos": 3},
    11: {"ttl_expired": 0, "reassembly": 1},
    12: {"pointer": 0, "missing_option": 1, "bad_length": 2},
}


def icmp_number(names: Mapping[str, int], name: str, prefix: str) -> int | None:
    """Give the number of a type or code by its name or as ``type_3``, ``code_1``; None if there is none."""
    digits = name.removeprefix(prefix)
    if digits != name and digits.isascii() and digits.isdecimal() and len(digits) <= 3 and int(digits) <= 255:
        return int(digits)
    return names.get(name)


def icmp_name(type_: int, code: int) -> str:
    """Name a message as a script does."""
    name = next((name for name, value in ICMP_TYPES.items() if value == type_), str(type_))
    what = next((text for text, value in ICMP_CODES.get(type_, {}).items() if value == code), str(code) if code else "")
    return f"icmp {name} {what}".rstrip()
