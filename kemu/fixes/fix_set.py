"""Which of v14's own defects are mended: one boolean per card, frozen. ``all`` mends everything, ``none`` is v14 as posted.

The language: ``all``, ``none``, or ids joined by commas, ``-b16`` to leave one as it was; ``all`` stands first where the first item
begins with ``-``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import TYPE_CHECKING

from kemu.errors import ConfigError
from kemu.fixes.card import Fix


def discover() -> tuple[Fix, ...]:
    """Return all fix cards, in the order of their ids."""
    names = sorted(
        module.name
        for module in pkgutil.iter_modules(importlib.import_module("kemu.fixes").__path__)
        if module.name[:1] == "b" and module.name[1:3].isdigit()
    )
    return tuple(importlib.import_module(f"kemu.fixes.{name}").FIX for name in names)


FIXES: tuple[Fix, ...] = discover()
BY_ID: dict[str, Fix] = {fix.id: fix for fix in FIXES}
_BUILT = frozenset(fix.id for fix in FIXES if fix.built)


class FixSet:
    """A frozen set of fixes; ``fixed.b16`` is a plain boolean: True where the defect is mended.

    :ivar ids: what is mended, ascending.
    """

    __slots__ = ("ids", *BY_ID)

    ids: tuple[str, ...]

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> bool:
            """Type checkers: every fix id is a boolean; the project's lint checks the ids against the cards."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        chosen = frozenset(ids)
        object.__setattr__(self, "ids", tuple(sorted(chosen)))
        for fix in FIXES:
            object.__setattr__(self, fix.id, fix.id in chosen)

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: what is mended is fixed when the machine boots."""
        raise AttributeError(f"a FixSet is frozen: {name} cannot be set")

    def __eq__(self, other: object) -> bool:
        """Compare what is mended."""
        return isinstance(other, FixSet) and self.ids == other.ids

    def __hash__(self) -> int:
        """Hash what is mended."""
        return hash(self.ids)

    def __repr__(self) -> str:
        """Give the text that parses to this set."""
        return f"FixSet.parse({str(self)!r})"

    def __str__(self) -> str:
        """Give all, none, or the ids."""
        if not self.ids:
            return "none"
        return "all" if frozenset(self.ids) == _BUILT else ",".join(self.ids)

    @classmethod
    def all(cls) -> FixSet:
        """Mend every defect that is built."""
        return cls(_BUILT)

    @classmethod
    def none(cls) -> FixSet:
        """Leave v14 as it was posted."""
        return cls()

    @classmethod
    def parse(cls, text: str) -> FixSet:
        """Read the language of this file's docstring; :exc:`ConfigError` says in one sentence what cannot be used."""
        items = [item.strip().lower() for item in text.split(",")]
        if not text.strip() or "" in items:
            raise ConfigError(f"fixes {text!r}: an item is empty; write all, none, or ids such as b16 joined by commas")
        chosen: set[str] = set(_BUILT) if items[0].startswith("-") else set()
        for item in items:
            name = item.lstrip("+-")
            named = _named(name, text)
            chosen = chosen - named if item.startswith("-") else chosen | named
        return cls(chosen)


def _named(name: str, text: str) -> frozenset[str]:
    """Return the ids that one word stands for."""
    if name == "all":
        return _BUILT
    if name == "none":
        return frozenset()
    if name not in BY_ID:
        raise ConfigError(f"fixes {text!r}: {name!r} is no fix; `kemu list fixes` shows them: {', '.join(BY_ID)}")
    if not BY_ID[name].built:
        raise ConfigError(f"fixes {text!r}: {name} is not built yet and cannot be switched")
    return frozenset((name,))
