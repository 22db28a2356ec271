"""Sink of batch results: the journal, the budget, the report, whoever listens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from llmflow.batch.pending import Outcome
from llmflow.batch.record import JobRecord
from llmflow.batch.spool import call_of
from llmflow.calls.call import Done, Route
from llmflow.calls.recording import keep
from llmflow.calls.session import Session
from llmflow.errors import ProviderError
from llmflow.events import BatchDecided, BatchJobChanged, emit
from llmflow.types import Response

if TYPE_CHECKING:
    from llmflow.journal import Recorded


class ResultSink:
    """Takes what a queue's jobs bring and what is decided of them.

    Args:
        session: whose calls they answer.
        route: the model that they ask.
        decisions: what was decided, and for how many rows; 0 where it was not for rows.
        met: the tags of jobs that a queue of this session has had.
    """

    def __init__(
        self, session: Session, route: Route, *, decisions: dict[str, int], met: set[str]
    ) -> None:
        self._session = session
        self._route = route
        self._decisions = decisions
        self._met = met
        self.retried = session.tally.retried

    def find(self, name: str) -> Recorded | None:
        """Return what the journal knows of a row; None if nothing."""
        row, journal = call_of(name), self._session.journal
        return None if journal is None or row is None else journal.find(*row)

    def is_known(self, name: str, *, answered: bool = False) -> bool:
        """Return whether a row's outcome is recorded; `answered`: as an answer."""
        found = self.find(name)
        return isinstance(found, Response) if answered else found is not None

    def keep(
        self, name: str, outcome: Outcome, done: Done | None = None
    ) -> asyncio.Future[None] | None:
        """Record an outcome that no call waits for; `done` gets it then.

        Returns:
            A future that ends with the writing, or None where nothing is written.
        """
        row = call_of(name)
        return None if row is None else keep(self._session, row, outcome, self._route, done)

    async def drain(self) -> None:
        """Return when all that was kept before is durable."""
        if self._session.journal is not None:
            await self._session.journal.drain()

    def lost(self, name: str, error: ProviderError) -> None:
        """Charge a row that may have been billed without an answer."""
        spending = self._session.spending
        if spending is not None and (row := call_of(name)) is not None:
            spending.row_lost(row, error)

    def renew(self, name: str) -> bool:
        """Reserve the cost of asking a row again; False if unaffordable."""
        spending, row = self._session.spending, call_of(name)
        return spending is None or row is None or spending.renew_row(row)

    def let_go(self, names: Collection[str]) -> None:
        """Return reserves of rows without a job or a waiting call."""
        if self._session.spending is not None:
            self._session.spending.let_go(filter(None, map(call_of, names)))

    def worked(self) -> None:
        """Note that a job has brought an answer: key and model work."""
        self._route.limiter.standing.confirm()

    def changed(self, record: JobRecord) -> None:
        """Tell of a job's state."""
        self._met.add(record.tag)
        self._emit(
            BatchJobChanged,
            record,
            state=record.state,
            native=record.native,
            rows=record.requests,
            answered=record.succeeded,
            failed=record.failed,
            outcome=record.outcome,
        )

    def decided(self, decision: str, *, record: JobRecord | None = None, rows: int = 0) -> None:
        """Tell of a decision and keep it; without rows, once."""
        if record is None and not rows and decision in self._decisions:
            return
        self._decisions[decision] = self._decisions.get(decision, 0) + rows
        self._emit(BatchDecided, record, decision=decision, rows=rows)

    def _emit(
        self, kind: type[BatchDecided | BatchJobChanged], record: JobRecord | None, **facts: Any
    ) -> None:
        if kind.wanted:
            provider, run_id = self._route.provider, self._session.run_id
            job = None if record is None else record.job or record.tag
            who: Any = {"provider": provider.name, "model": provider.model, "job": job}
            emit(kind(at=time.time(), run_id=run_id, **who, **facts))
