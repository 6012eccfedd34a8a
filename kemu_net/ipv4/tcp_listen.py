"""Listening, and taking the connections that others opened (2.6.23 af_inet.c, inet_connection_sock.c).

Interface
    TcpListen.listen(sk, backlog) -> 0 or -errno
    accept(sk, nonblock=False) -> TcpSock | None
"""

from __future__ import annotations

from kemu.kernel.errno import EADDRINUSE, EINVAL
from kemu_net.ipv4.tcp_close import TcpClose
from kemu_net.ipv4.tcp_sock import TcpSock
from kemu_net.ipv4.tcp_states import TCP_CLOSE, TCP_LISTEN, TCP_SYN_RECV


class TcpListen(TcpClose):
    """The listening side of socket calls."""

    def listen(self, sk: TcpSock, backlog: int) -> int:
        """Let others connect (``inet_listen()``): 0, -EINVAL, -EADDRINUSE."""
        self.socks.lock_sock(sk)
        err = -EINVAL
        if sk.sk_state in (TCP_CLOSE, TCP_LISTEN):
            err = 0
            if sk.bind_bucket is None:
                err = self.inet_csk_get_port(sk, 0)
            if not err and self.listening_hash.get(sk.sport) not in (None, sk):
                err = -EADDRINUSE
            if not err:
                sk.sk_max_ack_backlog = backlog
                self.tcp_set_state(sk, "listen")
                self.inet_hash(sk)
        self.socks.release_sock(sk)
        return err

    def accept(self, sk: TcpSock, nonblock: bool = False) -> TcpSock | None:
        """Take the next connection (``inet_csk_accept()``); None when the listener is closed, or there is none (``nonblock``)."""
        socks = self.socks
        socks.lock_sock(sk)
        child = None
        while sk.sk_state == TCP_LISTEN:
            child = self._take_ready_child(sk)
            if child is not None or nonblock:
                break
            socks.release_sock(sk)
            self.sched.wait_event(sk.sk_sleep, lambda: _child_ready(sk) or sk.sk_state != TCP_LISTEN, ("socket", sk))
            socks.lock_sock(sk)
        socks.release_sock(sk)
        if child is not None and socks.sock_alloc_inode(child):
            self.close(child)
            return None
        return child

    def _take_ready_child(self, sk: TcpSock) -> TcpSock | None:
        """Take the oldest connection whose handshake is complete."""
        for child in sk.accept_queue:
            if child.sk_state != TCP_SYN_RECV:
                sk.accept_queue.remove(child)
                sk.sk_ack_backlog -= 1
                child.parent = None
                return child
        return None


def _child_ready(sk: TcpSock) -> bool:
    """Tell whether accept() has something to give."""
    return any(child.sk_state != TCP_SYN_RECV for child in sk.accept_queue)
