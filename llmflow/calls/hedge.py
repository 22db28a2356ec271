"""Hedging: a slow attempt is sent twice; the first answer wins.

After J. Dean and L. A. Barroso, "The Tail at Scale", Communications of the ACM 56 (2), 2013:
wait until a request has taken longer than nearly all others do, then ask once more. That
cuts off the longest waits for a few per cent more requests, as long as those are bounded:
a provider that is slow as a whole would otherwise be asked everything twice.

This module knows when, and who wins. How a request is sent is `LiveMode`'s matter.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from llmflow.arguments import values_by_name
from llmflow.errors import ConfigurationError, ProviderError

_MEMORY: Final = 300
_ENOUGH: Final = 30
_REFRESH: Final = 10
# Answers that all take equally long differ by a little: that is no reason to ask again.
_MARGIN: Final = 1.1
# An attempt that could not be sent again is looked at again when it has taken so much longer.
_LATER: Final = 1.5

_T = TypeVar("_T")


@values_by_name()
@dataclass(frozen=True, slots=True, kw_only=True)
class Hedge:
    """Limits of hedging: which attempts are sent twice, and how many.

    The first answer wins and the other request is cancelled. **It costs money**: providers
    finish, and may bill, a request whose client has hung up. So `budget` bounds how many are
    sent twice, and hedging is off unless you ask for it. It helps where a few answers take
    many times as long as the rest (stragglers), not where long answers are long: give an LLM
    of its own to prompts whose answers are of another length.

    Nothing is sent twice while calls wait for the quota, while the domain pauses, while more
    than half of all calls fail, or before 30 answers have shown how long they take. The second
    request takes its share of the quota like any other.

    >>> from llmflow import LLM
    >>> llm = LLM("sim/demo", hedge=Hedge(percentile=0.9, budget=0.05))

    Args:
        percentile: an attempt is slow when it takes a tenth longer than this share of the last
            300 answers did, from 0 to 1. Keep it below the share of answers that are quick:
            with one straggler in twenty, 0.9 and not 0.95.
        budget: the share of this LLM's requests that are sent twice at the most, from 0 to 1.
        minimum: seconds that every attempt is given before it is sent again.

    Raises:
        ConfigurationError: a value is out of range.
    """

    percentile: float = 0.95
    budget: float = 0.02
    minimum: float = 1.0

    def __post_init__(self) -> None:
        for name, example in (("percentile", 0.95), ("budget", 0.02)):
            value = getattr(self, name)
            if not _is_number(value) or not 0 < value < 1:
                raise ConfigurationError(
                    f"hedge {name} must be a share between 0 and 1, such as {example}; "
                    f"got {value!r}"
                )
        if not _is_number(self.minimum) or not 0 <= self.minimum < math.inf:
            raise ConfigurationError(
                f"hedge minimum must be seconds, 0 or more; got {self.minimum!r}"
            )


class Hedging:
    """Latencies and hedging budget of one LLM.

    >>> hedging = Hedging(Hedge(percentile=0.5, minimum=0.0))
    >>> for seconds in range(1, 31):
    ...     hedging.learn(float(seconds))
    >>> hedging.patience
    16.5
    """

    def __init__(self, hedge: Hedge) -> None:
        self.requests = 0
        """Requests so far, those left out that were sent because of another one's slowness."""
        self.hedged = 0
        """How many of them were sent a second time."""
        self.patience: float | None = None
        """Seconds after which an attempt is slow; None while too few answers are known."""
        self._hedge = hedge
        self._latencies: deque[float] = deque(maxlen=_MEMORY)
        self._learned = 0
        self._lock = threading.Lock()  # an LLM may be used by event loops in several threads

    def learn(self, seconds: float) -> None:
        """Take note of how long an answer took."""
        with self._lock:
            self._latencies.append(seconds)
            self._learned += 1
            known = len(self._latencies)
            if known >= _ENOUGH and self._learned % _REFRESH == 0:
                # Nearest rank: the least value that so many are not above.
                rank = math.ceil(self._hedge.percentile * known) - 1
                usual = sorted(self._latencies)[rank]
                self.patience = max(self._hedge.minimum, _MARGIN * usual)

    def spend(self) -> bool:
        """Take one hedge from the budget; False if none is left."""
        with self._lock:
            if self.hedged + 1 > self._hedge.budget * self.requests:
                return False
            self.hedged += 1
            return True

    def refund(self) -> None:
        """Give back what was not sent."""
        with self._lock:
            self.hedged -= 1

    async def race(
        self,
        first: Coroutine[Any, Any, _T],
        *,
        again: Callable[[], Coroutine[Any, Any, _T | None]],
        ready: Callable[[], bool],
        failed: Callable[[ProviderError], None],
    ) -> _T:
        """Wait for an answer, hedging when the first is slow.

        Costs a timer for each request, and a task for each second one.

        Args:
            first: sends the request.
            again: sends it a second time; returns None if that cannot be done now.
            ready: whether it is a time for second requests.
            failed: is told at once that the first has failed while the second goes on.

        Raises:
            ProviderError: what the first has failed with; the second's failure is nobody's.
        """
        with self._lock:
            self.requests += 1
        loop = asyncio.get_running_loop()
        sent = loop.time()
        patience = self.patience
        if patience is None:
            answer = await first
        else:
            answer = await _Race(self, patience, again=again, ready=ready).run(first, failed)
        # Where the second has won, the first would have taken longer still. That is all that
        # needs to be known: what is slow counts as slow, and does not drop out of the sample.
        self.learn(loop.time() - sent)
        return answer


