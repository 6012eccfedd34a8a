"""The 33 patches of "Swap over NFS -v14" as switches: cards, their discovery, and :class:`PatchSet`."""

from __future__ import annotations

from kemu.patches.card import Patch as Patch
from kemu.patches.patch_set import BY_NAME as BY_NAME
from kemu.patches.patch_set import BY_NUMBER as BY_NUMBER
from kemu.patches.patch_set import PATCHES as PATCHES
from kemu.patches.patch_set import PatchSet as PatchSet
