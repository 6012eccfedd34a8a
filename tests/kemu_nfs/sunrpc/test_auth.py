"""AUTH_SYS credentials: one per owner, counted."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.mm.fault_inject import FailPageAlloc
from kemu.mm.slub_geometry import kmalloc_index
from kemu_nfs.sunrpc.auth import UNX_CRED_SIZE, auth_sys_body
from kemu_nfs.sunrpc.xdr import Unpacker
from rpc_ground import rpc_ground


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
