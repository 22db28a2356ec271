"""Which run the running code belongs to."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmflow.runs.run import Run

entered: ContextVar[Run | None] = ContextVar("llmflow_run", default=None)
"""The innermost run whose block the running code is in; it flows into tasks and threads."""


def current_run() -> Run | None:
    """Return the run that the running code belongs to, or None.

    >>> current_run() is None
    True
    """
    return entered.get()
