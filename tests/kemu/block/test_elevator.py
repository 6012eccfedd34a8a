"""The deadline elevator (2.6.23 block/deadline-iosched.c)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.block.elevator import FIFO_BATCH, READ_EXPIRE_NS, WRITE_EXPIRE_NS, Deadline, Request
from kemu.mm.backing_dev import READ, WRITE


def request(rw, sector, length=8):
    rq = Request(0, rw)
    rq.sector, rq.nr_sectors = sector, length
    return rq


def filled(*requests, now=0):
    elevator = Deadline()
    for rw, sector in requests:
        elevator.add(request(rw, sector), now)
    return elevator


def order(elevator, now=0):
    taken = []
    while (rq := elevator.dispatch(now)) is not None:
        taken.append((rq.rw, rq.sector))
    return taken


def test_the_head_goes_upwards_and_begins_again_at_the_bottom():
    elevator = filled((WRITE, 800), (WRITE, 80), (WRITE, 400))
    assert elevator.dispatch(0).sector == 80
    elevator.add(request(WRITE, 8), 0)
    assert order(elevator) == [(WRITE, 400), (WRITE, 800), (WRITE, 8)]


def test_reads_go_first_but_not_more_than_twice_while_writes_wait():
    elevator = filled((WRITE, 0))
    for sector in range(0, 8000, 800):
        elevator.add(request(READ, sector), 0)
    taken = order(elevator)
    assert [rw for rw, _ in taken[:4]] == [READ, READ, WRITE, READ]


def test_a_batch_of_neighbours_goes_without_asking_who_starves():
    """One that goes on behind its sixteenth is no new batch, and is asked at each request from there; 2.6.24 mended it."""
    elevator = filled(*((READ, 8 * i) for i in range(40)), (WRITE, 5000))
    assert order(elevator).index((WRITE, 5000)) == FIFO_BATCH + 1


def test_a_request_that_waited_too_long_begins_the_next_batch():
    elevator = filled((READ, 9000))
    for sector in range(0, 4000, 400):
        elevator.add(request(READ, sector), READ_EXPIRE_NS // 2)
    assert elevator.dispatch(READ_EXPIRE_NS - 1).sector == 0
    assert elevator.dispatch(READ_EXPIRE_NS).sector == 9000


def test_writes_have_more_patience():
    rq = request(WRITE, 0)
    Deadline().add(rq, 7)
    assert rq.expires == 7 + WRITE_EXPIRE_NS == 7 + 5 * 10**9


def test_neighbours_are_found_by_direction():
    elevator = filled((WRITE, 80))
    assert elevator.find_back(WRITE, 88).sector == 80
    assert elevator.find_front(WRITE, 80).sector == 80
    assert elevator.find_back(READ, 88) is None and elevator.find_front(READ, 80) is None
    elevator.dispatch(0)
    assert elevator.find_back(WRITE, 88) is None and elevator.find_front(WRITE, 80) is None


@given(st.lists(st.tuples(st.sampled_from([READ, WRITE]), st.integers(0, 60), st.booleans()), max_size=60))
@settings(max_examples=50, deadline=None)
def test_what_goes_in_comes_out_once(steps):
    elevator = Deadline()
    into, out = [], []
    now = 0
    for rw, sector, take in steps:
        now += READ_EXPIRE_NS // 5
        rq = request(rw, 8 * sector)
        elevator.add(rq, now)
        into.append(rq)
        if take:
            out.append(elevator.dispatch(now))
    assert len(elevator) == len(into) - len(out) == len(elevator.requests())
    while (rq := elevator.dispatch(now)) is not None:
        out.append(rq)
    assert sorted(map(id, out)) == sorted(map(id, into))
    assert not len(elevator) and elevator.dispatch(now) is None
