"""sysctl: integers that a person reads and writes as text (2.6.23 kernel/sysctl.c).

Interface
    * ``kernel.sysctl.register(name, get, set)``; ``read(name)``, ``write(name, text)``; ``names()``, ``table(name)``.
    * :func:`minmax_conv`; :func:`userhz_jiffies_conv`, with :func:`jiffies_to_clock_t` as its ``show``.

Rules of this file
    * A variable is a vector of one or more ints of 32 bits. ``set`` may refuse a value by returning a negative errno; that is how a
      conv callback refuses. A handler runs after the integers were written (min_free_kbytes recomputes the marks there).
    * A value is at most 20 characters long: of a longer one the rest is the next value of the vector, or is not looked at.
    * One write is one write(2). What it did not take (``1 2`` to one integer takes ``1 ``) is the caller's to write again, as
      ``echo`` does; :meth:`Sysctl.sys_write` tells how much it took. The position in the file does not matter to a write.
    * Left out: sysctl(2), the binary call, which v14 forgets too (defect B18a); strings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from kemu.errors import ConfigError
from kemu.kernel.errno import EINVAL, ENOENT, EPERM
from kemu.kernel.strtoul import c_int, isspace, kernel_text, simple_strtoul
from kemu.kernel.timer import HZ, NSEC_PER_JIFFY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kemu.kernel.core import Kernel

USER_HZ: Final = 100
_VALUE_CHARS: Final = 20  # TMPBUFLEN - 1
_LONG_MAX: Final = (1 << 63) - 1


@attrs.define(eq=False)
class CtlTable:
    """``ctl_table``: one variable.

    :ivar get: gives the integer, or all of the vector.
    :ivar set: takes ``(value, index)``; None or 0 means taken, anything else is the refusal. None: read only.
    :ivar conv: ``conv(neg, value, table, index, write)``, the conv callback of __do_proc_dointvec(). On write: 0, or why the value
        is refused. On read its result is only looked at for being an error.
    :ivar show: what a reader sees of a stored integer, where that is another number (the reading half of a conv).
    :ivar handler: runs after a write that stored something.
    """

    name: str
    get: Callable[[], int | Sequence[int]]
    set: Callable[[int, int], int | None] | None = None
    count: int = 1
    conv: Callable[[bool, int, CtlTable, int, bool], int] | None = None
    handler: Callable[[], object] | None = None
    show: Callable[[int], int] | None = None

    def values(self) -> list[int]:
        """Give the vector as a reader sees it."""
        value = self.get()
        stored = [value] if isinstance(value, int) else list(value)
        show = self.show
        return stored if show is None else [-show(-number) if number < 0 else show(number) for number in stored]


def do_proc_dointvec_conv(neg: bool, value: int, table: CtlTable, index: int, write: bool) -> int:
    """Store the value as it is, in an int (kernel/sysctl.c)."""
    if not write:
        return 0
    assert table.set is not None
    return table.set(c_int(-value if neg else value), index) or 0


def minmax_conv(minimum: int | None, maximum: int | None) -> Callable[[bool, int, CtlTable, int, bool], int]:
    """Make a conv that refuses what is out of range with -EINVAL (kernel/sysctl.c: do_proc_dointvec_minmax_conv())."""

    def conv(neg: bool, value: int, table: CtlTable, index: int, write: bool) -> int:
        signed = c_int(-value if neg else value)
        if write and ((minimum is not None and signed < minimum) or (maximum is not None and signed > maximum)):
            return -EINVAL
        return do_proc_dointvec_conv(neg, value, table, index, write)

    return conv


def userhz_jiffies_conv(neg: bool, value: int, table: CtlTable, index: int, write: bool) -> int:
    """Store hundredths of a second as jiffies (do_proc_dointvec_userhz_jiffies_conv()); goes with :func:`jiffies_to_clock_t`.

    What no long can hold in jiffies is refused with 1, which patch 17 hands to the writer as a count of bytes. A negative number
    is, as an unsigned long, too large to be converted, and stores -1.
    """
    if write and value > _LONG_MAX // HZ * USER_HZ:
        return 1
    if neg and value:
        return do_proc_dointvec_conv(True, 1, table, index, write)
    return do_proc_dointvec_conv(False, value * HZ // USER_HZ, table, index, write)


def jiffies_to_clock_t(jiffies: int) -> int:
    """Give jiffies in hundredths of a second, rounded down (kernel/time.c)."""
    return jiffies * NSEC_PER_JIFFY // (1_000_000_000 // USER_HZ)


class Sysctl:
    """The table of a machine's variables."""

    def __init__(self, kernel: Kernel) -> None:
        self.patched = kernel.patched
        self.fixed = kernel.fixed
        self._tables: dict[str, CtlTable] = {}

    def register(
        self,
        name: str,
        get: Callable[[], int | Sequence[int]],
        set: Callable[..., int | None] | None = None,  # the pair reads as get and set
        *,
        conv: Callable[[bool, int, CtlTable, int, bool], int] | None = None,
        handler: Callable[[], object] | None = None,
        show: Callable[[int], int] | None = None,
        count: int = 1,
    ) -> CtlTable:
        """Add a variable. ``set(value)`` for a single integer, ``set(value, index)`` for a vector; None makes it read only."""
        setter = set
        if setter is not None and count == 1:
            single = setter

            def setter(value: int, _index: int) -> int | None:
                return single(value)

        table = CtlTable(name, get, setter, count, conv, handler, show)
        self._tables[name] = table
        return table

    def names(self) -> list[str]:
        """Give all names in order."""
        return sorted(self._tables)

    def table(self, name: str) -> CtlTable | None:
        """Give one variable, None if there is none of that name."""
        return self._tables.get(name)

    def read(self, name: str) -> str:
        """Give the variable as /proc/sys shows it: numbers with tabs between, and a newline."""
        table = self._tables.get(name)
        if table is None:
            raise ConfigError(f"there is no sysctl {name!r}; names() gives all of them")
        return self._do_proc_dointvec(table, False, "")[1]

    def write(self, name: str, text: str | bytes) -> int:
        """Write text to a variable: 0 or a negative errno, as the system call would report it.

        With patch 17 a conv that returns a positive number makes the result positive: the VFS takes it for a byte count.
        """
        return self._write(name, text)[0]

    def sys_write(self, name: str, text: str | bytes) -> int:
        """Write text as write(2) does: give the bytes that were taken, or a negative errno."""
        result, taken = self._write(name, text)
        return result or taken

    def _write(self, name: str, text: str | bytes) -> tuple[int, int]:
        table = self._tables.get(name)
        if table is None:
            return -ENOENT, 0
        if table.set is None:
            return -EPERM, 0
        result, left, stored = self._do_proc_dointvec(table, True, kernel_text(text))
        if stored and table.handler is not None:
            table.handler()
        return result, len(kernel_text(text)) - len(left)

    def _do_proc_dointvec(self, table: CtlTable, write: bool, text: str) -> tuple[int, str, int]:
        """Parse or print a vector (kernel/sysctl.c: __do_proc_dointvec()): the result, text read or left over, values stored.

        Patch 17: what conv returns reaches the caller. Before, it only ended the loop, and a write that had stored nothing was
        -EINVAL whatever the reason.
        """
        conv = table.conv or do_proc_dointvec_conv
        ret = 0
        done = 0
        printed: list[str] = []
        values = [] if write else table.values()
        for index in range(table.count):
            if write:
                text = _skip_space(text)
                parsed = _parse_value(text)
                if parsed is None:
                    break
                neg, value, text = parsed
            else:
                neg, value = values[index] < 0, abs(values[index])
            error = conv(neg, value, table, index, write)
            if self.patched.sysctl_conv_errors:  # [p17]
                ret = error
            if error:
                break
            if not write:
                printed.append(f"{'-' if neg else ''}{value}")
            done += 1
        if self.patched.sysctl_conv_errors:  # [p17]
            if self.fixed.b17 and write and not done and not ret:  # [b17]
                ret = -EINVAL
        else:
            ret = -EINVAL if write and not done else 0
        if write:
            return ret, _skip_space(text), done
        return ret, "\t".join(printed) + "\n" if printed else "", done


def _parse_value(text: str) -> tuple[bool, int, str] | None:
    """Parse the number that text begins with: its sign, its value, and what is left; None if there is none.

    The kernel copies 20 bytes and looks at no more: what follows a number must be a space, a NUL, or the end of the copy.
    """
    buf = text[:_VALUE_CHARS]
    neg = buf[:1] == "-" and len(text) > 1
    if not "0" <= buf[neg : neg + 1] <= "9":
        return None
    value, end = simple_strtoul(buf, int(neg))
    follows = buf[end : end + 1]
    if follows not in ("", "\0") and not isspace(follows):
        return None
    return neg, value, text[end:]


def _skip_space(text: str) -> str:
    """Drop leading spaces."""
    at = 0
    while isspace(text[at : at + 1]):
        at += 1
    return text[at:]
