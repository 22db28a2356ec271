"""The one thread of a process that touches the cache's file.

Calls hand it lookups and answers and wait without blocking their event loop. Lookups that
come together are one statement, and answers one transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from llmflow.cache.store import Store, Unusable, damaged
from llmflow.errors import redact
from llmflow.journal.rows import Row

# Long enough for a group to form, and short beside any answer of a model.
_LINGER_SECONDS: Final = 0.004
_MOST_PER_COMMIT: Final = 1024
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class _Waiting(NamedTuple):
    what: Any
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]


class Worker:
    """Looks up and writes, in groups. Nothing that is awaited here raises.

    Args:
        path: the cache's file.
        most_bytes: how many bytes of answers it may hold.
        patience: seconds to wait for another process.
        pause: seconds until what did not work is tried again.
        warn: is told what is wrong.
    """

    def __init__(
        self,
        path: Path,
        *,
        most_bytes: int,
        patience: float,
        pause: float,
        warn: Callable[[str], None],
    ) -> None:
        self.using = threading.Lock()
        """Held while SQLite is at work."""
        self._path = path
        self._most_bytes = most_bytes
        self._patience = patience
        self._pause = pause
        self._warn = warn
        self._store: Store | None = None
        self._lookups: list[_Waiting] = []
        self._answers: list[_Waiting] = []
        self._group: list[_Waiting] = []
        self._gate = threading.Lock()
        self._news = threading.Event()
        self._closing = False
        self._reads_from = self._writes_from = 0.0
        self._thread = threading.Thread(target=self._serve, name="llmflow-cache", daemon=True)
        self._thread.start()

    @property
    def reads(self) -> bool:
        """True if there is a point in looking something up."""
        return not self._reads_from or time.monotonic() >= self._reads_from

    @property
    def writes(self) -> bool:
        """True if there is a point in writing something."""
        return not self._writes_from or time.monotonic() >= self._writes_from

    def find(self, fingerprint: bytes) -> asyncio.Future[Any]:
        """Look up an answer; the future's result is it, or None."""
        return self._hand(self._lookups, fingerprint)

    def store(self, row: Row) -> asyncio.Future[Any]:
        """Store an answer; the future ends when it is, or cannot be."""
        return self._hand(self._answers, row)

    def close(self) -> None:
        """Do what is waiting, and end the thread."""
        with self._gate:
            self._closing = True
        self._news.set()
        self._thread.join()

    def _hand(self, line: list[_Waiting], what: Any) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        with self._gate:
            if self._closing:
                done.set_result(None)
                return done
            first = not line
            line.append(_Waiting(what, loop, done))
        if first:
            self._news.set()
        return done

    def _take(self, line: list[_Waiting]) -> list[_Waiting]:
        with self._gate:
            taken, line[:] = line[:_MOST_PER_COMMIT], line[_MOST_PER_COMMIT:]
            self._group = taken
        return taken

    def _serve(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - whoever waits would wait for ever
            self._die(error)

    def _die(self, error: BaseException) -> None:
        """Have nothing found and nothing kept, for those who wait and all who come."""
        try:
            # Said first: whoever is told "nothing found" after this can read why.
            self._warn(redact(str(error)) or type(error).__name__)
        finally:
            with self._gate:
                self._closing = True
                waiting = [*self._group, *self._lookups, *self._answers]
                self._lookups.clear()
                self._answers.clear()
            _tell((each, None) for each in waiting)
        with self.using, contextlib.suppress(Exception):
            self._let_go()

    def _work(self) -> None:
        due: float | None = None
        while True:
            closing = self._closing
            if not closing:
                self._news.wait(None if due is None else max(0.0, due - time.monotonic()))
            self._news.clear()
            while lookups := self._take(self._lookups):
                self._look_up(lookups)
            now = time.monotonic()
            if due is None and self._answers and not closing:
                due = now + _LINGER_SECONDS
            elif closing or (due is not None and now >= due):
                due = None
                full = True
                while full or closing:
                    answers = self._take(self._answers)
                    if not answers:
                        break
                    self._write(answers)
                    # What came meanwhile is few, and the next group's.
                    full = len(answers) == _MOST_PER_COMMIT
                    # Whoever looks something up is not to wait for all that is written.
                    if lookups := self._take(self._lookups):
                        self._look_up(lookups)
            if closing and not self._lookups and not self._answers:
                break
        with self.using:
            self._let_go()

    def _look_up(self, group: list[_Waiting]) -> None:
        found: dict[bytes, Any] = {}
        if self.reads:
            try:
                with self.using:
                    found = self._opened().find(list({each.what for each in group}))
                self._reads_from = 0.0
            except Exception as error:  # noqa: BLE001 - whatever it is, calls go on
                self._reads_from = self._after(error)
        _tell((each, found.get(each.what)) for each in group)

    def _write(self, group: list[_Waiting]) -> None:
        if self.writes:
            try:
                with self.using:
                    self._opened().add([each.what for each in group])
                self._writes_from = 0.0
            except Exception as error:  # noqa: BLE001
                self._writes_from = self._after(error)
        _tell((each, None) for each in group)

    def _opened(self) -> Store:
        # Through a name that is another file's by now, SQLite would damage that one.
        if self._store is not None and not self._store.is_current:
            self._let_go()
        if self._store is None:
            self._store = Store(self._path, most_bytes=self._most_bytes, patience=self._patience)
        return self._store

    def _let_go(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            with contextlib.suppress(sqlite3.Error):
                store.close()

    def _after(self, error: Exception) -> float:
        """Say what is wrong, and return when to try again."""
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in _DAMAGED:
            error = damaged(self._path, str(error))
        if isinstance(error, Unusable):
            self._warn(str(error))
        else:
            text = (error.strerror if isinstance(error, OSError) else None) or str(error)
            self._warn(f"{redact(str(self._path))}: {redact(text)}")
        with self.using:
            self._let_go()
        return time.monotonic() + self._pause


def _tell(results: Iterable[tuple[_Waiting, Any]]) -> None:
    """Wake who waits: each event loop once, in its own thread."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for waiting, result in results:
        by_loop.setdefault(waiting.loop, []).append((waiting.done, result))
    for loop, pairs in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_wake, pairs)


def _wake(pairs: Iterable[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in pairs:
        if not future.done():
            future.set_result(result)
