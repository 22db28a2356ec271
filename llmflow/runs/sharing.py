"""Equal calls in flight at the same time, answered by one of them."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Hashable

from llmflow.errors import LLMFlowError
from llmflow.types import Response


class Leader:
    """The call that asks, for itself and for those that wait for its answer."""

    __slots__ = ("_calls", "_key", "answer", "followers")

    def __init__(self, calls: dict[Hashable, Leader], key: Hashable) -> None:
        self.answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.followers = 0
        self._calls = calls
        self._key = key

    @property
    def uses(self) -> int:
        """How many calls get the answer."""
        return 1 + self.followers

    def close(self) -> None:
        """Take no more followers."""
        if self._calls.get(self._key) is self:
            del self._calls[self._key]

    def succeed(self, response: Response) -> None:
        """Give the followers the answer."""
        self.close()
        if not self.answer.done():
            self.answer.set_result(response)

    def fail(self, error: LLMFlowError) -> None:
        """Give the followers the failure."""
        self.close()
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # with no followers, nobody else retrieves it

    def give_up(self) -> None:
        """Let one of the followers ask: this one was cancelled."""
        self.close()
        self.answer.cancel()


class Sharing:
    """Finds equal calls in flight.

    The first call asks and the others wait. Where the first is cancelled, the next one
    asks in its place. Calls on other event loops are not waited for.
    """

    def __init__(self) -> None:
        self._calls: dict[Hashable, Leader] = {}

    def lead(self, key: Hashable) -> Leader | None:
        """Return the leader to be for such calls, or None if another one is in flight."""
        key = (id(asyncio.get_running_loop()), key)
        if key in self._calls:
            return None
        leader = self._calls[key] = Leader(self._calls, key)
        return leader

    async def follow(self, key: Hashable) -> Response | None:
        """Wait for the leader's answer; None if there is no leader, or not any more.

        Raises:
            LLMFlowError: the leader failed.
        """
        leader = self._calls.get((id(asyncio.get_running_loop()), key))
        if leader is None:
            return None
        leader.followers += 1
        try:
            await asyncio.wait((leader.answer,))
        except BaseException:
            leader.followers -= 1
            raise
        if leader.answer.cancelled():
            return None
        error = leader.answer.exception()
        if error is not None:
            raise copy.copy(error)  # each caller adds its own traceback
        return leader.answer.result()
