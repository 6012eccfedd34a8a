"""Symbolic constants of scripts: x86_64 Linux 2.6.23 (include/linux/socket.h, in.h, tcp.h, sockios.h, asm-generic/socket.h).

Interface: :data:`CONSTANTS` name -> number; :data:`YOUNGER` names that only later kernels have; :data:`TCP_STATES` and others for
assertions.
"""

from __future__ import annotations

from typing import Final

from kemu.kernel import errno as _errno
from kemu_net.core import uapi as _uapi

CONSTANTS: Final[dict[str, int]] = {
    "AF_UNIX": 1,
    "PF_INET": 2,
    "PF_PACKET": 17,
    "IPPROTO_ICMP": 1,
    "IPPROTO_TCP": 6,
    "IPPROTO_UDP": 17,
    "SOMAXCONN": 128,
    # socket options
    "SO_BSDCOMPAT": 14,
    "SO_PASSCRED": 16,
    "SO_PEERCRED": 17,
    "SO_TIMESTAMP": 29,
    "SO_TIMESTAMPNS": 35,
    "IP_OPTIONS": 4,
    "IP_RECVOPTS": 6,
    "IP_RETOPTS": 7,
    # flags of calls
    "MSG_EOR": 0x80,
    "MSG_CONFIRM": 0x800,
    "O_RDONLY": 0,
    "O_WRONLY": 1,
    "O_NDELAY": 0x800,
    "FD_CLOEXEC": 1,
    "POLLRDBAND": 0x80,
    "POLLMSG": 0x400,
    "POLLREMOVE": 0x1000,
    "TIOCOUTQ": 0x5411,
    "SIOCATMARK": 0x8905,
    "SIOCGSTAMP": 0x8906,
}
CONSTANTS.update({name: value for name, value in vars(_uapi).items() if name.isupper() and isinstance(value, int)})
CONSTANTS.update({name: value for name, value in vars(_errno).items() if name.startswith("E") and isinstance(value, int)})

#: Constants that 2.6.23 has for what is not built here.
NOT_BUILT: Final = frozenset(
    """
    AF_INET6 PF_INET6 IPPROTO_SCTP IPPROTO_DCCP SO_BINDTODEVICE TCP_MD5SIG MSG_CMSG_CLOEXEC IPV6_TCLASS IPV6_V6ONLY
    IPV6_UNICAST_HOPS EPOLLIN EPOLLOUT EPOLLERR EPOLLHUP EPOLLET EPOLLONESHOT EPOLL_CTL_ADD EPOLL_CTL_MOD EPOLL_CTL_DEL
    """.split()  # noqa: SIM905  # a table for people
)

YOUNGER: Final = frozenset(
    """
    IPPROTO_MPTCP SOCK_NONBLOCK SOCK_CLOEXEC SO_MARK SO_BUSY_POLL SO_MAX_PACING_RATE SO_REUSEPORT
    SO_TIMESTAMPING SO_ZEROCOPY SO_INCOMING_CPU SO_RXQ_OVFL SO_PEEK_OFF SO_LOCK_FILTER SO_TXTIME SO_RCVPRIORITY
    TCP_THIN_LINEAR_TIMEOUTS TCP_THIN_DUPACK TCP_USER_TIMEOUT TCP_REPAIR TCP_REPAIR_QUEUE TCP_QUEUE_SEQ TCP_FASTOPEN
    TCP_TIMESTAMP TCP_NOTSENT_LOWAT TCP_CC_INFO TCP_SAVE_SYN TCP_SAVED_SYN TCP_FASTOPEN_CONNECT TCP_FASTOPEN_KEY
    TCP_FASTOPEN_NO_COOKIE TCP_ULP TCP_ZEROCOPY_RECEIVE TCP_INQ TCP_CM_INQ TCP_TX_DELAY TCP_REPAIR_WINDOW TCP_REPAIR_OPTIONS
    MSG_FASTOPEN MSG_ZEROCOPY MSG_WAITFORONE MSG_SPLICE_PAGES SIOCOUTQNSD
    IP_TRANSPARENT IP_MINTTL IP_BIND_ADDRESS_NO_PORT SO_EE_ORIGIN_TIMESTAMPING SO_EE_ORIGIN_ZEROCOPY
    """.split()  # noqa: SIM905  # a table for people
)

#: include/net/tcp_states.h and include/linux/tcp.h, as assertions on tcp_info name them.
TCP_STATES: Final[dict[str, int]] = {
    "TCP_ESTABLISHED": 1,
    "TCP_SYN_SENT": 2,
    "TCP_SYN_RECV": 3,
    "TCP_FIN_WAIT1": 4,
    "TCP_FIN_WAIT2": 5,
    "TCP_TIME_WAIT": 6,
    "TCP_CLOSE": 7,
    "TCP_CLOSE_WAIT": 8,
    "TCP_LAST_ACK": 9,
    "TCP_LISTEN": 10,
    "TCP_CLOSING": 11,
    "TCP_CA_Open": 0,
    "TCP_CA_Disorder": 1,
    "TCP_CA_CWR": 2,
    "TCP_CA_Recovery": 3,
    "TCP_CA_Loss": 4,
    "TCPI_OPT_TIMESTAMPS": 1,
    "TCPI_OPT_SACK": 2,
    "TCPI_OPT_WSCALE": 4,
    "TCPI_OPT_ECN": 8,
}
