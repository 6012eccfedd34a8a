"""What a run was asked to do: one frozen object, and the command line that repeats it."""

from __future__ import annotations

import shlex

import attrs

from kemu.errors import ConfigError
from kemu.fixes import FixSet
from kemu.mm.page_io import SWAP_OPS
from kemu.patches import PatchSet
from kemu_lab.acceptance_options import AcceptanceOptions, parse_scale, scale_of
from kemu_lab.capture import prepare_capture
from kemu_lab.nic_words import nic_arguments
from kemu_lab.numbers import whole_number
from kemu_lab.procfs import prepare_directory
from kemu_lab.quantities import format_size, format_time, parse_probability, parse_size, parse_time
from kemu_lab.server_url import ServerUrl, parse_server

MIN_MEM, MAX_MEM = 8 << 20, 64 << 30
MAX_LATENCY_NS = 10**9
MAX_CPUS = 8
MIN_MTU, MAX_MTU = 576, 9000
SWAP_HOMES = ("nfs", "disk")
DEFAULT_MEM = "32M"
ACCEPTANCE = "acceptance"
WAYS = ("gateway", "tap")


@attrs.frozen
class RunConfig:
    """The options of ``kemu run``.

    :param swap: where the swap area lives: "nfs", or "disk", a disk of the client's own; None leaves it to the scenario.
    :param mem: bytes of the client's memory.
    :param loss: probability that the wire loses a frame.
    :param latency_ns: one way, in ns.
    :param mtu: bytes of an IP packet on the wire; ``nic``: words of nic_words.py for the client's NIC.
    :param fill: path of a file whose bytes fill the pages, or None.
    :param trace: path of a lackey trace that the process follows, or None.
    :param proc: path of a directory for the client's /proc and /sys as they are at the end, or None; it changes nothing in the run.
    :param pcap: path of a file for a capture of the wire, or None; it changes nothing in the run either.
    :param server: a real server in the place of kemu's own, or None; ``via`` says how the client reaches it: "gateway" or "tap".
    :param server_dir: a directory that kemu's own server serves, or None: a tree in memory.
    :param swap_ops: the client's methods for swap files, "writepage" or "swapout".
    :param acceptance: what only the scenario acceptance is asked for.
    :param vehicle: how stacks are switched, "greenlet" or "threads"; None takes the best there is. No option: it changes nothing.
    """

    scenario: str = "main"
    swap: str | None = None
    mem: int = 32 << 20
    cpus: int = 1
    seed: int = 1
    patches: PatchSet = attrs.field(factory=PatchSet.all)
    fixes: FixSet = attrs.field(factory=FixSet.all)
    loss: float = 0.0
    latency_ns: int = 50_000
    mtu: int = 1500
    nic: str = ""
    fill: str | None = None
    trace: str | None = None
    proc: str | None = None
    pcap: str | None = None
    server: ServerUrl | None = None
    via: str = "gateway"
    server_dir: str | None = None
    swap_ops: str = "writepage"
    acceptance: AcceptanceOptions = attrs.field(factory=AcceptanceOptions)
    vehicle: str | None = None

    @classmethod
    def parse(
        cls,
        scenario: str,
        *,
        mem: str | None,
        cpus: int,
        seed: int,
        patches: str,
        fixes: str,
        loss: str,
        latency: str,
        fill: str | None,
        trace: str | None,
        swap: str | None = None,
        mtu: str = "1500",
        nic: str = "",
        proc: str | None = None,
        pcap: str | None = None,
        server: str | None = None,
        via: str | None = None,
        allow_remote: bool = False,
        server_dir: str | None = None,
        swap_ops: str = "writepage",
        scale: str | None = None,
        never_returns: bool = False,
        **acceptance: str | None,
    ) -> RunConfig:
        """Read the options as typed; :exc:`ConfigError` says in one sentence which cannot be used."""
        if swap is not None and swap not in SWAP_HOMES:
            raise ConfigError(f"--swap {swap!r} cannot be used; it is {' or '.join(SWAP_HOMES)}")
        nic_arguments(nic)
        if scenario != ACCEPTANCE:
            given = [name for name, value in {"scale": scale, "never_returns": never_returns, **acceptance}.items() if value]
            if given:
                raise ConfigError(f"--{given[0].replace('_', '-')} is for the scenario {ACCEPTANCE}, not for {scenario}")
        elif mem is not None or swap == "disk" or trace is not None:
            raise ConfigError(
                f"{ACCEPTANCE} has its own memory (--scale), swap area and processes; leave out --mem, --swap and --trace"
            )
        _check_server(scenario, server, via, allow_remote=allow_remote, swap=swap)
        if server is not None and server_dir is not None:
            raise ConfigError("--server and --server-dir cannot be used together")
        return cls(
            scenario=scenario,
            swap=swap,
            mem=parse_scale(scale or "1") if scenario == ACCEPTANCE else parse_size(mem or DEFAULT_MEM, "--mem", MIN_MEM, MAX_MEM),
            cpus=cpus,
            seed=seed,
            patches=PatchSet.parse(patches),
            fixes=FixSet.parse(fixes),
            loss=parse_probability(loss, "--loss"),
            latency_ns=parse_time(latency, "--latency", 1_000, MAX_LATENCY_NS),
            mtu=whole_number(mtu, "--mtu", MIN_MTU, MAX_MTU),
            nic=nic,
            fill=fill,
            trace=trace,
            proc=None if proc is None else prepare_directory(proc),
            pcap=None if pcap is None else prepare_capture(pcap),
            server=None if server is None else parse_server(server, allow_remote=allow_remote),
            via=via or "gateway",
            server_dir=server_dir,
            swap_ops=_swap_ops(swap_ops),
            acceptance=AcceptanceOptions.parse(never_returns=never_returns, **acceptance),
        )

    @property
    def command(self) -> str:
        """Return the one line that repeats the run."""
        plain = RunConfig()
        words = ["kemu", "run"]
        if self.scenario != plain.scenario:
            words.append(self.scenario)
        if self.swap is not None:
            words += ["--swap", self.swap]
        if self.scenario == ACCEPTANCE:
            words += ["--scale", scale_of(self.mem), *self.acceptance.words()]
        elif self.mem != plain.mem:
            words += ["--mem", format_size(self.mem)]
        if self.cpus != plain.cpus:
            words += ["--cpus", str(self.cpus)]
        words += ["--seed", str(self.seed), "--patches", str(self.patches), "--fixes", str(self.fixes)]
        if self.loss != plain.loss:
            words += ["--loss", repr(self.loss)]
        if self.latency_ns != plain.latency_ns:
            words += ["--latency", format_time(self.latency_ns)]
        if self.mtu != plain.mtu:
            words += ["--mtu", str(self.mtu)]
        if self.nic:
            words += ["--nic", self.nic]
        if self.swap_ops != plain.swap_ops:
            words += ["--swap-ops", self.swap_ops]
        words += self.server_words
        for option, value in (("--fill", self.fill), ("--trace", self.trace)):
            if value is not None:
                words += [option, value]
        return shlex.join(words)

    @property
    def server_words(self) -> list[str]:
        """Give the words that name a server which outlives the run."""
        words = [] if self.server_dir is None else ["--server-dir", self.server_dir]
        if self.server is not None:
            words += ["--server", self.server.text, *(["--allow-remote"] if self.server.remote else []), "--via", self.via]
        return words


def _swap_ops(word: str) -> str:
    """Check the name of an interface."""
    if word not in SWAP_OPS:
        raise ConfigError(f"--swap-ops {word!r} cannot be used; it is {' or '.join(SWAP_OPS)}")
    return word


def _check_server(scenario: str, server: str | None, via: str | None, *, allow_remote: bool, swap: str | None) -> None:
    """Hold the options of a real server against each other."""
    if via is not None and via not in WAYS:
        raise ConfigError(f"--via {via!r} cannot be used; it is {' or '.join(WAYS)}")
    if server is None:
        if via is not None or allow_remote:
            raise ConfigError("--via and --allow-remote go with --server")
    elif scenario != "main" or swap == "disk":
        raise ConfigError("--server is for the scenario main, swapping to nfs")
