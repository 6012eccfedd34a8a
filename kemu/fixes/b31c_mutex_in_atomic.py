"""UDP reconnect and sk_free in softirq take a mutex in atomic context."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b31c",
    patch=31,
    title="UDP reconnect and sk_free in softirq take a mutex in atomic context",
    mended_in="later",
)
