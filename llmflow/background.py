"""An event loop in a thread, for calls from synchronous code.

Every synchronous call of the process runs on this one loop, so that they share
connections and limiters, and so that it works in a script, in threads and in a
notebook alike, any number of times.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from llmflow.errors import UsageError
from llmflow.loops import new_event_loop

_T = TypeVar("_T")


class BackgroundLoop:
    """An event loop in a daemon thread, started at the first call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, function: Callable[[], Coroutine[Any, Any, _T]], *, instead: str) -> _T:
        """Run a coroutine function on the loop and wait for its result.

        Args:
            function: makes the coroutine.
            instead: what to write in asynchronous code, for the error message.

        Raises:
            UsageError: the calling thread runs an event loop, which this would block.
        """
        running = asyncio._get_running_loop()
        # In a notebook the kernel's loop runs, and a synchronous call is what was meant.
        if running is not None and (running is self._loop or "ipykernel" not in sys.modules):
            raise UsageError(f"this would block the running event loop; write: {instead}")
        loop = self._started()
        future = asyncio.run_coroutine_threadsafe(function(), loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C in the calling thread must not leave the call running
            raise

    def close(self) -> None:
        """Cancel what runs, close connections and end the thread."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None and thread.is_alive():
            loop.call_soon_threadsafe(loop.stop)
            thread.join(timeout=5.0)

    def forget(self) -> None:
        """Forget a loop whose thread was lost in a fork."""
        self._lock = threading.Lock()
        self._loop = self._thread = None

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = self._loop = new_event_loop()
                self._thread = threading.Thread(
                    target=_serve, args=(loop,), name="llmflow-sync", daemon=True
                )
                self._thread.start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        while True:
            try:
                loop.run_forever()
                break
            except (KeyboardInterrupt, SystemExit):
                # asyncio lets these through although the task holds them as its result.
                # The caller gets them from there; the other calls go on.
                continue
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


background = BackgroundLoop()
atexit.register(background.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=background.forget)
