"""Read memory traces in the text format of valgrind's lackey (``--tool=lackey --trace-mem=yes``).

    I  04001090,3       an instruction fetch of 3 bytes
     L 1ffefffe08,8     a load
     S 1ffefffe00,8     a store
     M 0421c7cc,4       a load and a store of the same bytes
    ==1234== ...        valgrind's own talk: a comment

A trace becomes page touches: (page number, written). An access that spans two pages touches both; touches of one page in a row
are one.
"""

from __future__ import annotations

import re

from kemu.errors import ConfigError

_LINE = re.compile(rb"(I | L| S| M) ([0-9a-fA-F]{1,16}),([0-9]{1,7})\s*")
_PAGE_SHIFT = 12

Touch = tuple[int, bool]


def parse_trace(data: bytes, name: str) -> list[Touch]:
    """Return the touches of a whole trace; :exc:`ConfigError` names the first line that is no trace line."""
    touches: list[Touch] = []
    last: Touch = (-1, False)
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.startswith(b"==") or not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            shown = line[:40].decode("ascii", "backslashreplace")
            raise ConfigError(
                f"--trace {name}: line {number} is no lackey line ({shown!r}); expected for example ' S 1ffefffe00,8'"
            )
        address, size = int(match[2], 16), int(match[3])
        if size == 0:
            raise ConfigError(f"--trace {name}: line {number} has an access of 0 bytes")
        write = match[1] in (b" S", b" M")
        for vpn in range(address >> _PAGE_SHIFT, (address + size - 1 >> _PAGE_SHIFT) + 1):
            if vpn == last[0] and write <= last[1]:
                continue
            last = (vpn, write)
            touches.append(last)
    if not touches:
        raise ConfigError(f"--trace {name}: the trace holds no access")
    return touches
