"""What may stand at the far end of the client's wire."""

from __future__ import annotations

import pytest

from kemu.errors import ConfigError
from kemu_lab.far_end import DirectoryServer, EmulatedServer, TapServer
from kemu_lab.hosts import Pair
from kemu_lab.run_config import RunConfig
from kemu_lab.server_url import ServerUrl
from kemu_lab.swap_home import SWAP_FILE, swap_home

SECOND = 1_000_000_000
URL = ServerUrl("127.0.0.1", 1, 1, "/export", "nfs://127.0.0.1:1/export")


def test_by_default_it_is_kemus_own_server_over_a_new_tree():
    with Pair(RunConfig()) as pair:
        assert type(pair.far) is EmulatedServer
        pair.far.check_name(SWAP_FILE)  # nothing can be there
        assert pair.server_bytes(SWAP_FILE, 0) == b""


def test_its_files_may_lie_in_a_directory(tmp_path):
    with Pair(RunConfig(mem=16 << 20, server_dir=str(tmp_path))) as pair:
        assert isinstance(pair.far, DirectoryServer)
        home = swap_home(RunConfig(mem=16 << 20), pair)
        area = home.swap_on()
        assert not isinstance(area, str), area
        assert (tmp_path / SWAP_FILE).stat().st_size == 3 * (16 << 20)
        assert pair.server_bytes(SWAP_FILE, 0) == (tmp_path / SWAP_FILE).read_bytes()[:4096]
        assert pair.server_bytes("nosuch", 0) == b""
        assert pair.client.swapfile.swapoff(area) == 0
        home.leave()
    assert list(tmp_path.iterdir()) == []


def test_what_the_run_made_goes_however_it_ends(tmp_path):
    pair = Pair(RunConfig(mem=16 << 20, server_dir=str(tmp_path)))
    swap_home(RunConfig(mem=16 << 20), pair).swap_on()
    assert len(list(tmp_path.iterdir())) == 1
    pair.__exit__(RuntimeError, RuntimeError(), None)
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_behind_stays(tmp_path):
    with Pair(RunConfig(mem=16 << 20, server_dir=str(tmp_path))) as pair:
        swap_home(RunConfig(mem=16 << 20), pair).swap_on()
        pair.far.leave_behind(SWAP_FILE)
    assert [path.name for path in tmp_path.iterdir()] == [SWAP_FILE]


def test_a_file_that_somebody_else_made_is_not_touched(tmp_path):
    (tmp_path / SWAP_FILE).write_text("somebody's")
    with Pair(RunConfig(server_dir=str(tmp_path))) as pair, pytest.raises(ConfigError, match="already; remove it first"):
        swap_home(RunConfig(), pair).swap_on()
    assert (tmp_path / SWAP_FILE).read_text() == "somebody's"


def test_a_directory_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError):
        Pair(RunConfig(server_dir=str(tmp_path / "nosuch")))


def test_a_real_server_cannot_be_looked_into(monkeypatch):
    class Export:
        def __init__(self, _url):
            pass

        def close(self):
            pass

    monkeypatch.setattr("kemu_lab.far_end.RealExport", Export)
    with Pair(RunConfig(server=URL)) as pair, pytest.raises(ConfigError, match="looks into kemu's own server"):
        pair.rpc_server


def test_a_tap_device_has_an_mtu_of_its_own():
    with pytest.raises(ConfigError, match="--mtu 9000 cannot be used with --via tap: the device has 1500"):
        Pair(RunConfig(server=URL, via="tap", mtu=9000))


def test_a_real_server_is_stopped_by_who_started_it():
    with pytest.raises(ConfigError, match="cannot be stopped from here"):
        TapServer.stop(None)
