"""The states of a call as a table (2.6.23 net/sunrpc/clnt.c, sched.c: what tk_action points to).

Interface
    * ``CALL_*`` numbers and :data:`CALL_STATES`: for every state its function, what it does, and the states that may follow.
      call_steps.py has the functions.

Rules of this file
    * ``then`` names what tk_action is when the function returns. A state that is passed through inside another function stands in
      that function's row: call_transmit does call_transmit_status itself when it has sent everything.
    * From every state a call may go to rpc_exit_task (rpc_exit(), also when somebody kills it): that column is left out.
    * Left out: call_bind_status (ports are told, nobody asks rpcbind), call_encode as a state (it is a step of call_transmit here
      and in the kernel).
"""

from __future__ import annotations

from typing import Final

import attrs

CALL_DONE: Final = 0
CALL_START: Final = 1
CALL_RESERVE: Final = 2
CALL_RESERVERESULT: Final = 3
CALL_ALLOCATE: Final = 4
CALL_BIND: Final = 5
CALL_CONNECT: Final = 6
CALL_CONNECT_STATUS: Final = 7
CALL_TRANSMIT: Final = 8
CALL_TRANSMIT_STATUS: Final = 9
CALL_STATUS: Final = 10
CALL_TIMEOUT: Final = 11
CALL_DECODE: Final = 12
CALL_REFRESH: Final = 13
CALL_REFRESHRESULT: Final = 14
CALL_EXIT: Final = 15


@attrs.frozen
class CallState:
    """One state of a call.

    :param name: the kernel's function.
    :param does: one line for people.
    :param then: the states that may follow, besides rpc_exit_task.
    """

    name: str
    does: str
    then: tuple[int, ...]


CALL_STATES: Final[dict[int, CallState]] = {
    CALL_DONE: CallState("done", "nothing: the task is being given back", ()),
    CALL_START: CallState("call_start", "begins, also a call that its owner starts again", (CALL_RESERVE,)),
    CALL_RESERVE: CallState("call_reserve", "asks for a slot; sleeps on the backlog if there is none", (CALL_RESERVERESULT,)),
    CALL_RESERVERESULT: CallState("call_reserveresult", "has its slot, or asks again", (CALL_ALLOCATE, CALL_RESERVE)),
    CALL_ALLOCATE: CallState(
        "call_allocate", "gets the buffer; without memory gives the slot back and waits HZ/16", (CALL_BIND, CALL_RESERVE)
    ),
    CALL_BIND: CallState("call_bind", "knows the server's port", (CALL_CONNECT,)),
    CALL_CONNECT: CallState("call_connect", "waits for a connection if there is none", (CALL_TRANSMIT, CALL_CONNECT_STATUS)),
    CALL_CONNECT_STATUS: CallState(
        "call_connect_status", "sees what became of connecting", (CALL_TRANSMIT, CALL_BIND, CALL_TIMEOUT)
    ),
    CALL_TRANSMIT: CallState(
        "call_transmit", "takes the right to send, encodes, sends, sleeps until the reply", (CALL_TRANSMIT_STATUS, CALL_STATUS)
    ),
    CALL_TRANSMIT_STATUS: CallState("call_transmit_status", "gives the right to send up, unless half is sent", (CALL_STATUS,)),
    CALL_STATUS: CallState("call_status", "judges how the wait ended", (CALL_DECODE, CALL_TIMEOUT, CALL_BIND, CALL_TRANSMIT)),
    CALL_TIMEOUT: CallState("call_timeout", "chooses the next timeout; says so when it was a major one", (CALL_BIND,)),
    CALL_DECODE: CallState(
        "call_decode", "verifies the reply's header, reads the results", (CALL_EXIT, CALL_BIND, CALL_TIMEOUT, CALL_REFRESH)
    ),
    CALL_REFRESH: CallState("call_refresh", "makes a credential that the server refused good again", (CALL_REFRESHRESULT,)),
    CALL_REFRESHRESULT: CallState("call_refreshresult", "goes on with a new slot, and a new xid", (CALL_RESERVE, CALL_REFRESH)),
    CALL_EXIT: CallState("rpc_exit_task", "tells the owner, who may start it again", (CALL_DONE, CALL_START)),
}
