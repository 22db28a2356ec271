"""Interface of a queue of batch jobs to whoever keeps their outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Protocol

from llmflow.batch.record import JobRecord
from llmflow.batch.waiter import Outcome
from llmflow.errors import ProviderError


class Keeper(Protocol):
    """Who writes down what nobody waits for."""

    def is_known(self, name: str, *, answered: bool = False) -> bool:
        """Whether a row's outcome is written down; `answered`: and is an answer."""
        ...

    def keep(self, name: str, outcome: Outcome) -> asyncio.Future[None] | None:
        """Write a row's outcome down; the future ends when it is durable. None: nothing to do."""
        ...

    def let_go(self, names: Collection[str]) -> None:
        """Hear that no job has these rows any more, and that nobody waits for them."""
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
        """Hear that a row was not answered, and may be asked again; it may have been billed."""
        ...

    def renew(self, name: str) -> bool:
        """Keep back what asking a row again may cost; whether the budget has that."""
        ...

    def worked(self) -> None:
        """Hear that a job has brought an answer: key and model work."""
        ...
