"""What IPv6 needs of the reserve, sizes only (2.6.23 net/ipv6/route.c, reassembly.c): patch 18 counts both families.

Interface: ``IP6_RT_MAX_SIZE``, ``IP6FRAG_HIGH_THRESH``, ``SIZEOF_RT6_INFO``.
"""

from __future__ import annotations

SIZEOF_RT6_INFO = 320
IP6_RT_MAX_SIZE = 4096
IP6FRAG_HIGH_THRESH = 262144
