"""Waiting for datagrams and for room to send them (2.6.23 net/core/datagram.c, net/core/sock.c: sock_alloc_send_skb()).

Interface (free functions)
    skb_recv_datagram(sk, peek, nonblock)         a packet, or 0 at the end, or a negative errno
    sock_alloc_send_skb(sk, size, nonblock)       an skb accounted to the socket, or a negative errno
    datagram_poll(sk)                             what a datagram socket is ready for

Rules
    * A receiver tells an error of the socket first. Without a packet it looks at the error and at shutdown only while it waits: a
      call that may not wait gives -EAGAIN also after shutdown(SHUT_RD), as in the kernel.
    * A sender waits while sk_wmem_alloc is at sk_sndbuf; what it allocates may then go above.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.errno import EAGAIN, ENOBUFS, EPIPE
from kemu_net.core import uapi
from kemu_net.core.sock import (
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUTDOWN_MASK,
    SOCK_ASYNC_NOSPACE,
    SOCK_NOSPACE,
    skb_set_owner_w,
    sock_error,
    sock_rcvtimeo,
    sock_sndtimeo,
)

if TYPE_CHECKING:
    from kemu_net.core.skbuff import SkBuff
    from kemu_net.core.sock import Sock


def skb_recv_datagram(sk: Sock, peek: bool, nonblock: bool) -> SkBuff | int:
    """Give the oldest packet, waiting for one (``skb_recv_datagram()``); the caller frees it, also after a peek."""
    err = sock_error(sk)
    if err:
        return err
    queue = sk.sk_receive_queue
    timeo = sock_rcvtimeo(sk, nonblock)
    sched = sk.socks.sched
    while True:
        if queue:
            if peek:
                queue[0].users += 1
                return queue[0]
            return queue.popleft()
        if not timeo:
            return -EAGAIN
        timeo = sched.wait_event_timeout(
            sk.sk_sleep,
            lambda: queue or sk.sk_err or sk.sk_shutdown & RCV_SHUTDOWN,
            timeo,
            ("socket", sk),
            exclusive=True,
        )
        err = sock_error(sk)
        if err:
            return err
        if not queue and sk.sk_shutdown & RCV_SHUTDOWN:
            return 0


def sock_alloc_send_skb(sk: Sock, size: int, nonblock: bool) -> SkBuff | int:
    """Allocate a packet to send, waiting for room in the send buffer (``sock_alloc_send_skb()``)."""
    timeo = sock_sndtimeo(sk, nonblock)
    socks = sk.socks
    while True:
        err = sock_error(sk)
        if err:
            return err
        if sk.sk_shutdown & SEND_SHUTDOWN:
            return -EPIPE
        if sk.sk_wmem_alloc < sk.sk_sndbuf:
            break
        sk.sk_socket_flags |= SOCK_ASYNC_NOSPACE | SOCK_NOSPACE
        if not timeo:
            return -EAGAIN
        timeo = socks.sched.wait_event_timeout(
            sk.sk_sleep,
            lambda: sk.sk_wmem_alloc < sk.sk_sndbuf or sk.sk_err or sk.sk_shutdown & SEND_SHUTDOWN,
            timeo,
            ("socket", sk),
        )
    skb = socks.skbs.alloc_skb(size, sk.sk_allocation)
    if skb is None:
        return -ENOBUFS
    skb_set_owner_w(skb, sk)
    return skb


def datagram_poll(sk: Sock) -> int:
    """Tell what a datagram socket is ready for (``datagram_poll()``)."""
    mask = 0
    if sk.sk_err or sk.sk_error_queue:
        mask |= uapi.POLLERR
    if sk.sk_shutdown & RCV_SHUTDOWN:
        mask |= uapi.POLLRDHUP
    if sk.sk_shutdown == SHUTDOWN_MASK:
        mask |= uapi.POLLHUP
    if sk.sk_receive_queue or sk.sk_shutdown & RCV_SHUTDOWN:
        mask |= uapi.POLLIN | uapi.POLLRDNORM
    if sk.sk_wmem_alloc < sk.sk_sndbuf >> 1:  # sock_writeable()
        mask |= uapi.POLLOUT | uapi.POLLWRNORM | uapi.POLLWRBAND
    else:
        sk.sk_socket_flags |= SOCK_ASYNC_NOSPACE
    return mask
