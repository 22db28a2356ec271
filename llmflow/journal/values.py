"""What is kept of a run, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmflow import errors
from llmflow.errors import ProviderError
from llmflow.types import Response

Store = Literal["full", "answers"]
"""``full`` keeps whole replies; ``answers`` all but their ``raw``."""

Durability = Literal["process", "power"]
"""What a record survives: the end of the process in any way, or also a power cut."""

State = Literal["running", "complete", "interrupted", "stopped"]
"""How a run's last session ended; ``stopped``: it ended itself, for the reason beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedFailure:
    """A request that failed for good, as it was written down.

    Args:
        kind: the name of the error's class.
        message: what the provider said.
        provider: the provider's name.
        model: the model's name at the provider.
        status: HTTP status, where there was one.
        code: the provider's own error code.
        request_id: the provider's id of this request.
        retry_after: seconds that the server asked to wait, or None.
        dimension: what of the quota was used up, as a field of `Quota` names it.
        attempts: how often the request was sent and counted.
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

    def error(self) -> ProviderError:
        """Return the error as it was raised; of the root class if its own is not known here.

        >>> RecordedFailure(kind="ServerError", message="oops", status=500).error()
        ServerError('oops')
        """
        found = getattr(errors, self.kind, None)
        known = isinstance(found, type) and issubclass(found, ProviderError)
        cls: type[ProviderError] = found if known else ProviderError
        return cls(
            self.message,
            provider=self.provider,
            model=self.model,
            status=self.status,
            code=self.code,
            request_id=self.request_id,
            retry_after=self.retry_after,
            dimension=self.dimension,
            attempts=self.attempts,
        )


Recorded = Response | RecordedFailure


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What a run holds and has used, over all its sessions.

    Args:
        answers: answers that are written down.
        failures: requests that failed for good and have no answer.
        requests: requests that were sent for all of these; retries among them.
        input_tokens: tokens of the prompts that were answered.
        output_tokens: tokens of the answers.
        cost: US dollars of the answers whose price is known; None where none is.
    """

    answers: int = 0
    failures: int = 0
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What is known of a run without opening it.

    Args:
        name: the name of its folder.
        folder: where it is.
        id: a random name that no other run has.
        created_at: when it began, in seconds since 1970.
        last_used_at: when something was last written down.
        version: the llmflow that used it last.
        sessions: how often it was opened to work on.
        state: how its last session ended; ``running`` only while a process works on it.
        reason: why it was stopped, or None.
        about: what the run's owner keeps with it, such as its kind and its arguments.
        totals: what it holds.
        busy: whether a process works on it at this moment.
        pid: that process, where its number is known.
        problem: why the journal cannot be read; all else but the folder is then unknown.
    """

    name: str
    folder: Path
    id: str = ""
    created_at: float = 0.0
    last_used_at: float = 0.0
    version: str = ""
    sessions: int = 0
    state: State = "interrupted"
    reason: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)
    busy: bool = False
    pid: int | None = None
    problem: str | None = None

    @property
    def kind(self) -> str:
        """What made the run: ``command`` or ``python``."""
        return str(self.about.get("kind", "python"))
