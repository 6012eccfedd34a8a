"""What can be made to go wrong in the server, on purpose and repeatably.

Interface
    * ``Faults.delay(procedure, ns)``, ``.error(procedure, status)``, ``.drop(procedure)``, ``.crash(procedure)``: rules, each with
      ``after`` (how many matching requests pass first) and ``times`` (how many it then meets; None for all).
    * ``match(program, procedure)``: asked by the server for each request that it is about to execute.

Rules of this file
    * The first rule that matches and is not used up decides; each rule counts for itself.
    * A fault acts on execution. A duplicate that the reply cache answers does not meet it.
    * Nothing here is random: a scenario that wants chance draws from its own seed and adds rules.
"""

from __future__ import annotations

import attrs

from kemu.errors import ConfigError

DELAY, ERROR, DROP, DROP_REPLY, CRASH, CRASH_LOSE = "delay", "error", "drop", "drop_reply", "crash", "crash_lose"


@attrs.define(eq=False)
class FaultRule:
    """One fault.

    :param action: DELAY (work takes ``value`` ns longer), ERROR (answer with status ``value``, do nothing), DROP (as if the
        request never came), DROP_REPLY (do it and say nothing), CRASH (power fails after the work, before the reply), CRASH_LOSE
        (and data that was not stable is lost).
    :param procedure: the number, or None for all.
    """

    program: int
    procedure: int | None
    action: str
    value: int = 0
    after: int = 0
    times: int | None = 1
    seen: int = 0
    met: int = 0

    def takes(self, program: int, procedure: int) -> bool:
        """Count a request; tell whether the fault meets it."""
        if program != self.program or self.procedure not in (None, procedure):
            return False
        if self.times is not None and self.met >= self.times:
            return False
        self.seen += 1
        if self.seen <= self.after:
            return False
        self.met += 1
        return True


class Faults:
    """The rules of one server, in the order in which they were made."""

    def __init__(self) -> None:
        self.rules: list[FaultRule] = []

    def add(self, rule: FaultRule) -> FaultRule:
        """Enter a rule; it is returned, so that a test can look at ``met``."""
        if rule.after < 0 or (rule.times is not None and rule.times < 1) or rule.value < 0:
            raise ConfigError("a fault needs after >= 0, times >= 1 (or None for always) and a value >= 0")
        self.rules.append(rule)
        return rule

    def delay(self, procedure: int | None, ns: int, *, program: int = 100003, after: int = 0, times: int | None = 1) -> FaultRule:
        """Let the work on a request take ``ns`` longer."""
        return self.add(FaultRule(program, procedure, DELAY, ns, after, times))

    def error(
        self, procedure: int | None, status: int, *, program: int = 100003, after: int = 0, times: int | None = 1
    ) -> FaultRule:
        """Answer with an NFS status, for example NFS3ERR_IO, without doing anything."""
        return self.add(FaultRule(program, procedure, ERROR, status, after, times))

    def drop(
        self, procedure: int | None, *, reply: bool = False, program: int = 100003, after: int = 0, times: int | None = 1
    ) -> FaultRule:
        """Lose a request, or do it and lose its ``reply``."""
        return self.add(FaultRule(program, procedure, DROP_REPLY if reply else DROP, 0, after, times))

    def crash(
        self, procedure: int | None, *, lose_unstable: bool = True, program: int = 100003, after: int = 0, times: int | None = 1
    ) -> FaultRule:
        """Let the power fail when the request was executed and not yet answered."""
        return self.add(FaultRule(program, procedure, CRASH_LOSE if lose_unstable else CRASH, 0, after, times))

    def match(self, program: int, procedure: int) -> FaultRule | None:
        """Return the rule that meets this request."""
        for rule in self.rules:
            if rule.takes(program, procedure):
                return rule
        return None
