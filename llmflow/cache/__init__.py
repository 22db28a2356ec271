"""The answer cache of this machine: one SQLite file for all processes.

A cache only ever saves something: whatever is wrong with it, calls go on without.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llmflow.errors import redact
from llmflow.types import Response

if TYPE_CHECKING:
    from llmflow.cache.store import StoreWorker

logger = logging.getLogger("llmflow")

FILE_NAME: Final = "cache.db"
MOST_BYTES: Final = 4 * 2**30
"""Bytes of answers that are kept: about two million of 2 KB."""
PATIENCE: Final = 5.0
"""Seconds that a lookup or an answer waits for another process."""
PAUSE: Final = 60.0
"""Seconds until what did not work is tried again."""

_caches: Final[dict[Path, Cache]] = {}
_all: Final[weakref.WeakSet[Cache]] = weakref.WeakSet()
_held: Final[list[StoreWorker]] = []
_parents: Final[list[StoreWorker]] = []
_lock = threading.Lock()


class Cache:
    """Answers by fingerprint, shared by event loops, threads and processes.

    Nothing is opened before the first lookup. What cannot be read is not there, and what
    cannot be written is not kept: it is logged once, and tried again after a pause.

    Where there are more than so many bytes, the oldest answers make room.

    Args:
        path: its file; None where there is no place for one.
        whole: keep whole replies, and not only what has a place in a `Response`.
        most_bytes: how much is kept.
        patience: seconds that a call waits for another process.
        pause: seconds until what did not work is tried again.
        reason: why there is no place for a file.
        wall: the time of day, in seconds since 1970.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        whole: bool = True,
        most_bytes: int = MOST_BYTES,
        patience: float = PATIENCE,
        pause: float = PAUSE,
        reason: str = "there is no folder for it",
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self._whole = whole
        self._most_bytes = most_bytes
        self._patience = patience
        self._pause = pause
        self._reason = redact(reason)
        self._wall = wall
        self._worker: StoreWorker | None = None
        self._starting = threading.Lock()
        self._warned = False
        _all.add(self)

    def __repr__(self) -> str:
        return f"Cache({str(self.path)!r})"

    async def find(self, fingerprint: bytes) -> Response | None:
        """Return what was answered to a question, or None."""
        worker = self._ready("find")
        return None if worker is None else await worker.find(fingerprint)

    async def store(self, fingerprint: bytes, response: Response) -> None:
        """Store an answer; returns once it is durable, or not storable.

        The first answer to a question stays. Cancelled, it is kept all the same.
        """
        worker = self._ready("add")
        if worker is None:
            return
        from llmflow.journal.rows import answer_row

        row = answer_row(fingerprint, 0, 1, self._wall(), response, whole=self._whole)
        await worker.store(row)

    def close(self) -> None:
        """Write pending answers and close the file until the next call."""
        with self._starting:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def _ready(self, what: str) -> StoreWorker | None:
        worker = self._worker or self._start()
        return None if worker is None or worker.is_paused(what) else worker

    def _start(self) -> StoreWorker | None:
        if self.path is None:
            self._warn(self._reason)
            return None
        from llmflow.cache.store import StoreWorker

        with self._starting:
            if self._worker is None:
                try:
                    self._worker = StoreWorker(
                        self.path,
                        most_bytes=self._most_bytes,
                        patience=self._patience,
                        pause=self._pause,
                        warn=self._warn,
                    )
                except (RuntimeError, MemoryError) as error:  # there are no more threads
                    self._warn(redact(str(error)) or type(error).__name__)
            return self._worker

    def _warn(self, problem: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("the cache of answers cannot be used, calls go on without: %s", problem)


def cache_at(folder: Path, *, whole: bool = True) -> Cache:
    """Return this process's one cache in a folder.

    Args:
        folder: the folder; made when something is looked up there.
        whole: keep whole replies; as whoever comes first says.
    """
    path = folder / FILE_NAME
    with _lock:
        cache = _caches.get(path)
        if cache is None:
            cache = _caches[path] = Cache(path, whole=whole)
        return cache


@atexit.register
def _close_all() -> None:
    for cache in list(_all):
        cache.close()  # what a cancelled call was answered may still be on its way


def _before_fork() -> None:
    """Wait for moments in which no thread is inside SQLite: a child would copy its locks."""
    _lock.acquire()
    _held.extend(worker for cache in list(_all) if (worker := cache._worker) is not None)
    for worker in _held:
        worker.using.acquire()


def _after_fork_in_parent() -> None:
    for worker in _held:
        worker.using.release()
    _held.clear()
    _lock.release()


def _after_fork_in_child() -> None:
    """Begin anew: threads are not copied, and a connection belongs to the parent."""
    for cache in list(_all):
        cache._starting = threading.Lock()
        if cache._worker is not None:
            _parents.append(cache._worker)  # never closed here: the file is the parent's
        cache._worker = None
    _after_fork_in_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
