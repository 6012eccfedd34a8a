"""Addresses of real servers, as a person types them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import ConfigError
from kemu_lab.cli import main
from kemu_lab.run_config import RunConfig
from kemu_lab.server_url import parse_server


def test_an_address_names_host_ports_and_export():
    url = parse_server("nfs://127.0.0.1:20490/srv/swap%20space?mountport=20480")
    assert (url.host, url.port, url.mountport, url.export) == ("127.0.0.1", 20490, 20480, "/srv/swap space")
    assert not url.remote


def test_the_ports_have_their_usual_values():
    url = parse_server("nfs://127.0.0.1/srv")
    assert (url.port, url.mountport) == (2049, 635)


def test_what_libnfs_writes_is_understood():
    assert parse_server("nfs://127.0.0.1/srv?version=3&nfsport=5&mountport=6").port == 5


def test_a_name_is_looked_up():
    assert parse_server("nfs://localhost/srv").host == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://127.0.0.1/srv", "is no address of an NFS server"),
        ("127.0.0.1:/srv", "is no address of an NFS server"),
        ("nfs://user@127.0.0.1/srv", "is no address of an NFS server"),
        ("nfs:///srv", "is no address of an NFS server"),
        ("nfs://127.0.0.1", "names no export"),
        ("nfs://127.0.0.1/", "names no export"),
        ("nfs://127.0.0.1/%00", "names no export"),
        ("nfs://127.0.0.1:99999/srv", "cannot be used"),
        ("nfs://127.0.0.1:x/srv", "cannot be used"),
        ("nfs://[::1/srv", "cannot be used"),
        ("nfs://127.0.0.1/srv?mountport=0", "mountport"),
        ("nfs://127.0.0.1/srv?mountport", "cannot be read"),
        ("nfs://127.0.0.1/srv?version=4", "version 3 only"),
        ("nfs://127.0.0.1/srv?uid=1", "there is no option 'uid'"),
        ("nfs://192.0.2.1/srv", "is not on this machine; --allow-remote"),
        ("nfs://no.such.host.invalid/srv", "there is no host"),
        ("nfs://" + "a" * 300 + "/srv", "there is no host"),
    ],
)
def test_a_wrong_address_is_one_sentence(text, said):
    with pytest.raises(ConfigError, match=said):
        parse_server(text)


def test_another_machine_is_taken_when_that_is_meant():
    assert parse_server("nfs://192.0.2.1/srv", allow_remote=True).remote


@given(st.text(max_size=60) | st.text("nfs:/?&=[]@%#.0123456789", max_size=60))
@settings(max_examples=50, deadline=None)
def test_no_text_raises_anything_else(text):
    try:
        parse_server("nfs://127.0.0.1/" + text)
    except ConfigError:
        pass


def config(scenario="main", **options):
    plain = {"mem": None, "cpus": 1, "seed": 1, "patches": "all", "fixes": "all", "loss": "0", "latency": "50us"}
    return RunConfig.parse(scenario, **plain, fill=None, trace=None, **options)


def test_the_line_that_repeats_a_run_names_the_server():
    command = config(server="nfs://127.0.0.1/srv?mountport=7", via="tap").command
    assert command.endswith("--server 'nfs://127.0.0.1/srv?mountport=7' --via tap")


@pytest.mark.parametrize(
    ("scenario", "options", "said"),
    [
        ("main", {"via": "tap"}, "go with --server"),
        ("main", {"allow_remote": True}, "go with --server"),
        ("main", {"via": "pigeon", "server": "nfs://127.0.0.1/s"}, "gateway or tap"),
        ("late-disk", {"server": "nfs://127.0.0.1/s"}, "for the scenario main"),
        ("main", {"server": "nfs://127.0.0.1/s", "swap": "disk"}, "for the scenario main"),
    ],
)
def test_options_that_do_not_go_together_are_refused(scenario, options, said):
    with pytest.raises(ConfigError, match=said):
        config(scenario, **options)


def test_a_server_that_is_not_there_is_one_sentence(capsys):
    assert main(["run", "--server", "nfs://127.0.0.1:1/srv?mountport=1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
