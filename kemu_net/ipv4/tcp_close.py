"""The end of a connection, from our side (2.6.23 net/ipv4/tcp.c: tcp_close(), tcp_disconnect(), tcp_shutdown()).

Interface
    TcpClose.shutdown(sk) -> 0 or -ENOTCONN      send nothing more
    close(sk, timeout=0), abort(sk)              end the connection and give the socket away
    disconnect(sk)                               end the connection and keep the socket

Rules
    * A closed socket whose connection is not over yet is an orphan: it lives until the connection ends. An orphan in FIN_WAIT2
      becomes a minisocket, after tcp_fin_timeout (TCP_LINGER2) less 60 s if that is longer than 60 s; with a negative TCP_LINGER2
      it is reset.
    * SO_LINGER with a time: ``timeout`` jiffies are waited for the last acknowledgement. With 0 seconds the end is a reset.
"""

from __future__ import annotations

from kemu.kernel.errno import ENOTCONN
from kemu.mm.gfp import GFP_ATOMIC, GFP_KERNEL
from kemu_net.core.dst import sk_dst_set
from kemu_net.core.sock import SEND_SHUTDOWN, SHUTDOWN_MASK, SOCK_DEAD, SOCK_DONE, SOCK_LINGER, sock_put
from kemu_net.ipv4.tcp_send import TcpSend
from kemu_net.ipv4.tcp_sock import MASK, SIGN, TCP_TIMEWAIT_LEN, W_FIN, TcpSock
from kemu_net.ipv4.tcp_states import (
    SENDS_FIN,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_LAST_ACK,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
)

_NEED_RESET = frozenset((TCP_ESTABLISHED, TCP_CLOSE_WAIT, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_SYN_RECV))  # tcp_need_reset()
_CLOSING = frozenset((TCP_CLOSING, TCP_LAST_ACK))
_WAITS_FOR_ACK = frozenset((TCP_FIN_WAIT1, TCP_CLOSING, TCP_LAST_ACK))  # sk_stream_closing()


