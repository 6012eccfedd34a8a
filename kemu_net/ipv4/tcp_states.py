"""The states of a TCP connection and what leads from one to another (RFC 793, figure 6; 2.6.23 include/net/tcp_states.h).

Interface
    TCP_ESTABLISHED ... TCP_CLOSING     the kernel's numbers
    TRANSITIONS                         event -> state before -> state after; a pair that is missing cannot happen
    SENDS_FIN                           states in which closing our side sends a FIN
    state_name(state)                   for people

Rules
    * Every change of sk_state goes through tcp_set_state(sk, event), which looks here; a pair that cannot happen is a KernelBug.
    * Events are what happened to the connection, not segments: a segment may carry several.
    * A connection that a listener makes is born by "syn" from TCP_CLOSE: the request itself is no socket yet.
"""

from __future__ import annotations

from typing import Final

TCP_ESTABLISHED: Final = 1
TCP_SYN_SENT: Final = 2
TCP_SYN_RECV: Final = 3
TCP_FIN_WAIT1: Final = 4
TCP_FIN_WAIT2: Final = 5
TCP_TIME_WAIT: Final = 6
TCP_CLOSE: Final = 7
TCP_CLOSE_WAIT: Final = 8
TCP_LAST_ACK: Final = 9
TCP_LISTEN: Final = 10
TCP_CLOSING: Final = 11

STATES: Final[dict[int, str]] = {
    TCP_ESTABLISHED: "ESTABLISHED",
    TCP_SYN_SENT: "SYN_SENT",
    TCP_SYN_RECV: "SYN_RECV",
    TCP_FIN_WAIT1: "FIN_WAIT1",
    TCP_FIN_WAIT2: "FIN_WAIT2",
    TCP_TIME_WAIT: "TIME_WAIT",
    TCP_CLOSE: "CLOSE",
    TCP_CLOSE_WAIT: "CLOSE_WAIT",
    TCP_LAST_ACK: "LAST_ACK",
    TCP_LISTEN: "LISTEN",
    TCP_CLOSING: "CLOSING",
}

TRANSITIONS: Final[dict[str, dict[int, int]]] = {
    # the user
    "listen": {TCP_CLOSE: TCP_LISTEN, TCP_LISTEN: TCP_LISTEN},
    "connect": {TCP_CLOSE: TCP_SYN_SENT},
    "close": {  # our side will send nothing more
        TCP_ESTABLISHED: TCP_FIN_WAIT1,
        TCP_SYN_SENT: TCP_CLOSE,
        TCP_SYN_RECV: TCP_FIN_WAIT1,
        TCP_FIN_WAIT1: TCP_FIN_WAIT1,
        TCP_FIN_WAIT2: TCP_FIN_WAIT2,
        TCP_CLOSE: TCP_CLOSE,
        TCP_CLOSE_WAIT: TCP_LAST_ACK,
        TCP_LAST_ACK: TCP_LAST_ACK,
        TCP_LISTEN: TCP_CLOSE,
        TCP_CLOSING: TCP_CLOSING,
    },
    # segments
    "syn": {TCP_CLOSE: TCP_SYN_RECV, TCP_SYN_SENT: TCP_SYN_RECV},  # a child of a listener; both sides connect at once
    "syn_ack": {TCP_SYN_SENT: TCP_ESTABLISHED},
    "ack_of_syn": {TCP_SYN_RECV: TCP_ESTABLISHED},
    "fin": {
        TCP_ESTABLISHED: TCP_CLOSE_WAIT,
        TCP_SYN_RECV: TCP_CLOSE_WAIT,
        TCP_FIN_WAIT1: TCP_CLOSING,
        TCP_FIN_WAIT2: TCP_TIME_WAIT,
        TCP_TIME_WAIT: TCP_TIME_WAIT,
        TCP_CLOSE_WAIT: TCP_CLOSE_WAIT,
        TCP_LAST_ACK: TCP_LAST_ACK,
        TCP_CLOSING: TCP_CLOSING,
    },
    "ack_of_fin": {TCP_FIN_WAIT1: TCP_FIN_WAIT2, TCP_CLOSING: TCP_TIME_WAIT, TCP_LAST_ACK: TCP_CLOSE},
    # the end: a reset, an error, time; TIME_WAIT's rest is a minisocket's
    "done": dict.fromkeys(STATES, TCP_CLOSE),
}

SENDS_FIN: Final = frozenset((TCP_ESTABLISHED, TCP_SYN_RECV, TCP_CLOSE_WAIT))


def state_name(state: int) -> str:
    """Name a state."""
    return STATES.get(state, str(state))
