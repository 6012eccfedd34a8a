"""Where swap lives."""

import pytest

from kemu.kernel.errno import EBUSY
from kemu_lab.hosts import Pair
from kemu_lab.run_config import RunConfig
from kemu_lab.swap_home import SWAP_FACTOR, DiskHome, NfsHome, swap_home

MEM = 16 << 20


@pytest.fixture
def pair():
    with Pair(RunConfig(mem=MEM, swap="disk")) as made:
        yield made


def test_the_option_names_the_home(pair):
    assert isinstance(swap_home(pair_config("nfs"), pair), NfsHome)
    assert isinstance(swap_home(pair_config("disk"), pair), DiskHome)


def pair_config(swap):
    return RunConfig(mem=MEM, swap=swap)


@pytest.mark.parametrize("swap", ["nfs", "disk"])
def test_an_area_comes_and_goes(pair, swap):
    client = pair.client
    home = swap_home(pair_config(swap), pair)
    area = home.swap_on()
    assert not isinstance(area, str)
    assert client.swapfile.total_swap_pages == SWAP_FACTOR * MEM // 4096 - 2  # the header, and the last page, which is never used
    assert client.swapfile.swapon(area) == -EBUSY
    assert client.swapfile.swapoff(area) == 0
    home.leave()
    assert not client.disks and client.swapfile.total_swap_pages == 0
    client.check()


def test_a_refusal_is_said_in_words(pair):
    home = DiskHome(pair, 1000)
    home.disk.blocks.clear()
    assert home.swap_on() == "swapon on sda was refused: EINVAL"
