"""Rows for workers that pull them, also from a source that may block, such as a pipe."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

_T = TypeVar("_T")
_READ_AHEAD = 256
_ROWS_PER_TURN = 64


class Feed(Generic[_T]):
    """Rows, handed out one by one with their position.

    >>> feed = Feed(rows)  # doctest: +SKIP
    >>> while (found := await feed.next()) is not None:  # doctest: +SKIP
    ...     index, row = found

    Any number of tasks may pull at once. An error of the source is raised to one of
    them, after the rows that came before it; the others are told that it has ended.

    Args:
        rows: the source; it is read no further than it is pulled.
    """

    def __init__(self, rows: Iterable[_T]) -> None:
        self._rows = iter(rows)
        self._index = -1
        self._ended = False

    async def next(self) -> tuple[int, _T] | None:
        """Return the next row and its position, counted from 0; None after the last one."""
        if self._ended:
            return None
        try:
            row = next(self._rows)
        except StopIteration:
            self._ended = True
            return None
        except BaseException:
            self._ended = True
            raise
        self._index += 1
        index = self._index
        if not index % _ROWS_PER_TURN:
            # Rows that fail at once never wait for anything: others must have their turn.
            await asyncio.sleep(0)
        return index, row

    def close(self) -> None:
        """Hand out no more."""
        self._ended = True
        close = getattr(self._rows, "close", None)
        if close is not None:
            close()


class ThreadFeed(Feed[_T]):
    """A `Feed` whose source is read by a thread, a bounded number of rows ahead.

    The thread is a daemon: a pipe on which nothing comes must not keep the process alive.

    Args:
        rows: the source.
        read_ahead: rows that may wait here.
    """

    def __init__(self, rows: Iterable[_T], *, read_ahead: int = _READ_AHEAD) -> None:
        super().__init__(())
        self._source = rows
        self._ready: deque[_T] = deque()
        self._room = threading.Semaphore(read_ahead)
        self._news = asyncio.Event()
        self._turn = asyncio.Lock()
        self._asleep = self._read_all = False
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def next(self) -> tuple[int, _T] | None:
        """Return the next row as `Feed.next` does; waits until there is one."""
        async with self._turn:
            if self._ended:
                return None
            self._start()
            while not self._ready:
                # In this order: rows come before the news that there are no more.
                if self._read_all and not self._ready:
                    self._end()
                    return None
                await self._wait()
            self._index += 1
            index, row = self._index, self._ready.popleft()
            self._room.release()
            if not index % _ROWS_PER_TURN:
                await asyncio.sleep(0)
            return index, row

    def close(self) -> None:
        """Hand out no more. A thread that waits for the source is left to itself."""
        self._ended = True
        self._room.release()

    def _start(self) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            threading.Thread(target=self._read, name="llmflow-rows", daemon=True).start()

    async def _wait(self) -> None:
        self._news.clear()
        self._asleep = True
        try:
            # Looked at again: the thread may have looked at `_asleep` just before.
            if not self._ready and not self._read_all:
                await self._news.wait()
        finally:
            self._asleep = False

    def _end(self) -> None:
        self._ended = True
        if self._error is not None:
            raise self._error

    def _read(self) -> None:
        """Read the source; what the loop looks at is written before it is woken."""
        try:
            for row in self._source:
                self._room.acquire()
                if self._ended:
                    return
                self._ready.append(row)
                self._wake()
        except BaseException as error:  # noqa: BLE001 - it is raised where the rows are used
            self._error = error
        self._read_all = True
        self._wake()

    def _wake(self) -> None:
        if self._asleep and self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._news.set)
            except RuntimeError:  # the loop is closed: nobody wants the rows any more
                self._ended = True
