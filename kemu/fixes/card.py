"""What a fix card is: one defect that v14 was posted with, and what mended it.

A card is a module ``bNN_name.py`` in this package that holds ``FIX``; its docstring tells the trigger and the consequence.
"""

from __future__ import annotations

import attrs


@attrs.frozen
class Fix:
    """One defect of v14, kept as it was, behind a switch.

    :param id: ``b16``: the attribute of :class:`FixSet`; the number is the patch that has the defect.
    :param patch: the number of that patch.
    :param title: the defect in a few words.
    :param mended_in: the version or commit that mended it, ``-`` where nobody did.
    :param expect: what the faithful defect does to a run: an outcome, a counter, a leak.
    :param touches: dotted names of what carries its guards.
    :param built: False while the code is still missing.
    """

    id: str
    patch: int
    title: str
    mended_in: str
    expect: str = ""
    touches: tuple[str, ...] = ()
    built: bool = True
