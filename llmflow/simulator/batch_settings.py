"""Settings of a simulated provider's batch APIs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmflow.errors import ConfigurationError
from llmflow.simulator.checks import check_fields, whole

RowError = Literal["server_error", "invalid_request"]
ExpiredResults = Literal["partial", "none"]
CancelledResults = Literal["keep", "drop"]

_SHARES = ("error_rows", "expired_rows", "missing_rows", "duplicate_rows")
_ORDINALS = ("stuck_jobs", "slow_jobs", "lost_creates", "lost_uploads")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """Settings of batch jobs: their speed, limits and faults.

    Jobs, creations and uploads are told by their number since the state began: 1 is the first.

    >>> BatchSettings(seconds=2, error_rows=0.05, stuck_jobs=(3,)).stuck_jobs
    (3,)

    Args:
        seconds: how long the rows of a job take, however many they are.
        rows_per_second: the speed of a job instead; None: `seconds` counts.
        validation_seconds: how long OpenAI's jobs are ``validating``.
        finalizing_seconds: how long they are ``finalizing``.
        cancel_seconds: how long a job goes on to be cancelled.
        expiry_seconds: from its creation, when a job ends with what it has.
        max_requests: rows of a job; None: 50,000 by OpenAI's rule, 100,000 by Anthropic's.
        max_bytes: size of its input; None: 200 MiB and 256 MB.
        queue_tokens: OpenAI's limit of prompt tokens in unfinished jobs, per key and model;
            a job beyond it fails with ``token_limit_exceeded``. None: no such limit.
        queue_requests: Anthropic's limit of rows in unfinished jobs, per key; a job beyond
            it is refused with a 429. None: no such limit.
        error_rows: share of rows that end in an error that is not theirs.
        row_error: which one: ``"server_error"`` may be tried again, the other not.
        expired_rows: share of rows that are never executed: their job expires as soon as
            the others are done.
        missing_rows: share of rows whose results are lost, though they are counted.
        duplicate_rows: share of rows whose results occur twice.
        moving_counts: whether Anthropic's counts move while a job goes on; else they all stand
            at ``processing`` until its end.
        expired_results: ``"none"`` loses all results of an expired job.
        cancelled_results: ``"drop"`` loses those of a cancelled job by OpenAI's rule.
        stuck_jobs: numbers of the jobs that stop at `stuck_at` of their rows until they
            expire or are cancelled.
        stuck_at: share of the rows that such a job does.
        slow_jobs: numbers of the jobs that take `slow_factor` times as long.
        slow_factor: see `slow_jobs`.
        lost_creates: numbers of the jobs whose creation is not answered: the connection breaks.
        lost_uploads: numbers of the files whose upload is not answered.
        hidden_polls: how many questions for a new job are answered with a 404.
        failed_polls: share of questions for a job that are answered with a 500.
        state: folder of the files and jobs, which then survive a restart; None: a temporary one.

    Raises:
        ConfigurationError: a value is wrong; the message names it.

    """

    seconds: float = 10.0
    rows_per_second: float | None = None
    validation_seconds: float = 1.0
    finalizing_seconds: float = 0.5
    cancel_seconds: float = 1.0
    expiry_seconds: float = 86_400.0
    max_requests: int | None = None
    max_bytes: int | None = None
    queue_tokens: float | str | None = None
    queue_requests: int | None = None
    error_rows: float = 0.0
    row_error: RowError = "server_error"
    expired_rows: float = 0.0
    missing_rows: float = 0.0
    duplicate_rows: float = 0.0
    moving_counts: bool = False
    expired_results: ExpiredResults = "partial"
    cancelled_results: CancelledResults = "keep"
    stuck_jobs: tuple[int, ...] = ()
    stuck_at: float = 0.5
    slow_jobs: tuple[int, ...] = ()
    slow_factor: float = 10.0
    lost_creates: tuple[int, ...] = ()
    lost_uploads: tuple[int, ...] = ()
    hidden_polls: int = 0
    failed_polls: float = 0.0
    state: str | None = None

    def __post_init__(self) -> None:
        counts = {name: {"low": 1} for name in ("max_requests", "max_bytes", "queue_requests")}
        check_fields(self, prefix="batch.", rows_per_second={"above": 0}, **counts)
        for name in ("stuck_at", "failed_polls"):
            if getattr(self, name) > 1:
                raise ConfigurationError(f"batch.{name} must be at most 1, for it is a share")
        if sum(getattr(self, name) for name in _SHARES) > 1 + 1e-9:
            raise ConfigurationError(
                f"{', '.join(f'batch.{name}' for name in _SHARES)} must not exceed 1 together"
            )
        if self.state is not None and (not isinstance(self.state, str) or not self.state):
            raise ConfigurationError(f"batch.state must be a folder's path; got {self.state!r}")
        for name in _ORDINALS:
            given: object = getattr(self, name)
            if not isinstance(given, (list, tuple)):
                raise ConfigurationError(f"batch.{name} must be a list of numbers; got {given!r}")
            numbers = tuple(whole(f"batch.{name}", n, low=1) for n in given)
            object.__setattr__(self, name, numbers)

    def shares(self) -> tuple[tuple[str, float], ...]:
        """Return each fate of a row with its share."""
        return tuple((name.removesuffix("_rows"), float(getattr(self, name))) for name in _SHARES)
