"""The Internet checksum: one remainder against the textbook's loop."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kemu_net.core.checksum import csum_fold, csum_ok, csum_partial, csum_reduce, csum_tcpudp_magic, csum_tcpudp_nofold


def textbook(data: bytes) -> int:
    """Add words with end-around carry, one by one (RFC 1071)."""
    if len(data) & 1:
        data += b"\0"
    total = 0
    for at in range(0, len(data), 2):
        total += data[at] << 8 | data[at + 1]
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=1, max_size=300))
def test_the_field_is_the_textbooks(data):
    if any(data):
        assert csum_fold(csum_partial(data)) == textbook(data)


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=2, max_size=300), st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF))
def test_a_segment_with_its_field_filled_in_verifies(payload, saddr, daddr):
    segment = b"\0\0" + payload
    check = csum_tcpudp_magic(saddr, daddr, 17, segment)
    sent = check.to_bytes(2, "big") + payload
    assert csum_ok(sent, csum_tcpudp_nofold(saddr, daddr, len(sent), 17))


def test_the_example_of_rfc_1071():
    assert csum_partial(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2


def test_a_flipped_bit_is_seen():
    header = bytearray(bytes.fromhex("4500003044224000800600008c7c19acae241e2b"))
    header[10:12] = csum_fold(csum_partial(bytes(header))).to_bytes(2, "big")
    assert header[10:12].hex() == "442e"
    assert csum_ok(bytes(header))
    header[3] ^= 4
    assert not csum_ok(bytes(header))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 9000), st.randoms(use_true_random=False))
def test_a_reduced_sum_is_congruent(size, rng):
    total = int.from_bytes(rng.randbytes(size), "big")
    assert csum_reduce(total) % 65535 == total % 65535
    assert size > 1500 or csum_reduce(total).bit_length() <= 1506
