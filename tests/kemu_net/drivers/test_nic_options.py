"""The NIC's switches: MTU, checksums, promiscuous mode, copybreak, counters."""

from __future__ import annotations

import pytest

from kemu.errors import ConfigError
from kemu_net.core.checksum import csum_tcpudp_magic
from kemu_net.core.skbuff import CHECKSUM_PARTIAL, MAX_SKB_FRAGS, PACKET_OTHERHOST
from kemu_net.drivers.nic import fill_checksum
from net_ground import IP_A, IP_B, MAC_A, MAC_B, MIB, filled, two_hosts, udp_frame


def big_frame(size):
    return udp_frame(bytes(range(256)) * (size // 256))


def to_b(frame):
    return MAC_B + MAC_A + frame[12:]


@pytest.mark.parametrize("packet_split", [False, True])
def test_a_larger_mtu_lets_larger_frames_in_at_once(packet_split):
    with two_hosts(packet_split=packet_split, mem=64 * MIB, ring=32) as net:
        net.greet()
        sk = net.a.socket(7)
        net.flood(big_frame(8192))
        net.run(2)
        assert net.a.nic.ethtool_stats()["rx_long_length_errors"] == 1
        net.a.nic.change_mtu(9000)
        net.flood(big_frame(8192))
        net.run(2)
        assert net.a.udp.recvfrom(sk, nonblock=True)[0] == bytes(range(256)) * 32
        net.a.nic.change_mtu(1500)
        assert net.a.nic.rx.capacity < 8192
        assert len(net.a.nic.rx.buffers) == 32
        net.a.udp.close(sk)


def test_a_reset_loses_what_lies_in_the_ring_and_frees_it():
    with two_hosts(ring=32) as net:
        live = net.a.skbs.live
        net.flood(udp_frame(), 5)
        net.a.nic.rx.dma(net.world.now + 1_000_000)
        assert len(net.a.nic.rx.done) == 5
        net.a.nic.change_mtu(1500)
        assert (len(net.a.nic.rx.done), net.a.skbs.live) == (0, live)


def test_a_closed_nic_changes_its_mtu_without_buffers():
    with two_hosts() as net:
        net.a.nic.close()
        net.a.nic.change_mtu(9000)
        assert (net.a.nic.mtu, len(net.a.nic.rx.buffers)) == (9000, 0)


def test_who_must_know_of_a_new_mtu_is_told():
    with two_hosts() as net:
        told = []
        net.a.nic.mtu_changed.append(lambda: told.append(net.a.nic.mtu))
        net.a.nic.change_mtu(4000)
        assert told == [4000]


@pytest.mark.parametrize("mtu", [67, 9001])
def test_an_mtu_that_the_card_has_not_is_refused(mtu):
    with two_hosts() as net, pytest.raises(ConfigError, match="68 to 9000"):
        net.a.nic.change_mtu(mtu)


@pytest.mark.parametrize(("promiscuous", "heard"), [(False, 0), (True, 3)])
def test_frames_for_others_are_heard_in_promiscuous_mode_only(promiscuous, heard):
    with two_hosts(promiscuous=promiscuous) as net:
        kinds = []
        net.a.dev.ptype_all.append(lambda skb: (kinds.append(skb.pkt_type), net.a.skbs.kfree_skb(skb)))
        net.flood(MAC_B + udp_frame()[6:], 3)
        net.run(1)
        assert kinds == [PACKET_OTHERHOST] * heard


@pytest.mark.parametrize("tx_checksum", [False, True])
def test_a_checksum_is_right_whoever_fills_it_in(tx_checksum):
    with two_hosts(tx_checksum=tx_checksum, b={}) as net:
        frame = to_b(udp_frame(b"y" * 1000))
        skb = filled(net.a.skbs, frame[:40] + b"\0\0" + frame[42:])
        skb.ip_summed = CHECKSUM_PARTIAL
        skb.h = 34
        skb.dev = net.a.nic
        before = net.a.kernel.cpus[0].now
        net.a.nic.hard_start_xmit(skb)
        spent = net.a.kernel.cpus[0].now - before
        net.run(1)
        sent = net.frames[-1][1]
        assert sent == fill_checksum(frame[:40] + b"\0\0" + frame[42:], 34)
        segment = sent[34:40] + b"\0\0" + sent[42:]
        assert int.from_bytes(sent[40:42], "big") == csum_tcpudp_magic(IP_B, IP_A, 17, segment)
        assert (spent > 1_500) is not tx_checksum  # NIC_TX_FRAME and IP_TX, and with software the sum


def test_copybreak_leaves_the_buffer_in_the_ring():
    with two_hosts(copybreak=256, ring=32) as net:
        net.greet()
        sk = net.a.socket(7)
        net.flood(udp_frame(b"short"))
        net.flood(udp_frame(b"l" * 600))
        net.run(2)
        short, long = sk.sk_receive_queue
        assert short.end < 256 < long.end
        assert len(net.a.nic.rx.buffers) == 32
        assert net.a.udp.recvfrom(sk, nonblock=True)[0] == b"short"
        net.a.udp.close(sk)


def test_without_memory_for_the_copy_the_frame_keeps_its_buffer():
    with two_hosts(copybreak=256, ring=32, patches="none", b={}) as net:
        net.greet()
        sk = net.a.socket(7)
        net.a.hog()
        net.flood(udp_frame(b"short"))
        net.run(2)
        assert sk.sk_receive_queue[0].end > 1000
        net.a.unhog()
        net.a.udp.close(sk)


def test_the_transmit_ring_holds_the_largest_packet_however_small_the_ring():
    with two_hosts(ring=8) as net:
        skb = filled(net.a.skbs, to_b(udp_frame()))
        skb.dev = net.a.nic
        for index in range(MAX_SKB_FRAGS):
            page = net.a.page_alloc.alloc_pages(0x20, 0)
            net.a.skbs.skb_add_rx_frag(skb, index, page, 0, 10)
        assert net.a.dev.dev_queue_xmit(skb) == 0
        net.run(10)
        assert not net.a.nic.qdisc
        assert len(net.frames[-1][1]) == len(udp_frame()) + 10 * MAX_SKB_FRAGS


def test_the_driver_counts_what_found_no_buffer():
    with two_hosts(patches="none", ring=32, b={}) as net:
        net.greet()
        sk = net.a.socket(7)
        net.a.hog()
        net.flood(udp_frame(), 60)
        net.run(10)
        counters = net.a.nic.ethtool_stats()
        assert counters["rx_no_buffer_count"] == counters["rx_missed_errors"] == net.a.stats.drops["nic"] > 0
        assert counters["alloc_rx_buff_failed"] > 0
        net.a.unhog()
        net.a.udp.close(sk)
