"""The language of scripts: what is read, what is refused, and where the error is."""

from __future__ import annotations

import pytest

from kemu_net.testing.packetdrill import ScriptError, ScriptSyntaxError, ScriptUnsupported, parse_script
from kemu_net.testing.pd_ast import (
    ABSOLUTE,
    ANY_TIME,
    RELATIVE,
    Code,
    Command,
    Dots,
    Func,
    IcmpSpec,
    Items,
    Number,
    Option,
    Or,
    RawSpec,
    Struct,
    TcpSpec,
    Text,
    UdpSpec,
    When,
    Word,
)

MS = 1_000_000


def _events(text):
    return parse_script(text, "x.pkt").events


def _event(text):
    (event,) = _events(text)
    return event


def _packet(text):
    return _event(f"0 {text}").action


def _call(text):
    return _event(f"0 {text}").action


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("0", When(ABSOLUTE, 0)),
        ("1.5", When(ABSOLUTE, 1500 * MS)),
        (".1", When(ABSOLUTE, 100 * MS)),
        ("+0.25", When(RELATIVE, 250 * MS)),
        ("+.000001", When(RELATIVE, 1000)),
        ("*", When(ANY_TIME)),
        ("1~2", When(ABSOLUTE, 1000 * MS, 2000 * MS)),
        ("+.1~+.2", When(RELATIVE, 100 * MS, 200 * MS)),
    ],
)
def test_times(text, when):
    assert _event(f"{text} > . 1:1(0) ack 1").when == when


def test_comments_are_no_part_of_a_script():
    text = "// one\n# two\n/* three\n * lines */ 0 close(3) = 0 // behind\n"
    assert _event(text).line == 4


def test_a_segment():
    packet = _packet("< FP. 1:1001(1000) ack 7 win 257 urg 3 <mss 1460,nop,wscale 7,sackOK,TS val 1 ecr 2,sack 1:2 3:4>")
    options = (
        Option("mss", (1460,)),
        Option("nop"),
        Option("wscale", (7,)),
        Option("sackOK"),
        Option("TS", (1, 2)),
        Option("sack", (1, 2, 3, 4)),
    )
    assert packet.body == TcpSpec(1 | 8 | 16, 1, 1000, 7, 257, 3, options)


@pytest.mark.parametrize(
    ("flags", "value"),
    [("S", 2), ("S.", 18), (".", 16), ("-", 0), ("R", 4), ("R.", 20), ("SEW", 2 | 64 | 128), ("UP.", 32 | 8 | 16), ("FR", 5)],
)
def test_flags(flags, value):
    assert _packet(f"> {flags} 0:0(0)").body.flags == value


def test_any_options():
    assert _packet("> S. 0:0(0) ack 1 <...>").body.options is None


def test_ports():
    assert _packet("> 8080>40000 R. 0:0(0) ack 1").body.ports == (8080, 40000)


def test_ecn_and_tos_and_ttl():
    packet = _packet("< [ce] . 1:1(0) ack 1 win 1")
    assert (packet.tos, packet.tos_mask) == (3, 3)
    assert _packet("> [ect01] . 1:1(0) ack 1").tos_mask == 2
    assert _packet("> (tos 0x10) . 1:1(0) ack 1").tos == 16
    assert _packet("> (ttl 3) . 1:1(0) ack 1").ttl == 3


def test_a_datagram_and_its_fragment():
    packet = _packet("< udp (3000) {frag 1480:1480 id 7}")
    assert packet.body == UdpSpec(3000)
    assert packet.fragment == (1480, 1480, 7)


def test_icmp():
    packet = _packet("< icmp unreachable frag_needed mtu 1200 [1:1461(1460)]")
    assert packet.body == IcmpSpec(3, 4, 1200, 0, "tcp", 1, 1460)
    assert _packet("< icmp echo_request id 5").body == IcmpSpec(8, 0, None, 5, "tcp", 0, 0)
    assert _packet("< icmp unreachable port_unreachable [udp (8)]").body.about == "udp"
    assert _packet("< icmp type_40 code_2").body.type == 40


def test_a_raw_packet():
    assert _packet('< raw "45 00 ff"').body == RawSpec(b"\x45\x00\xff")


def test_a_call():
    call = _call("setsockopt(3, SOL_SOCKET, SO_LINGER, {onoff=1, linger=30}, 8) = -1 EINVAL (Invalid argument)")
    assert call.name == "setsockopt"
    assert call.args[3] == Struct((("onoff", Number(1)), ("linger", Number(30))))
    assert (call.result, call.errno, call.end) == (Number(-1), "EINVAL", None)


def test_a_call_that_may_block():
    event = _event("+0.1...0.25 read(4, ..., 100) = 100")
    assert event.when.time == 100 * MS
    assert event.action.end == 250 * MS


