"""Scripts in the packetdrill language, run against a machine of this emulator on virtual time.

Interface
    parse_script(text, name, defines=None) -> Script       raises ScriptSyntaxError or ScriptUnsupported, and nothing else
    run_script(script, patches=..., fixes=..., stimulus=False) -> Result
    play_script(text, name, ...) -> Result                 both; never raises for what a script says

The language is packetdrill's, as its published grammar has it. What of it is not built, and what a kernel of 2007 does not have,
is named with file and line: Result.status is "unsupported". Of kemu's own are: the calls memalloc(fd), squeeze() and release(),
``raw`` packets and ``{frag OFFSET:LENGTH}``, the options mem, cpus, ring, remote_isn and packet_split, and names in code
(pd_names.py).

Left out: IPv6, tunnels, Fast Open, MPTCP, accurate ECN and other extensions that are younger than 2.6.23; several threads of system
calls; programs in backticks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from kemu_net.testing.pd_config import Config
from kemu_net.testing.pd_errors import ScriptError, ScriptFailure, ScriptSyntaxError, ScriptUnsupported
from kemu_net.testing.pd_host import Host
from kemu_net.testing.pd_parser import parse_script
from kemu_net.testing.pd_run import Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kemu.fixes import FixSet
    from kemu.patches import PatchSet
    from kemu_net.testing.pd_ast import Script

__all__ = [
    "FAILED",
    "OK",
    "UNREADABLE",
    "UNSUPPORTED",
    "Result",
    "ScriptError",
    "ScriptFailure",
    "ScriptSyntaxError",
    "ScriptUnsupported",
    "parse_script",
    "play_script",
    "run_script",
]

OK, FAILED, UNSUPPORTED, UNREADABLE = "ok", "failed", "unsupported", "unreadable"


@attrs.frozen
class Result:
    """What became of a script.

    :ivar status: ok, failed, unsupported or unreadable.
    :ivar where: "file:line" of what is wrong, "" if all is well; ``reason``: the sentence.
    :ivar notes: what was taken without effect, with file and line.
    :ivar seconds: how long it took, on the machine's clock.
    """

    name: str
    status: str
    where: str = ""
    reason: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


def run_script(
    script: Script,
    *,
    patches: PatchSet | str = "all",
    fixes: FixSet | str = "all",
    stimulus: bool = False,
    on_host: Callable[[Host], object] | None = None,
) -> Result:
    """Boot a machine and run a script on it.

    :param stimulus: judge only what system calls return.
    :param on_host: called with the machine before the first event, for who wants to watch.
    """
    name = script.name
    try:
        config = Config.of(script)
    except ScriptError as error:
        return _failed(name, error)
    host = Host(config, patches, fixes)
    runner = Runner(script, config, host, stimulus)
    try:
        if on_host is not None:
            on_host(host)
        runner.run()
        return Result(name, OK, notes=tuple(runner.notes), seconds=_seconds(host, runner))
    except ScriptError as error:
        return attrs.evolve(_failed(name, error), notes=tuple(runner.notes), seconds=_seconds(host, runner))
    finally:
        host.close()


def _seconds(host: Host, runner: Runner) -> float:
    return (host.now - runner.origin) / 1_000_000_000


def _failed(name: str, error: ScriptError) -> Result:
    """Make the result of an error."""
    status = UNREADABLE
    if isinstance(error, ScriptUnsupported):
        status = UNSUPPORTED
    elif isinstance(error, ScriptFailure):
        status = FAILED
    return Result(name, status, error.where, error.reason)


def play_script(
    text: str,
    name: str,
    *,
    defines: Mapping[str, str] | None = None,
    patches: PatchSet | str = "all",
    fixes: FixSet | str = "all",
    stimulus: bool = False,
    on_host: Callable[[Host], object] | None = None,
) -> Result:
    """Parse and run a script."""
    try:
        script = parse_script(text, name, defines)
    except ScriptError as error:
        return _failed(name, error)
    return run_script(script, patches=patches, fixes=fixes, stimulus=stimulus, on_host=on_host)
