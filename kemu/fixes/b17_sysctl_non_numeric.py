"""A non-numeric write succeeds and stores nothing.

Trigger
    A text that is no number, or only blanks, is written to an integer under /proc/sys.

Consequence
    17 removed the special case with which such a write was -EINVAL. Parsing ends at once, the return
    value is still 0: success, and nothing is stored.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b17",
    patch=17,
    title="a non-numeric write succeeds and stores nothing",
    mended_in="v15 drops the patch",
    expect="counter: write(2) returns success and the variable is unchanged",
    touches=("kemu.kernel.sysctl.Sysctl._do_proc_dointvec",),
)
