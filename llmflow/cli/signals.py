"""Handling of Ctrl-C, SIGTERM and SIGHUP, alike at every stage."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, Self

_SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
# What a shell shows for a program that a signal ended.
_ENDED_BY: Final = 128
INTERRUPTED_CODES: Final = frozenset(_ENDED_BY + number for number in _SIGNALS)
"""The exit codes of a command that a signal has ended: 129, 130 and 143."""
# So many requests to end are enough to end in the middle of a row.
_IMPATIENT: Final = 3

_first: int | None = None


def exit_code() -> int:
    """Return the exit code of the first signal, by default Ctrl-C's."""
    return _ENDED_BY + (signal.SIGINT if _first is None else _first)


def _note(number: int) -> None:
    global _first  # noqa: PLW0603 - signals belong to the process
    if _first is None:
        _first = number


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt as Ctrl-C does."""
    global _first  # noqa: PLW0603
    _first = None
    before = {number: signal.getsignal(number) for number in filter(_is_heard, _SIGNALS)}
    for number in before:
        if number != signal.SIGINT:
            signal.signal(number, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        _note(signal.SIGINT)  # if it was none of those: the first one counts
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_signals() -> None:
    """Ignore signals until the command ends."""
    for number in filter(_is_heard, _SIGNALS):
        signal.signal(number, signal.SIG_IGN)


def exit_at_next_signal(code: int) -> None:
    """Let the next signal end the process at once, with this code."""

    def end(_: int, __: FrameType | None) -> None:
        os._exit(code)

    for number in filter(_is_heard, _SIGNALS):
        signal.signal(number, end)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Do what Ctrl-C does: an event loop may handle it gently."""
    _note(number)
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler):
        handler(signal.SIGINT, frame)
    else:  # Ctrl-C alone is to be ignored
        raise KeyboardInterrupt


class Postponed:
    """Postpones signals, so that none interrupts in the middle of a step.

    An exception that a signal raises may come between opening a file and noting that it is
    open, inside an import, or while something is collected. So while this is entered, signals
    are only counted, and `check` raises where it does no harm. The third one is not held back.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._count = 0

    def __enter__(self) -> Self:
        for number in filter(_is_heard, _SIGNALS):
            self._before[number] = signal.signal(number, self._count_one)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._restore()
        if error is None:
            self.check()

    def check(self) -> None:
        """Interrupt here, if a signal has come."""
        if self._count:
            raise KeyboardInterrupt

    def end(self) -> None:
        """Hold nothing back any more, and interrupt if a signal has come."""
        self._restore()
        self.check()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _count_one(self, number: int, _: FrameType | None) -> None:
        _note(number)
        self._count += 1
        if self._count >= _IMPATIENT:
            raise KeyboardInterrupt


@contextmanager
def on_signals(interrupt: Callable[[], None]) -> Iterator[None]:
    """Call `interrupt` on the running loop at each signal."""
    loop = asyncio.get_running_loop()
    before: dict[signal.Signals, Any] = {}

    def heard(number: int) -> None:
        _note(number)
        interrupt()

    try:
        for number in filter(_is_heard, _SIGNALS):
            handler = signal.getsignal(number)
            loop.add_signal_handler(number, heard, number)
            before[number] = handler
    except NotImplementedError:
        pass  # Windows: KeyboardInterrupt ends the loop
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def _is_heard(number: signal.Signals) -> bool:
    """Return whether a signal is handled: background jobs ignore Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        return False
    return signal.getsignal(number) not in (signal.SIG_IGN, None)
