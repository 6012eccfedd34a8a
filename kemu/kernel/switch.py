"""Stacks that can be left half-way and taken up again: the only file that knows how.

Two vehicles of one contract: greenlet, and plain threads of which exactly one is awake (one baton). The second is taken where
greenlet is missing, or on request (``vehicle="threads"``).

Rules of this file
    * ``adopt()`` makes a Stack of the caller's own stack; ``spawn(fn, back)`` makes one that will run ``fn``; ``start(stack)``
      prepares it for its first turn and must be called by the hub (a greenlet inherits the recursion depth of who first enters it).
    * ``switch(me, to)`` leaves ``me`` and enters ``to``; it returns when somebody switches to ``me``. An exception left in
      ``me.pending`` is raised there.
    * A body returns, or raises into ``stack.back`` (the hub): its exception is left in ``back.pending``.
    * :exc:`TaskKilled` comes only at teardown; a dying stack that switches away gets it again at once. Whatever else a dying stack
      raises is dropped: nobody is left to hear it.
    * No contextvars. All stacks of a vehicle belong to the thread that adopted; threads of the second vehicle take turns.
    * Ctrl-C in the thread vehicle reaches the main thread while it waits for the baton. It is kept, ``interrupted`` is set so that
      the hub hands the baton back, and it is raised when the baton is there.
    * What reads ``Stack.fn`` must be gone once the body runs: a suspended frame is invisible to the garbage collector.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from kemu.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

try:
    import greenlet  # type: ignore[import-untyped]  # it ships no types
except ImportError:  # the thread vehicle needs nothing
    greenlet = None


class TaskKilled(BaseException):
    """The world is shut down: unwind. Not an Exception, so that no kernel path catches it by accident."""


class Stack:
    """One stack of execution.

    :ivar fn: the body, until the stack is started.
    :ivar back: who gets control when the body is over.
    :ivar pending: an exception to raise when this stack is entered next.
    :ivar handle: the vehicle's own: a greenlet, or a lock that wakes the thread.
    :ivar has_baton: of threads: it is this one that may run.
    """

    __slots__ = ("back", "done", "dying", "fn", "handle", "has_baton", "pending", "started", "thread")

    def __init__(self, fn: Callable[[], None] | None = None, back: Stack | None = None) -> None:
        self.fn = fn
        self.back = back
        self.pending: BaseException | None = None
        self.started = fn is None
        self.done = False
        self.dying = False
        self.handle: Any = None
        self.has_baton = False
        self.thread: threading.Thread | None = None


def _raise_pending(stack: Stack) -> None:
    pending = stack.pending
    if pending is not None:
        stack.pending = None
        raise pending


def _run_body(stack: Stack, fn: Callable[[], None]) -> None:
    """Run a body to its end, whatever the end is, and leave its exception to who comes next."""
    try:
        _raise_pending(stack)
        fn()
    except TaskKilled:
        pass
    except BaseException as error:  # noqa: BLE001  # carried over to the hub's stack, where it is raised again
        if not stack.dying and stack.back is not None:
            stack.back.pending = error
    finally:
        stack.done = True


class Vehicle(ABC):
    """What both vehicles share: the contract's names, and teardown."""

    name = ""
    interrupted = False

    def __init__(self) -> None:
        self.owner = threading.get_ident()

    @abstractmethod
    def adopt(self) -> Stack:
        """Make a Stack of the caller's own stack."""

    def spawn(self, fn: Callable[[], None], back: Stack) -> Stack:
        """Make a stack that will run ``fn`` and hand over to ``back``; costs nothing until it is started."""
        return Stack(fn, back)

    @abstractmethod
    def start(self, stack: Stack) -> None:
        """Prepare a spawned stack for its first turn."""

    @abstractmethod
    def switch(self, me: Stack, to: Stack) -> None:
        """Leave ``me``, enter ``to``; return when ``me`` is entered again."""

    def at_home(self) -> bool:
        """Tell whether the calling thread is the one that made the vehicle."""
        return self.owner == threading.get_ident()

    def may_kill_here(self) -> bool:
        """Tell whether the calling thread can enter this vehicle's stacks."""
        return True

    def reap(self, stacks: Sequence[Stack]) -> None:
        """Unwind every stack that was started and is not done; called from outside of all of them."""
        if not self.may_kill_here():
            return
        me = self.adopt()
        for stack in stacks:
            while stack.started and not stack.done:
                stack.dying = True
                stack.pending = TaskKilled()
                stack.back = me
                self.switch(me, stack)
            self.bury(stack)

    def bury(self, stack: Stack) -> None:
        """Let go of what the vehicle keeps for a stack that is done."""
        stack.handle = None
        stack.back = None


