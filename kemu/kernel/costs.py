"""What CPU work costs, in virtual nanoseconds.

Illustrative: round numbers of the right order for a machine of 2007, not measurements. They order events and give a load a
duration; no result of the emulator should hang on their exact value. No single charge is above 10 us (``QUANTUM`` in world.py), so
that CPUs stay in step.
"""

from __future__ import annotations

# tasks, interrupts, timers
CONTEXT_SWITCH = 2_000
IRQ_ENTRY = 500
SOFTIRQ_ENTRY = 300
TIMER_CALLBACK = 300
WORK_ITEM = 500
YIELD = 5_000
SPIN = 500
SYSCALL = 300

# memory
ALLOC_PAGE = 250
FREE_PAGE = 200
ALLOC_SLOWPATH = 1_000
SLAB_SLOWPATH = 600
PAGE_FAULT = 1_500
COPY_PAGE = 1_000
SCAN_PAGE = 300
PAGEOUT = 1_500
SWAP_ENTRY = 300

# block layer
BIO_SUBMIT = 1_000
REQUEST_DISPATCH = 2_000
REQUEST_END = 2_000

# network
SKB_ALLOC = 400
NIC_RX_FRAME = 1_000
NIC_TX_FRAME = 1_000
IP_RX = 400
IP_TX = 500
TCP_RX = 1_500
TCP_TX = 1_500
UDP_RX = 800
UDP_TX = 800
CHECKSUM_PAGE = 1_000

# RPC and NFS
XDR_CALL = 1_000
RPC_STEP = 700
NFS_REQUEST = 1_500
SERVER_CALL = 5_000
