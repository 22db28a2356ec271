"""Runs that an LLM opens itself, as it was made with ``journal=``."""

from __future__ import annotations

import atexit
import sys
import threading

from llmflow.errors import ConfigurationError
from llmflow.runs.run import Run

_open: dict[str, Run] = {}
_lock = threading.Lock()


def named_run(journal: str | Run) -> Run:
    """Return an LLM's own run, open until the process ends.

    LLMs with the same name share one.

    Raises:
        ConfigurationError: the name cannot be a run's.
        JournalError: its journal cannot be opened.
    """
    if isinstance(journal, Run):
        return journal
    if not isinstance(journal, str):
        raise ConfigurationError(
            f"journal must be a run's name or a Run; got {type(journal).__name__}"
        )
    with _lock:
        run = _open.get(journal)
        if run is None:
            run = Run(journal)
            run.open()
            if not _open:
                # Only now: what is registered later ends earlier, and the journal has its own.
                atexit.register(_close_all)
            _open[journal] = run
        return run


def _close_all() -> None:
    with _lock:
        runs = list(_open.values())
        _open.clear()
    # What ended the program, where it was an error. An interactive session keeps its last one.
    error = None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)
    for run in runs:
        run.close(error)
