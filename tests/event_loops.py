"""Event loops of tests: a virtual clock with real sockets, and loops closed too early."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

from llmflow.testing import VirtualLoop


class VirtualSocketLoop(VirtualLoop):
    """A virtual loop that lets what was sent arrive before its clock jumps.

    The real sockets must all be those of this loop: nobody outside it knows its time. On a busy
    machine even they take a while, and the longer a jump is, the more a wrong one spoils.
    """

    def __init__(self) -> None:
        super().__init__()
        selector: Any = self._selector  # type: ignore[attr-defined]
        jumping = selector.select

        def select(timeout: float | None = None) -> Any:
            if timeout is not None and timeout > 0:
                patience = min(0.25, max(0.002, timeout / 50))
                ready = selectors.DefaultSelector.select(selector, patience)
                if ready:
                    return ready
            return jumping(timeout)

        selector.select = select


def abandon(*tasks: asyncio.Task[Any]) -> None:
    """Have tasks not complain when their loop is closed before they have ended."""
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
