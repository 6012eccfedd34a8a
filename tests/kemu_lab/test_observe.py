"""Looking from outside."""

from kemu.mm.gfp import GFP_ATOMIC
from kemu_lab.hosts import Pair
from kemu_lab.observe import TRESPASS_EVERY, Observer
from kemu_lab.run_config import RunConfig


def test_a_quiet_pair_has_survived_with_nothing_left():
    config = RunConfig(mem=16 << 20)
    with Pair(config) as pair:
        observer = Observer(config, pair)
        observer.end_of_load(lambda _area, _slot: None)
        observer.after_quiesce()
        result = observer.result()

        assert result.lived
        assert result.pages.verified == result.pages.lost == 0
        assert result.history == pair.world.history.hexdigest()


def test_what_is_left_charged_is_a_leak():
    config = RunConfig(mem=16 << 20)
    with Pair(config) as pair:
        observer = Observer(config, pair)
        assert pair.client_net.net_reserves.rx_emergency_get(2048) == 1
        observer.after_quiesce()
        result = observer.result()

        assert result.outcome == "leak"
        assert result.reserve.left_bytes == 2048
        assert "2048 bytes" in result.reason
        pair.client_net.net_reserves.rx_emergency_put(2048)


def test_trespassers_are_looked_for_now_and_then():
    config = RunConfig(mem=16 << 20)
    with Pair(config) as pair:
        observer = Observer(config, pair)
        pair.client_net.trespassers = lambda: 7
        for _ in range(TRESPASS_EVERY - 1):
            observer.sample()
        assert observer.trespassers == 0
        observer.sample()
        assert observer.trespassers == 7


def test_looking_changes_nothing():
    config = RunConfig(mem=16 << 20)
    with Pair(config) as pair:
        address = pair.client.slub.kmalloc(100, GFP_ATOMIC)
        before = pair.client.page_alloc.nr_free_pages(), pair.world.history.hexdigest()
        observer = Observer(config, pair)
        observer.sample()
        observer.line()

        assert (pair.client.page_alloc.nr_free_pages(), pair.world.history.hexdigest()) == before
        pair.client.slub.kfree(address)
