"""Sink of batch results that no call waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING

from llmflow.batch.names import call_of
from llmflow.batch.record import JobRecord
from llmflow.batch.waiter import Outcome
from llmflow.calls.call import Route
from llmflow.errors import ProviderError

if TYPE_CHECKING:
    from llmflow.batch.mode import BatchMode
    from llmflow.calls.spending import Spending


class RouteKeeper:
    """A queue's view of the run."""

    def __init__(self, batches: BatchMode, route: Route, spending: Spending | None) -> None:
        self._batches = batches
        self._route = route
        self._spending = spending
        self.is_known = batches.is_known
        self.changed = batches.changed
        self.drain = batches.drain
        self.retried = batches.retried

    def keep(self, name: str, outcome: Outcome) -> asyncio.Future[None] | None:
        """Write a row's outcome down."""
        return self._batches.keep(name, outcome, self._route)

    def lost(self, name: str, error: ProviderError) -> None:
        """Charge a row that may have been billed without an answer."""
        if self._spending is not None and (row := call_of(name)) is not None:
            self._spending.row_lost(row, error)

    def renew(self, name: str) -> bool:
        """Reserve for a row's next round; False if it does not fit."""
        row = None if self._spending is None else call_of(name)
        return row is None or self._spending is None or self._spending.renew_row(row)

    def let_go(self, names: Collection[str]) -> None:
        """Return reserves of rows without a job or a waiting call."""
        if self._spending is not None:
            self._spending.let_go(filter(None, map(call_of, names)))

    def decided(self, decision: str, *, record: JobRecord | None, rows: int) -> None:
        """Hear of a decision."""
        self._batches.decided(decision, record, rows, self._route)

    def worked(self) -> None:
        """Hear that key and model work."""
        self._route.limiter.standing.confirm()
