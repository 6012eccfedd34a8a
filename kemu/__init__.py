"""kemu: an executable reference of how a Linux kernel that is out of memory can still swap over the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kemu.machine import Machine as Machine
    from kemu.machine import MachineConfig as MachineConfig

__all__ = ["Machine", "MachineConfig"]


def __getattr__(name: str) -> object:
    """Import the machine when it is asked for, so that ``import kemu`` is quick."""
    if name in __all__:
        import kemu.machine

        return getattr(kemu.machine, name)
    raise AttributeError(f"module 'kemu' has no attribute {name!r}")
