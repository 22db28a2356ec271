"""The run that the running code belongs to."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmflow.runs.run import Run

entered: ContextVar[Run | None] = ContextVar("llmflow_run", default=None)
"""The innermost run whose block the running code is in.

It flows into tasks and into the threads of asyncio and of nodes, but not into those that
a program starts by itself: they have no context but their own.
"""

whole_program: list[Run] = []
"""The runs whose blocks the main thread is in, and no event loop around them.

Such a block is the whole program while it lasts, so its threads belong to it, too.
"""


def current_run() -> Run | None:
    """Return the run that the running code belongs to, or None.

    >>> current_run() is None
    True
    """
    run = entered.get()
    while run is not None and run.is_detached:
        run = run.outer
    if run is None and whole_program:
        run = whole_program[-1]
    return run


def in_a_script() -> bool:
    """Return whether this is the main thread without an event loop."""
    if threading.current_thread() is not threading.main_thread():
        return False
    return asyncio._get_running_loop() is None
