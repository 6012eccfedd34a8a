"""The whole stack of a machine, and what joins it."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from kemu.errors import KernelBug
from kemu.fixes import FixSet
from kemu.kernel.core import Kernel
from kemu.kernel.world import World
from kemu.mm.page_alloc import PageAllocator
from kemu.mm.reserve import Reserves
from kemu.mm.slub import Slub
from kemu.patches import PatchSet
from kemu_net.drivers.nic import Nic
from kemu_net.drivers.wire import Wire
from kemu_net.netfilter import nf_conntrack_proto as proto
from kemu_net.stack import NetStack
from net_ground import IP_A, IP_B, MAC_A, MAC_B, MIB


def boot(world, wire, name, mac, ip, *, patches="all", **options):
    kernel = Kernel(name, world, 1, PatchSet.parse(patches), FixSet.all())
    page_alloc = PageAllocator(kernel, 32 * MIB)
    slub = Slub(kernel, page_alloc)
    return NetStack(kernel, page_alloc, slub, Reserves(kernel, page_alloc, slub), wire, mac=mac, ip=ip, **options)


@contextmanager
def two_stacks(**options):
    with World() as world:
        wire = Wire(world)
        yield world, boot(world, wire, "a", MAC_A, IP_A, **options), boot(world, wire, "b", MAC_B, IP_B)


def serve(stack, port, sink):
    """Take one connection and read it to its end."""
    tcp = stack.tcp
    listener = tcp.sock_create()
    assert tcp.bind(listener, 0, port) == 0
    assert tcp.listen(listener, 5) == 0

    def body():
        sk = tcp.accept(listener)
        while data := tcp.recvmsg(sk, 65536):
            sink.append(data)
        tcp.close(sk)
        tcp.close(listener)

    stack.kernel.sched.spawn("server", body)


@pytest.mark.parametrize("options", [{}, {"patches": "none"}, {"packet_split": True}, {"rx_checksum": False}])
def test_a_stream_crosses(options):
    with two_stacks(**options) as (world, a, b):
        got = []
        serve(a, 2049, got)
        sk = b.tcp.sock_create()
        assert b.tcp.connect(sk, IP_A, 2049) == 0
        data = bytes(range(256)) * 400
        sent = 0
        while sent < len(data):
            sent += b.tcp.sendmsg(sk, data[sent:])
        b.tcp.close(sk)
        world.run(for_ns=2_000_000_000)
        assert b"".join(got) == data
        a.check()
        b.check()


def test_closing_leaves_no_packet_route_or_neighbour():
    with two_stacks() as (world, a, b):
        sk = a.udp.sock_create()
        a.udp.sendto(sk, b"x", IP_B, 7)
        world.run(for_ns=5_000_000)
        a.udp.close(sk)
        a.close()
        assert a.skbs.live == 0
        for name in ("skbuff_head_cache", "ip_dst_cache", "arp_cache", "UDP"):
            assert a.slub.objects_in_use(a.slub.caches[name]) == 0
        b.close()


def test_only_the_judged_machine_is_probed():
    with two_stacks(judged=True) as (world, a, _b):
        assert world.judge.closed_probes == [a.nic.dry_probe]


def test_a_wait_for_a_reply_is_explained_by_the_ring():
    with two_stacks() as (world, a, _b):
        explain = world.judge.explainers["reply"]
        assert explain(a.nic)[0] == "its reply needs an skb <- ring 256 of 256"
        assert explain(None)[1] is None


def test_a_class_can_be_overridden():
    made = []

    def build(cls, *args, **kwargs):
        made.append(cls.__name__)
        return cls(*args, **kwargs)

    with two_stacks(build=build):
        assert made == [
            *("NetReserves", "SkbAlloc", "Dev", "Nic", "NfHooks", "Inet", "Socks"),
            *("Udp", "Raw", "Tcp", "Inet6", "InetReserves", "PacketFamily"),
        ]
        assert Nic.__name__ in made


def test_a_normal_packet_in_the_reserve_is_noticed():
    with two_stacks() as (_world, a, _b):
        a.check_reserve_use()
        skb = a.nic.rx.buffers[0][0]
        a.page_alloc.reserve_pfns[a.slub.virt_to_page(skb.head).pfn] = None
        assert a.trespassers() > 0
        with pytest.raises(KernelBug, match="lie in the reserve"):
            a.check_reserve_use()


def test_the_same_seed_makes_the_same_history():
    digests = []
    for _ in range(2):
        with two_stacks() as (world, a, b):
            got = []
            serve(a, 2049, got)
            sk = b.tcp.sock_create()
            b.tcp.connect(sk, IP_A, 2049)
            b.tcp.sendmsg(sk, b"same" * 5000)
            world.run(for_ns=500_000_000)
            digests.append(world.history.hexdigest())
    assert digests[0] == digests[1]


def right_sums(frame: bytes) -> bool:
    """Tell whether an IPv4 frame's checksums are right, by adding words one by one."""
    size = 20
    packet = frame[14 : 14 + int.from_bytes(frame[16:18], "big")]
    segment = packet[size:]
    pseudo = packet[12:20] + b"\0" + packet[9:10] + len(segment).to_bytes(2, "big")
    for words in (packet[:size], pseudo + segment):
        total = 0
        for at in range(0, len(words), 2):
            total += int.from_bytes(words[at : at + 2].ljust(2, b"\0"), "big")
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        if total != 0xFFFF:
            return False
    return True


