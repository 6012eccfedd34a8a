"""The server's lives: what it begins, refuses, loses and remembers, over a TCP that is a pipe."""

from __future__ import annotations

from kemu_nfs.server.faults import Faults
from kemu_nfs.server.record_marking import frame
from kemu_nfs.sunrpc.nfs3_const import NFS_UNSTABLE
from nfsd_ground import write


def test_a_stream_cut_anywhere_is_put_together(house, speaker):
    home = house()
    home.start()
    sk = home.connect()
    stream = frame(write(speaker, home, 0)) + frame(speaker.record(0))
    for cut in range(0, len(stream), 97):
        sk.peer.chunks.append(stream[cut : cut + 97])
    home.sched.wake_up_all(sk.peer.queue)
    home.settle(10_000_000)
    assert len(home.replies(sk)) == 2


def test_a_record_that_is_too_long_ends_the_connection(house):
    home = house()
    home.start()
    sk = home.connect()
    sk.peer.chunks.append(b"\xff\xff\xff\xff")
    home.sched.wake_up_all(sk.peer.queue)
    home.settle()
    assert sk.peer.closed
    assert home.nfsd.connections == []
    assert "closing the connection" in home.kernel.printk.buffer[-1][2]


def test_a_client_that_hangs_up_is_forgotten(house):
    home = house()
    home.start()
    sk = home.connect()
    home.settle()
    assert len(home.nfsd.connections) == 1
    home.tcp.close(sk)
    home.settle()
    assert home.nfsd.connections == []


def test_stop_closes_and_refuses_and_start_serves_again(house, speaker):
    home = house()
    home.start()
    sk = home.connect()
    home.send(sk, write(speaker, home, 0))
    home.settle(100_000)
    home.nfsd.stop()
    home.settle(50_000_000)
    assert home.nfsd.state == "stopped"
    assert home.connect() is None
    assert sk.peer.closed
    assert home.replies(sk) == []
    assert [task.comm for task in home.sched.tasks.values() if task.comm.startswith("nfsd")] == []
    verifier = home.nfsd.server.nfs.write_verf
    home.start()
    assert home.nfsd.server.nfs.write_verf != verifier
    sk = home.connect()
    home.send(sk, speaker.record(0))
    home.settle()
    assert len(home.replies(sk)) == 1


def test_calls_of_an_old_life_are_not_begun_in_the_next(house, speaker):
    home = house(threads=1)
    home.start()
    sk = home.connect()
    home.send(sk, write(speaker, home, 0), write(speaker, home, 4096, b"late"[:1]))
    home.settle(100_000)
    home.nfsd.stop()
    home.settle(10_000_000)
    home.start()
    home.settle(10_000_000)
    assert home.inode.read_data(4096, 4096) == bytes(4096)


def test_a_crash_loses_what_was_not_stable_and_resets(house, speaker):
    home = house()
    home.start()
    sk = home.connect()
    home.send(sk, write(speaker, home, 0, b"u", NFS_UNSTABLE), write(speaker, home, 4096, b"s"))
    home.settle(10_000_000)
    home.nfsd.crash()
    home.settle()
    assert sk.reset
    assert home.inode.read_data(0, 4096) == bytes(4096)
    assert home.inode.read_data(4096, 4096) == b"s" * 4096


def test_a_crash_on_request_comes_back_by_itself(house, speaker):
    home = house()
    home.nfsd.reboot_ns = 2_000_000_000
    faults: Faults = home.nfsd.server.faults
    faults.crash(7, lose_unstable=False)
    home.start()
    sk = home.connect()
    home.send(sk, write(speaker, home, 0))
    home.settle(10_000_000)
    assert (home.nfsd.state, sk.reset) == ("stopped", True)
    home.settle(2_000_000_000)
    assert home.nfsd.state == "running"


def test_outages_can_be_events_of_the_world(house):
    home = house()
    world = home.kernel.world
    world.post(1_000_000, lambda _: home.nfsd.start())
    world.post(5_000_000, lambda _: home.nfsd.stop())
    world.post(9_000_000, lambda _: home.nfsd.start())
    states = []
    for _ in range(3):
        home.settle(4_000_000)
        states.append(home.nfsd.state)
    assert states == ["running", "stopped", "running"]


