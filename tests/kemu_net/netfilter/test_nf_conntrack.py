"""Connection tracking: entries are made, confirmed, refreshed, dropped and forgotten."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.timer import HZ
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.checksum import csum_fold, csum_partial
from kemu_net.netfilter.core import NF_DROP, NF_IP_LOCAL_IN, NfHookOps
from kemu_net.netfilter.nf_conntrack import SIZEOF_NF_CONN, NfConntrack
from net_ground import IP_A, IP_B, MAC_A, MAC_B, ip_packet, two_hosts, udp_frame


@pytest.fixture
def net():
    with tracking() as net:
        yield net


class tracking:
    """Two hosts that know each other; the first tracks."""

    def __init__(self, **options):
        self.inner = two_hosts(**options)

    def __enter__(self):
        net = self.inner.__enter__()
        net.greet()
        host = net.a
        net.ct = NfConntrack(host.kernel, host.nf, host.page_alloc.total_pages, host.inet.frags.ip_defrag)
        net.ct.load()
        self.net = net
        return net

    def __exit__(self, *exc):
        if exc[0] is None:
            self.net.ct.check()
            self.net.ct.unload()
            assert (self.net.ct.count, self.net.a.in_use("nf_conntrack")) == (0, 0)
        return self.inner.__exit__(*exc)


def ping(ident: int) -> bytes:
    body = struct.pack("!BBHHH", 8, 0, 0, ident, 1)
    body = body[:2] + csum_fold(csum_partial(body)).to_bytes(2, "big") + body[4:]
    return (MAC_A + MAC_B + b"\x08\x00" + ip_packet(1, body)).ljust(60, b"\0")


def conns(net):
    return {conn for bucket in net.ct.buckets for _tuple, conn in bucket}


def test_a_flow_has_one_entry(net):
    sk = net.a.socket(7)
    net.flood(udp_frame(), 3)
    net.run(5)
    (conn,) = conns(net)
    assert conn.orig == (IP_B, IP_A, 17, 9, 7)
    assert (net.ct.stat.new, net.ct.stat.insert, net.a.in_use("nf_conntrack")) == (1, 1, 1)
    net.a.udp.close(sk)


def test_what_is_sent_makes_an_entry_too_and_the_answer_finds_it(net):
    sk, peer = net.a.socket(7), net.b.socket(9)
    net.a.udp.sendto(sk, b"question", IP_B, 9)
    net.run(5)
    (conn,) = conns(net)
    assert not conn.assured
    net.b.udp.sendto(peer, b"answer", IP_A, 7)
    net.run(5)
    assert (net.ct.count, conn.seen_reply, conn.assured) == (1, True, True)
    net.a.udp.close(sk)
    net.b.udp.close(peer)


def test_an_entry_is_forgotten_after_its_time(net):
    sk = net.a.socket(7)
    net.flood(udp_frame())
    net.run(29_000)
    assert net.ct.count == 1
    net.run(2_000)
    assert (net.ct.count, net.ct.stat.delete) == (0, 1)
    net.a.udp.close(sk)


def test_each_packet_gives_it_new_time(net):
    sk = net.a.socket(7)
    net.flood(udp_frame())
    net.run(20_000)
    net.flood(udp_frame())
    net.run(20_000)
    assert net.ct.count == 1
    net.a.udp.close(sk)


def test_an_answered_ping_leaves_nothing(net):
    sent = net.a.stats.tx_frames
    net.flood(ping(1))
    net.run(5)
    assert net.a.stats.tx_frames == sent + 1
    assert (net.ct.stat.new, net.ct.count) == (1, 0)


def test_a_lost_packet_takes_its_entry_along(net):
    net.a.nf.nf_register_hook(NfHookOps(lambda *_args: NF_DROP, NF_IP_LOCAL_IN))
    net.flood(udp_frame())
    net.run(5)
    assert (net.ct.stat.new, net.ct.stat.insert, net.ct.count) == (1, 0, 0)


def test_a_full_table_drops_an_unanswered_flow_first(net):
    sk = net.a.socket(7)
    net.ct.max = 4
    for sport in range(100, 110):
        net.flood(udp_frame(sport=sport))
        net.run(1)
    # of eight entries looked at, each that is there may go
    assert net.ct.count <= 4
    assert net.ct.stat.early_drop + net.ct.stat.drop == 6
    assert net.ct.stat.early_drop > 0
    net.a.udp.close(sk)


def test_answered_flows_are_spared_and_the_newcomer_is_dropped(net):
    sk = net.a.socket(7)
    net.ct.max = 1
    net.flood(udp_frame(sport=100))
    net.run(1)
    (conn,) = conns(net)
    conn.assured = True
    net.flood(udp_frame(sport=101))
    net.run(1)
    assert conns(net) == {conn}
    assert (net.ct.stat.drop, net.a.stats.ignored["netfilter"]) == (1, 1)
    net.a.udp.close(sk)


def test_without_memory_the_packet_is_dropped(net):
    sk = net.a.socket(7)
    net.a.hog()
    taken = []
    while (addr := net.a.slub.kmem_cache_alloc(net.ct.cache, GFP_ATOMIC)) is not None:
        taken.append(addr)
    net.flood(udp_frame())
    net.run(5)
    assert (net.ct.stat.drop, net.ct.count) == (1, 0)
    for addr in taken:
        net.a.slub.kmem_cache_free(net.ct.cache, addr)
    net.a.udp.close(sk)


def test_fragments_are_put_together_before_they_are_looked_at(net):
    sk = net.a.socket(7)
    whole = udp_frame(b"z" * 1000)[14:]
    first = ip_packet(17, whole[20:420], fragment=0x2000)
    last = ip_packet(17, whole[420:], fragment=400 // 8)
    for piece in (first, last):
        net.flood(MAC_A + MAC_B + b"\x08\x00" + piece)
    net.run(5)
    assert net.a.udp.recvfrom(sk, nonblock=True)[0] == b"z" * 1000
    assert {conn.orig for conn in conns(net)} == {(IP_B, IP_A, 17, 9, 7)}
    net.a.udp.close(sk)


def test_a_machine_that_does_not_track_has_no_hook():
    with two_hosts() as net:
        assert not any(net.a.nf.registered)


def test_the_table_has_a_bucket_for_each_128_kib(net):
    assert len(net.ct.buckets) == net.a.page_alloc.total_pages // 32
    assert net.ct.max == 4 * len(net.ct.buckets)
    assert net.ct.cache.size == SIZEOF_NF_CONN


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from((1, 6, 17, 99)), st.binary(max_size=40)), max_size=20))
def test_nothing_that_comes_in_leaves_more_than_time_forgets(frames):
    with tracking() as net:
        for source, number, payload in frames:
            net.flood((MAC_A + MAC_B + b"\x08\x00" + ip_packet(number, payload, saddr=IP_A + source)).ljust(60, b"\0"))
            net.run(1)
            net.ct.check()
        for conn in conns(net):
            assert 0 < conn.lifetime <= 432_000 * HZ
