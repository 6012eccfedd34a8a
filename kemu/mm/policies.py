"""The kernels whose geometry and marks a machine can have, by name.

Interface: ``POLICIES``; :func:`make_geometry`, :func:`marks_of`, :func:`policy_of_release`.
"""

from __future__ import annotations

import re
from typing import Final

from kemu.errors import ConfigError
from kemu.mm.geometry import BootWords, Geometry
from kemu.mm.geometry_2_6_23 import Geometry2623
from kemu.mm.geometry_6_1 import Geometry61
from kemu.mm.geometry_6_18 import Geometry618
from kemu.mm.watermark import MARKS_2_6_23, MarksPolicy
from kemu.mm.watermark_4_6 import MARKS_6_1

_GEOMETRIES: Final[dict[str, type[Geometry]]] = {each.name: each for each in (Geometry2623, Geometry61, Geometry618)}
_MARKS: Final = {"2.6.23": MARKS_2_6_23, "6.1": MARKS_6_1, "6.18": MARKS_6_1}
POLICIES: Final = tuple(_GEOMETRIES)

_ONE_START_ORDER = (6, 7)  # the first kernel with 6.18's search
_PARTIAL_PAGES = (5, 16)  # the first with 6.1's cpu_partial; older ones are not known here, but for 2.6


def check_policy(name: str) -> str:
    """Return the name of a policy, or say which there are."""
    if name not in _GEOMETRIES:
        raise ConfigError(f"policy {name!r} is not known; choose {', '.join(POLICIES)}")
    return name


def make_geometry(name: str, ncpus: int = 1, word: int = 8, boot: BootWords | None = None) -> Geometry:
    """Return a kernel's slab geometry for a machine."""
    return _GEOMETRIES[check_policy(name)](ncpus, word, boot)


def marks_of(name: str) -> MarksPolicy:
    """Return a kernel's formulas for marks."""
    return _MARKS[check_policy(name)]


def policy_of_release(release: str) -> str:
    """Return the policy that fits a kernel best, by what ``uname -r`` says.

    >>> [policy_of_release(release) for release in ("2.6.23.17", "6.1.0-56-amd64", "6.12.3")]
    ['2.6.23', '6.1', '6.18']
    """
    match = re.match(r"(\d{1,4})\.(\d{1,4})", release)
    if match is None:
        raise ConfigError(f"kernel release {release[:40]!r} is not one; name the policy")
    version = int(match[1]), int(match[2])
    if version[0] == 2:
        return "2.6.23"
    if version < _PARTIAL_PAGES:
        raise ConfigError(f"kernel release {release[:40]!r}: its formulas are not known here; name the policy that should be used")
    return "6.18" if version >= _ONE_START_ORDER else "6.1"
