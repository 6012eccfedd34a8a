"""A real export seen from outside: what is there, what it holds, and what a server that is none is called."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kemu.errors import ConfigError
from kemu_lab.real_export import RealExport
from kemu_lab.server_url import ServerUrl, parse_server
from kemu_nfs.server.record_marking import RecordReader, frame
from real_ground import serving

PAGE = 4096


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    directory = tmp_path_factory.mktemp("export")
    with serving(directory) as (url, _):
        yield directory, parse_server(url)


@contextmanager
def replying(reply):
    """Listen, and answer each record of each connection with ``reply(record)``; give the address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)

        def serve(conn):
            reader = RecordReader(1 << 20)
            with conn:
                while data := conn.recv(65536):
                    for record in reader.feed(data):
                        answer = reply(record)
                        if answer is None:
                            return
                        conn.sendall(answer)

        def accept():
            while True:
                try:
                    conn, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(conn,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        port = listener.getsockname()[1]
        yield ServerUrl("127.0.0.1", port, port, "/export", f"nfs://127.0.0.1:{port}/export")
        listener.shutdown(socket.SHUT_RDWR)


def test_a_file_is_there_and_is_read(served):
    directory, url = served
    (directory / "data").write_bytes(b"a" * PAGE + b"b" * 10)
    with RealExport(url) as export:
        assert export.exists("data")
        assert export.read("data", PAGE, PAGE) == b"b" * 10
        assert export.read("data", 0, 4) == b"aaaa"


def test_a_file_that_is_not_there_has_no_bytes(served):
    with RealExport(served[1]) as export:
        assert not export.exists("nosuch")
        assert export.read("nosuch", 0, 4) == b""


def test_a_file_is_removed_and_removing_nothing_is_right_too(served):
    directory, url = served
    (directory / "old").write_text("x")
    with RealExport(url) as export:
        assert export.remove("old")
        assert export.remove("old")
    assert not (directory / "old").exists()


def test_a_directory_cannot_be_read(served):
    directory, url = served
    (directory / "folder").mkdir()
    with RealExport(url) as export, pytest.raises(ConfigError, match="folder cannot be read"):
        export.read("folder", 0, 4)


def test_what_is_not_exported_is_one_sentence(served):
    url = served[1]
    wrong = ServerUrl(url.host, url.port, url.mountport, "/other", "nfs://there/other")
    with pytest.raises(ConfigError, match="it does not export /other to us"):
        RealExport(wrong)


def refused(reply, said):
    with replying(reply) as url, pytest.raises(ConfigError, match=said) as caught:
        RealExport(url)
    assert "\n" not in str(caught.value)


def test_a_server_that_speaks_something_else_is_one_sentence():
    refused(lambda _: b"HTTP/1.0 400 Bad Request\r\n\r\n", "MNT")


def test_a_server_that_hangs_up_is_one_sentence():
    refused(lambda _: None, "the server closed the connection")


def test_a_server_without_the_program_is_one_sentence():
    refused(lambda call: frame(call[:4] + bytes(3) + b"\1" + bytes(15) + b"\1"), "it does not speak NFS version 3")


def test_a_reply_to_another_call_is_refused():
    refused(lambda _: frame(b"\0\0\0\7" + bytes(3) + b"\1" + bytes(16)), "it does not speak NFS version 3")


def test_a_reply_that_is_cut_off_is_refused():
    refused(lambda call: frame(call[:4] + bytes(3) + b"\1" + bytes(16)), "its answer to MNT cannot be read")


@given(st.binary(max_size=60))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_answer_raises_anything_else(body):
    refused(lambda call: frame(call[:4] + bytes(3) + b"\1" + body), "--server")
