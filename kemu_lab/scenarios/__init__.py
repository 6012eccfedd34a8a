"""The scenarios: name -> (module, summary). A module is imported when its scenario runs; it holds ``scenario(config, watch)``."""

from __future__ import annotations

SCENARIOS: dict[str, tuple[str, str]] = {
    "main": ("kemu_lab.scenarios.main_job", "twice the memory, swap over NFS, bursts of foreign frames"),
    "acceptance": (
        "kemu_lab.scenarios.acceptance",
        "the author's own test: floods, and the server away for 15 minutes",
    ),
    "late-disk": ("kemu_lab.scenarios.late_disk", "another disk, which is late, holds all bios (patch 04)"),
}
