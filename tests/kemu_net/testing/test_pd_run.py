"""What a script that does not hold is told: file, line, what was expected and what was sent."""

from __future__ import annotations

import pytest

from kemu_net.testing.packetdrill import FAILED, OK, UNREADABLE, UNSUPPORTED, play_script

OPEN = """0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
+0 bind(3, ..., ...) = 0
+0 listen(3, 1) = 0
+0 < S 0:0(0) win 65535 <mss 1460>
+0 > S. 0:0(0) ack 1 <mss 1460>
+.1 < . 1:1(0) ack 1 win 65535
+0 accept(3, ..., ...) = 4
"""
LINES = OPEN.count("\n")


def _play(text, **options):
    return play_script(text, "x.pkt", **options)


def _after_open(text, **options):
    return _play(OPEN + text, **options)


def test_a_script_that_holds():
    result = _after_open("+.1 < P. 1:11(10) ack 1 win 65535\n+0 > . 1:1(0) ack 11\n")
    assert result.status == OK
    assert 0.2 < result.seconds < 300


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("+0 > . 1:1(0) ack 12", "expected > . 1:1(0) ack 12, but ack is 11; sent at 0.200"),
        ("+0 > P. 1:1(0) ack 11", "but the flags are .;"),
        ("+0 > . 2:2(0) ack 11", "but the sequence number is 1;"),
        ("+0 > . 1:2(1) ack 11", "but the length is 0;"),
        ("+0 > . 1:1(0) ack 11 win 1", "but win is 5840;"),
        ("+0 > . 1:1(0) ack 11 <nop>", "but the options are none;"),
        ("+0 > (tos 0x4) . 1:1(0) ack 11", "but tos is 0x0;"),
        ("+.1 > . 1:1(0) ack 11", "at 0.300"),
        ("+0 > udp (3)", "it is no UDP"),
        ("+0 > icmp echo_reply", "it is no ICMP"),
    ],
)
def test_a_wrong_packet(line, reason):
    result = _after_open(f"+.1 < P. 1:11(10) ack 1 win 65535\n{line}\n")
    assert result.status == FAILED
    assert result.where == f"x.pkt:{LINES + 2}"
    assert reason in result.reason


def test_the_line_that_was_sent_is_shown():
    result = _after_open("+.1 < P. 1:11(10) ack 1 win 65535\n+0 > . 1:1(0) ack 12\n")
    assert "> . 1:1(0) ack 11 win 5840" in result.reason


def test_a_missing_packet():
    result = _after_open("+.1 > . 1:1(0) ack 11\n")
    assert (result.status, result.where) == (FAILED, f"x.pkt:{LINES + 1}")
    assert "nothing was sent until" in result.reason


def test_an_unexpected_packet_is_told_where_the_next_one_is_expected():
    result = _after_open("+0 write(4, ..., 5) = 5\n+.1 < P. 1:11(10) ack 1 win 65535\n+0 > . 6:6(0) ack 11\n")
    assert (result.status, result.where) == (FAILED, f"x.pkt:{LINES + 3}")
    assert "> P. 1:6(5)" in result.reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("+0 write(4, ..., 5) = 6", "write(4, ..., 5) returned 5, expected 6"),
        ("+0 close(99) = 0", "close(99) returned -1 EBADF, expected 0"),
        ("+0 close(99) = -1 EINVAL (Invalid argument)", "returned -1 EBADF, expected -1 EINVAL"),
        ("+0 read(4, ..., 5) = 5", "blocks, but should return at once"),
        ("+0 ioctl(4, SIOCINQ, [7]) = 0", "it gives 0, not 7"),
        ("+0 getsockopt(4, SOL_SOCKET, SO_TYPE, [2], [4]) = 0", "the option's value is 1, not 2"),
        ("+0 poll([{fd=4, events=POLLIN|POLLOUT, revents=POLLIN}], 1, 0) = 1", "revents of 4 is 0x4, not 0x1"),
        ("+0...0.2 read(4, ..., 5) = 5", "did not return until"),
        ("+0 %{ assert 1 == 2 }%", "assert 1 == 2"),
    ],
)
def test_a_wrong_call(line, reason):
    result = _after_open(f"{line}\n")
    assert (result.status, result.where) == (FAILED, f"x.pkt:{LINES + 1}")
    assert reason in result.reason


def test_a_call_that_returns_too_late():
    result = _after_open("+0...0.1 read(4, ..., 5) = 5\n+.2 < P. 1:11(10) ack 1 win 65535\n+0 close(4) = 0\n")
    assert (result.status, result.where) == (FAILED, f"x.pkt:{LINES + 1}")


def test_a_call_that_returns_too_early():
    result = _after_open("+0...0.3 read(4, ..., 5) = 5\n+.1 < P. 1:11(10) ack 1 win 65535\n+0 close(4) = 0\n")
    assert "returned at 0.2" in result.reason and "expected at 0.4" in result.reason


