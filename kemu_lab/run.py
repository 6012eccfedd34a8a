"""``kemu run``: a scenario, its progress, its result, its exit status."""

from __future__ import annotations

import importlib
import json
import time

from kemu.errors import ConfigError
from kemu_lab.progress import Watch, watcher
from kemu_lab.report import print_report
from kemu_lab.result import RunResult
from kemu_lab.run_config import RunConfig
from kemu_lab.scenarios import SCENARIOS


def run_scenario(config: RunConfig, watch: Watch | None = None) -> RunResult:
    """Run a scenario to its end and return what it tells."""
    if config.scenario not in SCENARIOS:
        raise ConfigError(f"there is no scenario {config.scenario!r}; there are: {', '.join(SCENARIOS)}")
    module = importlib.import_module(SCENARIOS[config.scenario][0])
    began = time.perf_counter()
    result: RunResult = module.scenario(config, watch or Watch())
    result.wall_seconds = round(time.perf_counter() - began, 3)
    return result


def run_command(config: RunConfig, *, as_json: bool, quiet: bool) -> int:
    """Run, print, and return the exit status: 0 the machine lived, 1 it did not."""
    with watcher(show=not (as_json or quiet)) as watch:
        result = run_scenario(config, watch)
    if as_json:
        print(json.dumps(result.as_json(), indent=1))
    else:
        print_report(result, quiet=quiet)
    return 0 if result.lived else 1
