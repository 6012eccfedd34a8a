"""Load a Hypothesis profile before the first test module is read (see tests/lib/profiles.py)."""

from __future__ import annotations

import os

from hypothesis import settings

import profiles

profiles.register()
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
