"""Find the cards: every module ``pNN_*.py`` beside this one that holds ``PATCH``."""

from __future__ import annotations

import importlib
import pkgutil

from kemu.patches.card import Patch


def discover() -> tuple[Patch, ...]:
    """Return all cards in the order of their numbers."""
    names = sorted(
        module.name
        for module in pkgutil.iter_modules(importlib.import_module("kemu.patches").__path__)
        if module.name[:1] == "p" and module.name[1:3].isdigit()
    )
    return tuple(importlib.import_module(f"kemu.patches.{name}").PATCH for name in names)


def story(patch: Patch) -> str:
    """Return the card's docstring: problem, change, what to watch."""
    module = importlib.import_module(f"kemu.patches.p{patch.number:02d}_{patch.name}")
    return (module.__doc__ or "").strip()
