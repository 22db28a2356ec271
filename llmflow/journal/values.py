"""Plain values that are kept of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from llmflow import errors
from llmflow.errors import ProviderError
from llmflow.types import Response

Store = Literal["full", "answers"]
"""``full`` keeps whole replies; ``answers`` all but their ``raw``."""

Durability = Literal["process", "power"]
"""What a record survives: the end of the process in any way, or a power cut, too."""

_OF_ERRORS: Final = (
    *("provider", "model", "status", "code", "request_id", "retry_after", "dimension"),
    "attempts",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedFailure:
    """A call that failed for good, as it was written down.

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
        partial_text: what was written of an answer that was stopped because of its content.
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
        given = {name: getattr(self, name) for name in _OF_ERRORS}
        if self.partial_text and issubclass(cls, errors.ContentFilterError):
            given["partial_text"] = self.partial_text
        return cls(self.message, **given)


Recorded = Response | RecordedFailure
"""What became of a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Totals of a journal over all sessions.

    Args:
        answers: answers of the provider.
        failures: calls that failed for good and were not answered since.
        requests: requests that were sent for these; retries among them.
        input_tokens: tokens of the prompts that were answered.
        output_tokens: tokens of the answers.
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
