"""What SACK blocks do to the sender: scoreboard, recovery, D-SACK, reordering, reneging."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kemu_net.ipv4.tcp_sock import (
    TCP_CA_DISORDER,
    TCP_CA_LOSS,
    TCP_CA_OPEN,
    TCP_CA_RECOVERY,
)
from sack_ground import MSS, assert_marks_agree, block, counts, flying, sack
from tcp_ground import ACK, M32, one_tcp
from tcp_options_ground import ts


def test_a_block_marks_what_it_covers():
    with one_tcp() as host:
        sk, peer, segs = flying(host)
        peer.send(ACK, options=sack(block(segs, 1)))
        assert counts(sk) == (1, 0, 0, 2)
        assert sk.ca_state == TCP_CA_DISORDER
        assert_marks_agree(sk)


def test_a_segment_that_is_covered_in_part_is_not_marked():
    with one_tcp() as host:
        sk, peer, segs = flying(host)
        start, end = block(segs, 1, 2)
        peer.send(ACK, options=sack((start + 1, end - 1)))
        assert counts(sk) == (0, 0, 0, 0)


def test_fack_takes_all_below_the_highest_block_for_lost():
    with one_tcp() as host:
        sk, peer, segs = flying(host)
        sk.snd_cwnd = 10
        again = peer.send(ACK, options=sack(block(segs, 7)))
        assert sk.ca_state == TCP_CA_RECOVERY
        assert sk.fackets_out == 8
        assert sk.lost_out == 8 - 3
        assert [seg.seq for seg in again][:1] == [segs[0].seq]
        assert_marks_agree(sk)


def test_without_fack_only_the_head_is_lost():
    with one_tcp() as host:
        host.tcp.sysctl_tcp_fack = 0
        sk, peer, segs = flying(host)
        peer.send(ACK, options=sack(block(segs, 4, 7)))
        assert sk.ca_state == TCP_CA_RECOVERY
        assert sk.lost_out == 1


def test_only_holes_are_sent_again():
    with one_tcp() as host:
        sk, peer, segs = flying(host)
        again = peer.send(ACK, options=sack(block(segs, 1, 4)))
        again += peer.send(ACK, options=sack(block(segs, 6, 8), block(segs, 1, 4)))
        again += peer.send(ACK, options=sack(block(segs, 6, 9), block(segs, 1, 4)))
        assert {seg.seq for seg in again} <= {segs[0].seq, segs[5].seq}
        assert again[0].seq == segs[0].seq
        assert_marks_agree(sk)


def test_recovery_halves_the_window_and_ends_at_high_seq():
    with one_tcp() as host:
        sk, peer, segs = flying(host)
        peer.send(ACK, options=sack(block(segs, 1, 4)))
        assert sk.snd_ssthresh == 5
        peer.saw(segs[-1])
        peer.send(ACK)
        assert sk.ca_state in (TCP_CA_OPEN, TCP_CA_DISORDER)
        assert sk.snd_cwnd <= 5
        assert counts(sk) == (0, 0, 0, 0)


def test_limited_transmit_sends_new_data_for_the_first_two_blocks():
    with one_tcp() as host:
        sk, peer, segs = flying(host)
        host.tcp.sendmsg(sk, bytes(3 * MSS))
        assert host.sent() == []
        new = peer.send(ACK, options=sack(block(segs, 1)))
        assert [seg.seq for seg in new] == [segs[-1].seq + MSS & M32]


def test_dsack_undoes_a_recovery_that_was_not_needed():
    with one_tcp() as host:
        sk, peer, segs = flying(host)
        (again,) = peer.send(ACK, options=sack(block(segs, 1, 3)))  # segment 0 is only late
        assert again.seq == segs[0].seq
        assert sk.undo_retrans == 1
        before = sk.prior_ssthresh
        assert sk.snd_ssthresh == 5 < before
        peer.saw(segs[-1])
        peer.send(ACK, options=sack(block(segs, 0)))  # it came, and then the retransmission: a duplicate
        assert sk.dsack_seen
        assert sk.undo_retrans == 0
        assert sk.snd_ssthresh == before
        assert sk.ca_state == TCP_CA_OPEN


def test_time_stamps_undo_a_recovery_at_once():
    with one_tcp() as host:
        sk, peer, segs = flying(host, tsval=1000)
        host.run(20)
        before = host.jiffies - 3
        (again,) = peer.send(ACK, options=sack(block(segs, 1, 3)) + ts(1001, before))
        assert again.seq == segs[0].seq
        assert sk.ca_state == TCP_CA_RECOVERY
        peer.saw(segs[3])
        peer.send(ACK, options=ts(1002, before))  # it echoes the first transmission: the second was not needed
        assert sk.snd_cwnd >= 5
        assert sk.lost_out == 0
        assert sk.reordering > 3


def test_time_stamps_undo_a_timeout_that_came_too_early():
    with one_tcp() as host:
        sk, peer, segs = flying(host, tsval=1000)
        before = host.jiffies
        threshold = sk.snd_ssthresh
        host.run(250)
        assert sk.ca_state == TCP_CA_LOSS
        host.sent()
        peer.saw(segs[0])
        peer.send(ACK, options=ts(1001, max(before, 1)))
        assert sk.ca_state == TCP_CA_OPEN
        assert sk.snd_ssthresh == threshold
        assert sk.lost_out == 0


def test_a_retransmission_that_is_lost_again_is_noticed():
    with one_tcp() as host:
        sk, peer, segs = flying(host)
        host.tcp.sendmsg(sk, bytes(20 * MSS))
        (again, *_more) = peer.send(ACK, options=sack(block(segs, 1, 4)))
        assert again.seq == segs[0].seq
        news = []
        sk.snd_cwnd = 30
        host.tcp.tcp_push_pending_frames(sk, MSS, 0)
        news += host.sent()
        start = segs[-1].seq + MSS & M32
        later = [seg for seg in news if not (seg.seq - start) & 0x80000000]
        assert later
        assert sk.retrans_out == 1
        again = peer.send(ACK, options=sack((later[0].seq, later[-1].seq + MSS & M32), block(segs, 1, 9)))
        assert segs[0].seq in {seg.seq for seg in again}
        assert host.stats.retransmits == 2
        assert_marks_agree(sk)


def test_what_was_in_a_hole_and_comes_after_all_is_reordering():
    with one_tcp() as host:
        sk, peer, segs = flying(host)
        assert sk.tcp_fack
        peer.send(ACK, options=sack(block(segs, 3)))
        peer.send(ACK, options=sack(block(segs, 1), block(segs, 3)))
        assert sk.reordering == 3  # three segments apart is what everybody expects
        sk2, peer2, segs2 = flying(host, port=99)
        sk2.reordering = 20  # so that no recovery begins
        peer2.send(ACK, options=sack(block(segs2, 8)))
        sk2.reordering = 3
        host.tcp.sysctl_tcp_reordering = 20
        peer2.send(ACK, options=sack(block(segs2, 1), block(segs2, 8)))
        assert sk2.reordering == 8
        assert not sk2.tcp_fack


def test_blocks_are_believed_over_a_timeout():
    with one_tcp() as host:
        sk, peer, segs = flying(host)
        peer.send(ACK, options=sack(block(segs, 1, 2)))
        host.run(3500)
        assert sk.ca_state == TCP_CA_LOSS
        assert sk.sacked_out == 2
        assert sk.lost_out == 8
        host.sent()
        sk.snd_cwnd = 20
        peer.saw(segs[2])
        again = peer.send(ACK)
        assert again[0].seq == segs[3].seq  # 1 and 2 are not sent again
        assert_marks_agree(sk)


def test_a_peer_that_takes_a_block_back_is_not_believed_any_more():
    with one_tcp() as host:
        sk, peer, segs = flying(host)
        peer.send(ACK, options=sack(block(segs, 2, 3)))
        assert sk.sacked_out == 2
        peer.ack = segs[2].seq  # the first hole is filled, but nothing of what followed it
        (again,) = peer.send(ACK)
        assert again.seq == segs[2].seq
        assert sk.ca_state == TCP_CA_LOSS
        assert sk.sacked_out == 0
        assert sk.lost_out == 8
        assert_marks_agree(sk)


def test_no_blocks_are_read_without_the_permission():
    with one_tcp() as host:
        sk, peer, segs = flying(host, sack=False)
        peer.send(ACK, options=sack(block(segs, 4, 8)))
        assert sk.fackets_out == 0
        assert all(not skb.sacked for skb in sk.sk_rtx_queue)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 13),
            st.lists(st.tuples(st.integers(-3, 14), st.integers(0, 6), st.integers(-1, 1)), min_size=1, max_size=4),
            st.integers(0, 60),
        ),
        max_size=25,
    ),
    st.booleans(),
)
def test_no_blocks_whatsoever_confuse_the_counts(steps, fack):
    with one_tcp() as host:
        host.tcp.sysctl_tcp_fack = int(fack)
        sk, peer, segs = flying(host, 12)
        base = segs[0].seq
        for acked, blocks, wait in steps:
            ack = base + acked * MSS & M32
            if not (sk.snd_nxt - ack) & 0x80000000 and not (ack - peer.ack) & 0x80000000:
                peer.ack = ack
            edges = [(base + at * MSS + off & M32, base + (at + size) * MSS & M32) for at, size, off in blocks]
            peer.send(ACK, options=sack(*edges))
            assert_marks_agree(sk)
            assert 0 <= sk.fackets_out <= len(sk.sk_rtx_queue)
            assert sk.snd_cwnd >= 1
            host.run(wait)
            host.check()
        for _ in range(3):
            peer.ack = sk.snd_nxt
            peer.send(ACK)
        assert counts(sk)[:3] == (0, 0, 0)
        host.tcp.abort(sk)
        host.assert_nothing_left()
