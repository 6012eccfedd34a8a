"""The defects that v14 was posted with, each kept behind a card that names what mended it, and :class:`FixSet`."""

from __future__ import annotations

from kemu.fixes.card import Fix as Fix
from kemu.fixes.fix_set import BY_ID as BY_ID
from kemu.fixes.fix_set import FIXES as FIXES
from kemu.fixes.fix_set import FixSet as FixSet
