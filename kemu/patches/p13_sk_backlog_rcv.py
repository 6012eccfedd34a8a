"""net: wrap sk->sk_backlog_rcv().

Problem
    None by itself: this makes a place where a later patch can stand. A packet for a socket that some
    task has locked waits in the backlog, and that task processes it when it lets the lock go, through
    a function pointer that is called from several places. Patch 23 has to set PF_MEMALLOC around that
    call for emergency packets. Without one place for it, an emergency packet that finds the socket
    busy would be processed unentitled; its ACK fails, the peer sends again, and finds the socket busy
    again.

Change
    sk_backlog_rcv(sk, skb), a wrapper around sk->sk_backlog_rcv. release_sock(), sk_receive_skb(), the
    prequeue and the delayed ACK timer call it instead of the pointer. Nothing else changes.

What to watch
    * Alone it is a pure refactoring: same order, same return codes, one call per packet.
    * rpciod, sending a WRITE, is the usual owner of the socket; the backlog is where the replies of
      the server then land.
    * The backlog has no limit in 2.6.23.
    * One direct call was forgotten, in tcp_prequeue() when the prequeue overflows (b13). It needs a
      reader in user space, so a socket of RPC never gets there.
    * Off: the pointer is called directly and 23 covers only packets that find the socket free. Watch
      current->flags in the handler of a packet that went through the backlog.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=13,
    name="sk_backlog_rcv",
    subject="net: wrap sk->sk_backlog_rcv()",
    part=2,
    message_id="20071030160913.278367000@chello.nl",
    needs=(),
    wants=("skb_processing",),
    touches=(
        "kemu_net.core.sock_lock.SockLock._release_sock",
        "kemu_net.ipv4.tcp_prequeue.TcpPrequeue.tcp_prequeue",
        "kemu_net.ipv4.tcp_prequeue.TcpPrequeue.tcp_prequeue_flush",
        "kemu_net.ipv4.tcp_prequeue.TcpPrequeue.tcp_prequeue_process",
    ),
    fate=("Merged by itself for 2.6.28. The backlog got a limit in 2.6.34."),
)