class TcpClose(TcpSend):
    """Closing, with or without a word to the peer."""

    def shutdown(self, sk: TcpSock) -> int:
        """Send nothing more (``tcp_shutdown()`` with SEND_SHUTDOWN): 0 or -ENOTCONN."""
        self.socks.lock_sock(sk)
        err = 0
        if sk.sk_state in (TCP_CLOSE, TCP_LISTEN):
            err = -ENOTCONN
        else:
            sk.sk_shutdown |= SEND_SHUTDOWN
            if sk.sk_state == TCP_SYN_SENT:
                err = -ENOTCONN
            elif self._tcp_close_state(sk):
                self.tcp_send_fin(sk)
            sk.sk_state_change(sk)
        self.socks.release_sock(sk)
        return err

    def _tcp_close_state(self, sk: TcpSock) -> bool:
        """Leave for the state after our FIN; tell whether one must be sent (``tcp_close_state()``)."""
        sends = sk.sk_state in SENDS_FIN
        self.tcp_set_state(sk, "close")
        return sends

    def close(self, sk: TcpSock, timeout: int = 0) -> None:
        """End the connection and give the socket away (``tcp_close()``, ``sock_release()``). Unread data makes it a reset."""
        socks = self.socks
        socks.lock_sock(sk)
        sk.sk_shutdown = SHUTDOWN_MASK
        if sk.sk_state == TCP_LISTEN:
            self.tcp_set_state(sk, "close")
            self._inet_csk_listen_stop(sk)
            self.sched.wake_up_all(sk.sk_sleep)
        else:
            unread = self._drain(sk)
            if unread and sk.sk_state != TCP_CLOSE:
                self.tcp_send_active_reset(sk, GFP_KERNEL)
                self.tcp_set_state(sk, "done")
            elif sk.sk_flags & SOCK_LINGER and not sk.sk_lingertime:
                self._tcp_disconnect(sk)
                sk.sk_shutdown = SHUTDOWN_MASK
            elif self._tcp_close_state(sk):
                self.tcp_send_fin(sk)
            if timeout:
                self._wait_close(sk, timeout)
        self._adjudge_to_death(sk)

    def _wait_close(self, sk: TcpSock, timeout: int) -> None:
        """Wait until the peer has acknowledged everything (``sk_stream_wait_close()``)."""
        if sk.sk_state in _WAITS_FOR_ACK:
            self.socks.release_sock(sk)
            self.sched.wait_event_timeout(sk.sk_sleep, lambda: sk.sk_state not in _WAITS_FOR_ACK, timeout, ("socket", sk))
            self.socks.lock_sock(sk)

    def abort(self, sk: TcpSock) -> None:
        """End the connection with a reset and give the socket away (``tcp_close()`` with a linger time of 0)."""
        self.socks.lock_sock(sk)
        self._tcp_disconnect(sk)
        sk.sk_shutdown = SHUTDOWN_MASK
        self._adjudge_to_death(sk)

    def _drain(self, sk: TcpSock) -> bool:
        """Free unread data; tell whether there was any."""
        unread = False
        queue = sk.sk_receive_queue
        while queue:
            skb = queue.popleft()
            length = skb.end_seq - skb.seq - (1 if skb.flags & W_FIN else 0) & MASK
            if length and not (skb.seq + length - sk.copied_seq - 1) & SIGN:
                unread = True
            self.skbs.kfree_skb(skb)
        self.streams.sk_stream_mem_reclaim(sk)
        return unread

    def _adjudge_to_death(self, sk: TcpSock) -> None:
        """Make an orphan of a socket and free it now, or when its connection ends (``adjudge_to_death`` in tcp_close())."""
        socks = self.socks
        sk.sk_refcnt += 1
        state = sk.sk_state
        sk.sk_flags |= SOCK_DEAD  # sock_orphan()
        self.orphan_count += 1
        socks.release_sock(sk)  # works off the backlog, which may end the connection
        self.softirq.local_bh_disable()
        socks.sock_release_inode(sk)
        if state == TCP_CLOSE or sk.sk_state != TCP_CLOSE:
            self._orphaned(sk)
        self.softirq.local_bh_enable()
        sock_put(sk)

    def _orphaned(self, sk: TcpSock) -> None:
        """Decide how long an orphan may live."""
        if sk.sk_state == TCP_FIN_WAIT2:
            if sk.linger2 >= 0:
                later = self.tcp_fin_time(sk) - TCP_TIMEWAIT_LEN
                if later <= 0:
                    self.tcp_time_wait(sk, TCP_FIN_WAIT2)
                    return
                self.inet_csk_reset_keepalive_timer(sk, later)
            else:
                self.tcp_send_active_reset(sk, GFP_ATOMIC)
                self.tcp_set_state(sk, "done")
        if sk.sk_state != TCP_CLOSE:
            self.streams.sk_stream_mem_reclaim(sk)
            if self.tcp_too_many_orphans(sk, self.orphan_count):
                self.kernel.printk.ratelimited("tcp orphans", "TCP: too many of orphaned sockets")
                self.tcp_send_active_reset(sk, GFP_ATOMIC)
                self.tcp_set_state(sk, "done")
        if sk.sk_state == TCP_CLOSE:
            self.inet_csk_destroy_sock(sk)

    def disconnect(self, sk: TcpSock) -> int:
        """Take the connection off the socket, so that it can connect again (``tcp_disconnect()``)."""
        self.socks.lock_sock(sk)
        self._tcp_disconnect(sk)
        self.socks.release_sock(sk)
        return 0

    def _tcp_disconnect(self, sk: TcpSock) -> None:
        """As :meth:`disconnect`, for who owns the socket."""
        old = sk.sk_state
        if old == TCP_LISTEN:
            self._inet_csk_listen_stop(sk)
        elif old in _NEED_RESET or (old in _CLOSING and sk.snd_nxt != sk.write_seq):
            self.tcp_send_active_reset(sk, GFP_KERNEL)
        self.tcp_set_state(sk, "done")
        self.tcp_clear_xmit_timers(sk)
        self.socks.skb_queue_purge(sk.sk_receive_queue)
        self.tcp_write_queue_purge(sk)
        self.tcp_purge_ofo_queue(sk)
        sk.urg_data = 0
        self.streams.sk_stream_mem_reclaim(sk)
        sk.dport = sk.daddr = 0
        sk_dst_set(sk, None)
        sk.sk_shutdown = 0
        sk.sk_err = 0
        sk.sk_flags &= ~SOCK_DONE
        sk.ack_pending = sk.ack_quick = sk.ack_pingpong = sk.ack_ato = sk.ack_last_seg_size = 0
        sk.window_clamp = 0
        sk.pred_flags = 0
        sk.rx_opt.clear()
        sk.selective_acks.clear()
        sk.duplicate_sack = None
        self.tcp_reset_congestion(sk)

    def _inet_csk_listen_stop(self, sk: TcpSock) -> None:
        """Refuse who waits in the two queues of a listener (``inet_csk_listen_stop()``)."""
        for req in list(sk.syn_table.values()):
            self.reqsk_free(sk, req)
        self.sk_stop_timer(sk, sk.listen_timer)
        while sk.accept_queue:
            child = sk.accept_queue.popleft()
            sk.sk_ack_backlog -= 1
            child.parent = None
            self.abort(child)
