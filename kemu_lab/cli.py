"""The command line: ``kemu VERB``. Every verb is imported when it is called, so that help is quick.

Exit status: 0 the machine lived, 1 it did not, 2 wrong use (one sentence on stderr), 70 a defect of kemu itself, 130 interrupted.
A closed pipe is quiet.
"""

from __future__ import annotations

import os
import sys

import click

from kemu.errors import ConfigError, KemuError

EX_DIED, EX_USAGE, EX_SOFTWARE, EX_INTERRUPTED = 1, 2, 70, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(package_name="kemu", message="kemu %(version)s")
def cli() -> None:
    r"""Run a Linux kernel of 2007 that swaps over NFS, and see what each of the 33 patches of "Swap over NFS -v14" is for.

    \b
    Examples:
      kemu run                      the full series: the machine lives
      kemu run --patches all,-19    without patch 19: it dies, and says why
      kemu list patches             the 33 switches
    """


@cli.command()
@click.argument("scenario", default="main")
@click.option("--patches", default="all", metavar="SET", help="all, none, series:12, 1-12,19, all,-20, or names.  [all]")
@click.option("--fixes", default="all", metavar="SET", help="Which of v14's own defects are mended: all, none, or ids.  [all]")
@click.option("--mem", default="32M", metavar="SIZE", help="Memory of the client: 16M, 1G.  [32M]")
@click.option("--cpus", default="1", metavar="N", help="CPUs of the client.  [1]")
@click.option("--seed", default="1", metavar="N", help="Same seed, same history.  [1]")
@click.option("--swap", default=None, metavar="WHERE", help="Where main swaps to: nfs, or disk, one of the client's own.  [nfs]")
@click.option("--loss", default="0", metavar="P", help="Probability that the wire loses a frame.  [0]")
@click.option("--latency", default="50us", metavar="TIME", help="One way over the wire.  [50us]")
@click.option("--fill", default=None, metavar="PATH", help="Fill the pages with the bytes of this file.")
@click.option("--trace", default=None, metavar="PATH", help="Follow a memory trace of valgrind's lackey.")
@click.option("--proc", default=None, metavar="DIR", help="Write the client's /proc and /sys into DIR at the end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quiet", is_flag=True, help="Print the verdict only, no progress.")
def run(as_json: bool, quiet: bool, cpus: str, seed: str, **options: str) -> int:
    r"""Run SCENARIO (default: main) and say whether the machine lived.

    A client with little memory mounts an NFS export, swaps to a file on it, and a process uses twice the memory, while other hosts
    send frames that nobody reads.

    \b
    Examples:
      kemu run
      kemu run --patches none
      kemu run --patches all,-19 --seed 3
      kemu run --swap disk --patches none
      kemu run --mem 16M --fill /bin/ls --json
      kemu run --proc out           then: cat out/proc/meminfo
    """
    from kemu_lab.run import run_command
    from kemu_lab.run_config import MAX_CPUS, RunConfig

    config = RunConfig.parse(
        cpus=_whole_number(cpus, "--cpus", 1, MAX_CPUS), seed=_whole_number(seed, "--seed", 0, 2**32 - 1), **options
    )
    return run_command(config, as_json=as_json, quiet=quiet)


@cli.command("list")
@click.argument("what", metavar="patches|fixes|scenarios")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def list_(what: str, as_json: bool) -> int:
    r"""List the patches, the fixes of v14's own defects, or the scenarios.

    \b
    Examples:
      kemu list patches
      kemu list fixes --json
    """
    from kemu_lab.listing import list_command

    return list_command(what, as_json=as_json)


def _whole_number(text: str, what: str, low: int, high: int) -> int:
    """Return the integer that was typed."""
    if not (text.isascii() and text.isdecimal() and low <= int(text[:12]) <= high):
        raise ConfigError(f"{what} {text!r} cannot be used; it is a whole number from {low} to {high}")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status; what goes wrong is one sentence on stderr."""
    words = sys.argv[1:] if argv is None else argv
    try:
        status = cli.main(words, prog_name="kemu", standalone_mode=False)
        sys.stdout.flush()
    except ConfigError as error:
        return _say(str(error), EX_USAGE)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return EX_USAGE
    except click.ClickException as error:
        return _say(error.format_message().replace("\n", " "), EX_USAGE)
    except (KeyboardInterrupt, click.Abort):
        return _say("interrupted", EX_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the interpreter's own flush is quiet too
        return EX_DIED
    except (
        KemuError,
        AssertionError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        where = " ".join(["kemu", *words])
        return _say(f"a defect of kemu itself: {type(error).__name__}: {error} (repeat it with: {where})", EX_SOFTWARE)
    return int(status or 0)


def _say(sentence: str, status: int) -> int:
    """Print one sentence on stderr and return ``status``."""
    if "KEMU_DEBUG" in os.environ and sys.exc_info()[1] is not None and status == EX_SOFTWARE:
        raise  # noqa: PLE0704 # called from a handler; the developer asked for the traceback
    print(f"kemu: {sentence}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
