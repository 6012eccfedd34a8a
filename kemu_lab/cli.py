"""The command line: ``kemu VERB``. Every verb is imported when it is called, so that help is quick.

Exit status: 0 the machine lived, 1 it did not, 2 wrong use (one sentence on stderr), 3 a script wants too much, 70 a defect of
kemu itself, 130 interrupted.
A closed pipe is quiet.
"""

# ruff: noqa: D301 - "\b" is the character itself: it tells click to keep the lines that follow

from __future__ import annotations

import os
import sys
from typing import Any

import click

from kemu.errors import ConfigError, KemuError

EX_DIED, EX_USAGE, EX_SOFTWARE, EX_INTERRUPTED = 1, 2, 70, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(package_name="kemu", message="kemu %(version)s")
def cli() -> None:
    """Run a Linux kernel of 2007 that swaps over NFS, and see what each of the 33 patches of "Swap over NFS -v14" is for.

    \b
    Examples:
      kemu run                      the full series: the machine lives
      kemu run --patches all,-19    without patch 19: it dies, and says why
      kemu list patches             the 33 switches
    """


@cli.command(short_help="Run a scenario and say whether the machine lived.")
@click.argument("scenario", default="main")
@click.option("--patches", default="all", metavar="SET", help="all, none, series:12, 1-12,19, all,-20, or names.  [all]")
@click.option("--fixes", default="all", metavar="SET", help="Which of v14's own defects are mended: all, none, or ids.  [all]")
@click.option("--mem", default=None, metavar="SIZE", help="Memory of the client: 16M, 1G.  [32M]")
@click.option("--cpus", default="1", metavar="N", help="CPUs of the client.  [1]")
@click.option("--seed", default="1", metavar="N", help="Same seed, same history.  [1]")
@click.option("--swap", default=None, metavar="WHERE", help="Where main swaps to: nfs, or disk, one of the client's own.  [nfs]")
@click.option("--loss", default="0", metavar="P", help="Probability that the wire loses a frame.  [0]")
@click.option("--latency", default="50us", metavar="TIME", help="One way over the wire.  [50us]")
@click.option("--mtu", default="1500", metavar="N", help="Bytes of a packet on the wire, 576 to 9000.  [1500]")
@click.option("--nic", default="", metavar="WORDS", help="Of the client: split, fixed, recycle, copybreak, software-checksums.")
@click.option("--scale", default=None, metavar="F", help="Of acceptance: memory and processes, 1/4 and more of 128M.  [1]")
@click.option("--outage", default=None, metavar="TIME", help="Of acceptance: the server is away for so long; 0, forever.  [15m]")
@click.option("--outage-how", default=None, metavar="HOW", help="Of acceptance: stop (refused) or silent (no answer).  [stop]")
@click.option("--never-returns", is_flag=True, help="Of acceptance: the same as --outage forever.")
@click.option("--traffic", default=None, metavar="KIND", help="Of acceptance: mixed, udp-flood, fragments or none.  [mixed]")
@click.option("--uid", default=None, metavar="N", help="Of acceptance: whose processes they are.  [0]")
@click.option("--proto", default=None, metavar="NAME", help="Of acceptance: the mount is tcp or udp.  [tcp]")
@click.option("--fill", default=None, metavar="PATH", help="Fill the pages with the bytes of this file.")
@click.option("--trace", default=None, metavar="PATH", help="Follow a memory trace of valgrind's lackey.")
@click.option("--proc", default=None, metavar="DIR", help="Write the client's /proc and /sys into DIR at the end.")
@click.option("--pcap", default=None, metavar="FILE", help="Write what passes the wire as a pcapng file with comments.")
@click.option("--swap-ops", default="writepage", metavar="NAME", help="Methods of swap files: writepage (v14), swapout (v15).")
@click.option("--server", default=None, metavar="URL", help="Swap to a real server: nfs://HOST:PORT/EXPORT?mountport=PORT.")
@click.option("--via", default=None, metavar="WAY", help="To the real server: gateway, or tap (real TCP, root).  [gateway]")
@click.option("--allow-remote", is_flag=True, help="Take a real server of another machine.")
@click.option("--server-dir", default=None, metavar="DIR", help="Let kemu's own server keep its files in DIR.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quiet", is_flag=True, help="Print the verdict only, no progress.")
def run(as_json: bool, quiet: bool, cpus: str, seed: str, **options: Any) -> int:
    """Run SCENARIO (default: main) and say whether the machine lived.

    A client with little memory mounts an NFS export, swaps to a file on it, and a process uses twice the memory, while other hosts
    send frames that nobody reads.

    \b
    Examples:
      kemu run
      kemu run --patches none
      kemu run --patches all,-19 --seed 3
      kemu run --swap disk --patches none
      kemu run --mem 16M --fill /bin/ls --json
      kemu run --mtu 9000 --nic split
      kemu run acceptance --scale 1/4 --uid 1000
      kemu run --proc out           then: cat out/proc/meminfo
      kemu run --pcap run.pcapng    then: wireshark run.pcapng
      kemu run --swap-ops swapout --fixes none
      kemu run --mem 16M --server "nfs://127.0.0.1:2049/srv?mountport=635"
    """
    from kemu_lab.numbers import whole_number
    from kemu_lab.run import run_command
    from kemu_lab.run_config import MAX_CPUS, RunConfig

    config = RunConfig.parse(
        cpus=whole_number(cpus, "--cpus", 1, MAX_CPUS), seed=whole_number(seed, "--seed", 0, 2**32 - 1), **options
    )
    return run_command(config, as_json=as_json, quiet=quiet)


