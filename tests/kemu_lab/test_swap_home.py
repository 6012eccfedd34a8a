"""Where swap lives."""

import pytest

from kemu.kernel.errno import EBUSY
from kemu.patches import PatchSet
from kemu_lab.contents import Pattern
from kemu_lab.hosts import Pair
from kemu_lab.programs import FillThenRead
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


def two_homes(patches):
    """Let a process of twice the memory swap to the server and to a disk in turns; return outcome, homes and pages lost."""
    config = RunConfig(mem=MEM, patches=PatchSet.parse(patches))
    with Pair(config) as pair:
        client, judge = pair.client, pair.world.judge
        homes = [NfsHome(pair, 6000), DiskHome(pair, 6000)]
        for home in homes:
            assert not isinstance(home.swap_on(), str)
        for area in client.swapfile.areas:
            area.prio = 1  # as swapon -p 1 for both: areas of one priority take turns
        program = FillThenRead(2 * MEM // 4096, 200, Pattern(1), 1)
        worker = client.processes.spawn("worker", program)
        pair.world.run(until=lambda: program.done or worker.exit_code is not None)
        if not judge.stopped:
            client.memory.audit(lambda area, slot: homes[area.type].read_slot(area, slot))
            client.check()
        return judge.outcome, homes, client.vmstat.lost_pages


def test_a_disk_and_a_server_at_once_each_get_their_own_pages():
    """D.2, rows 24 to 26."""
    outcome, (nfs, disk), lost = two_homes("all")
    assert (outcome, lost) == (None, 0)
    assert nfs.pair.mount.stats.writes > 1000
    assert len(disk.disk.blocks) > 1000


@pytest.mark.parametrize(("patches", "outcome"), [("all,-24", "data_loss"), ("all,-26", "oops")])
def test_without_the_helpers_pages_go_astray(patches, outcome):
    assert two_homes(patches)[0] == outcome
