"""The threads that execute calls: one disk, replies that do not mix, queues that end."""

from __future__ import annotations

from kemu_nfs.server.nfs3_file import ServerCosts
from kemu_nfs.server.record_marking import frame
from nfsd_ground import write


def test_a_call_is_answered(house, speaker):
    home = house()
    home.start()
    sk = home.connect()
    record = write(speaker, home, 0)
    home.send(sk, record)
    home.settle(10_000_000)
    (reply,) = home.replies(sk)
    assert reply[:4] == record[:4]
    assert reply[24:28] == bytes(4)
    assert home.inode.read_data(0, 4096) == b"x" * 4096


def test_sixteen_writes_take_sixteen_milliseconds(house, speaker):
    home = house()
    home.start()
    sk = home.connect()
    home.settle()
    began = home.kernel.world.now
    home.send(sk, *(write(speaker, home, 4096 * number) for number in range(16)))
    home.kernel.world.run(until=lambda: home.nfsd.disk_free_ns <= home.kernel.world.now and home.nfsd.disk_busy_ns == 16_000_000)
    assert 16_000_000 <= home.kernel.world.now - began < 26_100_000


def test_what_needs_no_disk_does_not_wait_for_it(house, speaker):
    home = house()
    home.start()
    sk = home.connect()
    getattr_ = speaker.record(1, speaker.opaque(home.inode.handle))
    home.send(sk, write(speaker, home, 0), write(speaker, home, 4096), getattr_)
    home.settle(900_000)
    (reply,) = home.replies(sk)
    assert reply[:4] == getattr_[:4]


def test_replies_of_several_threads_do_not_mix(house, speaker):
    home = house(server_costs=ServerCosts(read=0))
    home.start()
    sk = home.connect()
    reads = [speaker.record(6, speaker.opaque(home.inode.handle) + bytes(8) + speaker.words(4096)) for _ in range(8)]
    home.send(sk, *reads)
    home.settle(50_000_000)
    assert sorted(reply[:4] for reply in home.replies(sk)) == sorted(record[:4] for record in reads)


def test_a_connection_may_not_queue_without_end(house, speaker):
    home = house(threads=1)
    home.start()
    sk = home.connect()
    for number in range(200):
        sk.peer.chunks.append(frame(write(speaker, home, 4096 * number)))
    home.sched.wake_up_all(sk.peer.queue)
    home.settle(500_000)
    assert len(home.nfsd.calls) <= 64
    home.settle(250_000_000)
    assert len(home.replies(sk)) == 200


def test_a_delay_does_not_occupy_the_disk(house, speaker):
    home = house()
    home.nfsd.server.faults.delay(7, 20_000_000)
    home.start()
    sk = home.connect()
    slow, quick = write(speaker, home, 0), write(speaker, home, 4096)
    home.send(sk, slow, quick)
    home.settle(10_000_000)
    assert [reply[:4] for reply in home.replies(sk)] == [quick[:4]]
    home.settle(20_000_000)
    assert [reply[:4] for reply in home.replies(sk)] == [slow[:4]]


def test_a_duplicate_in_progress_is_not_executed_twice(house, speaker):
    home = house()
    home.start()
    sk = home.connect()
    record = write(speaker, home, 0)
    home.send(sk, record, record)
    home.settle(10_000_000)
    assert len(home.replies(sk)) == 1
    assert home.nfsd.disk_busy_ns == 1_000_000


def test_a_thread_serves_connections_in_the_order_of_their_calls(house, speaker):
    home = house(threads=1)
    home.start()
    first, second = home.connect(), home.connect()
    home.settle()
    calls = [write(speaker, home, 4096 * number) for number in range(4)]
    for number, record in enumerate(calls):
        home.send((first, second)[number % 2], record)
        home.settle(1000)
    home.settle(2_500_000)
    assert len(home.replies(first)) == len(home.replies(second)) == 1
    home.settle(2_500_000)
    assert len(home.replies(first)) == len(home.replies(second)) == 1


def test_a_reply_for_which_nobody_listens_any_more_is_dropped(house, speaker):
    home = house()
    home.start()
    sk = home.connect()
    home.send(sk, write(speaker, home, 0))
    home.settle(100_000)
    home.tcp.close(sk)
    home.settle(10_000_000)
    assert home.nfsd.connections == []
    assert home.inode.read_data(0, 4096) == b"x" * 4096
    assert not any(entry.busy for entry in home.nfsd.server.drc.entries.values())


def test_a_dropped_request_occupies_nothing(house, speaker):
    home = house()
    home.nfsd.server.faults.drop(7)
    home.start()
    sk = home.connect()
    record = write(speaker, home, 0)
    home.send(sk, record)
    home.settle(10_000_000)
    assert (home.replies(sk), home.nfsd.disk_busy_ns) == ([], 0)
    home.send(sk, record)
    home.settle(10_000_000)
    assert len(home.replies(sk)) == 1


def test_a_dropped_reply_is_given_to_the_duplicate(house, speaker):
    home = house()
    home.nfsd.server.faults.drop(7, reply=True)
    home.start()
    sk = home.connect()
    record = write(speaker, home, 0)
    home.send(sk, record)
    home.settle(10_000_000)
    assert home.replies(sk) == []
    home.send(sk, record)
    home.settle(10_000_000)
    assert home.replies(sk)[0][24:28] == bytes(4)
    assert home.nfsd.disk_busy_ns == 1_000_000