class Greenlets(Vehicle):
    """The first vehicle: greenlets."""

    name = "greenlet"

    def adopt(self) -> Stack:
        """Make a Stack of the caller's own stack."""
        stack = Stack()
        stack.handle = greenlet.getcurrent()
        return stack

    def start(self, stack: Stack) -> None:
        """Make the greenlet; its parent is set when the body is over, so that it ends in who comes next."""
        fn = stack.fn
        assert fn is not None
        assert stack.back is not None
        stack.fn = None
        stack.started = True

        cell = [fn]

        def body() -> None:
            _run_body(stack, cell.pop())
            if stack.back is not None:
                stack.handle.parent = stack.back.handle

        stack.handle = greenlet.greenlet(body)

    def switch(self, me: Stack, to: Stack) -> None:
        """Leave ``me``, enter ``to``; return when ``me`` is entered again."""
        if me.dying:
            raise TaskKilled
        to.handle.switch()
        pending = me.pending
        if pending is not None:
            me.pending = None
            raise pending

    def may_kill_here(self) -> bool:
        """Tell whether this is the thread whose greenlets they are."""
        return self.at_home()


class Threads(Vehicle):
    """The second vehicle: threads that sleep until they are handed the baton."""

    name = "threads"

    def adopt(self) -> Stack:
        """Make a Stack of the caller's own thread."""
        stack = Stack()
        stack.handle = threading.Lock()
        stack.handle.acquire()
        stack.has_baton = True
        return stack

    def start(self, stack: Stack) -> None:
        """Start the thread; it waits for the baton."""
        fn = stack.fn
        assert fn is not None
        stack.fn = None
        stack.started = True
        stack.handle = threading.Lock()
        stack.handle.acquire()
        cell = [fn]

        def body() -> None:
            while not stack.has_baton:
                stack.handle.acquire()
            _run_body(stack, cell.pop())
            if stack.back is not None:
                stack.back.has_baton = True
                _wake(stack.back)

        stack.thread = threading.Thread(target=body, name="kemu", daemon=True)
        stack.thread.start()

    def switch(self, me: Stack, to: Stack) -> None:
        """Leave ``me``, enter ``to``; return when ``me`` is entered again."""
        if me.dying:
            raise TaskKilled
        interrupt: KeyboardInterrupt | None = None
        handed = False
        me.has_baton = False
        while not me.has_baton:
            # Ctrl-C can come between any two steps, also between a lock that was had and the next line. So the lock only wakes;
            # who has the baton is written in the stack.
            try:
                if not handed:
                    to.has_baton = handed = True
                    _wake(to)
                while not me.has_baton:
                    me.handle.acquire()
            except KeyboardInterrupt as error:  # the baton is elsewhere: keep it until it is back
                interrupt = error
                self.interrupted = True
                _wake(to)
        if interrupt is not None:
            self.interrupted = False
            me.pending = None
            raise interrupt
        pending = me.pending
        if pending is not None:
            me.pending = None
            raise pending

    def bury(self, stack: Stack) -> None:
        """Wait for the thread's last instruction."""
        if stack.thread is not None:
            stack.thread.join()
            stack.thread = None
        super().bury(stack)


def _wake(stack: Stack) -> None:
    """Let a thread look whether it has the baton; once too often does no harm."""
    try:
        stack.handle.release()
    except RuntimeError:  # it is awake, or about to be: nobody has taken the lock since
        return


def make_vehicle(name: str | None = None) -> Vehicle:
    """Give the vehicle of that name; None takes greenlet where there is one."""
    if name is None:
        name = "threads" if greenlet is None else "greenlet"
    if name == "greenlet":
        if greenlet is None:
            raise ConfigError("vehicle 'greenlet' needs the package greenlet; 'threads' needs nothing")
        return Greenlets()
    if name == "threads":
        return Threads()
    raise ConfigError(f"vehicle {name!r} is not known; choose 'greenlet' or 'threads'")
