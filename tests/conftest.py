"""What holds for every test: a Hypothesis profile (tests/lib/profiles.py), and that network stacks give everything back.

``@pytest.mark.keeps_skbs("why")`` excuses a test whose stacks may end with skbs, charged or not.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import settings

import profiles
from stacks import stacks

profiles.register()
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def nothing_stays_charged(request):
    """Assert after a test that every emergency byte is uncharged and every skb is free, in every stack that it made."""
    directory = os.environ.get("KEMU_PCAP")
    stacks.begin(directory and str(Path(directory) / re.sub(r"[^\w.-]+", "_", request.node.name)))
    yield
    stacks.ended(None)
    excuse = request.node.get_closest_marker("keeps_skbs")
    if excuse is not None:
        assert excuse.args, "keeps_skbs needs a reason"
        return
    assert not stacks.left, "; ".join(stacks.left[:8])
