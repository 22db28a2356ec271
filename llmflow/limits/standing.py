"""Tells passing refusals of a key or model from final ones.

Before the first answer a refusal (401, 403, 404) is conclusive: the key or the model's name
is wrong. After it, refusals pass more often than not: a gateway restarts, a key is being
changed, a proxy takes one prompt for an attack. So the first of them is looked at once more,
after a pause, by the same call; others that were on their way meanwhile wait for what comes
of that. Nothing here waits, looks at a clock or knows an event loop.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, TypeAlias


class Verdict(Enum):
    """The consequence of a refusal."""

    FINAL = "final"
    """It is meant for every call: the key or the model does not work."""
    PROBE = "probe"
    """All calls pause, and this one is sent once more, to find out."""
    WAIT = "wait"
    """Another call finds out already."""
    AGAIN = "again"
    """It was sent before others were answered: it is sent again."""


Tell: TypeAlias = Callable[[Verdict], None]
IsGone: TypeAlias = Callable[[], bool]


class _Waiter(NamedTuple):
    tell: Tell
    is_gone: IsGone


def _never() -> bool:
    return False


class Standing:
    """The standing of one key and model.

    Calls are told apart by identity: any hashable object will do. Safe to use from several threads.

    >>> standing = Standing()
    >>> standing.answered("first", sent=0.0)
    >>> standing.refused("second", sent=1.0, now=1.1)
    <Verdict.PROBE: 'probe'>
    >>> standing.refused("third", sent=1.0, now=1.2)
    <Verdict.WAIT: 'wait'>
    >>> standing.refused("second", sent=6.2, now=6.3, probed=True)
    <Verdict.FINAL: 'final'>
    """

    def __init__(self) -> None:
        self.has_worked = False
        """Whether anything was answered, and no refusal has been conclusive since."""
        self.is_sound = False
        """Whether it has worked and nothing is in doubt: there is nothing to be told."""
        self._doubted_at = -math.inf
        self._cleared_at = -math.inf
        self._prober: object | None = None
        self._is_gone: IsGone = _never
        self._waiting: dict[object, _Waiter] = {}
        # Again by its own thread: an abandoned call may be collected at any line.
        self._lock = threading.RLock()

    def answered(self, call: object, *, sent: float) -> None:
        """Take note of an answer to a call sent at `sent`."""
        with self._lock:
            self.has_worked = True
            if self._prober is None:
                self.is_sound = True
            elif call == self._prober or sent > self._doubted_at:
                self._end(Verdict.AGAIN)
                self._cleared_at = sent
                self.is_sound = True

    def confirm(self) -> None:
        """Register success elsewhere, such as in a batch job."""
        with self._lock:
            self.has_worked = True
            self.is_sound = self._prober is None

    def refused(
        self,
        call: object,
        *,
        sent: float,
        now: float,
        probed: bool = False,
        is_gone: IsGone = _never,
    ) -> Verdict:
        """Take note of a refusal, and return what follows from it.

        Who is told to probe or to wait calls `left` in the end, whatever happens. `probed` says
        that the call was told to probe before, `is_gone` whether nobody goes on with it any more,
        nor says that it has left: its event loop was closed.
        """
        with self._lock:
            if not self.has_worked:
                return Verdict.FINAL
            if probed:
                self.has_worked = self.is_sound = False
                self._end(Verdict.FINAL)
                return Verdict.FINAL
            self.look()
            if self._prober is not None:
                return Verdict.WAIT
            if sent < self._cleared_at:
                return Verdict.AGAIN
            self.is_sound = False
            self._doubted_at = now
            self._prober, self._is_gone = call, is_gone
            return Verdict.PROBE

    def wait(self, call: object, tell: Tell, is_gone: IsGone = _never) -> bool:
        """Notify a call of the doubt's outcome; False if none exists.

        `tell` is called once, from any thread; with `Verdict.PROBE` where it is the call's turn.
        """
        with self._lock:
            if self._prober is None:
                return False
            self._waiting[call] = _Waiter(tell, is_gone)
            return True

    def look(self) -> None:
        """Let another call find out when the first is gone."""
        with self._lock:
            if self._prober is not None and self._is_gone():
                self._pass_on()

    def left(self, call: object) -> None:
        """Take note that a call has ended, or that its attempt has.

        Where it was to find out and has not, the next one does.
        """
        with self._lock:
            self._waiting.pop(call, None)
            if call == self._prober:
                self._pass_on()

    def after_fork(self) -> None:
        """Forget who finds out and who waits: they are the parent's."""
        self._lock = threading.RLock()
        self._prober = None
        self._waiting = {}
        self.is_sound = self.has_worked

    def _pass_on(self) -> None:
        """Have the next call find out; where nobody waits, the next refusal begins anew."""
        self._prober = None
        while (heir := next(iter(self._waiting), None)) is not None:
            waiter = self._waiting.pop(heir, None)  # it may be collected at this very line
            if waiter is not None and not waiter.is_gone():
                self._prober, self._is_gone = heir, waiter.is_gone
                waiter.tell(Verdict.PROBE)
                return
        self.is_sound = self.has_worked

    def _end(self, verdict: Verdict) -> None:
        """End the doubt, and tell who waits."""
        self._prober = None
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting.values():
            waiter.tell(verdict)
