"""Tracepoints and their ring.

A subsystem makes its points in its constructor and tests one slot at each site::

    self._tp_alloc = kernel.trace.point("kmem:mm_page_alloc", ("page", "pfn", "order", "gfp_flags"))
    ...
    if self._tp_alloc.enabled:
        self._tp_alloc(page, pfn, order, gfp)

Off, that is all it costs. On, one tuple goes into a bounded ring; text is made when somebody reads.
"""

from __future__ import annotations

from kemu.trace.ring import Trace, Tracepoint

__all__ = ["Trace", "Tracepoint"]
