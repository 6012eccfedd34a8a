"""What all of TCP stands on: hash tables and ports, the change of states, timers' references, the end of a socket.

TCP is one subsystem in layers; each file adds a class that uses the layers below it only::

    Tcp              tcp.py             the kernel's socket API, made of the next five
    TcpConnect       tcp_connect.py     opening a connection
    TcpListen        tcp_listen.py      listening and accepting
    TcpClose         tcp_close.py       the end of a connection, from our side
    TcpSend          tcp_send.py        writing
    TcpRecv          tcp_recv.py        reading
    TcpIpv4          tcp_ipv4.py        segments from IP, ICMP errors
    TcpRequest       tcp_request.py     listeners: the SYN queue, new connections
    TcpStateProcess  tcp_state_process.py   a segment for a connection that opens or closes
    TcpInput         tcp_input.py       a segment for an established connection, acknowledgements
    TcpQueues        tcp_queues.py      the receive queue, urgent data
    TcpOfo           tcp_ofo.py         the out-of-order queue, SACK blocks, FIN
    TcpPrune         tcp_prune.py       making room
    TcpRcvbuf        tcp_rcvbuf.py      receive buffer and window
    TcpTimewait      tcp_timewait.py    TIME_WAIT
    TcpTimers        tcp_timer.py       retransmission, probes, delayed acknowledgements
    TcpCong          tcp_cong.py        round trip time, congestion, recovery
    TcpSack          tcp_sack.py        what SACK says about segments in flight
    TcpRetransmit    tcp_retransmit.py  sending again
    TcpControl       tcp_control.py     ACK, SYN, FIN, RST, probes
    TcpOutput        tcp_output.py      the write queue
    TcpTransmit      tcp_transmit.py    one segment's header
    TcpWindow        tcp_window.py      windows and segment sizes
    TcpReply         tcp_reply.py       segments without a connection
    TcpPrequeue      tcp_prequeue.py    segments that wait for a reader
    TcpBase          this file          (2.6.23 net/ipv4/inet_hashtables.c, inet_connection_sock.c, tcp.c: tcp_done())

Rules
    * ``ehash`` finds a connection or a TIME_WAIT minisocket by (own address, own port, peer's address, peer's port);
      ``listening_hash`` a listener by port.
    * A pending timer holds its socket.
    * A state change is the judge's progress unless it only begins or ends a try to connect.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from kemu.errors import KernelBug
from kemu.kernel.errno import EADDRINUSE, EADDRNOTAVAIL, ENOMEM
from kemu.kernel.timer import HZ, Timer
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.sock import SHUTDOWN_MASK, SOCK_DEAD, Proto, sock_put
from kemu_net.core.stream import Streams, tcp_mem_limits
from kemu_net.ipv4.tcp_sock import SIGN, SIZEOF_BIND_BUCKET, SIZEOF_REQUEST_SOCK, SIZEOF_TCP_SOCK, SIZEOF_TW_SOCK, TcpSock, ends
from kemu_net.ipv4.tcp_states import TCP_CLOSE, TCP_LISTEN, TCP_SYN_RECV, TCP_SYN_SENT, TRANSITIONS, state_name

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.sock import Socks
    from kemu_net.core.stats import NetStats
    from kemu_net.ipv4.inet import Inet

SYSCTL_LOCAL_PORT_RANGE = (32768, 61000)
_TRYING = frozenset((TCP_CLOSE, TCP_LISTEN, TCP_SYN_SENT, TCP_SYN_RECV))


class BindBucket:
    """``struct inet_bind_bucket``: a local port and who uses it."""

    __slots__ = ("addr", "owners", "port")

    def __init__(self, port: int, addr: int) -> None:
        self.port = port
        self.addr = addr
        self.owners: dict[Any, bool] = {}  # who -> may share the port


class TcpBase:
    """Tables, ports, states and switches of one machine's TCP.

    :param inet: sends segments and knows this machine's address.
    :ivar csum_offload: leave the checksum of segments with fragments to the device.
    """

    # net.ipv4.tcp_*, as 2.6.23 boots; an instance that was written to has its own
    sysctl_tcp_timestamps = 1
    sysctl_tcp_window_scaling = 1
    sysctl_tcp_sack = 1
    sysctl_tcp_dsack = 1
    sysctl_tcp_moderate_rcvbuf = 1
    sysctl_tcp_low_latency = 0
    sysctl_tcp_app_win = 31
    sysctl_tcp_abort_on_overflow = 0
    sysctl_tcp_rfc1337 = 0
    sysctl_tcp_max_syn_backlog = 256
    sysctl_tcp_synack_retries = 5
    sysctl_tcp_fin_timeout = 60 * HZ
    sysctl_tcp_fack = 1
    sysctl_tcp_reordering = 3
    sysctl_tcp_retrans_collapse = 1
    sysctl_tcp_slow_start_after_idle = 1
    sysctl_tcp_syn_retries = 5
    sysctl_tcp_retries1 = 3
    sysctl_tcp_retries2 = 15
    sysctl_tcp_orphan_retries = 0
    sysctl_tcp_max_orphans = 8192  # NR_FILE
    sysctl_tcp_keepalive_time = 7200 * HZ
    sysctl_tcp_keepalive_probes = 9
    sysctl_tcp_keepalive_intvl = 75 * HZ
    sysctl_tcp_adv_win_scale = 2

    def __init__(self, kernel: Kernel, socks: Socks, skbs: SkbAlloc, inet: Inet, stats: NetStats) -> None:
        self.kernel = kernel
        self.sched = kernel.sched
        self.softirq = kernel.softirq
        self.timers = kernel.timers
        self.judge = kernel.judge
        self.rng = kernel.rng
        self.patched = kernel.patched
        self.fixed = kernel.fixed
        self.socks = socks
        self.skbs = skbs
        self.slub = socks.slub
        self.inet = inet
        self.stats = stats
        self.streams = Streams(kernel, socks, skbs)
        self.csum_offload = True
        create = self.slub.kmem_cache_create
        self.prot = Proto("TCP", create("TCP", SIZEOF_TCP_SOCK))
        self.prot.sysctl_mem, self.prot.sysctl_rmem, self.prot.sysctl_wmem = tcp_mem_limits(socks.total_pages)
        self.tw_cache = create("tw_sock_TCP", SIZEOF_TW_SOCK)
        self.request_cache = create("request_sock_TCP", SIZEOF_REQUEST_SOCK)
        self.bind_bucket_cache = create("tcp_bind_bucket", SIZEOF_BIND_BUCKET)
        self.ehash: dict[tuple[int, int, int, int], Any] = {}
        self.listening_hash: dict[int, TcpSock] = {}
        self.bhash: dict[int, BindBucket] = {}
        self.orphan_count = 0

    def get_seconds(self) -> int:
        """Give the clock of ``ts_recent_stamp``: seconds, never 0 (``get_seconds()``)."""
        return self.sched.jiffies // HZ + 1

    # ports

    def inet_csk_get_port(self, sk: TcpSock, port: int) -> int:
        """Take a local port, any if 0 (``inet_csk_get_port()``): 0, -EADDRINUSE, or -ENOMEM for the bucket."""
        bhash = self.bhash
        if not port:
            low, high = SYSCTL_LOCAL_PORT_RANGE
            start = self.rng.randrange(low, high)
            port = start
            while port in bhash:
                port = port + 1 if port < high else low
                if port == start:
                    return -EADDRNOTAVAIL
        bucket = bhash.get(port)
        if bucket is None:
            addr = self.slub.kmem_cache_alloc(self.bind_bucket_cache, GFP_ATOMIC)
            if addr is None:
                return -ENOMEM
            bucket = bhash[port] = BindBucket(port, addr)
        elif bucket.owners and not (sk.sk_reuse and all(bucket.owners.values()) and port not in self.listening_hash):
            return -EADDRINUSE
        self.inet_bind_hash(sk, bucket, sk.sk_reuse)
        sk.sport = port
        return 0

    def inet_bind_hash(self, owner: Any, bucket: BindBucket, share: bool) -> None:
        """Put a socket, or a minisocket, on a port (``inet_bind_hash()``)."""
        bucket.owners[owner] = share
        owner.bind_bucket = bucket

    def inet_put_port(self, owner: Any) -> None:
        """Leave the port; the last one frees the bucket (``inet_put_port()``)."""
        bucket = owner.bind_bucket
        if bucket is None:
            return
        owner.bind_bucket = None
        del bucket.owners[owner]
        if not bucket.owners:
            del self.bhash[bucket.port]
            self.slub.kmem_cache_free(self.bind_bucket_cache, bucket.addr)

    # tables

    def inet_hash(self, sk: TcpSock) -> None:
        """Make the socket known to the receive path (``inet_hash()``)."""
        if sk.sk_state == TCP_LISTEN:
            self.listening_hash[sk.sport] = sk
        else:
            self.ehash[ends(sk)] = sk

    def inet_unhash(self, sk: TcpSock) -> None:
        """Hide the socket from the receive path (``inet_unhash()``)."""
        if self.listening_hash.get(sk.sport) is sk:
            del self.listening_hash[sk.sport]
        key = ends(sk)
        if self.ehash.get(key) is sk:
            del self.ehash[key]

    # states

    def tcp_set_state(self, sk: TcpSock, event: str) -> None:
        """Move to the state that ``event`` leads to (``tcp_set_state()``)."""
        old = sk.sk_state
        new = TRANSITIONS[event].get(old)
        if new is None:
            raise KernelBug(f"TCP: {event} in {state_name(old)}", state=sk)
        if new == old:
            return
        if new == TCP_CLOSE:
            self.inet_unhash(sk)
            if sk.bind_bucket is not None and not sk.bind_port:
                self.inet_put_port(sk)
        sk.sk_state = new
        if not (old in _TRYING and new in _TRYING):
            self.judge.progress()

    def tcp_done(self, sk: TcpSock) -> None:
        """End the connection (``tcp_done()``); an orphan is freed."""
        self.tcp_set_state(sk, "done")
        self.tcp_clear_xmit_timers(sk)
        sk.sk_shutdown = SHUTDOWN_MASK
        if not sk.sk_flags & SOCK_DEAD:
            sk.sk_state_change(sk)
        else:
            self.inet_csk_destroy_sock(sk)

    def inet_csk_destroy_sock(self, sk: TcpSock) -> None:
        """Free what an orphan in TCP_CLOSE holds, and the reference of its birth (``inet_csk_destroy_sock()``)."""
        if sk.sk_state != TCP_CLOSE or not sk.sk_flags & SOCK_DEAD:
            raise KernelBug("inet_csk_destroy_sock: a socket that lives", state=sk)
        self.tcp_clear_xmit_timers(sk)
        self.tcp_write_queue_purge(sk)
        kfree_skb = self.skbs.kfree_skb
        for skb in sk.out_of_order_queue:
            kfree_skb(skb)
        sk.out_of_order_queue.clear()
        self.inet_put_port(sk)
        if sk.sndmsg_page is not None:
            self.skbs.page_alloc.put_page(sk.sndmsg_page)
            sk.sndmsg_page = None
        self.streams.sk_stream_kill_queues(sk)
        self.prot.sockets_allocated -= 1
        self.orphan_count -= 1
        sock_put(sk)

    def tcp_write_queue_purge(self, sk: TcpSock) -> None:
        """Free what was not sent and what was not acknowledged (``tcp_write_queue_purge()``)."""
        free = self.streams.sk_stream_free_skb
        for queue in (sk.sk_rtx_queue, sk.sk_write_queue):
            while queue:
                free(sk, queue.popleft())
        sk.sacked_out = sk.lost_out = sk.retrans_out = sk.fackets_out = 0
        self.streams.sk_stream_mem_reclaim(sk)

    # timers

    def sk_reset_timer(self, sk: TcpSock, timer: Timer, expires: int) -> None:
        """Arm or move a timer; a pending timer holds its socket (``sk_reset_timer()``)."""
        if not self.timers.mod_timer(timer, expires):
            sk.sk_refcnt += 1

    def sk_stop_timer(self, sk: TcpSock, timer: Timer | None) -> None:
        """Disarm a timer (``sk_stop_timer()``)."""
        if timer is not None and self.timers.del_timer(timer):
            sock_put(sk)

    def tcp_clear_xmit_timers(self, sk: TcpSock) -> None:
        """Disarm all timers of a connection (``inet_csk_clear_xmit_timers()``)."""
        sk.icsk_pending = sk.ack_pending = sk.ack_blocked = 0
        self.sk_stop_timer(sk, sk.retransmit_timer)
        self.sk_stop_timer(sk, sk.delack_timer)
        self.sk_stop_timer(sk, sk.listen_timer)
        self.sk_stop_timer(sk, sk.keepalive_timer)

    def inet_csk_reset_xmit_timer(self, sk: TcpSock, what: int, when: int, max_when: int) -> None:
        """Arm the retransmission timer for ``what``, ``when`` jiffies from now (``inet_csk_reset_xmit_timer()``)."""
        sk.icsk_pending = what
        if when > max_when:
            when = max_when
        sk.icsk_timeout = timeout = self.sched.jiffies + when
        if not self.timers.mod_timer(sk.retransmit_timer, timeout):
            sk.sk_refcnt += 1

    def check(self) -> None:
        """Assert the accounting of TCP: pages charged, queues, tables."""
        pages = 0
        for sk in self.socks.live:
            if isinstance(sk, TcpSock) and sk.sk_prot is self.prot:
                pages += self._check_sock(sk)
        if pages != self.prot.memory_allocated * 4096:
            raise KernelBug(f"TCP: {pages} bytes are held, {self.prot.memory_allocated} pages are charged")
        for key, sk in self.ehash.items():
            if isinstance(sk, TcpSock) and (ends(sk) != key or sk.sk_state in (TCP_CLOSE, TCP_LISTEN)):
                raise KernelBug(f"TCP: a socket in ehash under {key}", state=sk)
        for port, bucket in self.bhash.items():
            if not bucket.owners or bucket.port != port:
                raise KernelBug(f"TCP: a bind bucket of port {port} without owners")

    def _check_sock(self, sk: TcpSock) -> int:
        """Assert one socket's queues; give the bytes that it holds of its charged pages."""
        written = sum(skb.truesize for skb in sk.sk_rtx_queue) + sum(skb.truesize for skb in sk.sk_write_queue)
        if written != sk.sk_wmem_queued:
            raise KernelBug(f"the write queues hold {written} bytes, {sk.sk_wmem_queued} are accounted", state=sk)
        received = sum(skb.truesize for skb in sk.sk_receive_queue) + sum(skb.truesize for skb in sk.out_of_order_queue)
        if received != sk.sk_rmem_alloc:
            raise KernelBug(f"the receive queues hold {received} bytes, {sk.sk_rmem_alloc} are accounted", state=sk)
        seqs = [skb.seq for skb in sk.out_of_order_queue]
        if any((b - a) & SIGN for a, b in pairwise(seqs)):
            raise KernelBug("the out-of-order queue is out of order", state=sk)
        return written + received + sk.sk_forward_alloc
