"""Limits on batch jobs: how many may run, which rows are refused."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from llmflow.batch.record import JobRecord
from llmflow.errors import ProviderError

# What is estimated here is counted there, by another tokenizer.
_MARGIN: Final = 0.95
# A half of a half of the rows, four times.
_ENOUGH_QUARTERS: Final = 1.0
_QUARTER: Final = 2
# What tells one refusal from the same one for another job: ids and numbers.
_PARTICULAR: Final = re.compile(r"[\w-]*\d[\w-]*")


class JobSlots:
    """Admits jobs to the provider in order, within its limits.

    Args:
        tokens: prompt tokens that may wait there at once; None where that is not known.
        jobs: how many jobs may; None where that is not limited.
    """

    def __init__(self, *, tokens: float | None, jobs: int | None) -> None:
        self._jobs = jobs
        self._inside: dict[str, float] = {}
        self._waiting: OrderedDict[str, tuple[float, asyncio.Future[None]]] = OrderedDict()
        self.learn(tokens)

    @property
    def enqueued(self) -> float:
        """The tokens that wait at the provider."""
        return sum(self._inside.values())

    @property
    def inside(self) -> int:
        """The number of jobs at the provider."""
        return len(self._inside)

    def learn(self, tokens: float | None) -> None:
        """Take the limit that the provider names."""
        self.most_tokens = None if tokens is None else tokens * _MARGIN
        """Of one job, and of all that are there; None where that is not known."""
        self._pump()

    def enter_at_once(self, tag: str, tokens: float) -> None:
        """Count a job that is at the provider already."""
        self._inside[tag] = tokens

    async def enter(self, tag: str, tokens: float, *, when_full: Callable[[], None]) -> None:
        """Wait until a job may be submitted; calls `when_full` if blocked."""
        if tag in self._inside:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[tag] = (tokens, future)
        self._pump()
        if not future.done():
            when_full()
        try:
            await future
        except BaseException:
            self._waiting.pop(tag, None)
            self._inside.pop(tag, None)
            self._pump()
            raise

    def leave(self, tag: str) -> None:
        """Give back what a job has taken."""
        if self._inside.pop(tag, None) is not None:
            self._pump()

    def _pump(self) -> None:
        while self._waiting:
            tag, (tokens, future) = next(iter(self._waiting.items()))
            if not self._fits(tokens):
                return
            del self._waiting[tag]
            self._inside[tag] = tokens
            if not future.done():
                future.set_result(None)

    def _fits(self, tokens: float) -> bool:
        if not self._inside:
            return True  # what never fits is the provider's to refuse
        if self._jobs is not None and len(self._inside) >= self._jobs:
            return False
        return self.most_tokens is None or self.enqueued + tokens <= self.most_tokens


class Refusals:
    """Refusals of jobs that name no row.

    A job is halved until the rows are found that it is refused for; if it is refused for every
    row, that is seen after two such steps, and not after as many jobs as there are rows.
    """

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
