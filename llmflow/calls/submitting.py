"""Calls that nobody waits for: their answers come into the run's journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmflow.calls.choice import Choice
from llmflow.calls.route import Route
from llmflow.errors import ProviderError, UsageError
from llmflow.journal.asked import Asked
from llmflow.types import Request, Response

if TYPE_CHECKING:
    from llmflow.calls.session import Recorder


class Submitting:
    """Puts calls into batch jobs without waiting, by the same rules as those that wait.

    A program that submits all of its calls, and asks them again later, finds the answers in
    the journal. Memory does not grow with what such a call would hold.

    Args:
        recorder: whose calls they are.
    """

    def __init__(self, recorder: Recorder) -> None:
        if recorder.journal is None:
            raise UsageError(
                "calls can be submitted in a run with a name only: its journal keeps their answers"
            )
        self._recorder = recorder
        self._journal = recorder.journal
        self._asked = Asked()  # the calls that come later are counted from 0 again
        self._has_begun_again = False
        self._shared: dict[bytes, int] = {}

    async def submit(self, request: Request, route: Route, choice: Choice) -> bool:
        """Have a call answered by a job; False if its outcome is known, or comes another way.

        Raises:
            BudgetExceededError: it does not fit into what is left of the budget.
            BatchUnsupportedError: the provider has no batch API.
        """
        recorder = self._recorder
        call = route.call(request)
        key = recorder.fingerprint(call, route)
        nth = self._asked.count(key)
        if nth or self._may_know_more:
            known = self._journal.find(key, nth)
            if known is not None and (isinstance(known, Response) or not recorder.retry_failed):
                return False
        if nth and route.shares(request):
            self._shared[key] = max(nth, self._shared.get(key, 0))
            return False
        if await self._from_cache(route, key, nth):
            return False
        batching, spending = recorder.batching, recorder.spending
        if not batching.is_for_batch(call, route, choice):
            return False
        # A cache may have taken its time, and a job have brought the answer meanwhile.
        is_unknown = route.cache is None
        if spending is None:
            return batching.enqueue(call, route, key, nth, choice, is_unknown=is_unknown)
        if batching.is_waited_for(route, key, nth):
            return True
        reservation = spending.reserve_now(call, route, batch=True)
        if not batching.enqueue(call, route, key, nth, choice, is_unknown=is_unknown):
            reservation.release()
            return False
        spending.keep_for((key, nth), reservation)
        return True

    @property
    def _may_know_more(self) -> bool:
        """Whether anything may be written down of what is submitted for the first time."""
        is_first = self._journal.began_empty and not self._recorder.has_asked
        return self._has_begun_again or not is_first

    async def _from_cache(self, route: Route, key: bytes, nth: int) -> bool:
        found = None if route.cache is None else await route.cache.find(key)
        if found is None:
            return False
        await self._journal.record(key, nth, found, paid=False)
        return True

    def begin_again(self) -> None:
        """Take the next calls for the first ones, which are submitted once more."""
        self._asked.close()
        self._has_begun_again = True

    async def settle(self) -> None:
        """Write the answers of calls down for the equal ones that were to share them."""
        shared, self._shared = self._shared, {}
        for key, last in shared.items():
            found = self._journal.find(key, 0)
            if isinstance(found, Response):
                await self._journal.record(key, 1, found, uses=last, paid=False)
            elif found is not None:
                error: ProviderError = found.error()
                await self._journal.record_failure(key, 1, error, uses=last, paid=False)
        if self._recorder.spending is not None:
            self._recorder.spending.release_rows()

    def close(self) -> None:
        """Forget how often each call was submitted."""
        self._asked.close()
