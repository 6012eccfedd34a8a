"""What writers of a connection call (2.6.23 net/ipv4/tcp.c: the sending half).

Interface
    TcpSend.sendmsg(sk, data, more, nonblock), sendpage(sk, page, offset, size, more, nonblock) -> bytes taken, or -errno

Rules
    * ``nonblock`` writes take what fits; with nothing taken they give -EAGAIN, be it room or memory that is missing.
      sk_socket_flags then has SOCK_ASYNC_NOSPACE, and SOCK_NOSPACE if sk_write_space() will report room. When memory is missing
      nothing will: the caller must come back by itself, as in the kernel.
    * A writer that waits gives up with -EAGAIN after SO_SNDTIMEO (sk_sndtimeo), if nothing was taken.
    * ``more`` is MSG_MORE: a short last segment waits for the next call.
    * What does not fit into a segment's head (3648 bytes: a page less the headers) goes into pages behind it. Writes fill one
      page of the socket after the other.
    * Pages of sendpage() are not copied: they are read when the device sends, again at each retransmission, and held until
      acknowledged.
    * Left out: urgent data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.errno import EAGAIN, EPIPE
from kemu.mm.gfp import PAGE_SIZE
from kemu.mm.page import get_page
from kemu_net.core.skbuff import MAX_SKB_FRAGS
from kemu_net.core.sock import SEND_SHUTDOWN, SOCK_NOSPACE
from kemu_net.core.stream import sk_stream_memory_free, sk_stream_moderate_sndbuf
from kemu_net.ipv4.tcp_recv import TcpRecv
from kemu_net.ipv4.tcp_sock import ACK, MASK, PSH, SIGN, TCP_NAGLE_PUSH, TcpSock
from kemu_net.ipv4.tcp_states import TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_SYN_RECV, TCP_SYN_SENT

if TYPE_CHECKING:
    from kemu.mm.page import Page
    from kemu_net.core.skbuff import SkBuff

_LINEAR_MAX = 4096 - 312 - 192  # SKB_MAX_HEAD(MAX_TCP_HEADER)
_CONNECTING = frozenset((TCP_SYN_SENT, TCP_SYN_RECV))
_SENDING = frozenset((TCP_ESTABLISHED, TCP_CLOSE_WAIT))


class TcpSend(TcpRecv):
    """Writing to a connection."""

    def _wait_connect(self, sk: TcpSock, nonblock: bool) -> int:
        """Wait until data may be sent (``sk_stream_wait_connect()``): 0 or a negative errno."""
        left = 0 if nonblock else sk.sk_sndtimeo
        while sk.sk_state not in _SENDING:
            if sk.sk_err:
                return self._take_error(sk)
            if sk.sk_state not in _CONNECTING:
                return -EPIPE
            if not left:
                return -EAGAIN
            self.socks.release_sock(sk)
            left = self.sched.wait_event_timeout(
                sk.sk_sleep, lambda: sk.sk_state not in _CONNECTING or sk.sk_err != 0, left, ("socket", sk)
            )
            self.socks.lock_sock(sk)
        if sk.sk_err or sk.sk_shutdown & SEND_SHUTDOWN:
            return self._take_error(sk) or -EPIPE
        return 0

    def _skb_entail(self, sk: TcpSock, size: int) -> SkBuff | None:
        """Make a segment and put it at the end of the write queue (``skb_entail()``)."""
        skb = self.streams.sk_stream_alloc_pskb(sk, size, 0, sk.sk_allocation)
        if skb is not None:
            skb.seq = skb.end_seq = sk.write_seq
            skb.flags = ACK
            sk.nonagle &= ~TCP_NAGLE_PUSH
            sk.sk_write_queue.append(skb)
            sk.sk_wmem_queued += skb.truesize
            sk.sk_forward_alloc -= skb.truesize
        return skb

    def _push_full(self, sk: TcpSock, skb: SkBuff, mss: int) -> None:
        """Send what the peer should not wait for, when a segment is full while the write goes on."""
        if (sk.pushed_seq + (sk.max_window >> 1) - sk.write_seq) & SIGN:  # forced_push()
            skb.flags |= PSH
            sk.pushed_seq = sk.write_seq
            self.tcp_push_pending_frames(sk, mss, TCP_NAGLE_PUSH)
        elif sk.sk_write_queue[0] is skb:
            self.tcp_push_one(sk, mss)

    def _wait_for_memory(self, sk: TcpSock, copied: int, mss: int, nonblock: bool) -> int:
        """No room, or no memory: send what there is, and wait (``wait_for_sndbuf`` and ``wait_for_memory`` in tcp_sendmsg())."""
        if not sk_stream_memory_free(sk):
            sk.sk_socket_flags |= SOCK_NOSPACE
        if copied:
            self.tcp_push(sk, False, mss, TCP_NAGLE_PUSH)
        return self.streams.sk_stream_wait_memory(sk, nonblock)

    def sendmsg(self, sk: TcpSock, data: bytes, more: bool = False, nonblock: bool = False) -> int:
        """Queue a copy of ``data`` and send what may go (``tcp_sendmsg()``); give the bytes taken, or a negative errno."""
        self.socks.lock_sock(sk)
        copied = 0
        err = 0
        if sk.sk_state not in _SENDING or sk.sk_err or sk.sk_shutdown & SEND_SHUTDOWN:
            err = self._wait_connect(sk, nonblock)
        total = len(data)
        mss = self.tcp_current_mss(sk)
        limit = min(_LINEAR_MAX, mss)
        unsent = sk.sk_write_queue
        segments = 0
        while copied < total and not err:
            skb = unsent[-1] if unsent else None
            if skb is None or skb.len >= mss or (skb.data_len and not _takes_more(sk, skb)):
                skb = self._skb_entail(sk, limit) if sk_stream_memory_free(sk) else None
                if skb is None:
                    err = self._wait_for_memory(sk, copied, mss, nonblock)
                    mss = self.tcp_current_mss(sk)
                    continue
                segments += 1
            room = skb.end - 192
            length = skb.len
            if length < room and not skb.data_len:
                if room > mss:
                    room = mss
                piece = data[copied : copied + room - length]
                skb.buf = skb.buf + piece if length else piece
                size = len(piece)
                skb.len = length + size
            else:
                size = self._copy_to_page(sk, skb, data[copied : copied + mss - length])
                if not size:
                    err = self._wait_for_memory(sk, copied, mss, nonblock)
                    mss = self.tcp_current_mss(sk)
                    continue
            if not copied:
                skb.flags &= ~PSH
            copied += size
            sk.write_seq = skb.end_seq = sk.write_seq + size & MASK
            if copied < total and skb.len >= mss:
                self._push_full(sk, skb, mss)
        return self._sent(sk, copied, err, more, mss, segments)

    def _copy_to_page(self, sk: TcpSock, skb: SkBuff, data: bytes) -> int:
        """Put as much of ``data`` behind a segment as the socket's page takes; give how much, 0 without memory."""
        page = sk.sndmsg_page
        offset = sk.sndmsg_off
        pages = self.skbs.page_alloc
        if page is not None and offset == PAGE_SIZE:
            pages.put_page(page)
            page = sk.sndmsg_page = None
        if page is None:
            offset = 0
        size = min(len(data), PAGE_SIZE - offset)
        if not self.streams.sk_stream_wmem_schedule(sk, size):
            return 0
        if page is None:
            page = pages.alloc_pages(sk.sk_allocation, 0)  # sk_stream_alloc_page()
            if page is None:
                self.streams.enter_memory_pressure(sk.sk_prot)
                sk_stream_moderate_sndbuf(sk)
                return 0
            page.contents = bytes(PAGE_SIZE)
            sk.sndmsg_page = page
        old = page.contents or bytes(PAGE_SIZE)
        page.contents = old[:offset] + data[:size] + old[offset + size :]
        _add_frag(skb, page, offset, size)
        sk.sk_wmem_queued += size
        sk.sk_forward_alloc -= size
        sk.sndmsg_off = offset + size
        return size

    def _sent(self, sk: TcpSock, copied: int, err: int, more: bool, mss: int, segments: int) -> int:
        """Push, let the time of the work pass, and leave the socket (``out`` in tcp_sendmsg())."""
        if copied:
            self.tcp_push(sk, more, mss, sk.nonagle)
            if segments:
                self.charge_work(segments)
        elif err == -EPIPE and sk.sk_err:
            err = self._take_error(sk)
        self.socks.release_sock(sk)
        return copied or err

    def sendpage(self, sk: TcpSock, page: Page, offset: int, size: int, more: bool = False, nonblock: bool = False) -> int:
        """Queue a part of a page, without a copy, and send what may go (``do_tcp_sendpages()``); as :meth:`sendmsg`."""
        self.socks.lock_sock(sk)
        copied = 0
        err = 0
        if sk.sk_state not in _SENDING or sk.sk_err or sk.sk_shutdown & SEND_SHUTDOWN:
            err = self._wait_connect(sk, nonblock)
        mss = self.tcp_current_mss(sk)
        unsent = sk.sk_write_queue
        segments = 0
        while copied < size and not err:
            skb = unsent[-1] if unsent else None
            if skb is None or skb.len >= mss or (skb.frags is not None and len(skb.frags) >= MAX_SKB_FRAGS):
                skb = self._skb_entail(sk, 0) if sk_stream_memory_free(sk) else None
                if skb is None:
                    err = self._wait_for_memory(sk, copied, mss, nonblock)
                    mss = self.tcp_current_mss(sk)
                    continue
                segments += 1
            piece = mss - skb.len
            if piece > size - copied:
                piece = size - copied
            if piece > sk.sk_forward_alloc and not self.streams.sk_stream_mem_schedule(sk, piece, 0, None):
                if not skb.len:
                    unsent.pop()
                    self.streams.sk_stream_free_skb(sk, skb)
                err = self._wait_for_memory(sk, copied, mss, nonblock)
                continue
            _add_frag(skb, page, offset + copied, piece)
            sk.sk_wmem_queued += piece
            sk.sk_forward_alloc -= piece
            if not copied:
                skb.flags &= ~PSH
            copied += piece
            sk.write_seq = skb.end_seq = sk.write_seq + piece & MASK
            if copied < size and skb.len >= mss:
                self._push_full(sk, skb, mss)
        return self._sent(sk, copied, err, more, mss, segments)


def _takes_more(sk: TcpSock, skb: SkBuff) -> bool:
    """Tell whether another piece fits behind a segment that has pages already."""
    frags = skb.frags or []
    if len(frags) < MAX_SKB_FRAGS:
        return True
    page, offset, size = frags[-1]
    return page is sk.sndmsg_page and offset + size == sk.sndmsg_off < PAGE_SIZE


def _add_frag(skb: SkBuff, page: Page, offset: int, size: int) -> None:
    """Add a part of a page to an unsent segment, or let its last fragment grow (``do_tcp_sendpages()``)."""
    frags = skb.frags
    if frags is None:
        frags = skb.frags = []
    if frags and frags[-1][0] is page and frags[-1][1] + frags[-1][2] == offset:
        frags[-1] = (page, frags[-1][1], frags[-1][2] + size)
    else:
        get_page(page)
        frags.append((page, offset, size))
    skb.len += size
    skb.data_len += size
    skb.truesize += size
