"""Protocol of a journal, wherever it is kept, and its values."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from llmflow import errors
from llmflow.errors import ProviderError
from llmflow.types import Response

Key: TypeAlias = tuple[bytes, int]
"""What was asked, as its fingerprint, and how often it was asked before in the session."""
Outcome: TypeAlias = Response | ProviderError
"""What is recorded of a call: its answer, or its final failure."""
Store = Literal["full", "answers"]
"""``full`` keeps whole replies; ``answers`` all but their ``raw``."""

Durability = Literal["process", "power"]
"""What a record survives: the end of the process in any way, or a power cut, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedFailure:
    """A call that failed for good, with the fields of its `ProviderError`.

    Args:
        kind: the name of the error's class.
        at: when it was written down, in seconds since 1970.
    """

    kind: str
    message: str
    provider: str | None = None
    model: str | None = None
    status: int | None = None
    code: str | None = None
    request_id: str | None = None
    retry_after: float | None = None
    dimension: str | None = None
    attempts: int = 1
    at: float = 0.0
    partial_text: str | None = None

    def error(self) -> ProviderError:
        """Recreate the error; as root class if its own is unknown.

        >>> RecordedFailure(kind="ServerError", message="oops", status=500).error()
        ServerError('oops')
        """
        cls = getattr(errors, self.kind, None)
        if not (isinstance(cls, type) and issubclass(cls, ProviderError)):
            cls = ProviderError
        given = asdict(self)
        for name in ("kind", "message", "at"):
            del given[name]
        has_text = (errors.ContentFilterError, errors.BadGenerationError)
        if not given["partial_text"] or not issubclass(cls, has_text):
            del given["partial_text"]
        return cls(self.message, **given)


Recorded = Response | RecordedFailure
"""What became of a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Totals of a journal over all sessions.

    Args:
        failures: calls that failed for good and were not answered since.
        requests: requests that were sent for answers and failures, with retries.
        cost: US dollars of the answers whose price is known; None where none is.
        unsaid_cost: US dollars that budgets were charged for what no reply told the use of:
            answers without usage, requests that timed out or were cancelled on their way.
        unsaid_tokens: tokens, likewise.
    """

    answers: int = 0
    failures: int = 0
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    unsaid_cost: float = 0.0
    unsaid_tokens: float = 0.0


class JournalProtocol(Protocol):
    """Protocol: the answers, failures and batch jobs that one run keeps.

    A session has it open alone, and any number of event loops in threads use it. What cannot
    be read or written is a `JournalError`, and so is all that comes after `close`.
    """

    @property
    def folder(self) -> Path:
        """A local folder for other files, such as those of batch jobs."""
        ...

    @property
    def is_local(self) -> bool:
        """True if `find` takes microseconds: less than it takes to wait."""
        ...

    @property
    def opened_at(self) -> float:
        """Seconds since 1970: what is recorded later is of this session."""
        ...

    @property
    def began_empty(self) -> bool:
        """True if it had no records when it was opened."""
        ...

    @property
    def totals(self) -> Totals:
        """Totals over all sessions."""
        ...

    @property
    def altered(self) -> int:
        """The number of records that were altered since they were written."""
        ...

    def begin(self, about: Mapping[str, Any]) -> None:
        """Note that a session begins, before anything is recorded in it.

        Args:
            about: what to keep with the run: plain values, no secrets.
        """
        ...

    async def find_many(self, keys: Sequence[Key]) -> Mapping[Key, Recorded]:
        """Return the records of the questions that have one."""
        ...

    async def find_texts(self, keys: Sequence[Key]) -> Mapping[Key, str]:
        """Return the texts of answers that ended with ``stop``.

        It may leave out others, which `find_many` has then.
        """
        ...

    def find(self, fingerprint: bytes, nth: int) -> Recorded | None:
        """Do what `find_many` does, for one question and at once.

        Only where the journal `is_local`; elsewhere, as a run is opened or closed.
        """
        ...

    def put(
        self, fingerprint: bytes, nth: int, outcome: Outcome, *, uses: int = 1, paid: bool = True
    ) -> asyncio.Future[None]:
        """Record an outcome; the future ends when it is durable.

        What comes together is written together. What nobody awaits is written all the same.
        The first answer stays, an answer takes the place of a failure, and a failure never
        that of an answer.

        Args:
            fingerprint: what was asked.
            nth: how often it was asked before in this session.
            outcome: the answer, or why there is none.
            uses: how many equal calls it is for: this one and those that come next.
            paid: whether it counts as spent: not if it is another call's answer.
        """
        ...

    def put_many(self, outcomes: Iterable[tuple[Key, Outcome]]) -> asyncio.Future[None]:
        """Do what `put` does for many outcomes, with one future for all."""
        ...

    def charge(self, *, cost: float, tokens: float, requests: int = 0) -> None:
        """Count spending without a record, for the budgets of later sessions."""
        ...

    def note(self, name: str, value: Any) -> None:
        """Store a plain value with the run, under the caller's name."""
        ...

    def noted(self, name: str) -> Any:
        """Return the value that `note` stored in any session, or None."""
        ...

    def put_jobs(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Record batch jobs by tag: atomic, and durable in power cuts.

        A job that is forgotten would be paid for twice. It may block: jobs call it in a thread.
        """
        ...

    def jobs(self) -> list[dict[str, Any]]:
        """Return the records of all batch jobs at once, oldest first."""
        ...

    async def drain(self) -> None:
        """Return once everything that was put before is durable."""
        ...

    def close(self, *, state: str | None = "complete", reason: str | None = None) -> None:
        """Write what is waiting, and record the session's end; safe to repeat.

        Args:
            state: how it ended, as `RunSummary.state` says; None is taken for interrupted.
            reason: why it ended before its end, or None.
        """
        ...