class _Race(Generic[_T]):
    """One attempt whose first request runs in the task that waits for it.

    A second one that answers first interrupts that task as ``asyncio.timeout`` does it: it
    cancels it, and takes that cancellation back, unless somebody else cancels it as well.
    """

    def __init__(
        self,
        hedging: Hedging,
        patience: float,
        *,
        again: Callable[[], Coroutine[Any, Any, _T | None]],
        ready: Callable[[], bool],
    ) -> None:
        self._hedging, self._patience = hedging, patience
        self._again, self._ready = again, ready
        self._loop = asyncio.get_running_loop()
        task: asyncio.Task[Any] | None = asyncio.current_task()
        assert task is not None
        self._task = task
        self._second: asyncio.Task[_T | None] | None = None
        self._interrupted = self._over = False
        self._timer = self._loop.call_later(patience, self._look)

    async def run(
        self, first: Coroutine[Any, Any, _T], failed: Callable[[ProviderError], None]
    ) -> _T:
        cancelling = self._task.cancelling()
        try:
            answer: _T | None = await first
        except ProviderError as error:
            self._end()
            answer = await self._outcome_after(error, failed)
            if answer is None:
                raise
        except asyncio.CancelledError:
            self._end()
            second = self._second
            if not self._interrupted or self._task.uncancel() > cancelling or second is None:
                await self._drop()
                raise
            answer = second.result()
        except Exception:
            self._end()
            await self._drop()
            raise
        else:
            self._end()
            if self._interrupted:  # and somebody has kept the cancellation to himself
                self._task.uncancel()
            await self._drop()
        assert answer is not None
        return answer

    async def _outcome_after(
        self, error: ProviderError, failed: Callable[[ProviderError], None]
    ) -> _T | None:
        """Wait for the second, now that the first has failed; None if it fails as well."""
        second = self._second
        if second is None:
            return None
        if self._interrupted:  # and has taken that for a failure
            self._task.uncancel()
        else:
            failed(error)
        try:
            return await second
        except ProviderError:
            return None

    def _look(self) -> None:
        """Send again, if it is a time for that; else look later."""
        if self._ready() and self._hedging.spend():
            self._second = self._loop.create_task(self._again())
            self._second.add_done_callback(self._on_second)
        else:
            self._look_later()

    def _look_later(self) -> None:
        more = (_LATER - 1.0) * self._patience
        self._patience += more
        self._timer = self._loop.call_later(more, self._look)

    def _on_second(self, second: asyncio.Task[_T | None]) -> None:
        if second.cancelled():
            return
        error = second.exception()
        if isinstance(error, ProviderError):
            if not self._over:
                self._second = None
            return
        if error is None and second.result() is None:
            self._hedging.refund()
            if not self._over:
                self._second = None
                self._look_later()
        elif not self._over:
            self._interrupted = True
            self._task.cancel()

    def _end(self) -> None:
        self._over = True
        self._timer.cancel()

    async def _drop(self) -> None:
        """End the second, and wait until it has: nothing may be left over."""
        if self._second is not None and not self._second.done():
            self._second.cancel()
            await asyncio.wait({self._second})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
