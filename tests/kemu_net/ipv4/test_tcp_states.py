import pytest

from kemu.errors import KernelBug
from kemu_net.ipv4.tcp_states import SENDS_FIN, STATES, TRANSITIONS, state_name
from tcp_ground import one_tcp

STATE_OF = {name: number for number, name in STATES.items()}

# every pair (event, state) that cannot happen; everything else must be in the table
IMPOSSIBLE = {
    "listen": set(STATES.values()) - {"CLOSE", "LISTEN"},
    "connect": set(STATES.values()) - {"CLOSE"},
    "close": {"TIME_WAIT"},
    "syn": set(STATES.values()) - {"CLOSE", "SYN_SENT"},
    "syn_ack": set(STATES.values()) - {"SYN_SENT"},
    "ack_of_syn": set(STATES.values()) - {"SYN_RECV"},
    "fin": {"CLOSE", "LISTEN", "SYN_SENT"},
    "ack_of_fin": set(STATES.values()) - {"FIN_WAIT1", "CLOSING", "LAST_ACK"},
    "done": set(),
}


def test_the_table_is_complete():
    for event, rows in TRANSITIONS.items():
        possible = {STATES[state] for state in rows}
        assert possible | IMPOSSIBLE[event] == set(STATES.values()), event
        assert not possible & IMPOSSIBLE[event], event


def test_only_known_states_and_events():
    assert set(TRANSITIONS) == set(IMPOSSIBLE)
    assert all(new in STATES for rows in TRANSITIONS.values() for new in rows.values())


def test_every_state_is_reached_and_leads_to_close():
    reached = {new for rows in TRANSITIONS.values() for new in rows.values()}
    assert reached == set(STATES)
    assert set(TRANSITIONS["done"].values()) == {STATE_OF["CLOSE"]}


def test_a_fin_is_sent_exactly_where_closing_changes_a_synchronized_state():
    changes = {old for old, new in TRANSITIONS["close"].items() if new != old and new != STATE_OF["CLOSE"]}
    assert changes == SENDS_FIN


def test_state_numbers_are_the_kernels():
    assert [state_name(n) for n in range(1, 12)] == [
        "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN",
        "CLOSING",
    ]  # fmt: skip
    assert state_name(99) == "99"


def test_a_transition_that_cannot_happen_is_a_bug():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        with pytest.raises(KernelBug, match="syn_ack in CLOSE"):
            host.tcp.tcp_set_state(sk, "syn_ack")
