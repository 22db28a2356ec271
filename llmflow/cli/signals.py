"""What Ctrl-C and SIGTERM do: the same, at every stage of a run."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, as SIGINT does, so that files are tidied up."""
    previous = None
    if _is_heard(signal.SIGTERM):
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


@contextmanager
def unheard() -> Iterator[None]:
    """Let both signals pass, for a moment in which something must come to its end."""
    before = {number: signal.getsignal(number) for number in filter(_is_heard, _SIGNALS)}
    try:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def on_signals(interrupt: Callable[[], None]) -> Iterator[None]:
    """Call `interrupt` on the running loop at each signal, instead of raising anywhere."""
    loop = asyncio.get_running_loop()
    before: dict[signal.Signals, Any] = {}
    try:
        for number in filter(_is_heard, _SIGNALS):
            handler = signal.getsignal(number)
            loop.add_signal_handler(number, interrupt)
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
    """Return whether a signal may be used: a shell's background job is to ignore Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        return False
    return signal.getsignal(number) not in (signal.SIG_IGN, None)
