"""Which patches a machine was booted with: one boolean per patch name, frozen, and the little language that a person types.

The language, items joined by commas, read from left to right:

    all, none        every patch, no patch; `all` stands first where the first item begins with ``-``
    series:12        patches 1 to 12
    3, 1-12, 24-33   by number
    slub_reserve     by name
    -20, -slub_reserve, -1-12    leave out; also what truly needs it, and `dropped` says so
    +20              put in

A word that stands for many takes the patches that are built; naming one that is not built is refused. So is a list
that leaves a need of one of its patches unmet.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kemu.errors import ConfigError
from kemu.patches.card import Patch
from kemu.patches.discover import discover

PATCHES: tuple[Patch, ...] = discover()
BY_NUMBER: dict[int, Patch] = {patch.number: patch for patch in PATCHES}
BY_NAME: dict[str, Patch] = {patch.name: patch for patch in PATCHES}
_BUILT = frozenset(patch.number for patch in PATCHES if patch.built)


class PatchSet:
    """A frozen set of patches; ``patched.slub_reserve`` is a plain boolean.

    :ivar numbers: what is on, ascending.
    :ivar dropped: what a ``-N`` took along because it needs N, ascending.
    """

    __slots__ = ("dropped", "numbers", *BY_NAME)

    numbers: tuple[int, ...]
    dropped: tuple[int, ...]

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> bool:
            """Type checkers: every patch name is a boolean; the project's lint checks the names against the cards."""

    def __init__(self, numbers: Iterable[int] = (), dropped: Iterable[int] = ()) -> None:
        chosen = frozenset(numbers)
        put = object.__setattr__
        put(self, "numbers", tuple(sorted(chosen)))
        put(self, "dropped", tuple(sorted(dropped)))
        for patch in PATCHES:
            put(self, patch.name, patch.number in chosen)

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: a machine's patches are fixed when it boots."""
        raise AttributeError(f"a PatchSet is frozen: {name} cannot be set")

    def __eq__(self, other: object) -> bool:
        """Compare what is on."""
        return isinstance(other, PatchSet) and self.numbers == other.numbers

    def __hash__(self) -> int:
        """Hash what is on."""
        return hash(self.numbers)

    def __contains__(self, number: int) -> bool:
        """Tell whether patch ``number`` is on."""
        return number in self.numbers

    def __repr__(self) -> str:
        """Give the text that parses to this set."""
        return f"PatchSet.parse({str(self)!r})"

    def __str__(self) -> str:
        """Give the shortest of the usual forms: all, none, all,-20, series:12, or ranges."""
        on = frozenset(self.numbers)
        off = sorted(_BUILT - on)
        if not on:
            return "none"
        if not off:
            return "all"
        if on == {n for n in _BUILT if n <= max(on)}:
            return f"series:{max(on)}"
        if len(off) <= 3:
            return ",".join(["all", *(f"-{n}" for n in off)])
        return _ranges(self.numbers)

    @classmethod
    def all(cls) -> PatchSet:
        """Return the full series, as far as it is built."""
        return cls(_BUILT)

    @classmethod
    def none(cls) -> PatchSet:
        """Return the bare kernel, 2.6.23-mm1 without the series."""
        return cls()

    @classmethod
    def parse(cls, text: str) -> PatchSet:
        """Read the language of this file's docstring; :exc:`ConfigError` says in one sentence what cannot be used."""
        items = [item.strip() for item in text.split(",")]
        if not text.strip() or "" in items:
            raise ConfigError(
                f"patches {text!r}: an item is empty; write all, none, series:12, numbers, names, and -N to leave one out"
            )
        chosen: set[int] = set(_BUILT) if items[0].startswith("-") else set()
        removed: set[int] = set()
        for item in items:
            if item.startswith("-"):
                gone = _numbers(item[1:], text)
                chosen -= gone
                removed |= gone
            else:
                added = _numbers(item.removeprefix("+"), text)
                chosen |= added
                removed -= added
        return cls(*_settle(chosen, removed, text))


def _settle(chosen: set[int], removed: set[int], text: str) -> tuple[set[int], set[int]]:
    """Drop what needs a patch that was left out; refuse a list that never held the need."""
    dropped: set[int] = set()
    for number in sorted(chosen):  # needs always point to smaller numbers
        for need in (BY_NAME[name].number for name in BY_NUMBER[number].needs):
            if need in chosen:
                continue
            if need not in removed and need not in dropped:
                raise ConfigError(
                    f"patches {text!r}: patch {number} needs patch {need} ({BY_NUMBER[need].name}), which is not in the list"
                )
            chosen.discard(number)
            dropped.add(number)
            break
    return chosen, dropped


def _numbers(item: str, text: str) -> set[int]:
    """Return the numbers that one item without its sign stands for."""
    if item in ("all", "none"):
        return set(_BUILT) if item == "all" else set()
    if item.startswith("series:"):
        last = _number(item.removeprefix("series:"), text)
        return {n for n in _BUILT if n <= last}
    first, dash, last_text = item.partition("-")
    if dash and first.isdecimal():
        low, high = _number(first, text), _number(last_text, text)
        if low > high:
            raise ConfigError(f"patches {text!r}: the range {item} runs backwards")
        return {n for n in _BUILT if low <= n <= high}
    patch = BY_NAME.get(item) or BY_NUMBER[_number(item, text)]
    if not patch.built:
        raise ConfigError(f"patches {text!r}: patch {patch.number} ({patch.name}) is not built yet and cannot be switched")
    return {patch.number}


def _number(word: str, text: str) -> int:
    """Return the patch number that ``word`` spells."""
    if word.isascii() and word.isdecimal() and int(word) in BY_NUMBER:
        return int(word)
    raise ConfigError(
        f"patches {text!r}: {word!r} is no patch; write a number from 1 to {max(BY_NUMBER)} or a name (`kemu list patches`)"
    )


def _ranges(numbers: tuple[int, ...]) -> str:
    """Write ascending numbers as 1-3,7,9-12; a range may span patches that are not built."""
    parts: list[list[int]] = []
    for number in numbers:
        between = range(parts[-1][1] + 1, number) if parts else ()
        if parts and not any(n in _BUILT for n in between):
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)
