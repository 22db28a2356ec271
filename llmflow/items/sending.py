"""Calls of an item: waiting to be sent, or on their way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import ParamSpec, Protocol, Self, TypeVar

_T = TypeVar("_T")
_P = ParamSpec("_P")

item_calls: ContextVar[ItemCalls | None] = ContextVar("llmflow_item_calls", default=None)
"""The running item's calls, where a stop ends what waits to be sent; else None."""


class Stoppable(Protocol):
    """A run over many items that can be stopped."""

    sends: bool
    sending: int


class ItemCalls:
    """The state of one item's calls: waiting to be sent, or sent."""

    __slots__ = ("_run", "_sending", "_task", "_waiting")

    def __init__(self, run: Stoppable, task: asyncio.Task[None]) -> None:
        self._run = run
        self._task = task
        self._waiting = 0
        self._sending = 0

    @property
    def waits(self) -> bool:
        """True if something is to be sent, and nothing on its way."""
        return bool(self._waiting and not self._sending)

    def begin(self) -> None:
        """Count a call that is to be sent.

        Raises:
            CancelledError: the run sends no more.
        """
        if not self._run.sends:
            raise asyncio.CancelledError
        self._waiting += 1

    def end(self) -> None:
        """Count a call no more that has its answer, or has failed."""
        self._waiting -= 1

    def sent(self, send: Callable[_P, Awaitable[_T]]) -> Callable[_P, Awaitable[_T]]:
        """Return the same function; a stop of the run waits for it."""

        async def sent(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            self._sending += 1
            self._run.sending += 1
            try:
                return await send(*args, **kwargs)
            finally:
                self._sending -= 1
                self._run.sending -= 1
                if not self._run.sends:
                    # Unless it has its answer, or its error, by then: it is to be sent again.
                    asyncio.get_running_loop().call_soon(self._drop)

        return sent

    def _drop(self) -> None:
        if self.waits:
            self._task.cancel()

    def wait_for_job(self) -> Self:
        """Wait for a batch job, which goes on without the run."""
        return self

    async def __aenter__(self) -> None:
        self.begin()

    async def __aexit__(self, *_: object) -> None:
        self.end()
