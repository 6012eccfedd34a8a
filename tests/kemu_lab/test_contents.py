"""What the pages of a process hold."""

import pytest

from kemu.errors import ConfigError
from kemu_lab.contents import FileFill, Pattern


def test_pattern_pages_differ_by_page_version_and_seed():
    pages = {Pattern(seed).page(vpn, version) for seed in (1, 2) for vpn in (0, 1) for version in (1, 2)}

    assert len(pages) == 8
    assert {len(page) for page in pages} == {4096}


def test_a_file_fills_pages_and_goes_round(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)) * 20)
    fill = FileFill(str(path))

    assert fill.page(0, 1)[12:] == (bytes(range(256)) * 16)[12:]
    assert fill.page(0, 1)[12:] == fill.page(2, 1)[12:]
    assert fill.page(0, 1) != fill.page(2, 1)
    assert len(fill.page(1, 1)) == 4096


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path, name):
    with pytest.raises(ConfigError, match="--fill"):
        FileFill(str(tmp_path / name))


def test_an_empty_file_and_a_foul_name_are_refused(tmp_path):
    (tmp_path / "empty").touch()
    for path in (str(tmp_path / "empty"), "a\0b"):
        with pytest.raises(ConfigError, match="--fill"):
            FileFill(path)
