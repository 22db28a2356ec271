"""Steps of a batch job, and results of their actions.

`llmflow.batch.lifecycle` has the rules by which one step follows from another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple

from llmflow.batch.record import JobRecord
from llmflow.errors import ProviderError
from llmflow.provider import BatchProblem, BatchStatus

Action = Literal[
    "begin",  # nothing yet: a new job, or one of an earlier process
    "await_primer",  # wait for the job that fills the provider's prompt cache
    "enter",  # wait until the provider has room for another job
    "upload",
    "lock",  # wait until nobody else creates a job at the same place
    "search",  # look for a job that may have been created
    "create",
    "back_off",  # wait before the next attempt to create it
    "sleep",
    "look",  # ask the provider how the job is doing
    "cancel",
    "fetch",  # download the results and count them
    "set_aside",  # keep what was downloaded, and wait before it is downloaded again
    "check_owner",  # see whether the results are of this job's rows
    "delete_results",
    "clean_up",  # delete the provider's files
    "free_room",  # make room at the provider, and learn how much there is
    "find_bad_rows",  # see which rows a refusal concerns
    "fail_rows",  # give these rows their error, or all of them `Step.error`
    "split",  # write down other jobs that have the rows; the end
    "ingest",  # give each row what the results say
    "go_live",  # have the rows that are left asked in parallel
    "cancel_rows",
    "next_round",  # put the rows that are left into another job
    "end",  # remove the job's files on this machine; the end
    "fail",  # raise the error: another process can go on from what is written down
]
FINAL: Final = ("split", "end", "fail")
TIMED: Final = ("begin", "upload", "lock", "search", "create", "look", "cancel")
"""After these the next step depends on the moment."""


class Seen(NamedTuple):
    """The contents of result files.

    Args:
        lines: how many lines there are.
        missing: how many rows the provider has counted besides.
        is_cut_off: whether the last line of a file is none.
        needs_earlier: whether some rows are in what was set aside, and nowhere else.
    """

    lines: int
    missing: int
    is_cut_off: bool
    needs_earlier: bool

    @property
    def is_whole(self) -> bool:
        """True if nothing is wrong."""
        return not self.missing and not self.is_cut_off


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Result of a step's action; its moment, where that matters."""

    at: float = 0.0  # the time of day, in seconds since 1970
    time: float = 0.0  # of a clock that never goes back
    rows: int = 0  # without an outcome
    error: ProviderError | None = None
    interrupted: bool = False  # by a request to cancel the job, or as it took too long
    status: BatchStatus | None = None  # the job, as the provider tells it
    uploaded: str | None = None  # the provider's name of the file
    has_worked: bool = False  # key and model were accepted before
    most: float | None = None  # tokens that a job may have, where that is known
    alone: bool = False  # no other job of this process is at the provider
    named: int = 0  # rows that a refusal names
    concerns_all: bool = False  # equal refusals of other parts say that it concerns every row
    missing: str = ""  # what of the results cannot be fetched; empty if nothing
    seen: Seen | None = None  # what was downloaded
    is_ours: bool = True  # the results are of this job's rows
    leftovers: int = 0  # rows for which the results have no outcome
    were_cancelled: bool = False  # such a row says that it was cancelled
    is_few: bool = False  # they are too few for another job
    is_late: bool = False  # the deadline is near


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A job's record, its next action, and what this process remembers."""

    record: JobRecord
    poll: float  # seconds until the first look
    rounds: int  # how often a row may go into a job
    action: Action = "begin"
    phase: Literal["submit", "watch", "refused", "download", "leave"] = "submit"
    unsaved: bool = False  # the record is to be written down before the action
    says: tuple[str, int | None] | None = None  # a decision; of how many rows, None for all

    # Arguments of actions.
    seconds: float = 0.0  # to wait, or that the action may take
    error: ProviderError | None = None  # of all rows, or of the attempt before
    outcome: str = ""  # how the job ends
    problems: tuple[BatchProblem, ...] = ()  # what the provider refused it for
    parts: int = 1  # into how many jobs it is split
    part: JobRecord | None = None  # what is common to the records of these
    asks_again: bool = False  # the rows that are left

    # What this process remembers.
    may_exist: bool = False  # an earlier process may have created the job
    has_lock: bool = False  # nobody else creates a job at the same place now
    uploaded: str | None = None  # a file at the provider of which no job was made yet
    status: BatchStatus | None = None  # what the provider said last
    cancelled_at: float | None = None  # when the job was first seen to be unwanted
    cancel_told: bool = False  # the provider has confirmed that
    brought: bool = False  # all results are here, so that the provider's may go
    attempts: int = 0  # to create it
    probed: bool = False  # a refusal of key or model was looked at once more
    looks: int = 0
    unknown: int = 0  # looks in a row at which the provider did not know the job
    refused_looks: int = 0
    asked_to_wait: float | None = None
    seen: Seen | None = None  # of the results
    downloads: int = 0
    again: int = 0  # downloads that were not whole
    tries: int = 0  # of one download

    def then(self, action: Action, **changes: Any) -> Step:
        """Return the step with this action, without the lock unless named."""
        kept = {"error": None, "has_lock": False, "seconds": 0.0, "asks_again": False}
        return replace(self, action=action, **{**kept, **changes})

    def noted(self, **changes: Any) -> Step:
        """Return the step with a changed record, to be written down."""
        return replace(self, record=self.record.but(**changes), unsaved=True)

    def telling(self, decision: str, rows: int | None = None) -> Step:
        """Return the step with a decision to tell of."""
        return replace(self, says=(decision, rows))
