"""Items that ``prep`` of a batch may return, checked."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Any

Items = Iterable[Any] | AsyncIterable[Any]


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