def test_an_event_that_is_over():
    result = _after_open("0.01 close(4) = 0\n")
    assert result.status == FAILED
    assert "should happen at 0.010000" in result.reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("+0 epoll_create(1) = 5", "epoll_create()"),
        ("+0 frobnicate(1) = 5", "there is no system call frobnicate()"),
        ("+0 setsockopt(4, SOL_TCP, TCP_FASTOPEN, [1], 4) = 0", "TCP_FASTOPEN"),
        ("+0 setsockopt(4, SOL_TCP, TCP_WAT, [1], 4) = 0", "TCP_WAT is not known"),
        ("+0 write(4, NULL, 5) = -1 EFAULT (Bad address)", "NULL"),
        ("+0 `ip route change 1.2.3.4`", "ip route change"),
        ("+0 `sysctl -q net.ipv4.tcp_ecn=1`", "net.ipv4.tcp_ecn=1"),
        ("+0 %{ import os }%", "import"),
        ("+0 %{ assert tcpi_wat == 1 }%", "tcpi_wat"),
        ("+0 sendmsg(4, {msg_name(...)=..., msg_iov(1)=[{..., 1}], msg_flags=0, msg_control=[{}]}, 0) = 1", "msg_control"),
    ],
)
def test_what_is_not_supported_is_named(line, reason):
    result = _after_open(f"{line}\n")
    assert (result.status, result.where) == (UNSUPPORTED, f"x.pkt:{LINES + 1}")
    assert reason in result.reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("+0 close() = 0", "takes 1 arguments, not 0"),
        ("+0 poll(3, 1, 0) = 0", "list of descriptors"),
        ("+0 %{ assert }%", "cannot be evaluated"),
        ("+0 < udp (5)", "no UDP socket"),
    ],
)
def test_what_makes_no_sense_is_unreadable(line, reason):
    result = _after_open(f"{line}\n")
    assert (result.status, result.where) == (UNREADABLE, f"x.pkt:{LINES + 1}")
    assert reason in result.reason


@pytest.mark.parametrize(
    ("option", "status", "reason"),
    [
        ("--ip_version=ipv6", UNSUPPORTED, "only ipv4"),
        ("--wire_client", UNSUPPORTED, "wire_client"),
        ("--nonsense=3", UNREADABLE, "there is no option --nonsense"),
        ("--mtu=9", UNREADABLE, "from 68 to 9000"),
        ("--local_ip=1.2.3", UNREADABLE, "an IPv4 address"),
        ("--netmask_ip=255.0.255.0", UNREADABLE, "a netmask"),
        ("--non_fatal=wat", UNREADABLE, "packet, syscall"),
        ("--mtu=65535", UNSUPPORTED, "at most 9000"),
        ("--ring=4096 --mem=8", UNREADABLE, "does not fit"),
    ],
)
def test_options_are_refused_with_their_line(option, status, reason):
    result = _play(f"// x\n{option}\n0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n")
    assert (result.status, result.where) == (status, "x.pkt:2")
    assert reason in result.reason


def test_addresses_and_ports_of_the_options():
    text = "--local_ip=10.9.0.1\n--gateway_ip=10.9.0.2\n--netmask_ip=255.255.255.0\n--remote_ip=10.8.0.1\n--connect_port=99\n"
    result = _play(f"{text}0 socket(..., SOCK_DGRAM, IPPROTO_UDP) = 3\n+0 sendto(3, ..., 5, 0, ..., ...) = 5\n+0 > udp (5)\n")
    assert (result.status, result.reason) == (OK, "")


def test_non_fatal_calls_are_noted():
    result = _play(f"--non_fatal=syscall\n{OPEN}+0 write(4, ..., 5) = 6\n")
    assert result.status == OK
    assert any("returned 5, expected 6" in note for note in result.notes)


def test_in_stimulus_mode_packets_are_not_judged_and_calls_are():
    wrong = "+.1 < P. 1:11(10) ack 1 win 65535\n+0 > . 1:1(0) ack 12\n+0 %{ assert 1 == 2 }%\n+0 read(4, ..., 20) = "
    assert _after_open(f"{wrong}10\n", stimulus=True).status == OK
    result = _after_open(f"{wrong}11\n", stimulus=True)
    assert (result.status, result.where) == (FAILED, f"x.pkt:{LINES + 4}")


def test_in_stimulus_mode_the_peer_still_learns_the_numbers():
    text = (
        "+.1 write(4, ..., 100) = 100\n+0 > P. 1:101(100) ack 1\n+.1 < . 1:1(0) ack 101 win 65535\n+0 ioctl(4, SIOCOUTQ, [0]) = 0\n"
    )
    assert _after_open(text, stimulus=True).status == OK


def test_a_wrong_byte_is_a_failure():
    text = OPEN + '+.1 write(4, "abc", 3) = 3\n+0 > P. 1:4(3) ack 1\n+.1 < P. 1:4(3) ack 4 win 65535\n+0 read(4, ..., 3) = 3\n'
    assert _play(text).status == OK


def test_a_command_that_does_nothing_is_noted():
    result = _play("`tc qdisc add dev tun0 root pfifo\nsysctl -q net.ipv4.tcp_early_retrans=4`\n" + OPEN)
    assert result.status == OK
    assert len(result.notes) == 2 and all(note.startswith("x.pkt:1: ") for note in result.notes)


def test_a_sysctl_of_the_machine_is_written():
    result = _play(
        "`sysctl -q net.ipv4.tcp_rmem='4096 8192 16384'`\n" + OPEN + "+0 getsockopt(4, SOL_SOCKET, SO_RCVBUF, [8192], [4]) = 0\n"
    )
    assert (result.status, result.reason) == (OK, "")
