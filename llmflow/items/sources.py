"""Sources of items: each hands out its next one, or none yet."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from contextvars import Context
from typing import Any, Final, Generic, Protocol, TypeVar

from llmflow.errors import InputError

ItemT = TypeVar("ItemT")
READ_AHEAD: Final = 16

NOTHING: Final[Any] = object()
"""There is no item for now; the source says when there is."""
END: Final[Any] = object()
"""There are no more items."""


class Source(Protocol):
    """Items, one at a time."""

    def start(self, context: Context, more: Callable[[], None]) -> None:
        """Begin in this context; `more` announces items after a lull."""

    def take(self) -> Any:
        """Return the next item, `NOTHING` or `END`; or raise what reading raised."""

    async def close(self) -> None:
        """Read no more, and let the source clean up."""


def checked_items(items: object) -> object:
    """Return the items; refuse what is surely a single item.

    Raises:
        InputError: they are a text, a dict, or nothing to iterate over.
    """
    if isinstance(items, str | bytes | bytearray):
        raise InputError("items is one text, whose items are its characters; give a list: [text]")
    if isinstance(items, dict):
        raise InputError("items is one dict, whose items are its keys; give a list: [row]")
    if not isinstance(items, Iterable | AsyncIterable):
        raise InputError(f"items must be something to iterate over; got {type(items).__name__}")
    return items


def close_generator(iterator: object) -> None:
    """Close a generator; other iterators stay open for their owners."""
    if isinstance(iterator, Generator):
        iterator.close()


class IterableSource(Generic[ItemT]):
    """Items of an iterable, read when they are wanted and not before."""

    def __init__(self, items: Iterable[ItemT]) -> None:
        self._items = items
        self._iterator: Iterator[ItemT] | None = None
        self._run: Callable[..., Any] = Context().run

    def start(self, context: Context, more: Callable[[], None]) -> None:  # noqa: ARG002
        """Keep the context, in which a generator always runs."""
        self._run = context.copy().run
        self._iterator = self._run(iter, self._items)

    def take(self) -> Any:
        """Read the next item."""
        return self._run(next, self._iterator, END)

    async def close(self) -> None:
        """Close a generator."""
        self._run(close_generator, self._iterator)


class _Buffered(Generic[ItemT]):
    """Items that are read ahead; `take` hands them out, then the error, then the end."""

    def __init__(self) -> None:
        self._ready: deque[ItemT] = deque()
        self._end: Any = NOTHING
        self._error: BaseException | None = None

    def take(self) -> Any:
        """Take an item that was read."""
        end = self._end  # before looking: items come before the news that there are no more
        if self._ready:
            return self._ready.popleft()
        if end is END and self._error is not None:
            error, self._error = self._error, None
            raise error
        return end


class AsyncIterableSource(_Buffered[ItemT]):
    """Items of an async iterable, read a few ahead.

    `count` is told 1 when an item is waited for, and -1 when none is any more.
    """

    def __init__(
        self,
        items: AsyncIterable[ItemT],
        *,
        read_ahead: int,
        count: Callable[[int], None] = lambda _: None,
    ) -> None:
        super().__init__()
        self._items = items
        self._count = count
        self._read_ahead = read_ahead
        self._closed = False
        self._space: asyncio.Event | None = None
        self._reader: asyncio.Task[None] | None = None

    def start(self, context: Context, more: Callable[[], None]) -> None:
        """Start the task that reads."""
        self._space = asyncio.Event()
        # By asyncio.Task, since an eager task factory would read here and now.
        self._reader = asyncio.Task(
            self._read(more, self._space),
            loop=asyncio.get_running_loop(),
            context=context.copy(),
        )

    def take(self) -> Any:
        """Take an item that was read, and let the task read on."""
        if self._space is not None and len(self._ready) <= self._read_ahead // 2 + 1:
            self._space.set()
        return super().take()

    async def close(self) -> None:
        """Stop the task; it closes the async iterator."""
        self._closed = True
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])

    async def _read(self, more: Callable[[], None], space: asyncio.Event) -> None:
        iterator: AsyncIterator[ItemT] | None = None
        self._count(1)
        try:
            iterator = aiter(self._items)
            async for item in iterator:
                if self._closed:  # it has ignored the cancellation
                    break
                self._ready.append(item)
                more()
                while len(self._ready) >= self._read_ahead:
                    space.clear()
                    self._count(-1)
                    try:
                        await space.wait()
                    finally:
                        self._count(1)
        except BaseException as error:  # noqa: BLE001 - whatever the user's code raises
            # A cancellation that comes from inside it, too: it is not the end of the items.
            self._error = error
        finally:
            self._end = END
            try:
                close = getattr(iterator, "aclose", None)
                if close is not None:
                    await close()
            except Exception as error:  # noqa: BLE001 - likewise
                self._error = self._error or error
            more()
            self._count(-1)


class ThreadSource(_Buffered[ItemT]):
    """Items of an iterable that may block, read ahead by a thread.

    The thread is a daemon: a pipe on which nothing comes must not keep the process alive.
    """

    def __init__(self, items: Iterable[ItemT], *, read_ahead: int = 256) -> None:
        super().__init__()
        self._items = items
        self._room = threading.Semaphore(read_ahead)
        self._asleep = self._closed = False
        self._more: Callable[[], None] = lambda: None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, context: Context, more: Callable[[], None]) -> None:
        """Start the thread."""
        self._more, self._loop = more, asyncio.get_running_loop()
        target = context.copy().run
        threading.Thread(
            target=target, args=(self._read,), name="llmflow-rows", daemon=True
        ).start()

    def take(self) -> Any:
        """Take an item that was read."""
        self._asleep = True  # before looking: what the thread adds from here on wakes the loop
        item = super().take()
        if item is not NOTHING and item is not END:
            self._asleep = False
            self._room.release()
        return item

    async def close(self) -> None:
        """Hand out no more; a blocked reader thread is abandoned."""
        self._closed = True
        self._room.release()

    def _read(self) -> None:
        try:
            for item in self._items:
                self._room.acquire()
                if self._closed:
                    return
                self._ready.append(item)
                self._wake()
        except BaseException as error:  # noqa: BLE001 - it is raised where the items are used
            self._error = error
        self._end = END
        self._wake()

    def _wake(self) -> None:
        if self._asleep and self._loop is not None:
            self._asleep = False
            try:
                self._loop.call_soon_threadsafe(self._more)
            except RuntimeError:  # the loop is closed: nobody wants the items any more
                self._closed = True


class FedSource(_Buffered[ItemT]):
    """Items that another thread reads and hands over."""

    def __init__(self, read_ahead: int) -> None:
        super().__init__()
        self.on_low: Callable[[], None] = lambda: None
        """Called when items are wanted."""
        self._read_ahead = read_ahead
        self._more: Callable[[], None] = lambda: None

    def start(self, context: Context, more: Callable[[], None]) -> None:  # noqa: ARG002
        """Remember whom to tell of new items."""
        self._more = more

    @property
    def wanted(self) -> int:
        """The number of items to hand over next."""
        room = self._read_ahead - len(self._ready)
        return room if self._end is NOTHING and room > self._read_ahead // 2 else 0

    def feed(self, items: Iterable[ItemT], *, end: bool, error: BaseException | None) -> None:
        """Take over items that were read, and whether they were the last."""
        self._ready.extend(items)
        self._error = error
        if end or error is not None:
            self._end = END
        self._more()

    def take(self) -> Any:
        """Take an item that was handed over."""
        item = super().take()
        if self.wanted:
            self.on_low()
        return item

    async def close(self) -> None:
        """Drop what was handed over."""
        self._ready.clear()
        self._end = END
