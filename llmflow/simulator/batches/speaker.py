"""What a job's life asks of a dialect: its rules for a row, its lines of results."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from llmflow.simulator.batches.store import JobRecord

Ending = Literal["expired", "cancelled"]


class Row(NamedTuple):
    """The line that a row ends with: into which file, how it is counted, what it cost.

    `custom_id` and `body`, the digest of its request, are for the bill of one that succeeded.
    """

    file: Literal["output", "error"]
    line: bytes
    kind: Literal["succeeded", "errored", "expired", "cancelled"]
    input_tokens: int = 0
    output_tokens: int = 0
    custom_id: str = ""
    body: int = 0


class LineError(Exception):
    """A line of the input that fails the whole job."""

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class Speaker(Protocol):
    """One dialect's batch rules."""

    forgets_cancelled: bool
    """Whether a cancelled job loses what was done."""
    finalizes: bool
    """Whether a job takes time to end after its last row."""

    def check(self, job: JobRecord, line: bytes, seen: set[str]) -> int:
        """Return the prompt tokens of a row, or raise a `LineError`; `seen` holds the ids."""
        ...

    def answer(self, job: JobRecord, line: bytes, *, ident: str, fails: bool, now: float) -> Row:
        """Return what the same request would get live, or an error that is not its own."""
        ...

    def unanswered(self, line: bytes, *, ident: str, why: Ending) -> Row:
        """Return what a row ends with that was not done."""
        ...

    def queue_error(self, job: JobRecord, *, others: int) -> LineError | None:
        """Return the error of a job for which the queue has no room; None if it has."""
        ...

    def publish(
        self, job: JobRecord, file: Literal["output", "error"], size: int, now: float
    ) -> str:
        """Register a file of results, and return its name, which its data is to have."""
        ...
