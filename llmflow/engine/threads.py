"""Blocking work off the event loop's thread, without orphans."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")
_A = TypeVar("_A")


async def in_thread(function: Callable[[_A], _T], argument: _A) -> _T:
    """Call a blocking function in a thread, with this task's context.

    A thread cannot be interrupted. When the caller is cancelled, the call that has
    begun is awaited first and one still in the queue is dropped, so that nothing
    works on unseen. Cancelling a second time does not wait.
    """
    dropped = False

    def work() -> _T:
        if dropped:
            raise asyncio.CancelledError
        try:
            return function(argument)
        except StopIteration as error:
            # A future cannot carry StopIteration; a coroutine turns it into the same.
            raise RuntimeError("a sync node raised StopIteration") from error

    context = contextvars.copy_context()
    future = asyncio.get_running_loop().run_in_executor(None, context.run, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        dropped = True
        await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # seen, and of no interest: the cancellation goes on
        raise
