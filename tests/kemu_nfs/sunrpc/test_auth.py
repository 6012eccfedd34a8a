"""AUTH_SYS credentials: one per owner, counted."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.mm.fault_inject import FailPageAlloc
from kemu.mm.slub_geometry import kmalloc_index
from kemu_nfs.sunrpc.auth import RPC_CREDCACHE_NR, UNX_CRED_SIZE, auth_sys_body
from kemu_nfs.sunrpc.xdr import Unpacker
from rpc_ground import SECOND, rpc_ground


@pytest.fixture
def ground():
    with rpc_ground() as g:
        yield g


def test_the_same_owner_gets_the_same_credential_with_one_reference_more(ground):
    first, second = ground.auth.lookup_cred(5, 6), ground.auth.lookup_cred(5, 6)
    assert first is second
    assert first.cr_count == 2
    ground.auth.put_rpccred(first)
    assert ground.auth.references() == 1


def test_owners_are_told_apart(ground):
    assert ground.auth.lookup_cred(5, 6) is not ground.auth.lookup_cred(5, 7)


def test_the_wire_form_is_flavour_body_and_a_null_verifier(ground):
    unpacker = Unpacker(ground.auth.lookup_cred(500, 100).wire)
    assert unpacker.unpack_uint() == 1
    body = Unpacker(unpacker.unpack_opaque(400))
    assert (unpacker.unpack_uint(), unpacker.unpack_uint()) == (0, 0)
    unpacker.done()
    body.unpack_uint()
    assert body.unpack_string(255) == "client"
    assert [body.unpack_uint() for _ in range(3)] == [500, 100, 0]
    body.done()


def test_groups_stand_at_the_end():
    assert auth_sys_body(1, "m", 2, 3, (4, 5))[-12:] == b"\0\0\0\2\0\0\0\4\0\0\0\5"


def test_a_caller_with_other_groups_is_another_and_no_more_than_sixteen_count(ground):
    plain, groups = ground.auth.lookup_cred(5, 6), ground.auth.lookup_cred(5, 6, (7, 8))
    assert plain is not groups
    assert ground.auth.lookup_cred(5, 6, (7, 8)) is groups
    assert ground.auth.lookup_cred(5, 6, (8, 7)) is not groups
    many = ground.auth.lookup_cred(5, 6, tuple(range(40)))
    assert many.gids == tuple(range(16))
    assert ground.auth.lookup_cred(5, 6, tuple(range(16))) is many


def test_users_of_one_hash_bucket_are_told_apart(ground):
    first, second = ground.auth.lookup_cred(1, 0), ground.auth.lookup_cred(1 + RPC_CREDCACHE_NR, 0)
    assert (first.uid, second.uid) == (1, 17)
    assert ground.auth.lookup_cred(1, 0) is first


def test_what_nobody_has_held_for_a_minute_goes_when_the_next_is_made(ground):
    auth = ground.auth
    auth.put_rpccred(auth.lookup_cred(1, 0))
    held = auth.lookup_cred(2, 0)
    ground.run_for(59 * SECOND)
    auth.lookup_cred(3, 0)
    assert [cred.uid for cred in auth.creds()] == [1, 2, 3]
    ground.run_for(2 * SECOND)
    auth.lookup_cred(4, 0)
    assert [cred.uid for cred in auth.creds()] == [2, 3, 4], "what somebody holds stays"
    auth.put_rpccred(held)


def test_who_comes_back_within_the_minute_finds_his_credential(ground):
    auth = ground.auth
    cred = auth.lookup_cred(1, 0)
    for uid in range(5):
        auth.put_rpccred(cred)
        ground.run_for(50 * SECOND)
        auth.lookup_cred(10 + uid, 0)
        assert auth.lookup_cred(1, 0) is cred


def test_a_refused_credential_goes_with_its_last_reference(ground):
    cred = ground.auth.lookup_cred(1, 0)
    cred.up_to_date = False
    ground.auth.put_rpccred(cred)
    assert ground.auth.creds() == []
    assert ground.auth.lookup_cred(1, 0) is not cred


def test_the_stamp_is_the_second_in_which_it_was_made(ground):
    ground.run_for(7 * SECOND + SECOND // 2)
    wire = ground.auth.lookup_cred(1, 0).wire
    assert int.from_bytes(wire[8:12], "big") == ground.sched.jiffies // 250


def test_a_reference_too_few_is_a_bug(ground):
    cred = ground.auth.lookup_cred(0, 0)
    ground.auth.put_rpccred(cred)
    with pytest.raises(KernelBug):
        ground.auth.put_rpccred(cred)


def test_a_leak_is_told(ground):
    ground.auth.lookup_cred(0, 0)
    ground.auth.check_references(1)
    with pytest.raises(KernelBug, match="1 credential references are held, 0 were expected"):
        ground.auth.check_references(0)


def test_without_memory_there_is_none(ground):
    ground.page_alloc.fail_page_alloc = FailPageAlloc(ground.kernel, ignore_gfp_wait=False, min_order=0)
    owners = [ground.auth.lookup_cred(uid, 0) for uid in range(40)]
    assert None in owners


def test_destroy_frees_every_credential(ground):
    cache = ground.slub.kmalloc_caches[kmalloc_index(UNX_CRED_SIZE)]
    before = ground.slub.objects_in_use(cache)
    for uid in range(5):
        ground.auth.lookup_cred(uid, uid)
    ground.auth.destroy()
    assert ground.auth.references() == 0
    assert ground.slub.objects_in_use(cache) == before
