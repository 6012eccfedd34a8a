"""The receive ring: which frame finds a buffer, and what becomes of it."""

from __future__ import annotations

import pytest

from kemu_net.core.skbuff import CHECKSUM_UNNECESSARY
from kemu_net.drivers.rx_ring import split_point, verify_checksum
from net_ground import IP_A, MAC_A, MAC_B, MIB, two_hosts, udp_frame


@pytest.fixture
def net():
    with two_hosts() as net:
        net.greet()
        yield net


def test_a_frame_for_somebody_else_is_ignored(net):
    frame = udp_frame()
    other = b"\x02\0\0\0\0\x55" + frame[6:]
    net.flood(other)
    received = net.a.stats.rx_frames
    net.run(1)
    assert net.a.stats.rx_frames == received
    assert net.a.stats.ignored["not for this NIC"] == 1


@pytest.mark.parametrize("frame", [b"", b"\x02", MAC_A + MAC_B + b"\x08", MAC_A + bytes(3000)])
def test_runts_and_giants_are_ignored(net, frame):
    net.flood(frame)
    net.run(1)
    assert net.a.stats.ignored["not for this NIC"] == 1


def test_the_ring_is_full_again_after_a_poll(net):
    net.flood(udp_frame(), 100)
    net.run(2)
    assert len(net.a.nic.rx.buffers) == 256
    net.a.slub.check()


def test_more_frames_than_descriptors_are_lost_at_the_nic(net):
    # all of them arrive while interrupts are disabled
    net.a.kernel.sched.local_irq_save()
    frame = udp_frame()
    now = net.a.kernel.sched.now
    for index in range(300):
        net.a.nic.rx.arrive(now + index, frame)
    net.a.nic.rx.dma(now + 300)
    assert net.a.stats.drops["nic"] == 300 - 256
    net.a.kernel.sched.local_irq_restore(0)


def test_a_checksum_is_verified_in_hardware(net):
    seen = []
    net.a.dev.ptype_all.append(lambda skb: (seen.append(skb.ip_summed), net.a.skbs.kfree_skb(skb)))
    net.flood(udp_frame())
    net.run(1)
    assert seen == [CHECKSUM_UNNECESSARY]


def test_without_the_hardware_software_verifies():
    with two_hosts(rx_checksum=False) as net:
        net.greet()
        sk = net.a.socket(7)
        frame = bytearray(udp_frame())
        net.flood(bytes(frame))
        frame[-1] ^= 1
        net.flood(bytes(frame))
        net.run(1)
        assert len(sk.sk_receive_queue) == 1
        assert net.a.stats.ignored["udp: checksum"] == 1


def test_verify_checksum_sees_a_flipped_bit():
    frame = bytearray(udp_frame(b"odd"))
    assert verify_checksum(bytes(frame))
    frame[43] ^= 0x10
    assert not verify_checksum(bytes(frame))


def test_split_finds_the_end_of_the_headers():
    assert split_point(udp_frame(b"x")) == (42, 43)
    assert split_point(b"\0" * 200) == (128, 200)


def test_jumbo_frames_get_jumbo_buffers():
    with two_hosts(mtu=9000, mem=64 * MIB, ring=64) as net:
        net.greet()
        sk = net.a.socket(7)
        assert net.b.udp.sendto(net.b.udp.sock_create(), b"j" * 8000, IP_A, 7) == 8000
        net.run(1)
        assert net.a.udp.recvfrom(sk, nonblock=True)[0] == b"j" * 8000
