"""Words of a kernel's command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemu.errors import ConfigError
from kemu.mm.geometry import BootWords
from kemu.mm.slub_geometry import DEBUG_FLAGS, SLAB_DEBUG_FREE, SLAB_POISON, SLAB_RED_ZONE, SLAB_STORE_USER, SLAB_TRACE
from kemu_lab.boot_args import parse_boot_args, parse_debug_letters


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", BootWords()),
        ("quiet root=/dev/sda1 slub_nomerge", BootWords()),
        ("slub_max_order=0", BootWords(slub_max_order=0)),
        ("slab_min_order=1 slab_min_objects=16", BootWords(slub_min_order=1, slub_min_objects=16)),
        ("slub_max_order=1 slub_max_order=2", BootWords(slub_max_order=2)),
        ("slub_max_order=many slub_min_order=-1", BootWords()),
    ],
)
def test_numbers(text, words):
    assert parse_boot_args(text).words == words


@pytest.mark.parametrize(
    ("text", "cache", "flags"),
    [
        ("", "dentry", 0),
        ("slub_debug", "dentry", DEBUG_FLAGS),
        ("slub_debug=", "dentry", DEBUG_FLAGS),
        ("slub_debug=-", "dentry", 0),
        ("slub_debug=fz", "dentry", SLAB_DEBUG_FREE | SLAB_RED_ZONE),
        ("slub_debug=FZPUTAO", "dentry", DEBUG_FLAGS | SLAB_TRACE),
        ("slub_debug=P,dentry", "dentry", SLAB_POISON),
        ("slub_debug=P,dentry", "inode", 0),
        ("slub_debug=,dentry", "dentry", DEBUG_FLAGS),
        ("slub_debug=P,dentry;U", "inode", SLAB_STORE_USER),
        ("slub_debug=U;P,kmalloc-*", "kmalloc-64", SLAB_POISON),
        ("slub_debug=P,[a]", "a", 0),
        ("slub_debug=FZ-P", "dentry", SLAB_POISON),
    ],
)
def test_debug_flags(text, cache, flags):
    assert parse_boot_args(text).debug.flags_of(cache) == flags


def test_letters_that_a_person_types():
    assert parse_debug_letters("FZPU", "--slub-debug") == DEBUG_FLAGS
    with pytest.raises(ConfigError, match="'x' is no letter"):
        parse_debug_letters("FX", "--slub-debug")


@given(st.text(alphabet="slub_debugmaxorin=,;-*[]?FZP019 ", max_size=60), st.text(max_size=8))
def test_no_command_line_raises(text, cache):
    parse_boot_args(text).debug.flags_of(cache)
