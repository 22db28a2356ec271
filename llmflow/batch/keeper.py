"""Interface of a queue of batch jobs to whoever keeps their outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Protocol

from llmflow.batch.record import JobRecord
from llmflow.batch.waiter import Outcome
from llmflow.errors import ProviderError


class Keeper(Protocol):
    """Protocol: records outcomes that no call waits for."""

    def is_known(self, name: str, *, answered: bool = False) -> bool:
        """Return whether a row's outcome is recorded; `answered`: as an answer."""
        ...

    def keep(self, name: str, outcome: Outcome) -> asyncio.Future[None] | None:
        """Record a row's outcome; returns a future, or None if known."""
        ...

    def let_go(self, names: Collection[str]) -> None:
        """Learn that no job and no caller has these rows any more."""
        ...

    async def drain(self) -> None:
        """Return when all that was kept before is durable."""
        ...

    def changed(self, record: JobRecord) -> None:
        """Hear of a job's new state."""
        ...

    def decided(self, decision: str, *, record: JobRecord | None, rows: int) -> None:
        """Hear of a decision: why rows go another way."""
        ...

    def retried(self, error: ProviderError, /) -> None:
        """Hear that a row is asked again, and why."""
        ...

    def lost(self, name: str, error: ProviderError) -> None:
        """Learn that an unanswered row may be asked again; perhaps billed."""
        ...

    def renew(self, name: str) -> bool:
        """Reserve the cost of asking a row again; False if unaffordable."""
        ...

    def worked(self) -> None:
        """Hear that a job has brought an answer: key and model work."""
        ...