@cli.command(short_help="Stop a client in the middle, and write it to a file.")
@click.option("-o", "--output", required=True, metavar="FILE", help="Where the snapshot goes.")
@click.option("--at-pages", default=None, metavar="N", help="Stop when N pages have been swapped out.")
@click.option("--at", default=None, metavar="TIME", help="Stop at this virtual time.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option("--patches", default="all", metavar="SET", help="As for run.  [all]")
@click.option("--fixes", default="all", metavar="SET", help="As for run.  [all]")
@click.option("--mem", default=None, metavar="SIZE", help="As for run.  [32M]")
@click.option("--cpus", default="1", metavar="N", help="As for run.  [1]")
@click.option("--seed", default="1", metavar="N", help="As for run.  [1]")
@click.option("--loss", default="0", metavar="P", help="As for run.  [0]")
@click.option("--latency", default="50us", metavar="TIME", help="As for run.  [50us]")
@click.option("--mtu", default="1500", metavar="N", help="As for run.  [1500]")
@click.option("--nic", default="", metavar="WORDS", help="As for run.")
@click.option("--fill", default=None, metavar="PATH", help="As for run.")
@click.option("--swap-ops", default="writepage", metavar="NAME", help="As for run.  [writepage]")
@click.option("--server-dir", default=None, metavar="DIR", help="Kemu's own server keeps its files in DIR.")
@click.option("--server", default=None, metavar="URL", help="A real server: nfs://HOST:PORT/EXPORT?mountport=PORT.")
@click.option("--allow-remote", is_flag=True, help="Take a real server of another machine.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quiet", is_flag=True, help="No progress.")
def snapshot(
    output: str, at_pages: str | None, at: str | None, force: bool, cpus: str, seed: str, as_json: bool, quiet: bool, **options: Any
) -> int:
    """Run the main job, stop its client at a quiet point, and write it to FILE; its swapped pages stay on the server.

    \b
    Examples:
      kemu snapshot --mem 16M --at-pages 3000 --server-dir d -o client.kemu
      kemu resume client.kemu --server-dir d
    """
    from kemu_lab.numbers import whole_number
    from kemu_lab.quantities import parse_time
    from kemu_lab.run_config import MAX_CPUS, RunConfig
    from kemu_lab.snapshot import MAX_AT_NS, MAX_AT_PAGES, snapshot_command

    config = RunConfig.parse(
        "main",
        cpus=whole_number(cpus, "--cpus", 1, MAX_CPUS),
        seed=whole_number(seed, "--seed", 0, 2**32 - 1),
        trace=None,
        **options,
    )
    return snapshot_command(
        config,
        output,
        at_pages=None if at_pages is None else whole_number(at_pages, "--at-pages", 1, MAX_AT_PAGES),
        at_ns=None if at is None else parse_time(at, "--at", 1, MAX_AT_NS),
        force=force,
        as_json=as_json,
        quiet=quiet,
    )


@cli.command(short_help="Go on with a client that was written to a file.")
@click.argument("file", metavar="FILE")
@click.option("--server-dir", default=None, metavar="DIR", help="Where kemu's own server has its files.")
@click.option("--server", default=None, metavar="URL", help="The real server: nfs://HOST:PORT/EXPORT?mountport=PORT.")
@click.option("--allow-remote", is_flag=True, help="Take a real server of another machine.")
@click.option("--show", "show_only", is_flag=True, help="Only say what is in FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quiet", is_flag=True, help="Print the verdict only, no progress.")
def resume(
    file: str, server_dir: str | None, server: str | None, allow_remote: bool, show_only: bool, as_json: bool, quiet: bool
) -> int:
    """Boot a client anew, give it what FILE holds, and let it go on against the same server.

    \b
    Examples:
      kemu resume client.kemu --server-dir d
      kemu resume client.kemu --server "nfs://127.0.0.1:2049/srv?mountport=635"
      kemu resume client.kemu --show
    """
    from kemu_lab.resume import resume_command
    from kemu_lab.server_url import parse_server

    url = None if server is None else parse_server(server, allow_remote=allow_remote)
    return resume_command(file, server={"server": url, "server_dir": server_dir}, as_json=as_json, quiet=quiet, show_only=show_only)


@cli.command(short_help="Slab geometry: computed, or held against a kernel.")
@click.option(
    "--policy", default=None, metavar="NAME", help="Whose formulas: 2.6.23, 6.1 or 6.18.  [2.6.23, or what the table says]"
)
@click.option("--cpus", default=None, metavar="N", help="Present CPUs.  [1]")
@click.option("--word", default=None, metavar="N", help="Bytes of a pointer: 8 or 4.  [8]")
@click.option("--size", multiple=True, metavar="N", help="Bytes of an object with its metadata (slab_size); may be repeated.")
@click.option("--object-size", multiple=True, metavar="N", help="Bytes of an object; its slab_size is derived first.")
@click.option("--align", default=None, metavar="N", help="The alignment that the cache asks for.  [0]")
@click.option("--rcu", is_flag=True, help="The cache is SLAB_DESTROY_BY_RCU.")
@click.option("--ctor", is_flag=True, help="The cache has a constructor.")
@click.option("--hwcache-align", is_flag=True, help="The cache is SLAB_HWCACHE_ALIGN.")
@click.option("--kmalloc", is_flag=True, help="The cache is one of kmalloc's.")
@click.option("--slub-min-order", default=None, metavar="N", help="The boot word.")
@click.option("--slub-max-order", default=None, metavar="N", help="The boot word.")
@click.option("--slub-min-objects", default=None, metavar="N", help="The boot word.")
@click.option("--slub-debug", default=None, metavar="FZPU", help="The letters of the boot word.")
@click.option("--against", default=None, metavar="FILE", help="Compare with a table of caches, as in tests/truth.")
@click.option("--this-machine", is_flag=True, help="Compare with this machine's /sys/kernel/slab.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def geometry(as_json: bool, **options: Any) -> int:
    """Compute order, objects per slab and partial slabs as a kernel's SLUB does, or compare with a real kernel.

    \b
    Examples:
      kemu geometry --policy 6.1 --cpus 4 --size 192 --size 704
      kemu geometry --object-size 100 --slub-debug FZPU
      kemu geometry --against tests/truth/slab-m256-c4.json
      kemu geometry --this-machine
    """
    from kemu_lab.slab_geometry import GeometryOptions, geometry_command

    return geometry_command(GeometryOptions(**options), as_json=as_json)


@cli.command(short_help="Watermarks: computed, or held against a kernel.")
@click.option(
    "--policy", default=None, metavar="NAME", help="Whose formulas: 2.6.23, 6.1 or 6.18.  [2.6.23, or what the table says]"
)
@click.option("--mem", default=None, metavar="SIZE", help="Memory of the machine.  [128M]")
@click.option("--arch", default="x86_64", metavar="ARCH", help="x86_64 or i386.  [x86_64]")
@click.option("--nodes", default="1", metavar="N", help="Nodes that share the memory.  [1]")
@click.option("--min-free-kbytes", default=None, metavar="N", help="Write vm.min_free_kbytes first.")
@click.option("--scale", default=None, metavar="N", help="Write vm.watermark_scale_factor first (6.1 and 6.18).")
@click.option("--lowmem-reserve-ratio", default=None, metavar="N,N,..", help="Write vm.lowmem_reserve_ratio first.")
@click.option("--against", default=None, metavar="FILE", help="Compare with a table of marks, as in tests/truth.")
@click.option("--this-machine", is_flag=True, help="Compare with this machine's /proc/zoneinfo.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def watermarks(as_json: bool, **options: Any) -> int:
    """Print min_free_kbytes and every zone's marks and lowmem_reserve, or compare with a real kernel.

    \b
    Examples:
      kemu watermarks --mem 128M
      kemu watermarks --mem 4G --policy 6.1 --scale 150
      kemu watermarks --against tests/truth/watermark-sweep.json
      kemu watermarks --this-machine
    """
    from kemu_lab.watermarks import WatermarksOptions, watermarks_command

    return watermarks_command(WatermarksOptions(**options), as_json=as_json)


@cli.command(short_help="Run packetdrill scripts against the stack.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--stimulus", is_flag=True, help="Judge only what system calls return.")
@click.option("--patches", default="all", metavar="SET", help="all, none, series:12, 1-12,19, all,-20, or names.  [all]")
@click.option("--fixes", default="all", metavar="SET", help="Which of v14's own defects are mended: all, none, or ids.  [all]")
@click.option("--define", multiple=True, metavar="NAME=VALUE", help="Replace a word of the scripts; may be repeated.")
@click.option("--verbose", is_flag=True, help="Say what was taken without effect.")
@click.option("--pcap", default=None, metavar="FILE", help="Write what passes as a pcapng file with comments; of one script.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def packet(as_json: bool, **options: Any) -> int:
    """Run scripts in the packetdrill language against the TCP/IP of the emulated kernel; a directory stands for its *.pkt.

    Exit status: 0 all are ok, 1 one failed, 2 a file cannot be read or is no script, 3 one asks for what is not supported.

    \b
    Examples:
      kemu packet tests/packets
      kemu packet --patches all,-20 tests/packets/emergency-drop.pkt
      kemu packet --stimulus foreign.pkt
    """
    from kemu_lab.packet_command import PacketOptions, packet_command

    return packet_command(PacketOptions(**options), as_json=as_json)


@cli.command(short_help="Put an emulated machine on a TAP device of this one.")
@click.option("--name", default="kemu0", metavar="NAME", help="The device.  [kemu0]")
@click.option(
    "--ip", default="10.99.0.2", metavar="ADDR", help="The emulated machine's address, in a network of 24 bits.  [10.99.0.2]"
)
@click.option("--peer", default="10.99.0.1", metavar="ADDR", help="This machine's address on the device.  [10.99.0.1]")
@click.option("--seconds", default=None, metavar="N", help="End by itself.  [Ctrl-C ends it]")
@click.option("--pcap", default=None, metavar="FILE", help="Write what passes as a pcapng file with comments.")
def tap(**options: str) -> int:
    """Boot a machine whose NIC is a TAP device: it answers ping, and echoes what comes to TCP port 7. Needs Linux and root.

    \b
    Examples:
      kemu tap                      then, elsewhere: ping 10.99.0.2; nc 10.99.0.2 7
      unshare -n kemu tap           in a network namespace of its own
      kemu tap --seconds 60 --pcap tap.pcapng
    """
    from kemu_lab.tap_command import tap_command

    return tap_command(**options)


@cli.command(short_help="Serve a directory by NFS, on loopback.")
@click.argument("directory", metavar="DIR")
@click.option("--port", default="2049", metavar="N", help="Port of NFS, by TCP and UDP; 0 chooses one.  [2049]")
@click.option("--mountport", default=None, metavar="N", help="Port of MOUNT; 0 chooses one.  [that of NFS]")
@click.option("--address", default="127.0.0.1", metavar="ADDR", help="Listen on this address.  [127.0.0.1]")
@click.option("--allow-remote", is_flag=True, help="Let the address be one that other machines reach.")
@click.option("--export", default="/export", metavar="PATH", help="What clients call the directory.  [/export]")
@click.option("--read-only", is_flag=True, help="Refuse every change.")
def serve(directory: str, **options: Any) -> int:
    """Serve DIR by NFS version 3 until Ctrl-C, on kemu's own server. Nothing outside of DIR can be reached.

    Whoever reaches the port is believed who he says he is (AUTH_SYS): started by root it lets every local user be root in DIR.

    \b
    Examples:
      kemu serve /tmp/files --port 0
      nfs-ls 'nfs://127.0.0.1/export?version=3&nfsport=2049&mountport=2049'
      nfs-cp page 'nfs://127.0.0.1/export/page?version=3&nfsport=2049&mountport=2049'
    """
    from kemu_lab.serve import serve_command

    return serve_command(directory, **options)


@cli.command("list", short_help="List the patches, the fixes or the scenarios.")
@click.argument("what", metavar="patches|fixes|scenarios")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def list_(what: str, as_json: bool) -> int:
    """List the patches, the fixes of v14's own defects, or the scenarios.

    \b
    Examples:
      kemu list patches
      kemu list fixes --json
    """
    from kemu_lab.listing import list_command

    return list_command(what, as_json=as_json)


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