def test_values():
    assert _call("f(...) = 0").args == (Dots(),)
    assert _call('f("a" "b") = 0').args == (Text("ab"),)
    assert _call("f(A|B|0x10) = 0").args == (Or(Or(Word("A"), Word("B")), Number(16)),)
    assert _call("f([1, -2]) = 0").args == (Items((Number(1), Number(-2))),)
    assert _call("f(htons(80)) = 0").args == (Func("htons", (Number(80),)),)
    nested = _call("recvmsg(3, {msg_name(...)=..., msg_iov(1)=[{..., 9}], msg_flags=0}, 0) = 9").args[1]
    assert nested.get("msg_iov") == Items((Struct(((None, Dots()), (None, Number(9)))),))


def test_a_result_with_a_note():
    assert _call("fcntl(3, F_GETFL) = 0x2 (flags O_RDWR)").result == Number(2)


def test_code_and_commands():
    assert _event("0 %{ assert a == {1: 2}[1] }%").action == Code("assert a == {1: 2}[1]")
    assert _event("0 `sysctl -q a.b=1`").action == Command("sysctl -q a.b=1")


def test_what_stands_before_and_behind_the_events():
    script = parse_script("--mtu=1400\n--define=N=5\n`one`\n0 close(N) = 0\n`two`\n", "x")
    assert script.options[0].name == "mtu" and script.options[0].value == "1400"
    assert script.before == ((3, Command("one")),)
    assert script.events[0].action.args == (Number(5),)
    assert script.after == ((5, Command("two")),)


def test_the_command_line_defines_over_the_script():
    script = parse_script("--define=N=5\n0 close(N) = 0\n", "x", {"N": "6"})
    assert script.events[0].action.args == (Number(6),)


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("", "1", "no events"),
        ("0", "1", "expected after the time"),
        ("\n\n0 close(3) 0", "3", "'='"),
        ("0 close(3 = 0", "1", "','"),
        ("0 > Z 0:0(0)", "1", "TCP flags"),
        ("0 > . 1:2(0) ack 1", "1", "not 0 bytes"),
        ("0 > . 1:1(0) ack 4294967296", "1", "out of range"),
        ("0 < . 1:1(0) ack 1", "1", "win"),
        ("0 < S 0:0(0) win 1 <mss 1460", "1", "','"),
        ("0 < S 0:0(0) win 1 <...>", "1", "expected"),
        ("0 < S 0:0(0) win 1 <wat 3>", "1", "no TCP option"),
        ("* close(3) = 0", "1", "'*'"),
        ("1~2 close(3) = 0", "1", "range"),
        ("2~1 > . 1:1(0) ack 1", "1", "backwards"),
        ("-1 close(3) = 0", "1", "from 0"),
        ("0 close(3) = 0\n/* open", "2", "no end"),
        ("0 `open", "1", "no end"),
        ('0 write(3, "open, 4) = 4', "1", "no end"),
        ("0 %{ assert 1", "1", "no end"),
        ("0 close(3) = -1 EIO (Input", "1", "no end"),
        ("0 close(3) = 0\n--mtu=3\n0 close(3) = 0", "2", "before the first event"),
        ("0 < icmp wat", "1", "no ICMP type"),
        ("0 < icmp unreachable wat", "1", "no code"),
        ('0 < raw "4"', "1", "hex"),
        ("0 < udp (8) {frag 4:8}", "1", "multiple of 8"),
        ("--define=5\n0 close(3) = 0", "2", "NAME=VALUE"),
        ("0 f(" + "[" * 40 + "]" * 40 + ") = 0", "1", "nest"),
        ("0 close(1.5) = 0", "1", "whole number"),
        ("\x01", "1", "no meaning"),
    ],
)
def test_an_error_says_the_line(text, where, what):
    with pytest.raises(ScriptSyntaxError) as caught:
        parse_script(text, "dir/x.pkt")
    assert caught.value.where == f"dir/x.pkt:{where}"
    assert what in caught.value.reason


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("0 < S 0:0(0) win 1 <mss 1460,FO 1234>", "Fast Open"),
        ("0 < S 0:0(0) win 1 <mp_capable 0123>", "multipath"),
        ("0 < S 0:0(0) win 1 <md5 00>", "MD5"),
        ("0 < ipv4 1.2.3.4 > 5.6.7.8: . 1:1(0) win 1", "IP in IP"),
        ("0 < gre: . 1:1(0) win 1", "GRE"),
        ("0 < mpls (label 1): . 1:1(0) win 1", "MPLS"),
        ("0 > SA. 0:0(0)", "accurate ECN"),
        ("0 < . 1:1(0) ack 1 win 5 {mut ip ihl}", "random"),
        ("0 < [flowlabel 0x5] . 1:1(0) ack 1 win 5", "flowlabel"),
    ],
)
def test_what_is_not_built_is_named(text, what):
    with pytest.raises(ScriptUnsupported) as caught:
        parse_script(f"\n{text}", "x.pkt")
    assert caught.value.where == "x.pkt:2"
    assert what in caught.value.reason


def test_every_error_is_one_that_a_person_made():
    assert issubclass(ScriptSyntaxError, ScriptError) and issubclass(ScriptUnsupported, ScriptError)
