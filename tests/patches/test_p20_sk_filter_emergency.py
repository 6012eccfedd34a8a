"""Patch 20: an emergency packet never rests in a socket that carries no swap."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.errno import EAGAIN, ENOMEM
from kemu.mm.gfp import GFP_KERNEL
from kemu_net.core.checksum import csum_fold, csum_partial
from kemu_net.core.sock import Proto, Sock
from kemu_net.core.sock_receive import SockReceive
from kemu_net.ipv4.raw import Raw
from net_ground import IP_A, IP_B, MAC_A, MAC_B, ip_packet, two_hosts, udp_frame
from tcp_ground import ACK, FIN, SYN, Peer, accepted, connected, one_tcp


def _budget(host):
    host.reserves.mem_reserve_kmalloc_set(host.net_reserves.net_skb_reserve, 262144)


def _usage(host):
    return host.net_reserves.net_skb_reserve.usage


def test_an_ordinary_socket_drops_it_silently_and_at_once():
    with one_tcp() as host:
        _budget(host)
        sk, peer = connected(host)
        rcv_nxt = sk.rcv_nxt
        assert peer.send(ACK, b"hello", emergency=True) == []  # no ACK, no RST
        assert _usage(host) == 0
        assert host.stats.drops["socket"] == 1
        assert not sk.sk_receive_queue
        assert sk.rcv_nxt == rcv_nxt
        host.run(1000)
        assert host.sent() == []
        host.check()


def test_the_peer_sends_it_again_later_and_then_it_is_taken():
    with one_tcp() as host:
        _budget(host)
        sk, peer = connected(host)
        peer.send(ACK, b"hello", emergency=True, advance=False)
        peer.send(ACK, b"hello")
        assert host.tcp.recvmsg(sk, 10) == b"hello"


def test_a_socket_that_carries_swap_never_loses_one_here():
    with one_tcp() as host:
        _budget(host)
        sk, peer = connected(host)
        host.socks.sk_set_memalloc(sk)
        for _ in range(20):
            peer.send(ACK, b"hello", emergency=True)
        assert host.stats.drops["socket"] == 0
        assert host.tcp.recvmsg(sk, 1000) == b"hello" * 20
        assert _usage(host) == 0


def test_none_gets_into_the_backlog_of_an_ordinary_socket():
    with one_tcp() as host:
        _budget(host)
        sk, peer = connected(host)
        host.socks.lock_sock(sk)
        peer.send(ACK, b"hello", emergency=True)
        assert not sk.sk_backlog
        assert _usage(host) == 0
        host.socks.release_sock(sk)


def test_none_gets_into_the_prequeue_of_an_ordinary_socket():
    with one_tcp() as host:
        _budget(host)
        sk, peer = connected(host)
        got = []
        host.kernel.sched.spawn("reader", lambda: got.append(host.tcp.recvmsg(sk, 5)))
        host.run(5)
        peer.send(ACK, b"hello", emergency=True, advance=False)
        host.run(5)
        assert (got, _usage(host)) == ([], 0)
        peer.send(ACK, b"hello")
        host.run(5)
        assert got == [b"hello"]


def test_a_listener_drops_an_emergency_syn():
    with one_tcp() as host:
        _budget(host)
        listener, _sk, _peer = accepted(host)
        assert Peer(host, 5, 2049).send(SYN, emergency=True) == []
        assert not listener.syn_table
        assert _usage(host) == 0


def test_without_a_socket_there_is_still_a_reset():
    with one_tcp() as host:
        _budget(host)
        assert len(Peer(host, 5, 6).send(ACK, emergency=True)) == 1
        assert _usage(host) == 0


def _datagram_socket(host):
    return host.socks.sk_alloc(Proto("TEST", host.slub.kmem_cache_create("TEST", 704)), GFP_KERNEL, Sock)


def test_datagrams_are_refused_by_the_same_test():
    with one_tcp() as host:
        _budget(host)
        sk = _datagram_socket(host)
        skb = host.make_skb(b"", 0, 0, emergency=True)
        assert host.socks.sock_queue_rcv_skb(sk, skb) == -ENOMEM
        assert not sk.sk_receive_queue
        host.skbs.kfree_skb(skb)
        assert _usage(host) == 0


@pytest.mark.keeps_skbs("the test holds skbs in its hands")
def test_the_buffer_limit_is_tested_before_the_filter():
    with one_tcp() as host:
        _budget(host)
        sk = _datagram_socket(host)
        sk.sk_rcvbuf = 100
        skb = host.make_skb(b"", 0, 0, emergency=True)
        assert host.socks.sock_queue_rcv_skb(sk, skb) == -ENOMEM
        assert host.stats.drops == {**dict.fromkeys(host.stats.drops, 0), "rmem": 1}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=25))
def test_normal_packets_are_unaffected_and_the_drop_leaves_usage_as_it_was(packets):
    with one_tcp() as host:
        _budget(host)
        swap, swap_peer = connected(host, port=1)
        host.socks.sk_set_memalloc(swap)
        user, user_peer = connected(host, port=2, isn=7000)
        to_user = to_swap = 0
        for emergency, for_swap in packets:
            before = _usage(host)
            (swap_peer if for_swap else user_peer).send(ACK, b"x", emergency=emergency, advance=for_swap or not emergency)
            if for_swap:
                to_swap += 1
            elif not emergency:
                to_user += 1
            else:
                assert _usage(host) == before
            assert not any(skb.emergency for skb in user.sk_receive_queue)
        for sk, count in ((swap, to_swap), (user, to_user)):
            got = host.tcp.recvmsg(sk, 1000, nonblock=True)
            assert got == (b"x" * count if count else -EAGAIN)
        assert _usage(host) == 0


def test_without_the_patch_a_reader_that_sleeps_pins_the_reserve():
    """D.2 row 20: usage grows with foreign traffic and does not come back until somebody reads."""
    with one_tcp(patches="all,-20") as host:
        _budget(host)
        sk, peer = connected(host)
        usage = []
        for _ in range(10):
            peer.send(ACK, b"hello", emergency=True)
            usage.append(_usage(host))
        assert usage == sorted(usage)
        assert usage[-1] == 10 * usage[0] > 0
        host.tcp.recvmsg(sk, 1000)
        assert _usage(host) == 0


@pytest.mark.parametrize("patches", ["all", "all,-20"])
def test_on_or_off_normal_packets_are_taken(patches):
    with one_tcp(patches=patches) as host:
        sk, peer = connected(host)
        peer.send(ACK, b"hello")
        assert host.tcp.recvmsg(sk, 10) == b"hello"


# UDP and raw sockets, with a real ring in the reserve


@contextmanager
def starving(patches="all", sinks=0):
    """Boot two hosts that know each other; a has no memory left and its whole ring lies in the charged reserve.

    :param sinks: sockets that nobody reads, from port 20 on; they are there before memory is short.
    """
    with two_hosts(patches=patches, b={}, ring=16) as net:
        net.greet()
        sink = net.a.socket(7)
        others = [net.a.socket(20 + number) for number in range(sinks)]
        net.a.swap_over_network()
        net.a.hog()
        for _ in range(3):  # the normal buffers of the ring end in a socket that nobody reads
            net.flood(udp_frame(), 12)
            net.run(20)
        net.a.hog()
        assert all(skb.emergency for skb, _pages in net.a.nic.rx.buffers)
        yield net
        net.a.unhog()
        for sk in (sink, *others):
            net.a.udp.close(sk)
        assert resting(net.a) == 0


def resting(host) -> int:
    """Give the bytes that are charged for other buffers than those in the ring."""
    return host.usage - 2048 * sum(skb.emergency for skb, _pages in host.nic.rx.buffers)


@pytest.mark.parametrize(("patches", "rests"), [("all", False), ("all,-20", True)])
def test_a_datagram_to_a_sleeping_reader(patches, rests):
    with two_hosts(patches=patches, b={}, ring=16) as net:
        net.greet()
        sk = net.a.socket(7)
        net.a.swap_over_network()
        net.a.hog()
        for _ in range(3):
            net.flood(udp_frame(), 12)
            net.run(20)
        emergency = [skb for skb in sk.sk_receive_queue if skb.emergency]
        assert bool(emergency) is rests
        assert resting(net.a) == 2048 * len(emergency)
        assert (net.a.stats.drops["socket"] > 0) is not rests
        net.a.udp.close(sk)
        assert resting(net.a) == 0
        net.a.unhog()


@pytest.mark.parametrize(("patches", "rests"), [("all", False), ("all,-20", True)])
def test_a_raw_socket_keeps_a_clone_only_without_the_patch(patches, rests):
    with two_hosts(patches=patches, b={}, ring=16) as net:
        net.greet()
        raw = Raw(net.a.kernel, net.a.socks, net.a.skbs, net.a.inet)
        sk = raw.sock_create(17)
        net.a.swap_over_network()
        net.a.hog()
        for _ in range(3):
            net.flood(udp_frame(), 12)
            net.run(20)
        assert any(skb.emergency for skb in sk.sk_receive_queue) is rests
        assert (resting(net.a) > 0) is rests
        raw.close(sk)
        assert resting(net.a) == 0
        net.a.unhog()


def until_refused(net, frame, at_most=20):
    """Flood a until the reserve refuses a charge; give whether it came to that."""
    for _ in range(at_most):
        net.flood(frame, 12)
        net.run(20)
        if net.a.stats.drops["charge"]:
            return True
    return False


@pytest.mark.parametrize(("patches", "dies"), [("all", False), ("all,-20", True)])
def test_foreign_traffic_until_the_limit_and_then_the_swap_reply(patches, dies):
    """D.2 row 20: usage at the limit for ever, and even replies to swap are refused; or usage is the ring's, and they come."""
    with starving(patches, sinks=4) as net:
        host = net.a
        swap = host.socket(2049)
        host.socks.sk_set_memalloc(swap)
        refused = [until_refused(net, udp_frame(dport=port)) for port in range(20, 24)]
        assert any(refused) is dies
        budget = host.net_reserves.net_skb_reserve.limit
        assert (host.usage + 2048 >= budget) is dies
        net.run(60_000)
        assert (host.usage + 2048 >= budget) is dies
        got = 0
        for _ in range(20):
            net.flood(udp_frame(b"reply", dport=2049))
            net.run(20)
            got += host.udp.recvfrom(swap, nonblock=True) != -EAGAIN
        assert got == (0 if dies else 20)
        assert (resting(host) == 0) is not dies
        host.socks.sk_clear_memalloc(swap)
        host.udp.close(swap)


