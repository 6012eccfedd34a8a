"""One client's connection: who may send, and how far it is read ahead."""

from kemu_nfs.server.connection import MAX_QUEUED, Connection


def connection():
    return Connection(None, 0x0A000002, 65536)


def test_one_sends_at_a_time():
    conn = connection()
    assert conn.may_send()
    conn.sending = True
    assert not conn.may_send()


def test_reading_stops_while_too_many_calls_wait():
    conn = connection()
    conn.queued = MAX_QUEUED - 1
    assert conn.may_read()
    conn.queued = MAX_QUEUED
    assert not conn.may_read()


def test_a_closed_connection_holds_nobody_up():
    conn = connection()
    conn.sending, conn.queued, conn.closed = True, MAX_QUEUED, True

    assert conn.may_send()
    assert conn.may_read()
