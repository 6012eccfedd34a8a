"""sysctl: propagate conv errors.

Problem
    Integers under /proc/sys can have a conversion function that may refuse a value. 18 will use one
    to answer -ENOMEM when the reserve cannot grow. __do_proc_dointvec() throws its answer away: if
    the first value is refused the writer sees -EINVAL, if a later one of a vector is refused he even
    sees success, although nothing was stored.

Change
    The loop stops when the conversion function returns something other than 0, and the function
    returns that value. The special case "a write that converted nothing is -EINVAL" goes away.

What to watch
    * A refused single value leaves the variable alone, and write(2) reports the conversion's own error.
    * Of a vector the values before the refused one are stored, and the error is reported all the same.
    * Reading is not affected.
    * It overshoots: text that is no number, or only blanks, now succeeds and stores nothing (b17). And
      conversions that return 1 for "out of range" hand a positive 1 to the writer, as if one byte had
      been written. None of this is in the mail.
    * To see it, growth must fail, and the probe of 08 hardly ever does: a failure has to be injected.
    * Off: -EINVAL instead of -ENOMEM, or a false success.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=17,
    name="sysctl_conv_errors",
    subject="sysctl: propagate conv errors",
    part=3,
    message_id="20071030160913.946725000@chello.nl",
    needs=(),
    wants=("inet_reserves",),
    touches=("kemu.kernel.sysctl.Sysctl._do_proc_dointvec",),
    fate=(
        "Dropped in v15: handlers convert into a temporary, then try to set the reserve. Mainline "
        "restructured this code later, and reports the error of a conversion."
    ),
)
