"""Checks of what a node's own methods return, items among it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from types import CoroutineType
from typing import Any

from llmflow.errors import ConfigurationError, UsageError

Items = Iterable[Any] | AsyncIterable[Any]


def awaitable(owner: object, hook: str, returned: Any) -> Any:
    """Return what an async method returned, to be awaited.

    Raises:
        ConfigurationError: it cannot be awaited; the message says how the method is written.
    """
    if hasattr(returned, "__await__"):
        return returned
    name = f"{type(owner).__name__}.{hook}"
    if isinstance(returned, AsyncGenerator):
        # What a generator yields is for the items of a batch: returned, not yielded.
        raise ConfigurationError(
            f"{name} yields, so it cannot be awaited: name the generator otherwise and write "
            f"`async def {hook}(...): return self.that_generator(...)`"
        )
    raise ConfigurationError(
        f"{name} is not async: write `async def {hook}(...)`"
        + ("" if returned is None else f"; it returned {type(returned).__name__}")
    )


def checked_sync(owner: object, hook: str, returned: Any) -> Any:
    """Return what a plain method returned.

    Raises:
        ConfigurationError: it is a coroutine, which nobody would await.
    """
    if type(returned) is not CoroutineType:
        return returned
    returned.close()
    name, asynchronous = type(owner).__name__, f"{hook}_async"
    raise ConfigurationError(
        f"{name}.{hook} is async, and {name} is not: make it an async node and write "
        f"`async def {asynchronous}(...)`, or write a plain `def {hook}(...)`"
    )


def not_awaited(owner: object, result: CoroutineType[Any, Any, Any]) -> UsageError:
    """Return the error for a coroutine in the place of a result."""
    result.close()
    return UsageError(
        f"{type(owner).__name__}.exec_async returned the coroutine {result.__qualname__} instead "
        "of its result: write `return await ...`"
    )


def sync_items(owner: object, prep_res: Any) -> Iterable[Any]:
    """Return what to iterate over; None means no items."""
    if prep_res is None:
        return ()
    name = type(owner).__name__
    if isinstance(prep_res, str | bytes | bytearray):
        raise TypeError(
            f"prep of {name} returned one text, whose items are its characters; "
            "for one item, return a list: [text]"
        )
    if isinstance(prep_res, Iterable):
        return prep_res
    if isinstance(prep_res, AsyncIterable):
        raise TypeError(f"{name} is sync and cannot read the async iterable that its prep returned")
    raise TypeError(
        f"prep of {name} must return something to iterate over, or None for no items; "
        f"it returned {prep_res!r}"
    )


def async_items(owner: object, prep_res: Any) -> Items:
    """Return the iterable, preferably asynchronous; None means no items."""
    return prep_res if isinstance(prep_res, AsyncIterable) else sync_items(owner, prep_res)


async def each(items: Items) -> AsyncGenerator[Any, None]:
    """Iterate over items of either kind, closing async iterators.

    Use it within ``contextlib.aclosing``, so that the end comes at once.
    """
    if not isinstance(items, AsyncIterable):
        for item in items:
            yield item
        return
    iterator = aiter(items)
    try:
        async for item in iterator:
            yield item
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()
