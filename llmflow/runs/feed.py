"""Rows from a source that may block, such as a pipe, without blocking the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from typing import Any, TypeVar

_T = TypeVar("_T")
_READ_AHEAD = 256


async def feed(rows: Iterable[_T], *, read_ahead: int = _READ_AHEAD) -> AsyncGenerator[_T, None]:
    """Read `rows` in a thread, a bounded number ahead, and yield them here.

    An error of the source is raised after the rows that came before it. The thread
    is a daemon: a pipe on which nothing comes must not keep the process alive.
    """
    feeder = _Feeder(rows, asyncio.get_running_loop(), read_ahead)
    feeder.thread.start()
    try:
        while True:
            while feeder.ready:
                yield feeder.ready.popleft()
                feeder.room.release()
            if feeder.ended:
                if feeder.error is not None:
                    raise feeder.error
                return
            feeder.news.clear()
            if not feeder.ready and not feeder.ended:
                await feeder.news.wait()
    finally:
        feeder.stopped = True
        feeder.room.release()


class _Feeder:
    """The thread's side. What the loop reads is written before `news` is set."""

    def __init__(
        self, rows: Iterable[Any], loop: asyncio.AbstractEventLoop, read_ahead: int
    ) -> None:
        self.ready: deque[Any] = deque()
        self.room = threading.Semaphore(read_ahead)
        self.news = asyncio.Event()
        self.ended = self.stopped = False
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._read, name="llmflow-rows", daemon=True)
        self._rows = rows
        self._loop = loop

    def _read(self) -> None:
        try:
            for row in self._rows:
                self.room.acquire()
                if self.stopped:
                    return
                self.ready.append(row)
                self._tell()
        except BaseException as error:  # noqa: BLE001 - it is raised where the rows are used
            self.error = error
        self.ended = True
        self._tell()

    def _tell(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self.news.set)
        except RuntimeError:  # the loop has been closed: nobody wants the rows any more
            self.stopped = True
