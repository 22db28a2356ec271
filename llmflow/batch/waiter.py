"""A call that waits for what a job brings."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from llmflow.errors import JournalError, ProviderError
from llmflow.types import Response

if TYPE_CHECKING:
    from llmflow.batch.job import Job

Outcome = Response | ProviderError


class TakenOver(Exception):  # noqa: N818 - nothing is wrong
    """The row is not answered by a job: ask it in parallel."""


class Waiter:
    """A call that waits for its row.

    Attributes:
        job: the job that answered it, until the answer is written down.
    """

    __slots__ = ("future", "job")

    def __init__(self, future: asyncio.Future[Response]) -> None:
        self.future = future
        self.job: Job | None = None

    def kept(self) -> None:
        """Note that the outcome is written down."""
        if self.job is not None:
            self.job.settled()
            self.job = None

    def lost(self, error: JournalError) -> None:
        """Note that it cannot be written down."""
        if self.job is not None:
            self.job.unsettled(error)
            self.job = None
