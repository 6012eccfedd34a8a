"""netvm: network reserve infrastructure.

Problem
    Nothing says "this socket carries swap". The receive path has to know whether anybody swaps over
    the network at all before it touches reserves; the reserve has to be there exactly as long; and the
    socket's own allocations should be entitled.

Change
    * A tree of reserves (11), joined to the root when the first such socket appears:

          total network reserve
            network TX reserve
              protocol TX pages
            network RX reserve
              SKB data reserve      (bytes; the only one that is charged)

    * sk_set_memalloc(sk) sets SOCK_MEMALLOC, adds __GFP_MEMALLOC to sk->sk_allocation and counts the
      socket; sk_clear_memalloc() undoes it, and sk_free() calls that for everybody.
    * memalloc_socks counts them, and sk_memalloc_socks() is the question that others ask.
    * rx_emergency_get() and rx_emergency_put() charge the SKB data reserve.
    * TX_RESERVE_PAGES is 32: a request of 64 KiB, twice. Sending is never charged, it is bounded by the
      number of requests.

What to watch
    * memalloc_socks is the number of sockets with the flag, plus the references that 31 holds.
    * The tree is connected if and only if that count is above 0. After the last one var_free_kbytes is
      back where it was.
    * Setting twice counts once; freeing such a socket counts down.
    * Such a socket must not be handed to user space: who does not read would pin the reserve.
    * b16: the count is raised even if connecting failed.
    * Off: swap over NFS without reserves. 19 never tries again, 20 and 23 never see an emergency packet,
      and a swap WRITE at the floor gets -EAGAIN for its header.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=16,
    name="netvm_reserve",
    subject="netvm: network reserve infrastructure",
    part=3,
    message_id="20071030160913.811204000@chello.nl",
    needs=(),
    wants=("gfp_memalloc", "mem_reserve", "sk_allocation"),
    touches=(
        "kemu_net.core.net_reserve",
        "kemu_net.core.net_reserve.NetReserves.sk_adjust_memalloc",
        "kemu_net.core.sock_memalloc.SockMemalloc.sk_allocation",
        "kemu_net.core.sock_memalloc.SockMemalloc.sk_clear_memalloc",
        "kemu_net.core.sock.Socks.sk_free",
        "kemu_net.core.sock_memalloc.SockMemalloc.sk_set_memalloc",
    ),
    fate=(
        "Merged in 3.6 (commit 7cb0240492ca): sk_set_memalloc() and a static key, without the tree. How much "
        "to keep is left to the administrator and min_free_kbytes."
    ),
)
