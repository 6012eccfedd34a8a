"""A real server behind the gateway: kemu's own in another process, killed and started again, silent, or no NFS server at all."""

from __future__ import annotations

import signal
import socket
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from kemu.errors import ConfigError
from kemu_lab import gateway
from kemu_lab.hosts import Pair
from kemu_lab.run_config import RunConfig
from kemu_lab.server_url import ServerUrl
from kemu_nfs.server.record_marking import frame
from real_ground import assert_whole, serving, story

SECOND = 1_000_000_000


def url_of(port: int) -> ServerUrl:
    return ServerUrl("127.0.0.1", port, port, "/export", f"nfs://127.0.0.1:{port}/export")


@contextmanager
def answering(answer):
    """Listen, and let ``answer(conn)`` have every connection in a thread; give the port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        listener.settimeout(0.2)
        over = threading.Event()
        conns = []

        def accept() -> None:
            while not over.is_set():
                try:
                    conn, _ = listener.accept()
                except OSError:
                    continue
                conns.append(conn)
                threading.Thread(target=answer, args=(conn,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            thread.join(5)
            for conn in conns:
                conn.close()


class NoExport:
    """In the place of the look at the export from outside, where there is nothing to see."""

    def __init__(self, _url):
        pass

    def close(self):
        pass


@contextmanager
def pair_at(port, monkeypatch, **options):
    """A client whose gateway leads to a port."""
    monkeypatch.setattr("kemu_lab.far_end.RealExport", NoExport)
    with Pair(RunConfig(mem=16 << 20, server=url_of(port), **options)) as pair:
        yield pair


def say(pair, *pieces, for_ns=2 * SECOND):
    """Connect to the gateway from the emulated client and send; what came back, and whether the connection ended."""
    tcp = pair.client_net.tcp
    heard = {"data": b"", "ended": None, "connect": None}

    def talk():
        sk = tcp.sock_create()
        heard["connect"] = tcp.connect(sk, 0x0A000001, 2049)
        for piece in pieces if not heard["connect"] else ():
            tcp.sendmsg(sk, piece)
        while not heard["connect"] and heard["ended"] is None:
            data = tcp.recvmsg(sk, 65536)
            if isinstance(data, bytes) and data:
                heard["data"] += data
            else:
                heard["ended"] = data
        tcp.close(sk)

    pair.client.kernel.sched.spawn("talk", talk)
    pair.world.run(for_ns=for_ns)
    return heard


# ---- the whole way


def test_every_page_lies_on_the_real_servers_disk_and_comes_back(tmp_path):
    with serving(tmp_path) as (url, _):
        assert_whole(story(url, "gateway", tmp_path))


def test_a_server_that_is_killed_and_started_again_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(gateway, "AWAY_S", 0.0)  # it is started again when virtual time says so
    with serving(tmp_path) as (first, process):
        port = first.split("nfsport=")[1].split("&")[0]

        def kill_and_restart(pair):
            process.kill()
            process.wait(30)
            pair.world.run(for_ns=4 * SECOND)  # refused at first
            again = serving(tmp_path, "--port", port)
            again.__enter__()
            servers.append(again)

        servers = []
        try:
            result = story(first, "gateway", tmp_path, between=kill_and_restart, pages=3100)
        finally:
            for server in servers:
                server.__exit__(None, None, None)
    assert_whole(result)
    assert result["reconnects"] >= 1


def test_a_server_that_is_held_up_for_a_while_loses_nothing(tmp_path, monkeypatch):
    """Not for longer than a client waits over TCP: then the far end would ask by ARP, and a client at its floor cannot answer."""
    monkeypatch.setattr(gateway, "PATIENCE_S", 0.2)
    monkeypatch.setattr(gateway, "LOOK_S", 0.001)
    gateways = []
    with serving(tmp_path) as (url, process):

        def hold_up(pair):
            gateways.append(pair.far.gateway)
            process.send_signal(signal.SIGSTOP)
            pair.world.run(for_ns=40 * SECOND)
            process.send_signal(signal.SIGCONT)

        result = story(url, "gateway", tmp_path, between=hold_up, pages=3100)
    assert_whole(result)
    assert gateways[0].silences >= 1


def test_a_file_of_the_name_is_not_touched(tmp_path):
    (tmp_path / "swapfile").write_text("somebody's")
    with serving(tmp_path) as (url, _), pytest.raises(ConfigError, match="has a file 'swapfile' already; remove it first"):
        story(url, "gateway", tmp_path)
    assert (tmp_path / "swapfile").read_text() == "somebody's"


# ---- the same figures, however the real server's clock goes


def replies_to(calls):
    """Give a long reply to each of the calls."""
    return b"".join(frame(bytes([number]) * 3000) for number in calls)


def at_once(conn, replies):
    conn.sendall(replies)


def in_pieces(conn, replies):
    for at in range(0, len(replies), 1777):
        conn.sendall(replies[at : at + 1777])
        time.sleep(0.002)


def test_a_reply_arrives_at_a_time_that_depends_on_no_real_clock(monkeypatch):
    calls = range(1, 9)

    def arrivals(manner):
        seen = []

        def serve(conn):
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            conn.recv(65536)
            manner(conn, replies_to(calls))
            conn.recv(1)

        with answering(serve) as port, pair_at(port, monkeypatch) as pair:
            pair.wire.taps.append(lambda at, data: seen.append((at, len(data))))
            heard = say(pair, b"".join(frame(bytes([number]) * 4) for number in calls), for_ns=SECOND)
            assert heard["data"] == replies_to(calls)
        return seen

    assert arrivals(at_once) == arrivals(in_pieces)


def test_two_runs_with_the_same_server_are_the_same(tmp_path):
    results = []
    for name in ("one", "two"):
        directory = tmp_path / name
        directory.mkdir()
        with serving(directory) as (url, _):
            results.append(story(url, "gateway", directory, pages=2600))
    assert results[0]["out"] > 50
    assert results[0] == results[1]


# ---- what a server may do to a connection


def test_the_stream_is_passed_on_as_it_is(monkeypatch):
    def echo_backwards(conn):
        while data := conn.recv(65536):
            conn.sendall(frame(data[4:8] + data[8:][::-1]))

    with answering(echo_backwards) as port, pair_at(port, monkeypatch) as pair:
        assert say(pair, frame(b"xid1hello world!"))["data"] == frame(b"xid1!dlrow olleh")


def test_a_call_in_pieces_is_one_call(monkeypatch):
    def count(conn):
        seen = b""
        while data := conn.recv(65536):
            seen += data
            if len(seen) == 16:
                conn.sendall(frame(seen[4:]))

    record = frame(b"twelve bytes")
    with answering(count) as port, pair_at(port, monkeypatch) as pair:
        heard = say(pair, record[:3], record[3:9], record[9:])
        assert heard["data"] == record
        assert (pair.far.gateway.calls, pair.far.gateway.answers) == (1, 1)


def test_garbage_from_the_server_is_passed_on_and_harms_nobody(monkeypatch):
    def rave(conn):
        conn.recv(65536)
        conn.sendall(b"\xff" * 70_000)
        conn.close()

    with answering(rave) as port, pair_at(port, monkeypatch) as pair:
        heard = say(pair, frame(b"call"))
        assert heard["data"] == b"\xff" * 70_000
        assert heard["ended"] == b""
        pair.world.run(for_ns=SECOND)
        pair.client_net.check()


def test_an_orderly_end_is_an_orderly_end(monkeypatch):
    def hang_up(conn):
        conn.recv(65536)
        conn.close()

    with answering(hang_up) as port, pair_at(port, monkeypatch) as pair:
        assert say(pair, frame(b"call"))["ended"] == b""


def test_a_reset_is_a_reset(monkeypatch):
    def reset(conn):
        conn.recv(4)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        conn.close()

    with answering(reset) as port, pair_at(port, monkeypatch) as pair:
        assert say(pair, frame(b"call that is longer than what is read"))["ended"] == -104  # ECONNRESET


def test_who_is_refused_by_the_real_server_is_reset(monkeypatch):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    with pair_at(port, monkeypatch) as pair:
        heard = say(pair, frame(b"call"))
        assert heard["connect"] or heard["ended"] == -104
        assert pair.far.gateway.refused == 1


def test_a_connect_is_refused_when_real_time_has_caught_up(monkeypatch):
    naps = []
    monkeypatch.setattr(gateway, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=naps.append))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    with pair_at(port, monkeypatch) as pair:
        for _ in range(3):
            say(pair, frame(b"call"), for_ns=12 * SECOND)
        assert naps == [pytest.approx(12, abs=0.1), gateway.AWAY_S]


def test_the_clients_reset_is_carried_to_the_server(monkeypatch):
    ends = []

    def listen(conn):
        try:
            while conn.recv(65536):
                pass
            ends.append("end")
        except ConnectionResetError:
            ends.append("reset")

    with answering(listen) as port, pair_at(port, monkeypatch) as pair:
        tcp = pair.client_net.tcp

        def talk(leave):
            sk = tcp.sock_create()
            tcp.connect(sk, 0x0A000001, 2049)
            tcp.sendmsg(sk, frame(b"ab"))
            pair.client.kernel.sched.usleep(SECOND // 10, ("time", None))
            leave(sk)

        for number, leave in enumerate((tcp.abort, tcp.close), 1):
            pair.client.kernel.sched.spawn("talk", lambda leave=leave: talk(leave))
            pair.world.run(for_ns=SECOND)
            for _ in range(500):
                if len(ends) == number:
                    break
                time.sleep(0.01)
        assert ends == ["reset", "end"]
        assert pair.far.gateway.passages == []


def test_replies_that_nobody_asked_for_delay_no_other(monkeypatch):
    def stammer(conn):
        while data := conn.recv(65536):
            conn.sendall(frame(b"xxxx") + frame(data[4:]) + frame(data[4:]))

    with answering(stammer) as port, pair_at(port, monkeypatch) as pair:
        tcp = pair.client_net.tcp
        heard = []

        def talk():
            sk = tcp.sock_create()
            tcp.connect(sk, 0x0A000001, 2049)
            for call in (b"call", b"more"):
                tcp.sendmsg(sk, frame(call))
                got = b""
                while frame(call) not in got:
                    got += tcp.recvmsg(sk, 65536)
                heard.append(call)
            tcp.close(sk)

        pair.client.kernel.sched.spawn("talk", talk)
        pair.world.run(for_ns=SECOND)
        assert heard == [b"call", b"more"]
        assert pair.far.gateway.silences == 0


def test_a_silent_server_does_not_stop_virtual_time_for_ever(monkeypatch):
    monkeypatch.setattr(gateway, "PATIENCE_S", 0.05)
    monkeypatch.setattr(gateway, "LOOK_S", 0.001)
    late = threading.Event()

    def sleep_then_answer(conn):
        conn.recv(65536)
        late.wait(20)
        conn.sendall(frame(b"call, late"))

    with answering(sleep_then_answer) as port, pair_at(port, monkeypatch) as pair:
        heard = say(pair, frame(b"call"), for_ns=5 * SECOND)
        assert heard["data"] == b""
        assert pair.far.gateway.silences == 1
        late.set()
        for _ in range(100):
            pair.world.run(for_ns=SECOND)
            if heard["data"]:
                break
        assert heard["data"] == frame(b"call, late")


def test_a_stopped_gateway_refuses_and_a_started_one_serves(monkeypatch):
    def echo(conn):
        while data := conn.recv(65536):
            conn.sendall(data)

    with answering(echo) as port, pair_at(port, monkeypatch) as pair:
        pair.world.run(for_ns=SECOND)
        pair.stop_server("stop")
        pair.world.run(for_ns=SECOND)
        assert say(pair, frame(b"call"))["connect"] == -111  # ECONNREFUSED
        pair.start_server()
        pair.world.run(for_ns=SECOND)
        assert say(pair, frame(b"call"))["data"] == frame(b"call")
