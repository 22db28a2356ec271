"""What is measured: each scenario runs once in a process of its own and returns its figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scenarios.measure import Options
from scenarios.overhead import overhead
from scenarios.paced import PACED, run_paced
from scenarios.shared import shared
from scenarios.waiters import waiters


def _paced(name: str) -> Callable[[Options], dict[str, Any]]:
    return lambda options: run_paced(name, PACED[name], options)


# In the order of the table.
SCENARIOS: dict[str, Callable[[Options], dict[str, Any]]] = {
    "overhead": overhead,
    **{name: _paced(name) for name in ("rpm", "tpm", "io", "unknown", "blind", "deep")},
    "shared": shared,
    **{name: _paced(name) for name in ("shrink", "faults")},
    "waiters": waiters,
}
