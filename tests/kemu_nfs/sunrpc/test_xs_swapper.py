"""Swap on a transport: on and off; the two swap files of b31a are in tests/patches/test_p31_nfs_enable_swap.py."""

import pytest

from nfs_ground import NfsGround


@pytest.fixture
def ground():
    ground = NfsGround()
    assert ground.mount.mount() == 0
    yield ground
    ground.world.shutdown()


def counts(ground):
    return ground.stack.net_reserves.memalloc_socks, ground.machine.reserves.root.pages, ground.machine.page_alloc.var_free_kbytes


def test_the_request_reserve_is_17_and_32_pages_on_one_cpu(ground):
    assert ground.mount.swapper.rpc_reserve_pages() == 49


def test_on_connects_the_reserve_and_off_restores_every_count(ground):
    before = counts(ground)

    assert ground.mount.swapper.xs_swapper(1) == 0
    assert counts(ground) == (2, 1356, 4 * 1356)  # the socket, and the extra reference
    ground.mount.swapper.xs_swapper(0)
    assert counts(ground) == before == (0, 0, 0)


def test_off_without_on_does_nothing(ground):
    before = counts(ground)
    ground.mount.swapper.xs_swapper(0)

    assert counts(ground) == before


def test_a_transport_that_lost_its_connection_can_begin_and_cease_to_carry_swap(ground):
    """v14 took the socket for granted; a mount that nobody used for five minutes has none."""
    before = counts(ground)
    ground.mount.xprt.xprt_force_close()
    ground.run_for(1_000_000_000)
    assert ground.mount.xprt.inet is None

    assert ground.mount.swapper.xs_swapper(1) == 0
    assert ground.stack.net_reserves.memalloc_socks == 1, "the reference for the time without a socket"
    assert ground.mount.swapper.xs_swapper(0) == 0
    assert counts(ground) == before
