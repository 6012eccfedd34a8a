"""Captures say of each frame what became of it, and change nothing."""

from __future__ import annotations

import pytest

from captures import captured, read_pcapng
from kemu.errors import ConfigError
from kemu.kernel.world import World
from kemu_lab.capture import FLUSH_EVERY, KEEP_NS, Capture, prepare_capture
from kemu_lab.cli import main
from kemu_net.drivers.wire import Wire
from net_ground import IP_B, MAC_A, MAC_B, two_hosts, udp_frame

INBOUND, OUTBOUND = 1, 2


class Sender:
    """A foreign host; what it is sent is counted."""

    mac = b"\x02\0\0\0\0\x09"

    def __init__(self, wire):
        self.wire = wire
        self.got = 0
        wire.attach(self)

    def deliver(self, time, frame):
        self.got += 1

    def send(self, frame, count=1):
        for _ in range(count):
            self.wire.transmit(self, frame, 0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.pcapng"


def ping_pong(net, path):
    """Let a send a datagram to b, which has a socket, and b one to a, which has none."""
    with captured(path, net.wire, a=net.a, b=net.b):
        net.greet()
        out = net.b.socket(9)
        net.b.udp.sendto(out, b"nobody", 0x0A000001, 12)
        net.run(5)
        net.b.udp.close(out)
    return read_pcapng(path)


def test_a_frame_stands_where_it_arrived(path):
    with two_hosts() as net:
        _, packets = ping_pong(net, path)
        frames = [frame for _, frame in net.frames]
    assert sorted(packet.frame for packet in packets) == sorted(frames)
    assert {(packet.interface, packet.direction) for packet in packets} == {(0, INBOUND), (1, INBOUND)}
    assert all(packet.frame[:6] in ((MAC_A, MAC_B)[packet.interface], b"\xff" * 6) for packet in packets)


def test_times_are_those_of_arrival_and_never_go_back(path):
    with two_hosts() as net:
        _, packets = ping_pong(net, path)
        assert [packet.time for packet in packets] == sorted(time for time, _ in net.frames)


def test_interfaces_are_the_machines(path):
    with two_hosts() as net:
        interfaces, _ = ping_pong(net, path)
    assert [interface[2] for interface in interfaces] == [b"a", b"b"]
    assert [interface[6] for interface in interfaces] == [MAC_A, MAC_B]


def test_a_frame_that_was_used_has_no_comment_and_a_dropped_one_says_why(path):
    with two_hosts() as net:
        _, packets = ping_pong(net, path)
    comments = {packet.frame[42:48]: packet.comments for packet in packets if packet.frame[23] == 17}
    assert comments[b"nobody"] == ["dropped: udp: no socket"]
    assert comments[b"hello\0"] == []


def test_what_the_wire_loses_stands_where_it_was_sent(path):
    with two_hosts() as net:
        net.greet()
        net.wire.cut()
        with captured(path, net.wire, a=net.a, b=net.b):
            out = net.a.socket(9)
            net.a.udp.sendto(out, b"gone", IP_B, 12)
            net.run(1)
            net.a.udp.close(out)
    ((packet,), _) = read_pcapng(path)[1], None
    assert (packet.interface, packet.direction, packet.comments) == (0, OUTBOUND, ["wire: lost (cut)"])


@pytest.mark.parametrize(
    ("fault", "comment"),
    [
        ({"loss": 1.0}, "wire: lost (loss)"),
        ({"reorder": 1.0}, "wire: held up for 300 us"),
        ({"corrupt": 1.0}, "wire: corrupted, bit"),
    ],
)
def test_what_the_wire_did_is_said(path, fault, comment):
    with two_hosts(wire=fault) as net, captured(path, net.wire, a=net.a, b=net.b):
        out = net.a.socket(9)
        net.a.udp.sendto(out, b"x", IP_B, 12)
        net.run(2)
        net.a.udp.close(out)
    assert all(any(each.startswith(comment) for each in packet.comments) for packet in read_pcapng(path)[1])


def test_a_frame_for_somebody_else_stands_where_it_was_sent(path):
    with two_hosts() as net:
        sender = Sender(net.wire)
        with captured(path, net.wire, a=net.a):
            net.a.nic.wire.transmit(net.a.nic, sender.mac + MAC_A + b"\x08\0" + bytes(50), net.world.now)
            net.run(1)
        assert sender.got == 1
    (packet,) = read_pcapng(path)[1]
    assert (packet.interface, packet.direction) == (0, OUTBOUND)


def test_emergency_memory_the_reserve_and_the_gate_are_named(path):
    with two_hosts(ring=16) as net:
        sender = Sender(net.wire)
        sk = net.a.socket(7)
        ring = net.a.nic.rx
        net.a.swap_over_network()
        while ring.buffers:
            ring._free_buffer(ring.buffers.popleft())
        net.a.hog()
        ring.refill()
        limit = net.a.net_reserves.net_skb_reserve.limit
        usage = net.a.usage
        with captured(path, net.wire, a=net.a):
            sender.send(udp_frame())
            net.run(5)
        net.a.unhog()
        net.a.udp.close(sk)
    (packet,) = read_pcapng(path)[1]
    assert packet.comments == [
        f"skb->emergency=1 reserve={usage}/{limit}",
        "dropped: socket gate, the socket does not carry swap (patch 20)",
    ]


def test_a_dry_ring_is_named(path):
    with two_hosts(ring=16) as net:
        sender = Sender(net.wire)
        limit = net.a.net_reserves.net_skb_reserve.limit
        ring = net.a.nic.rx
        while ring.buffers:
            ring._free_buffer(ring.buffers.popleft())
        with captured(path, net.wire, a=net.a):
            sender.send(udp_frame())
            net.run(5)
    (packet,) = read_pcapng(path)[1]
    assert packet.comments == [f"dry ring: no descriptor had a buffer, reserve=0/{limit}"]


def test_what_was_on_its_way_at_the_end_says_so(path):
    with two_hosts() as net:
        sender = Sender(net.wire)
        with captured(path, net.wire, a=net.a):
            sender.send(udp_frame())
    assert read_pcapng(path)[1][0].comments == ["not received: the run ended before"]


def test_a_long_capture_is_written_while_it_grows(path):
    with two_hosts() as net:
        sender = Sender(net.wire)
        capture = Capture(str(path), net.wire)
        capture.add("a", net.a)
        sender.send(udp_frame(), FLUSH_EVERY - 1)
        net.wire.transmit(sender, udp_frame(b"last"), 2 * KEEP_NS)
        assert len(capture._records) == 1
        capture.finish()
    assert len(read_pcapng(path)[1]) == FLUSH_EVERY


def test_without_a_capture_no_tracepoint_is_on():
    with two_hosts() as net:
        assert net.wire.watcher is None
        assert not any(point.enabled for point in net.a.kernel.trace.points())


def test_an_error_leaves_no_file(path):
    def failing(net):
        with captured(path, net.wire, a=net.a, b=net.b):
            net.greet()
            raise RuntimeError

    with two_hosts() as net:
        with pytest.raises(RuntimeError):
            failing(net)
        assert net.wire.watcher is None
    assert list(path.parent.iterdir()) == []


def test_a_file_that_is_there_stays_until_the_new_one_is_whole(path):
    path.write_text("old")
    with two_hosts() as net:
        with pytest.raises(RuntimeError), captured(path, net.wire, a=net.a):
            raise RuntimeError
        assert path.read_text() == "old"
        with captured(path, net.wire, a=net.a):
            net.greet()
    assert len(read_pcapng(path)[1]) > 1


def test_a_full_disk_is_one_sentence():
    why = "--pcap '/dev/full' cannot be written: No space left on device"
    with two_hosts() as net, pytest.raises(ConfigError, match=why), captured("/dev/full", net.wire, a=net.a):
        net.greet()


@pytest.mark.parametrize(
    ("name", "why"), [("", "needs the name"), ("/", "is a directory"), ("/nonexistent/x", "No such file"), ("\0", "null")]
)
def test_a_file_that_cannot_be_written_is_refused_before_the_run(name, why):
    with pytest.raises(ConfigError, match=why):
        prepare_capture(name)


def test_looking_whether_a_file_can_be_written_leaves_none(path):
    assert prepare_capture(str(path)) == str(path)
    assert list(path.parent.iterdir()) == []


def test_a_wire_has_one_capture(tmp_path):
    world = World()
    wire = Wire(world)
    Capture(str(tmp_path / "x"), wire)
    with pytest.raises(ConfigError, match="one capture"):
        Capture(str(tmp_path / "y"), wire)
    world.shutdown()


def test_the_commands_say_what_is_wrong_with_the_name(capsys):
    for words in (["run", "--pcap", "/nonexistent/x"], ["run", "late-disk", "--pcap", "/"]):
        assert main(words) == 2
        assert "--pcap" in capsys.readouterr().err
