"""Shell commands of scripts: none is run; a few forms are understood."""

from __future__ import annotations

import pytest

from kemu_net.testing.pd_commands import Commands, CommandUnsupported


class _Sysctl:
    def __init__(self):
        self.written = {}

    def names(self):
        return ["net.ipv4.tcp_sack", "net.ipv4.tcp_rmem"]

    def write(self, name, value):
        self.written[name] = value
        return -22 if value == "bad" else 0


def _run(text):
    sysctl, notes = _Sysctl(), []
    Commands(sysctl, notes.append).run(text)
    return sysctl.written, notes


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("sysctl -q net.ipv4.tcp_sack=0", {"net.ipv4.tcp_sack": "0"}),
        ("sysctl -q -w net.ipv4.tcp_sack=0 > /dev/null 2>&1", {"net.ipv4.tcp_sack": "0"}),
        ("../common/set_sysctls.py /proc/sys/net/ipv4/tcp_sack=0", {"net.ipv4.tcp_sack": "0"}),
        ("echo 1 > /proc/sys/net/ipv4/tcp_sack", {"net.ipv4.tcp_sack": "1"}),
        ('sysctl -q net.ipv4.tcp_rmem="1 2 $((3*1024))"', {"net.ipv4.tcp_rmem": "1 2 3072"}),
        ("sysctl -q net.ipv4.tcp_sack=0; sysctl -q net.ipv4.tcp_rmem=5", {"net.ipv4.tcp_sack": "0", "net.ipv4.tcp_rmem": "5"}),
        ("./defaults.sh", {"net.ipv4.tcp_sack": "1", "net.ipv4.tcp_rmem": "4096 540000 15728640"}),
    ],
)
def test_sysctls_that_the_machine_has_are_written(text, written):
    assert _run(text)[0] == written


@pytest.mark.parametrize(
    "text",
    [
        "sysctl -q net.ipv4.tcp_ecn=0",
        "sysctl -q net.ipv4.tcp_early_retrans=3",
        "sysctl net.ipv4.tcp_sack",
        "tc qdisc replace dev tun0 root fq",
        "ethtool -K tun0 tso off",
        "/tmp/sysctl_restore_${PPID}.sh",
        "sysctl -q net.core.wmem_max=5",
    ],
)
def test_what_changes_nothing_here_is_noted(text):
    written, notes = _run(text)
    assert not written and len(notes) == 1


@pytest.mark.parametrize(
    "text",
    [
        "sysctl -q net.ipv4.tcp_fastopen=3",
        "sysctl -q net.ipv4.tcp_ecn=2",
        "sysctl -q net.ipv4.tcp_sack=bad",
        "ip route change 192.0.2.1 rto_min 5",
        "python3 x.py",
        "echo 1 > /etc/passwd",
        "sysctl -q ../../x=1",
    ],
)
def test_the_rest_is_refused_by_name(text):
    with pytest.raises(CommandUnsupported):
        _run(text)


def test_comments_and_blank_lines_are_nothing():
    assert _run("\n  # sysctl -q net.ipv4.tcp_sack=0\n\n") == ({}, [])
