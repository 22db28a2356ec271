"""What a run came to over all its sessions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What is written down in a journal, summed up.

    Args:
        answers: answers of the provider.
        failures: calls that failed for good and were not answered since.
        requests: requests that were sent for these; retries among them.
        input_tokens: tokens of the prompts that were answered.
        output_tokens: tokens of the answers.
        cost: US dollars; None where no price is known.
    """

    answers: int = 0
    failures: int = 0
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
