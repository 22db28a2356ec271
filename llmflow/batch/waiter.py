"""Calls that wait for what jobs bring."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from llmflow.errors import JournalError, LLMFlowError, ProviderError
from llmflow.types import Response

if TYPE_CHECKING:
    from llmflow.batch.job import Job

Outcome = Response | ProviderError


class TakenOver(Exception):  # noqa: N818 - nothing is wrong
    """The row is not answered by a job: ask it in parallel."""


class Waiter:
    """A call that waits for its row.

    Attributes:
        job: the job that answered it, until the answer is written down.
    """

    __slots__ = ("future", "job")

    def __init__(self, future: asyncio.Future[Response]) -> None:
        self.future = future
        self.job: Job | None = None

    def kept(self) -> None:
        """Note that the outcome is written down."""
        if (job := self.taken()) is not None:
            self.on_its_loop(job.settled)

    def lost(self, error: JournalError) -> None:
        """Note that it cannot be written down."""
        if (job := self.taken()) is not None:
            self.on_its_loop(job.unsettled, error)

    def taken(self) -> Job | None:
        """Return the job that waits to hear of the outcome, once."""
        job, self.job = self.job, None
        return job

    def on_its_loop(self, what: Callable[..., None], *about: Any) -> None:
        """Call a job's method on the event loop that polls it."""
        loop = self.future.get_loop()
        if loop is asyncio._get_running_loop():
            what(*about)
        else:
            with contextlib.suppress(RuntimeError):  # it is closed, and its jobs with it
                loop.call_soon_threadsafe(what, *about)


class Waiters:
    """The calls that wait, by the names of their rows."""

    def __init__(self) -> None:
        self._all: dict[str, Waiter] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._all

    async def enter(self, name: str, waiter: Waiter) -> None:
        """Have a call wait for a row.

        Raises:
            TakenOver: another call waited for the same row, and has gone.
            ProviderError: what came to it.
        """
        while (other := self._all.get(name)) is not None:  # it is from another event loop
            await asyncio.wait((other.future,))
            if other.future.cancelled():
                raise TakenOver
            waiter.future.set_result(other.future.result())
            return
        self._all[name] = waiter

    def leave(self, name: str, waiter: Waiter) -> bool:
        """Have a call wait no longer; whether it did until now."""
        if self._all.get(name) is not waiter:
            return False
        del self._all[name]
        return True

    def give(self, name: str, outcome: Outcome, job: Job) -> bool:
        """Deliver a row's outcome to its waiting call; False without one."""
        waiter = self._all.pop(name, None)
        if waiter is None or waiter.future.done():
            return False
        waiter.job = job
        if isinstance(outcome, ProviderError):
            waiter.future.set_exception(outcome)
        else:
            waiter.future.set_result(outcome)
        return True

    def take_over(self, names: Iterable[str]) -> set[str]:
        """Ask these calls in parallel; return rows that nobody waits for."""
        return self._end(names, TakenOver())

    def fail(self, names: Iterable[str], error: LLMFlowError) -> None:
        """Have the calls for these rows fail."""
        self._end(names, error)

    def fail_all(self, error: LLMFlowError) -> None:
        """Have all calls fail."""
        self._end(list(self._all), error)

    def _end(self, names: Iterable[str], error: Exception) -> set[str]:
        alone = set[str]()
        for name in names:
            waiter = self._all.pop(name, None)
            if waiter is None:
                alone.add(name)
            elif not waiter.future.done():
                waiter.future.set_exception(copy.copy(error))  # each raises its own
        return alone
