"""``kemu packet``: run packetdrill scripts, one line a script.

Exit status: 0 all scripts are ok; 1 one failed; 3 none failed, but one asks for what is not supported; 2 wrong use, or a file that
cannot be read or is no script (it wins over 1 and 3).
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import attrs

from kemu.errors import ConfigError, KemuError
from kemu.fixes import FixSet
from kemu.patches import PatchSet
from kemu_lab.capture import capturing, prepare_capture
from kemu_net.testing.packetdrill import FAILED, OK, UNREADABLE, UNSUPPORTED, Result, play_script

EX_OK, EX_FAILED, EX_UNREADABLE, EX_UNSUPPORTED = 0, 1, 2, 3
_WORDS = {OK: "ok", FAILED: "FAILED", UNSUPPORTED: "unsupported", UNREADABLE: "unreadable"}


@attrs.frozen
class PacketOptions:
    """What the command line said."""

    files: tuple[str, ...]
    patches: str = "all"
    fixes: str = "all"
    define: tuple[str, ...] = ()
    stimulus: bool = False
    verbose: bool = False
    pcap: str | None = None


def packet_command(options: PacketOptions, *, as_json: bool) -> int:
    """Run all scripts and print what became of them."""
    patches, fixes = PatchSet.parse(options.patches), FixSet.parse(options.fixes)
    defines = dict(map(_define, options.define))
    results: list[Result] = []
    scripts = _scripts(options.files)
    if options.pcap is not None:
        if len(scripts) != 1:
            raise ConfigError(f"--pcap takes the capture of one script, not of {len(scripts)}")
        prepare_capture(options.pcap)
    for path in scripts:
        result = _play(path, defines, patches, fixes, options.stimulus, options.pcap)
        results.append(result)
        if not as_json:
            _print(result, options.verbose)
    counts = {status: sum(result.status == status for result in results) for status in _WORDS}
    if as_json:
        print(json.dumps({"counts": counts, "scripts": [attrs.asdict(result) for result in results]}, indent=1))
    elif len(results) != 1:
        print(", ".join(f"{count} {_WORDS[status].lower()}" for status, count in counts.items() if count))
    return exit_status(counts)


def exit_status(counts: dict[str, int]) -> int:
    """Give the exit status for so many scripts of each kind."""
    if counts[UNREADABLE]:
        return EX_UNREADABLE
    if counts[FAILED]:
        return EX_FAILED
    return EX_UNSUPPORTED if counts[UNSUPPORTED] else EX_OK


def _define(text: str) -> tuple[str, str]:
    """Read ``NAME=VALUE``."""
    name, equals, value = text.partition("=")
    if not name.isidentifier() or not equals or not value:
        raise ConfigError(f"--define {text!r} cannot be used; it is NAME=VALUE")
    return name, value


def _scripts(names: tuple[str, ...]) -> list[Path]:
    """Give the files that were named, and for a directory all ``*.pkt`` below it."""
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            below = sorted(path.rglob("*.pkt"))
            if not below:
                raise ConfigError(f"{name}: no *.pkt below this directory")
            found += below
        else:
            found.append(path)
    return found


def _play(path: Path, defines: dict[str, str], patches: PatchSet, fixes: FixSet, stimulus: bool, pcap: str | None) -> Result:
    """Run one script; a capture is written of one that fails, too."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        return Result(str(path), UNREADABLE, str(path), f"cannot be read: {error.strerror or error}")
    except UnicodeDecodeError:
        return Result(str(path), UNREADABLE, str(path), "is no text in UTF-8")
    try:
        with ExitStack() as capture:
            return play_script(
                text,
                str(path),
                defines=defines,
                patches=patches,
                fixes=fixes,
                stimulus=stimulus,
                on_host=lambda host: capture.enter_context(capturing(pcap, host.wire, kemu=host.stack)),
            )
    except KemuError:
        raise
    except Exception as error:  # noqa: BLE001 - a defect of kemu that one script finds shall not end the others
        return Result(str(path), FAILED, str(path), f"a defect of kemu: {type(error).__name__}: {error}")


def _print(result: Result, verbose: bool) -> None:
    """Print one line, and with ``verbose`` the notes."""
    if result.status == OK:
        print(f"ok {result.name}")
    else:
        print(f"{_WORDS[result.status]} {result.where}: {result.reason}")
    if verbose:
        for note in result.notes:
            print(f"    {note}")
