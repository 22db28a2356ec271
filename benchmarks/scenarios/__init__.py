"""Scenarios to be measured: each runs once in a process of its own and returns its figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scenarios.at_once import at_once
from scenarios.batch_run import batch_run
from scenarios.batches import batch
from scenarios.journal import journal
from scenarios.kill import kill
from scenarios.measure import Options
from scenarios.memory import memory
from scenarios.overhead import overhead
from scenarios.paced import run_paced
from scenarios.quotas import PACED
from scenarios.resume import resume
from scenarios.shared import shared
from scenarios.typed import typed
from scenarios.waiters import waiters
from scenarios.watching import watching


def _paced(name: str) -> Callable[[Options], dict[str, Any]]:
    return lambda options: run_paced(name, PACED[name], options)


_AFTER_SHARED = ("shrink", "faults")

# Those that have one ratio, in the order of their table.
SCENARIOS: dict[str, Callable[[Options], dict[str, Any]]] = {
    **{name: _paced(name) for name in PACED if name not in _AFTER_SHARED},
    "shared": shared,
    **{name: _paced(name) for name in _AFTER_SHARED},
    "waiters": waiters,
}
# Those that have several figures, in the order of their table.
RUNS: dict[str, Callable[[Options], dict[str, Any]]] = {
    "overhead": overhead,
    "journal": journal,
    "resume": resume,
    "memory": memory,
    "kill": kill,
    "watching": watching,
    "batch": batch,
    "batch-run": batch_run,
    "at-once": at_once,
    "typed": typed,
}
ALL = {**SCENARIOS, **RUNS}
