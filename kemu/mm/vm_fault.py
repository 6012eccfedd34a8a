"""What a fault answers (2.6.23 include/linux/mm.h)."""

from __future__ import annotations

from typing import Final

VM_FAULT_OOM: Final = 0x01
VM_FAULT_SIGBUS: Final = 0x02
VM_FAULT_MAJOR: Final = 0x04
VM_FAULT_SIGSEGV: Final = 0x40
VM_FAULT_ERROR: Final = VM_FAULT_OOM | VM_FAULT_SIGBUS | VM_FAULT_SIGSEGV
