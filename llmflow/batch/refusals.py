"""Refusals of jobs that name no row: whether they concern every row.

The job is halved until the rows are found that it is meant for; if it is meant for every row,
that is seen after two such steps, and not after as many jobs as there are rows.
"""

from __future__ import annotations

import re
from typing import Final

from llmflow.batch.record import JobRecord
from llmflow.errors import ProviderError

# A half of a half of the rows, four times.
_ENOUGH_QUARTERS: Final = 1.0
_QUARTER: Final = 2
# What tells one refusal from the same one for another job: ids and numbers.
_PARTICULAR: Final = re.compile(r"[\w-]*\d[\w-]*")


class Refusals:
    """Refusals of one queue whose row is not known."""

    def __init__(self) -> None:
        self._refused: dict[tuple[str, int, str], float] = {}

    def note(self, record: JobRecord, error: ProviderError) -> bool:
        """Note a refusal; return whether it concerns every row."""
        family, whole = record.family or record.tag, record.whole or record.requests
        text = _PARTICULAR.sub("#", f"{type(error).__name__} {error.code} {error.message}")
        key = (family, record.halved, text)
        share = record.requests / max(1, whole)
        self._refused[key] = self._refused.get(key, 0.0) + share
        quarters = self._refused.get((family, _QUARTER, text), 0.0)
        return quarters > _ENOUGH_QUARTERS - 1e-9