def test_a_datagram_that_is_refused_is_an_error_of_udp():
    with starving() as net:
        errors = net.a.udp.mib.in_errors
        net.flood(udp_frame(), 3)
        net.run(20)
        assert net.a.udp.mib.in_errors == errors + 3


@pytest.mark.parametrize(("patches", "asked"), [("all", 0), ("all,-20", 1)])
def test_the_test_stands_before_the_security_modules(patches, asked):
    class Security:
        asked = 0

        def security_sock_rcv_skb(self, _sk, _skb):
            self.asked += 1
            return 0

    with one_tcp(patches=patches) as host:
        _budget(host)
        security = Security()
        socks = SockReceive(host.kernel, host.net_reserves, host.skbs, host.stats, security)
        sk = _datagram_socket(host)
        skb = host.make_skb(b"", 0, 0, emergency=True)
        assert socks.sk_filter(sk, skb) == (0 if asked else -ENOMEM)
        assert security.asked == asked
        host.skbs.kfree_skb(skb)


# what the patch does not cover: replies without a full socket come from the reserve, uncharged, and go soon


def ping_frame() -> bytes:
    message = b"\x08\0\0\0\0\1\0\1" + b"p" * 56
    message = message[:2] + csum_fold(csum_partial(message)).to_bytes(2, "big") + message[4:]
    return MAC_A + MAC_B + b"\x08\0" + ip_packet(1, message)


