"""What a card is: one patch of the series, its place, what it builds on, what became of it.

A card is a module ``pNN_name.py`` in this package that holds ``PATCH``. The module's docstring is the story that a reader is shown:
the problem, the change, what to watch. Cards are discovered (discover.py), no list of them is kept by hand.
"""

from __future__ import annotations

import attrs


@attrs.frozen
class Patch:
    """One patch of "Swap over NFS -v14".

    :param number: 1 to 33, its place in the series; 34 and up for a patch of one's own.
    :param name: the attribute of :class:`PatchSet` that guards test.
    :param subject: the subject line of the mail, without its ``[PATCH nn/33]``.
    :param part: 1 to 5, the part of the cover letter that it belongs to.
    :param message_id: of the mail, None where it was not found.
    :param needs: names of patches without which its code cannot stand; leaving one of them out leaves this one out too.
    :param wants: names of patches that it builds on; where one is off, that one's stand-in answers.
    :param touches: dotted names of what carries its guards, or of the module that it adds.
    :param fate: what became of it in later postings and in mainline.
    :param built: False while the code is still missing; a run that names such a patch is refused.
    """

    number: int
    name: str
    subject: str
    part: int
    message_id: str | None = None
    needs: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    touches: tuple[str, ...] = ()
    fate: str = ""
    built: bool = True
