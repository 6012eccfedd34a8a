"""Run a parsed script: event by event, on the machine's time.

Interface: ``Runner(script, config, host, stimulus)``; ``run()`` raises :exc:`ScriptFailure`, :exc:`ScriptUnsupported` or
:exc:`ScriptSyntaxError`, each with file and line; ``notes`` says what was taken without effect.

Rules of this file
    * An event waits for its time, a relative one from when the event before was done. Packets that the machine sends are compared
      in their order with the lines that expect them; where a segment of the connection is expected, packets of others are passed
      over and noted. One that is still unexpected when the script ends is nobody's business, as in
      packetdrill (``wire.pending`` tells).
    * A time may be off by the tolerance: see pd_config.py. HZ is 250: a timer cannot be hit closer than 4 ms.
    * A line may expect more bytes than one segment holds, as a sender with TSO shows them: full segments in a row count as one.
    * What the peer sends and no frame holds goes in IP fragments, and is one segment again for TCP.
    * ``stimulus``: packets of the machine are not judged, only read for its sequence numbers and timestamps, and waited for no
      longer than the script says; code is not judged either. What remains is what system calls return.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from kemu.errors import KernelBug
from kemu.kernel.errno import errname
from kemu_net.testing.pd_args import ArgError, ArgUnsupported, number
from kemu_net.testing.pd_asserts import CodeBroken, CodeFalse, CodeUnsupported, Evaluator
from kemu_net.testing.pd_ast import ABSOLUTE, ANY_TIME, OUT, Call, Code, Command, Dots, Event, Number, Packet
from kemu_net.testing.pd_calls import Calls
from kemu_net.testing.pd_commands import Commands, CommandUnsupported
from kemu_net.testing.pd_data_calls import Mismatch, Prepared
from kemu_net.testing.pd_errors import ScriptFailure, ScriptSyntaxError, ScriptUnsupported
from kemu_net.testing.pd_expect import Expecting
from kemu_net.testing.pd_names import Names
from kemu_net.testing.pd_send import Sender
from kemu_net.testing.pd_table import Conns
from kemu_net.testing.pd_text import call_text

if TYPE_CHECKING:
    from kemu_net.testing.pd_ast import Script
    from kemu_net.testing.pd_config import Config
    from kemu_net.testing.pd_host import Host

SECOND: Final = 1_000_000_000
_SETTLE_NS: Final = 1_000_000  # what a call that does not block may take


@attrs.define(eq=False)
class Pending:
    """A call that may block: its event, when it should return, and what it will be asked then."""

    line: int
    call: Call
    prepared: Prepared
    end: int | None
    base: int


class Runner:
    """Runs one script on one machine."""

    def __init__(self, script: Script, config: Config, host: Host, stimulus: bool = False) -> None:
        self.script = script
        self.config = config
        self.host = host
        self.stimulus = stimulus
        self.origin = host.now
        self.line = 1
        self.notes: list[str] = []
        self.conns = Conns(config)
        self.calls = Calls(host, self.conns)
        self.sender = Sender(host, self.conns)
        self.expecting = Expecting(host, self.conns, config, stimulus)
        self.commands = Commands(host.kernel.sysctl, self._note, not stimulus)
        self.evaluator = Evaluator(Names(host, self.conns, self.origin).lookup)
        self._pending: Pending | None = None

    def _note(self, text: str) -> None:
        self.notes.append(f"{self.script.name}:{self.line}: {text}")

    def run(self) -> None:
        """Run all events, then see that nothing is left of it."""
        try:
            self._commands(self.script.before)
            self.origin = self.host.now
            for event in self.script.events:
                self.line = event.line
                self._event(event)
            if self._pending is not None:
                self._finish_call()
            self._commands(self.script.after)
            left = self.host.finish(sorted(self.conns.by_fd))
        except KernelBug as error:
            raise ScriptFailure(self.script.name, self.line, f"the machine: {error}") from error
        if left is not None:
            raise ScriptFailure(self.script.name, self.line, f"at the end {left}")

    def _commands(self, commands: tuple[tuple[int, Command], ...]) -> None:
        """Do what stands before or behind the events."""
        for line, command in commands:
            self.line = line
            self._command(command)

    def _fail(self, reason: str, line: int | None = None) -> ScriptFailure:
        return ScriptFailure(self.script.name, self.line if line is None else line, reason)

    # events

    def _event(self, event: Event) -> None:
        """Run one event."""
        base = self.host.now
        when = event.when
        origin = self.origin if when.kind == ABSOLUTE else base
        action = event.action
        if isinstance(action, Packet) and action.direction == OUT:
            start = None if when.kind == ANY_TIME else origin + when.time
            last = start if when.last is None else origin + when.last
            problem = self.expecting.expect(action, start, last, base, self.origin)
            for text in self.expecting.passed_over:
                self._note(f"passed over, not of this connection: {text}")
            self.expecting.passed_over.clear()
            if problem is not None and "packet" not in self.config.non_fatal:
                raise self._fail(problem)
            if problem is not None:
                self._note(problem)
            return
        self._wait_until(origin + when.time)
        if isinstance(action, Packet):
            self._send(action)
        elif isinstance(action, Call):
            self._call(event.line, action, None if action.end is None else origin + action.end, base)
        elif isinstance(action, Command):
            self._command(action)
        else:
            self._code(action)

    def _wait_until(self, time: int) -> None:
        """Let time pass; an event whose time is over happens at once, unless it is too late for the script."""
        late = self.host.now - time
        if late > self.config.tolerance and not self.stimulus:
            raise self._fail(f"it should happen at {self._seconds(time)}, but it is {self._seconds(self.host.now)}")
        self.host.run(None, time)

    def _seconds(self, time: int) -> str:
        return f"{(time - self.origin) / SECOND:.6f}"

    def _send(self, packet: Packet) -> None:
        problem = self.sender.send(packet)
        if problem is not None:
            raise ScriptSyntaxError(self.script.name, self.line, problem)
        self.host.take_in()

    def _command(self, command: Command) -> None:
        try:
            self.commands.run(command.text)
        except CommandUnsupported as error:
            raise ScriptUnsupported(self.script.name, self.line, str(error)) from None

    def _code(self, code: Code) -> None:
        """Evaluate Python; in stimulus mode it is not judged."""
        if self.stimulus:
            self._note("code is not judged")
            return
        try:
            self.evaluator.run(code.text)
        except CodeFalse as error:
            raise self._fail(str(error)) from None
        except CodeUnsupported as error:
            raise ScriptUnsupported(self.script.name, self.line, str(error)) from None
        except CodeBroken as error:
            raise ScriptSyntaxError(self.script.name, self.line, str(error)) from None
        for text in self.evaluator.printed:
            self._note(text)
        self.evaluator.printed.clear()

    # system calls

    def _call(self, line: int, call: Call, end: int | None, base: int) -> None:
        """Make a call; one that may block is looked at when the next is made, or at the end."""
        if self._pending is not None:
            self._finish_call()
        try:
            prepared = self.calls.prepare(call)
        except ArgUnsupported as error:
            raise ScriptUnsupported(self.script.name, line, str(error)) from None
        except ArgError as error:
            raise ScriptSyntaxError(self.script.name, line, f"{call.name}(): {error}") from None
        self._pending = Pending(line, call, prepared, end, base)
        self.host.start(prepared.run)
        if end is None:
            self.host.run(lambda: not self.host.busy, self.host.now + max(self.config.tolerance, _SETTLE_NS))
            if self.host.busy:
                raise self._fail(f"{call_text(call)} blocks, but should return at once")
            self._finish_call()
        else:
            self.host.run(lambda: not self.host.busy, self.host.now + 1)

    def _finish_call(self) -> None:
        """Wait for the call's end and compare what it gave with what the script says."""
        pending = self._pending
        assert pending is not None
        self._pending = None
        host = self.host
        if pending.end is not None:
            tolerance = self.config.tolerance
            latest = max(pending.end + tolerance, host.now)
            host.run(lambda: not host.busy, latest)
            if host.busy:
                raise self._fail(f"{call_text(pending.call)} did not return until {self._seconds(host.now)}", pending.line)
            if abs(host.ended - pending.end) > tolerance and not self.stimulus:
                raise self._fail(
                    f"{call_text(pending.call)} returned at {self._seconds(host.ended)}, expected at {self._seconds(pending.end)}",
                    pending.line,
                )
        try:
            result = pending.prepared.settle(host.result)
        except Mismatch as error:
            self._mismatch(f"{call_text(pending.call)}: {error}", pending.line)
            return
        self._compare(pending, result)

    def _compare(self, pending: Pending, result: int) -> None:
        """Compare the result of a call."""
        call = pending.call
        expected = call.result
        if isinstance(expected, Number):
            wanted = expected.value
            if wanted == -1 and result < 0:
                name = errname(result)
                alias = {"EWOULDBLOCK": "EAGAIN"}.get(call.errno or "", call.errno)
                if alias is None or alias == name:
                    return
            elif result == wanted:
                return
            shown = f"{wanted}{f' {call.errno}' if call.errno else ''}"
        else:
            try:
                if isinstance(expected, Dots) or number(expected) == result:
                    return
                shown = str(number(expected))
            except (ArgError, ArgUnsupported) as error:
                raise ScriptUnsupported(self.script.name, pending.line, str(error)) from None
        found = f"-1 {errname(result)}" if result < 0 else str(result)
        self._mismatch(f"{call_text(call)} returned {found}, expected {shown}", pending.line)

    def _mismatch(self, text: str, line: int) -> None:
        if "syscall" in self.config.non_fatal:
            self._note(text)
            return
        raise self._fail(text, line)