def test_every_frame_on_the_wire_has_right_checksums():
    with two_stacks() as (world, a, b):
        frames = []
        b.nic.wire.taps.append(lambda _time, frame: frames.append(frame))
        serve(a, 2049, [])
        sk = b.tcp.sock_create()
        b.tcp.connect(sk, IP_A, 2049)
        page = b.page_alloc.alloc_pages(0xD0, 0)
        page.contents = bytes(range(256)) * 16
        b.tcp.sendmsg(sk, b"odd" * 333)
        b.tcp.sendpage(sk, page, 3, 4001)
        b.tcp.close(sk)
        world.run(for_ns=500_000_000)
        packets = [frame for frame in frames if frame[12:14] == b"\x08\x00"]
        assert len(packets) > 8
        assert all(right_sums(frame) for frame in packets)
        assert all(len(frame) >= 60 for frame in frames)


def test_connections_are_tracked_on_demand():
    with two_stacks() as (_world, a, _b):
        assert not any(a.nf.registered)
        conntrack = a.load_conntrack()
        assert a.load_conntrack() is conntrack
        assert conntrack.max == 1024 * a.page_alloc.total_pages // 8192
        a.check()
        a.close()
        assert not any(a.nf.registered)


def test_a_tracked_stream_crosses_and_ends_in_time_wait():
    with two_stacks() as (world, a, b):
        conntrack = a.load_conntrack()
        got = []
        serve(a, 2049, got)
        sk = b.tcp.sock_create()
        assert b.tcp.connect(sk, IP_A, 2049) == 0
        (conn,) = {conn for bucket in conntrack.buckets for _tuple, conn in bucket}
        data = bytes(range(256)) * 40
        sent = 0
        while sent < len(data):
            sent += b.tcp.sendmsg(sk, data[sent:])
        world.run(for_ns=50_000_000)
        assert (conn.state, conn.assured) == (proto.ESTABLISHED, True)
        b.tcp.close(sk)
        world.run(for_ns=2_000_000_000)
        assert b"".join(got) == data
        assert conn.state == proto.TIME_WAIT
        world.run(for_ns=121_000_000_000)
        assert (conn.dying, conntrack.stat.delete) == (True, 1)
        assert conntrack.stat.invalid == 0
        a.check()


@pytest.mark.parametrize("patches", ["all", "none"])
def test_vlan_devices_carry_ip(patches):
    """A whole IP host on each end of a VLAN: the frames on the wire have its tag, and a stream crosses."""
    tagged = []
    with World() as world:
        wire = Wire(world)
        wire.taps.append(lambda _time, frame: tagged.append(frame[12:16] == b"\x81\x00\0\5"))
        a = boot(world, wire, "a", MAC_A, IP_A, vlan=5, patches=patches)
        b = boot(world, wire, "b", MAC_B, IP_B, vlan=5)
        got = []
        serve(a, 2049, got)
        sk = b.tcp.sock_create()
        assert b.tcp.connect(sk, IP_A, 2049) == 0
        assert b.tcp.sendmsg(sk, b"v" * 4000) == 4000
        b.tcp.close(sk)
        world.run(for_ns=2_000_000_000)
        assert b"".join(got) == b"v" * 4000
        assert tagged
        assert all(tagged)