def test_the_server_explains_itself(house, speaker):
    home = house()
    home.start()
    sk = home.connect()
    home.send(sk, *(write(speaker, home, 4096 * number) for number in range(10)))
    home.settle(500_000)
    task = next(task for task in home.sched.tasks.values() if task.comm == "nfsd")
    text = home.kernel.judge.explain(task)
    assert "the NFS server, running: 1 connections, 2 calls wait, disk busy for 7 ms" in text


def test_an_idle_server_is_at_rest(house):
    home = house()
    home.start()
    home.kernel.world.run(for_ns=800_000_000_000)
    assert home.kernel.judge.outcome is None


def test_the_end_of_the_service_is_not_the_end_of_the_machine(house, speaker):
    """Unstable data and remembered replies outlive stop(); the verifier changes all the same (nfssvc_boot)."""
    home = house()
    home.start()
    sk = home.connect()
    unstable, remove = write(speaker, home, 0, b"u", NFS_UNSTABLE), remove_call(speaker, home)
    home.send(sk, unstable, remove)
    home.settle(10_000_000)
    first = home.replies(sk)
    home.nfsd.stop()
    home.settle(10_000_000)
    home.start()
    assert home.inode.undo
    sk = home.connect()
    home.send(sk, remove)
    home.settle(10_000_000)
    assert home.replies(sk) == [reply for reply in first if reply[:4] == remove[:4]]


def test_a_crash_forgets_replies(house, speaker):
    home = house()
    home.start()
    sk = home.connect()
    remove = remove_call(speaker, home)
    home.send(sk, remove)
    home.settle(10_000_000)
    assert home.replies(sk)[0][24:28] == bytes(4)
    home.nfsd.crash()
    home.settle()
    home.start()
    sk = home.connect()
    home.send(sk, remove)
    home.settle(10_000_000)
    assert home.replies(sk)[0][24:28] == b"\0\0\0\2"  # NOENT: it was executed again


def test_what_was_executed_and_not_answered_is_answered_after_a_restart(house, speaker):
    """Otherwise its duplicates would be dropped for ever."""
    home = house()
    home.start()
    sk = home.connect()
    remove = remove_call(speaker, home)
    home.send(sk, remove)
    home.settle(100_000)  # the disk takes a millisecond
    home.nfsd.stop()
    home.settle(10_000_000)
    assert home.replies(sk) == []
    home.start()
    sk = home.connect()
    home.send(sk, remove)
    home.settle(10_000_000)
    assert home.replies(sk)[0][24:28] == bytes(4)


def test_a_crash_without_loss_keeps_unstable_data_and_changes_the_verifier(house, speaker):
    home = house()
    home.start()
    verifier = home.nfsd.server.nfs.write_verf
    sk = home.connect()
    home.send(sk, write(speaker, home, 0, b"u", NFS_UNSTABLE))
    home.settle(10_000_000)
    home.nfsd.crash(lose_unstable=False)
    home.settle()
    home.start()
    assert home.inode.read_data(0, 4096) == b"u" * 4096
    assert not home.inode.undo
    assert home.nfsd.server.nfs.write_verf != verifier


def test_starting_twice_and_stopping_twice_do_no_harm(house):
    home = house()
    home.start()
    home.nfsd.start()
    home.settle()
    assert len(home.nfsd.listeners) == 2
    home.nfsd.stop()
    home.nfsd.stop()
    home.nfsd.crash()
    home.settle()
    assert home.nfsd.state == "stopped"


def test_when_there_are_too_many_connections_the_oldest_goes(house, speaker):
    """svc_tcp_accept(): 20 for each thread and three more."""
    home = house(threads=1)
    home.start()
    clients = []
    for _ in range(81):
        clients.append(home.connect())
        home.settle(10_000)
    home.settle()
    assert len(home.nfsd.connections) == 80
    assert [sk.peer.closed for sk in clients] == [True] + [False] * 80
    home.send(clients[-1], speaker.record(0))
    home.settle()
    assert len(home.replies(clients[-1])) == 1
    assert "too many open TCP sockets" in home.kernel.printk.buffer[-1][2]


def remove_call(speaker, home):
    home.nfsd.server.tree.make_file("/export/gone")
    return speaker.record(12, speaker.opaque(home.nfsd.server.tree.lookup_path("/export").handle) + speaker.opaque(b"gone"))