def arp_frame() -> bytes:
    request = b"\0\1\x08\0\6\4\0\1" + MAC_B + IP_B.to_bytes(4, "big") + bytes(6) + IP_A.to_bytes(4, "big")
    return (b"\xff" * 6 + MAC_B + b"\x08\x06" + request).ljust(60, b"\0")


REPLIES = {
    "icmp echo": (ping_frame, "all,-23"),
    "arp": (arp_frame, "all,-23"),
}


def replies(patches, frame) -> tuple[int, int, int]:
    """Give how many replies a starving host sends, how many of their data areas lie in the reserve, and what stays charged."""
    with starving(patches) as net:
        backed = []
        send = net.a.nic.hard_start_xmit

        def watched(skb):
            backed.append(net.a.slub.is_reserve_backed(skb.head))
            return send(skb)

        net.a.nic.hard_start_xmit = watched
        for _ in range(4):
            net.flood(frame(), 2)
            net.run(20)
        return len(backed), sum(backed), resting(net.a)


@pytest.mark.parametrize("kind", REPLIES)
def test_an_answer_without_a_socket_consumes_the_reserve(kind):
    frame, without = REPLIES[kind]
    sent, from_reserve, charged = replies("all", frame)
    assert sent == 8 and from_reserve > 0 and charged == 0
    assert replies(without, frame)[0] < sent


def test_a_time_wait_minisocket_answers_an_emergency_segment():
    with one_tcp() as host:
        _budget(host)
        sk, peer = connected(host)
        host.tcp.shutdown(sk)
        peer.saw(host.sent()[0])
        peer.send(ACK)
        peer.send(FIN | ACK)
        host.sent()
        host.tcp.close(sk)
        assert host.slub.objects_in_use(host.slub.caches["tw_sock_TCP"]) == 1
        assert len(peer.send(FIN | ACK, seq=peer.seq - 1, emergency=True)) == 1
        assert _usage(host) == 0
        assert host.stats.drops["socket"] == 0
