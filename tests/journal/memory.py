"""A journal in memory: the other implementation of the protocol, for tests."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from llmflow.errors import JournalError, ProviderError
from llmflow.journal import Key, Recorded, RecordedFailure, Totals
from llmflow.journal.rows import failure_of, failure_row
from llmflow.types import Response


@dataclass
class Kept:
    """What stays of a run when its session ends."""

    answers: dict[Key, tuple[int, Response]] = field(default_factory=dict)
    failures: dict[Key, tuple[int, RecordedFailure]] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)


_kept: dict[Path, Kept] = {}


class MemoryJournal:
    """Keeps a run for as long as the process lives; what is put is kept a turn later."""

    is_local = False

    def __init__(self, folder: Path, kept: Kept) -> None:
        self.folder = folder
        self.opened_at = time.time()
        self.altered = 0
        self._kept = kept
        self.began_empty = not (kept.answers or kept.failures or kept.jobs)
        self._waiting: list[tuple[Key, Response | RecordedFailure, int, bool]] = []
        self._done: list[asyncio.Future[None]] = []
        self._is_closed = False

    @classmethod
    def open(cls, folder: Path, **_: object) -> Self:
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder, _kept.setdefault(folder, Kept()))

    @property
    def totals(self) -> Totals:
        return self._kept.totals

    def begin(self, about: Mapping[str, Any]) -> None:
        self._check()
        self._kept.meta["about"] = dict(about)

    async def find_many(self, keys: Sequence[Key]) -> Mapping[Key, Recorded]:
        await asyncio.sleep(0)  # as one that is far away
        self._check()
        found = {key: self._known(*key) for key in keys}
        return {key: record for key, record in found.items() if record is not None}

    def find(self, fingerprint: bytes, nth: int) -> Recorded | None:
        self._check()
        return self._known(fingerprint, nth)

    def _known(self, fingerprint: bytes, nth: int) -> Recorded | None:
        return self._at(self._kept.answers, fingerprint, nth) or self._at(
            self._kept.failures, fingerprint, nth
        )

    @staticmethod
    def _at(table: Mapping[Key, tuple[int, Any]], fingerprint: bytes, nth: int) -> Any:
        for first in range(nth, -1, -1):
            if (fingerprint, first) in table:
                uses, record = table[fingerprint, first]
                return record if first + uses > nth else None
        return None

    async def find_texts(self, keys: Sequence[Key]) -> dict[Key, str]:
        found = await self.find_many(keys)
        return {key: each.text for key, each in found.items() if getattr(each, "text", None)}

    def put(
        self,
        fingerprint: bytes,
        nth: int,
        outcome: Response | ProviderError,
        *,
        uses: int = 1,
        paid: bool = True,
    ) -> asyncio.Future[None]:
        self._add(fingerprint, nth, outcome, uses, paid)
        return self._promise()

    def put_many(
        self, outcomes: Iterable[tuple[Key, Response | ProviderError]]
    ) -> asyncio.Future[None]:
        for key, outcome in outcomes:
            self._add(*key, outcome)
        return self._promise()

    def _add(
        self,
        fingerprint: bytes,
        nth: int,
        outcome: Response | ProviderError,
        uses: int = 1,
        paid: bool = True,
    ) -> None:
        self._check()
        kept: Response | RecordedFailure
        if isinstance(outcome, Response):
            kept = dataclasses.replace(outcome, source="journal")
        else:
            kept = failure_of(failure_row(fingerprint, nth, uses, time.time(), outcome)[3:])
        self._waiting.append(((fingerprint, nth), kept, uses, paid))

    def _promise(self) -> asyncio.Future[None]:
        self._check()
        loop = asyncio.get_running_loop()
        self._done.append(loop.create_future())
        if len(self._done) == 1:
            loop.call_soon(self._write)
        return self._done[-1]

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        done, self._done = self._done, []
        for each in waiting:
            self._keep(*each)
        for future in done:
            if not future.done():
                future.set_result(None)

    def _keep(self, key: Key, outcome: Response | RecordedFailure, uses: int, paid: bool) -> None:
        kept = self._kept
        if isinstance(outcome, Response):
            kept.answers.setdefault(key, (uses, outcome))
            for nth in range(key[1], key[1] + uses):
                kept.failures.pop((key[0], nth), None)
        elif self._at(kept.answers, *key) is None:
            kept.failures[key] = uses, outcome
        before = kept.totals
        changes: dict[str, Any] = {"answers": len(kept.answers), "failures": len(kept.failures)}
        if paid:
            changes["requests"] = before.requests + outcome.attempts
        if paid and isinstance(outcome, Response):
            changes["input_tokens"] = before.input_tokens + outcome.usage.input_tokens
            changes["output_tokens"] = before.output_tokens + outcome.usage.output_tokens
            if outcome.cost is not None:
                changes["cost"] = (before.cost or 0.0) + outcome.cost
        kept.totals = dataclasses.replace(before, **changes)

    async def record(self, *arguments: Any, **options: Any) -> None:
        await self.put(*arguments, **options)

    def charge(self, *, cost: float, tokens: float, requests: int = 0) -> None:
        before = self._kept.totals
        self._kept.totals = dataclasses.replace(
            before,
            unsaid_cost=before.unsaid_cost + cost,
            unsaid_tokens=before.unsaid_tokens + tokens,
            requests=before.requests + requests,
        )

    def note(self, name: str, value: Any) -> None:
        self._check()
        self._kept.meta[f"note.{name}"] = value

    def noted(self, name: str) -> Any:
        return self._kept.meta.get(f"note.{name}")

    def put_jobs(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        self._check()
        self._kept.jobs.update({tag: dict(record) for tag, record in records.items()})

    def jobs(self) -> list[dict[str, Any]]:
        self._check()
        return [dict(each) for each in self._kept.jobs.values()]

    async def drain(self) -> None:
        self._check()
        self._write()

    def close(self, *, state: str | None = "complete", reason: str | None = None) -> None:
        if not self._is_closed:
            self._write()
            self._is_closed = True
            self._kept.meta.update(state=state, reason=reason)

    def _check(self) -> None:
        if self._is_closed:
            raise JournalError(f"the run {self.folder.name} is over: its journal is closed")
