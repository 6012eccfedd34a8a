"""The shell commands of scripts: sysctls are honoured, what does nothing here is noted, the rest is refused by name.

Interface: ``Commands(sysctl, note)``; ``run(text)``; raises :exc:`CommandUnsupported`.

Rules of this file
    * No command is run. A line is read as the few forms that scripts use: ``sysctl``, ``echo N > /proc/sys/...``, scripts of common
      settings, ``tc``, ``ip``, ``ethtool``.
    * A sysctl that the machine has is written. One that it does not have is refused, unless this value leaves a later kernel as
      2.6.23 is (_NEUTRAL), or it only tunes how a later kernel sends (_TUNING): these are noted.
    * defaults.sh of the published tests is known by name: it sets _DEFAULTS.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.sysctl import Sysctl

_DEFAULTS: Final = {
    "net.ipv4.tcp_rmem": "4096 540000 15728640",
    "net.ipv4.tcp_wmem": "4096 262144 4194304",
    "net.ipv4.tcp_timestamps": "1",
    "net.ipv4.tcp_syn_retries": "5",
    "net.ipv4.tcp_synack_retries": "5",
    "net.ipv4.tcp_sack": "1",
    "net.ipv4.tcp_dsack": "1",
}
_NEUTRAL: Final = {
    "net.ipv4.tcp_ecn": ("0",),
    "net.ipv4.tcp_fastopen": ("0",),
    "net.ipv4.tcp_fack": ("0",),
    "net.ipv4.tcp_frto": ("0",),
    "net.ipv4.tcp_reordering": ("3",),
    "net.ipv4.tcp_abc": ("0",),
    "net.ipv4.tcp_mtu_probing": ("0",),
    "net.ipv4.tcp_syncookies": ("0", "1"),
    "net.ipv4.tcp_congestion_control": ("reno",),
    "net.ipv4.tcp_shrink_window": ("0",),
    "net.ipv4.tcp_window_scaling": ("1",),
    "net.ipv4.tcp_tw_reuse": ("0",),
    "net.ipv4.tcp_slow_start_after_idle": ("1",),
    "net.ipv4.tcp_thin_linear_timeouts": ("0",),
    "net.ipv4.ip_no_pmtu_disc": ("0",),
    "net.mptcp.enabled": ("0", "1"),
}
_TUNING: Final = frozenset(
    """
    tcp_early_retrans tcp_recovery tcp_pacing_ss_ratio tcp_pacing_ca_ratio tcp_notsent_lowat tcp_fastopen_key tcp_min_tso_segs
    tcp_limit_output_bytes tcp_autocorking tcp_reflect_tos tcp_challenge_ack_limit tcp_invalid_ratelimit tcp_min_rtt_wlen
    tcp_comp_sack_nr tcp_comp_sack_delay_ns tcp_comp_sack_slack_ns tcp_tso_rtt_log tcp_tso_win_divisor tcp_no_metrics_save
    tcp_no_ssthresh_metrics_save tcp_max_reordering tcp_slow_start_after_idle tcp_congestion_control tcp_cwnd_min tcp_plb_enabled
    tcp_fastopen_blackhole_timeout_sec tcp_syncookies tcp_backlog_ack_defer tcp_rto_min_us tcp_rto_max_ms tcp_gso tcp_fwmark_accept
    tcp_fack tcp_frto tcp_reordering tcp_retrans_collapse
    """.split()  # noqa: SIM905  # a table for people
)
_IDLE: Final = frozenset(("tc", "ethtool", "sleep", "true", ":", "sync", "set", "modprobe", "echo", "rm", "cat"))
_LOOKS: Final = frozenset(("nstat", "netstat", "ss", "sockstat", "grep"))
_NAME: Final = re.compile(r"[a-z0-9_.\-/]+\Z", re.ASCII)
_ARITHMETIC: Final = re.compile(r"\$\(\(([0-9* ]{1,60})\)\)")
_PROC: Final = "/proc/sys/"


class CommandUnsupported(Exception):
    """A command that is not honoured; the text names it."""


class Commands:
    """Reads the commands of one script.

    :param note: called with a sentence for what is taken and does nothing.
    :param judged: what only looks at counters is refused; otherwise it is noted.
    """

    def __init__(self, sysctl: Sysctl, note: Callable[[str], None], judged: bool = True) -> None:
        self._sysctl = sysctl
        self._note = note
        self._judged = judged

    def run(self, text: str) -> None:
        """Do what a command says."""
        text = re.sub(r"\\\n", " ", text)
        for line in re.split(r"\n|;|&&", text):
            words = self._words(line)
            if words:
                self._line(words, line.strip())

    @staticmethod
    def _words(line: str) -> list[str]:
        """Split a line into words; quotes hold together, comments and what is redirected to /dev/null go."""
        line = _ARITHMETIC.sub(lambda match: str(_product(match[1])), line)
        line = re.sub(r"[0-9]?>\s*(/dev/null|&[0-9])", "", line)
        words = re.findall(r"""(?:"[^"]*"|'[^']*'|[^\s"'])+""", line)
        comment = next((index for index, word in enumerate(words) if word.startswith("#")), len(words))
        return [word.replace('"', "").replace("'", "") for word in words[:comment]]

    def _line(self, words: list[str], line: str) -> None:
        program = words[0].rpartition("/")[2]
        if program in ("sysctl", "set_sysctls.py"):
            self._sysctls([word for word in words[1:] if not word.startswith("-")], line)
        elif program == "defaults.sh":
            self._defaults()
        elif program == "echo" and ">" in line:
            value, _arrow, path = " ".join(words[1:]).partition(">")
            if not path.strip().startswith(_PROC):
                raise CommandUnsupported(f"the command {line!r} is not supported")
            self._write(path.strip(), value.strip())
        elif program in _IDLE or words[:2] == ["ip", "tcp_metrics"] or program.startswith("sysctl_restore"):
            self._note(f"the command {line!r} does nothing here")
        elif words[:2] == ["nstat", "-n"] or (program in _LOOKS and not self._judged):
            self._note(f"the command {line!r} only looks at counters")
        else:
            raise CommandUnsupported(f"the command {line!r} is not supported")

    def _defaults(self) -> None:
        """Set what the published tests set before they begin, as far as the machine has it."""
        known = set(self._sysctl.names())
        for name, value in _DEFAULTS.items():
            if name in known:
                self._sysctl.write(name, value)
        self._note("defaults.sh is taken for the published one; what later kernels brought is left out")

    def _sysctls(self, words: list[str], line: str) -> None:
        """Take ``name=value`` words."""
        for word in words:
            name, equals, value = word.partition("=")
            if not equals:
                self._note(f"the command {line!r} only reads a sysctl")
                continue
            self._write(name, value)

    def _write(self, name: str, value: str) -> None:
        """Write one sysctl, or say why not."""
        name = name.removeprefix(_PROC).replace("/", ".")
        if not _NAME.match(name):
            raise CommandUnsupported(f"the sysctl {name!r} is not supported")
        if name in self._sysctl.names():
            error = self._sysctl.write(name, value)
            if error < 0:
                raise CommandUnsupported(f"the sysctl {name} cannot be set to {value!r}")
        elif value.strip() in _NEUTRAL.get(name, ()):
            self._note(f"{name}={value} is how this kernel is")
        elif name.removeprefix("net.ipv4.") in _TUNING or name.startswith("net.core."):
            self._note(f"this kernel has no {name}; it tunes how others send")
        else:
            raise CommandUnsupported(f"the sysctl {name}={value} is not supported")


def _product(text: str) -> int:
    """Multiply the numbers of ``$((15*1024*1024))``."""
    product = 1
    for factor in text.split("*"):
        product *= int(factor) if factor.strip().isdecimal() else 1
    return product
