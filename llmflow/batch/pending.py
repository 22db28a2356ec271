"""Calls that wait for the outcomes of their rows."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Callable, Iterable

from llmflow.calls.call import Done
from llmflow.errors import JournalError, LLMFlowError, ProviderError
from llmflow.types import Response

Outcome = Response | ProviderError


class RunLive(Exception):  # noqa: N818 - nothing is wrong
    """The row is not answered by a job: ask it live."""


Settled = Callable[[JournalError | None], None]
"""Tells a job that an outcome is written down, or why it cannot be."""


class PendingCall:
    """A call that waits for its row.

    Attributes:
        future: its outcome.
    """

    __slots__ = ("_settled", "future")

    def __init__(self) -> None:
        self.future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._settled: Settled | None = None

    def give(self, outcome: Outcome, settled: Settled) -> None:
        """Hand the call its outcome, which it is to write down."""
        self._settled = settled
        if isinstance(outcome, ProviderError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)

    def mark_durable(self) -> None:
        """Note that the outcome is written down."""
        if (settled := self.taken()) is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed, and the job with it
                settled(None)

    def mark_failed(self, error: JournalError) -> None:
        """Note that it cannot be written down."""
        if (settled := self.taken()) is not None:
            settled(error)

    def taken(self) -> Settled | None:
        """Return, once, what waits to hear of the outcome."""
        settled, self._settled = self._settled, None
        return settled


class PendingCalls:
    """The calls that wait or are called back, by their rows' names."""

    def __init__(self) -> None:
        self._waiting: dict[str, PendingCall] = {}
        self._placed: dict[str, Done] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._waiting or name in self._placed

    def wait(self, name: str, call: PendingCall) -> None:
        """Have a call wait for a row."""
        self._waiting[name] = call

    def place(self, name: str, done: Done) -> None:
        """Have a function called with a row's outcome."""
        self._placed[name] = done

    def leave(self, name: str, call: PendingCall) -> bool:
        """Have a call wait no longer; whether it did until now."""
        if self._waiting.get(name) is not call:
            return False
        del self._waiting[name]
        return True

    def give(self, name: str, outcome: Outcome, settled: Settled) -> bool:
        """Deliver a row's outcome to its waiting call; False without one."""
        call = self._waiting.pop(name, None)
        if call is None or call.future.done():
            return False
        call.give(outcome, settled)
        return True

    def callback(self, name: str) -> Done | None:
        """Return the function to be called with a row's outcome, once."""
        return self._placed.pop(name, None)

    def run_live(self, names: Iterable[str]) -> set[str]:
        """Have these rows' calls run live; return rows nobody waits for."""
        return self._end(names, RunLive())

    def fail(self, names: Iterable[str], error: LLMFlowError) -> None:
        """Have the calls for these rows fail."""
        self._end(names, error)

    def fail_all(self, error: LLMFlowError) -> None:
        """Have all calls fail."""
        self._end([*self._waiting, *self._placed], error)

    def _end(self, names: Iterable[str], error: Exception) -> set[str]:
        alone = set[str]()
        for name in names:
            call = self._waiting.pop(name, None)
            if call is None:
                alone.add(name)
                if (done := self._placed.pop(name, None)) is not None:
                    asyncio.get_running_loop().call_soon(done, copy.copy(error))
            elif not call.future.done():
                call.future.set_exception(copy.copy(error))  # each raises its own
        return alone
