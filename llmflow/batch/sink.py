"""Sink of batch results that no call waits for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from llmflow.batch.names import call_of
from llmflow.batch.record import JobRecord
from llmflow.batch.waiter import Outcome
from llmflow.calls.call import Route
from llmflow.errors import ProviderError
from llmflow.events import BatchDecided, BatchJobChanged, emit
from llmflow.types import Response

if TYPE_CHECKING:
    from llmflow.calls.spending import Spending
    from llmflow.journal import Journal
    from llmflow.journal.values import Recorded

Keep = Callable[[tuple[bytes, int], Outcome, Route], "asyncio.Future[None] | None"]


class Sink:
    """Takes what queues bring and decide, for the run and its report.

    Args:
        journal: where outcomes are looked up; None where nothing is written down.
        keep: writes down an outcome that nobody waits for.
        retried: is told of each failure after which a row is asked again.
        spending: what the run may still spend, or None.
        run_id: what events call the run.
    """

    def __init__(
        self,
        *,
        journal: Journal | None,
        keep: Keep,
        retried: Callable[[ProviderError], None],
        spending: Spending | None,
        run_id: str | None,
    ) -> None:
        self._journal = journal
        self._keep = keep
        self._run_id = run_id
        self.retried = retried
        self.spending = spending
        self.met: set[str] = set()
        """The tags of jobs that a queue of this session has had."""
        self.decisions: dict[str, int] = {}
        """What was decided, and for how many rows; 0 where it was not for rows."""

    def is_known(self, name: str, *, answered: bool = False) -> bool:
        """Return whether a row's outcome is recorded; `answered`: as an answer."""
        found = self.find(name)
        return isinstance(found, Response) if answered else found is not None

    def find(self, name: str) -> Recorded | None:
        """Return what the journal knows of a row; None if nothing."""
        found = call_of(name)
        if self._journal is None or found is None:
            return None
        return self._journal.find(*found)

    def keep(self, name: str, outcome: Outcome, route: Route) -> asyncio.Future[None] | None:
        """Write down what nobody waits for."""
        found = call_of(name)
        return None if found is None else self._keep(found, outcome, route)

    def changed(self, record: JobRecord) -> None:
        """Tell of a job's state."""
        self.met.add(record.tag)
        if BatchJobChanged.wanted:
            emit(
                BatchJobChanged(
                    at=time.time(),
                    run_id=self._run_id,
                    provider=record.provider,
                    model=record.model,
                    job=record.job or record.tag,
                    state=record.state,
                    native=record.native,
                    rows=record.requests,
                    answered=record.succeeded,
                    failed=record.failed,
                    outcome=record.outcome,
                )
            )

    def decided(self, decision: str, record: JobRecord | None, rows: int, route: Route) -> None:
        """Tell of a decision, and keep it for the report."""
        self.decisions[decision] = self.decisions.get(decision, 0) + rows
        if BatchDecided.wanted:
            emit(
                BatchDecided(
                    at=time.time(),
                    run_id=self._run_id,
                    provider=route.provider.name,
                    model=route.provider.model,
                    job=None if record is None else record.job or record.tag,
                    decision=decision,
                    rows=rows,
                )
            )

    async def drain(self) -> None:
        """Return when all that was kept is durable."""
        if self._journal is not None:
            await self._journal.drain()


class RouteKeeper:
    """Sink of one queue: that of the run, for one route."""

    def __init__(self, sink: Sink, route: Route) -> None:
        self._sink = sink
        self._route = route
        self._spending = sink.spending
        self.is_known = sink.is_known
        self.changed = sink.changed
        self.drain = sink.drain
        self.retried = sink.retried

    def keep(self, name: str, outcome: Outcome) -> asyncio.Future[None] | None:
        """Write a row's outcome down."""
        return self._sink.keep(name, outcome, self._route)

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
        self._sink.decided(decision, record, rows, self._route)

    def worked(self) -> None:
        """Hear that key and model work."""
        self._route.limiter.standing.confirm()
