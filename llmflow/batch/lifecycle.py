"""Decides the next step of a batch job; does no I/O.

`next_step` is a pure function: from the step that a job was at, and what its action brought, to
the next step. A step says what is to be written down and what is to be done after that, so that
a process which finds a record knows what may have happened since. Only the creation must not
happen twice: a job that may have been created is searched for first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from llmflow.batch.record import JobRecord
from llmflow.batch.steps import Action, Event, Step
from llmflow.calls.refusals import is_of_all
from llmflow.errors import (
    AuthenticationError,
    BadReplyError,
    ProviderError,
    QueueLimitError,
    ResultsTooLargeError,
    TooLargeForLimitError,
)
from llmflow.provider import ENDED, BatchProblem, BatchStatus

# Times are in units of `Step.poll`, the seconds until the first look: with 10 seconds, jobs are
# looked at after 10, 20, 30 and then 60 seconds; after an hour every 120.
_FIRST_LOOKS: Final = (1.0, 2.0, 3.0)
_LATER_LOOKS: Final = 6.0
_LAST_LOOKS: Final = 12.0
_IS_OLD: Final = 360.0
# A job that was made a moment ago is not everywhere yet, nor is a file.
_UNKNOWN_PATIENCE: Final = 3
_UNSEEN_TRIES: Final = 3
_CREATE_ATTEMPTS: Final = 8
_REFUSALS: Final = 5
_CANCEL_PATIENCE: Final = 60.0
_URGENT_PATIENCE: Final = 12.0
# Waits for room at the provider, and when a job may be too large after all.
_QUEUE_WAITS: Final = (6.0, 12.0, 30.0, 60.0)
_TRIES_BEFORE_SPLIT: Final = 3
_WORST_ESTIMATE: Final = 4.0
# Downloads: waits between them, and how often results that are not whole are fetched again.
_DOWNLOAD_WAITS: Final = (1.0, 2.0, 3.0, 6.0, 6.0)
_FETCH_PAUSE: Final = 6.0
_FETCH_TRIES: Final = 5
_AGAIN: Final = 3
_HURRIED: Final = 1
_GONE: Final = (404, 410)

_UNSENT: Final = "cancelled before it was sent"
_FOUND: Final = "not cancelled: it may be somebody else's"


def next_step(step: Step, event: Event) -> Step:
    """Return the step that follows from what the last action brought."""
    step = replace(step, unsaved=False, says=None)
    if event.error is not None and step.action not in _EXPECT_ERRORS:
        return step.then("fail", error=event.error)
    return _AFTER[step.action](step, event)


# --- on the way there ----------------------------------------------------------------------------


def _begin(step: Step, event: Event) -> Step:
    if step.record.state == "fetched":
        return step.then("check_owner", phase="download")
    return _watch(step, event) if step.record.state == "created" else _submit(step)


def _submit(step: Step) -> Step:
    """Create the job, unless it is cancelled and certainly does not exist."""
    cancel = step.record.cancel
    if cancel is None or step.may_exist:
        return step.then("await_primer", phase="submit")
    step = replace(step, outcome=_UNSENT)
    if cancel == "deadline":
        return step.telling(f"{_UNSENT}: deadline").then("go_live")
    return step.then("cancel_rows")


def _primed(step: Step, event: Event) -> Step:
    if event.interrupted:
        return step.then("lock") if step.may_exist else _submit(step)
    return step.then("enter")


def _entered(step: Step, event: Event) -> Step:
    if event.interrupted and not step.may_exist:
        return _submit(step)
    return step.then("upload" if step.uploaded is None and not step.may_exist else "lock")


def _uploaded(step: Step, event: Event) -> Step:
    if event.error is not None:
        return _not_created(step, event.error)
    if event.interrupted:
        return _submit(step)
    step = replace(step, uploaded=event.uploaded)
    return _creating(step, event) if step.has_lock else step.then("lock")


def _locked(step: Step, event: Event) -> Step:
    if event.interrupted:
        return _submit(step)
    return step.then("search", has_lock=True) if step.may_exist else _creating(step, event)


def _creating(step: Step, event: Event) -> Step:
    # Searched for from the first time on, if there were several.
    sent_at = step.record.sent_at or event.at
    step = step.noted(state="creating", uploaded=step.uploaded, sent_at=sent_at)
    return step.then("create", has_lock=True, attempts=1, probed=False)


def _after_create(step: Step, event: Event) -> Step:
    """Go on with the job, or repeat what was refused or is known not to have been done."""
    error = event.error
    if event.interrupted:
        return _submit(step)
    if error is None:
        return _made(step, event, was_found=False)
    unseen = error.status == 404 and not error.fatal and step.attempts < _UNSEEN_TRIES
    # A key that has worked is not wrong because a gateway restarts; the second time it is.
    probes = event.has_worked and is_of_all(error) and not step.probed
    is_passing = error.transient and not isinstance(error, QueueLimitError)
    if step.attempts >= _CREATE_ATTEMPTS or not (is_passing or unseen or probes):
        return _not_created(step, error)
    step = replace(step, probed=step.probed or probes)
    return step.then("search" if is_ambiguous(error) else "back_off", error=error, has_lock=True)


def is_ambiguous(error: ProviderError) -> bool:
    """Return whether a call that failed may have been executed."""
    return error.status is None or not 400 <= error.status < 500


def _after_search(step: Step, event: Event) -> Step:
    if event.error is not None:  # nobody knows: it is no refusal of the job
        return step.then("fail", error=step.error or event.error)
    if event.status is not None:
        return _made(step, event, was_found=True)
    if step.error is not None:
        return step.then("back_off", error=step.error, has_lock=True)
    # Uploaded anew: the earlier process's file may have expired.
    return step.then("upload", may_exist=False, has_lock=True)


def _after_back_off(step: Step, event: Event) -> Step:
    if event.interrupted:
        return _submit(step)
    return step.then("create", attempts=step.attempts + 1, has_lock=True)


def _not_created(step: Step, error: ProviderError) -> Step:
    step = replace(step, problems=(BatchProblem(error),))
    if isinstance(error, QueueLimitError):
        return step.noted(state="sealed", uploaded=None, sent_at=None).then("free_room")
    if error.transient:
        return step.then("fail", error=error)  # the next process searches for it
    return _refused(step)


def _made(step: Step, event: Event, *, was_found: bool) -> Step:
    status, record = event.status, step.record
    assert status is not None
    step = step.noted(
        state="created",
        job=status.id,
        found=was_found and status.tag != record.tag,
        created_at=event.at,
        uploaded=status.uploaded or record.uploaded,
        expires_at=status.expires_at,
        native=status.native,
    )
    step = replace(step, uploaded=None, may_exist=False, status=None, problems=())
    return _watch(replace(step, looks=0, unknown=0, refused_looks=0, asked_to_wait=None), event)


# --- at the provider -----------------------------------------------------------------------------


def _watch(step: Step, event: Event) -> Step:
    """Look again after a while, or have an unwanted job cancelled.

    Only a deadline is in a hurry: else what nobody has confirmed goes on, and may be paid.
    What was found, and may be somebody else's, is not cancelled. At the deadline its end is
    waited for even so: it says whose it is, and until then its rows may be paid for.
    """
    record = step.record
    if record.cancel is not None:
        if step.cancelled_at is None:  # the next session, too, is to know who did it
            step = replace(step, cancelled_at=event.time, unsaved=True)
            step = step.telling(_FOUND) if record.found else step
        if not record.found and not step.cancel_told:
            patience = _URGENT_PATIENCE if record.cancel == "deadline" else _CANCEL_PATIENCE
            return step.then("cancel", phase="watch", seconds=patience * step.poll)
        if _is_overdue(step, event):
            return _ended(step)
    return _rest(step, event)


def _is_overdue(step: Step, event: Event) -> bool:
    assert step.cancelled_at is not None
    passed = event.time - step.cancelled_at
    is_urgent = step.record.cancel == "deadline" and not step.record.found
    return is_urgent and passed > _URGENT_PATIENCE * step.poll


def _rest(step: Step, event: Event) -> Step:
    if step.looks < len(_FIRST_LOOKS):
        factor = _FIRST_LOOKS[step.looks]
    else:
        age = event.at - (step.record.created_at or 0.0)
        factor = _LAST_LOOKS if age > _IS_OLD * step.poll else _LATER_LOOKS
    seconds = max(step.poll * factor, step.asked_to_wait or 0.0)
    if step.cancelled_at is not None:  # whatever is asked for: it is not for long
        seconds = step.poll * min(factor, 1.0)
    return step.then("sleep", phase="watch", seconds=seconds)


def _after_cancel(step: Step, event: Event) -> Step:
    # Who was not heard says it again at the next look.
    step = replace(step, cancel_told=event.error is None and not event.interrupted)
    return _ended(step) if _is_overdue(step, event) else _rest(step, event)


def _after_sleep(step: Step, _: Event) -> Step:
    if step.phase == "watch":
        return step.then("look", looks=step.looks + 1)
    if step.phase == "refused":
        return _split(step, 1, "too much was enqueued")
    return step.then("fetch") if step.phase == "download" else _submit(step)


def _after_look(step: Step, event: Event) -> Step:
    """Go on by what the provider says; one failed look is nothing."""
    error, status = event.error, event.status
    if step.phase == "download":
        if error is not None and not error.transient and error.status not in _GONE:
            return step.then("fail", error=error)
        return step.then("fetch", status=status or step.status, tries=0)
    if error is not None:
        step = replace(step, asked_to_wait=error.retry_after)
        if error.status == 404:
            step = replace(step, unknown=step.unknown + 1)
            if step.unknown > _UNKNOWN_PATIENCE:
                return step.then("check_owner", phase="download", status=None)
        elif isinstance(error, AuthenticationError) or not error.transient:
            step = replace(step, refused_looks=step.refused_looks + 1)
            if step.refused_looks >= _REFUSALS:
                return step.then("fail", error=error)
        return _watch(step, event)
    assert status is not None
    step = replace(step, status=status, unknown=0, refused_looks=0)
    step = _heard(replace(step, asked_to_wait=status.retry_after), status)
    return _ended(step) if status.state in ENDED else _watch(step, event)


def _heard(step: Step, status: BatchStatus) -> Step:
    """Take over what the provider says; counts alone are not worth writing down."""
    record = step.record.but(
        native=status.native or status.state,
        succeeded=status.succeeded,
        failed=status.failed,
        expires_at=status.expires_at,
    )
    if record.native != step.record.native:
        return replace(step, record=record, unsaved=True)
    if (record.succeeded, record.failed) != (step.record.succeeded, step.record.failed):
        return replace(step, record=record)
    return step


def _ended(step: Step) -> Step:
    """Deal with a refusal, or bring the results."""
    status = step.status
    if status is None:
        return step.then("check_owner", phase="download")
    if status.problems:
        error = status.problems[0].error
        if isinstance(error, QueueLimitError) or not error.transient:
            # There are no results, and its rows are sent from here again.
            return step.then("clean_up", phase="refused", problems=status.problems)
    return step.then("fetch", phase="download", tries=0)


# --- refused -------------------------------------------------------------------------------------


def _refused(step: Step) -> Step:
    """Go on with the rows that a refusal does not concern, if there are any."""
    error = step.problems[0].error
    if isinstance(error, QueueLimitError):
        return step.then("free_room", phase="refused")
    if error.fatal:
        return _end(step, f"refused: {error}", error)
    return step.then("find_bad_rows", phase="refused", outcome="refused for a row")


def _after_free_room(step: Step, event: Event) -> Step:
    """Split what is too large, and have the rest wait until less is enqueued.

    What is estimated here is counted there. But it may also be another program's jobs that are
    waited for, and those are no reason to go on splitting.
    """
    record, most, error = step.record, event.most, step.problems[0].error
    if most is not None:
        is_too_large = record.tokens > most
        is_tried = event.alone and record.refused >= _TRIES_BEFORE_SPLIT
        may_be = is_tried and record.tokens * _WORST_ESTIMATE > most
        if record.requests > 1 and (is_too_large or may_be):
            parts = int(record.tokens / most) + 1 if is_too_large else 2
            why = "more than may be enqueued at once"
            return _split(step.telling(why), parts, why)
        if is_too_large and event.alone:
            outcome = "larger than all that may be enqueued"
            return step.then("fail_rows", error=_never_fits(record, error, most), outcome=outcome)
    wait = _QUEUE_WAITS[min(record.refused, len(_QUEUE_WAITS) - 1)] * step.poll
    step = replace(step, record=record.but(refused=record.refused + 1))
    step = step.telling("waits for its queue", record.requests)
    return step.then("sleep", seconds=max(wait, error.retry_after or 0.0))


def _never_fits(record: JobRecord, error: ProviderError, most: float) -> ProviderError:
    return TooLargeForLimitError(
        f"this row alone has about {record.tokens:,.0f} prompt tokens, and no more than "
        f"{most:,.0f} may wait in batch jobs at once. The provider said: {error.message}",
        provider=record.provider,
        model=record.model,
        status=error.status,
        code=error.code,
        request_id=error.request_id,
    )


def _after_find_bad_rows(step: Step, event: Event) -> Step:
    if event.named:
        return step.then("fail_rows")
    if event.rows <= 1 or event.concerns_all:
        return step.then("fail_rows", error=step.problems[0].error)
    return _without_bad_rows(step, named=False)


def _after_fail_rows(step: Step, event: Event) -> Step:
    return _without_bad_rows(step, named=True) if event.rows else _end(step, step.outcome)


def _without_bad_rows(step: Step, *, named: bool) -> Step:
    """Leave one bad row out; halve the job if it is not named, or one comes after the other."""
    record, why = step.record, step.outcome
    step = step.telling(why)
    failures = record.failures + 1
    if named and failures == 1:
        return _split(step, 1, why, failures=failures)
    family, whole = record.family or record.tag, record.whole or record.requests
    halved = record.halved + (not named)
    return _split(step, 2, why, failures=failures, family=family, whole=whole, halved=halved)


def _split(step: Step, parts: int, why: str, **changes: Any) -> Step:
    part = step.record.unmade().but(state="sealed", uploaded=None, **changes)
    return step.then("split", parts=parts, part=part, outcome=why)


# --- on the way back -----------------------------------------------------------------------------


def _after_fetch(step: Step, event: Event) -> Step:
    """Check that the results are whole; they are paid for, and looked for again if not."""
    error, status, cancel = event.error, step.status, step.record.cancel
    missing, seen = event.missing, event.seen or step.seen
    assert status is not None
    if isinstance(error, ResultsTooLargeError):
        step = replace(step, outcome="its results are too large").telling("results too large")
        return step.then("fail_rows", phase="refused", error=error)
    if error is not None and error.status in _GONE:
        missing = f": {error}"
    elif error is not None:
        if step.tries + 1 >= _FETCH_TRIES or not error.transient:
            return step.then("fail", error=error)
        return step.then("sleep", tries=step.tries + 1, seconds=_FETCH_PAUSE * step.poll)
    if not status.has_ended:  # it was cancelled, and takes too long for that
        return step.then("check_owner")
    if not missing and seen is not None and seen.is_whole:
        return step.then("check_owner", brought=True)
    again = step.again + (not missing)
    most = _HURRIED if cancel == "deadline" else _AGAIN
    is_enough = again > most or (cancel is not None and not again)
    if step.downloads < len(_DOWNLOAD_WAITS) and not is_enough:
        # A file that was written a moment ago is not everywhere yet, nor is its name.
        seconds = _DOWNLOAD_WAITS[step.downloads] * step.poll
        downloads = step.downloads + 1
        return step.then("set_aside", seen=seen, again=again, downloads=downloads, seconds=seconds)
    if seen is not None and seen.lines:
        step = step.telling("results that are not whole", max(seen.missing, 1))
        return step.then("check_owner")
    return _without_results(step, status, missing or ": the files are empty")


def _without_results(step: Step, status: BatchStatus, missing: str) -> Step:
    """Go on without results that nobody counts on; else ask nothing again."""
    record = step.record
    # Who has cancelled the job has said what is to become of the rest; and one that expired
    # may have no file.
    is_due = status.state == "succeeded" or (status.state == "expired" and status.results)
    if record.cancel is not None or status.succeeded == 0 or not is_due:
        return step.telling("results that are not there").then("check_owner")
    error = BadReplyError(
        f"the batch job {status.id} has answered {status.succeeded or 'its'} rows, but its results "
        f"are not there{missing}. Nothing is asked again, as that is paid for: another session "
        "looks again, and cancelling the job gives them up",
        provider=record.provider,
        model=record.model,
    )
    return step.then("fail", error=error)


def _after_check_owner(step: Step, event: Event) -> Step:
    """Go on with the results, or leave a job alone that was found and is somebody else's."""
    record = step.record
    if not event.is_ours:
        return step.telling("found another's job", record.requests).then("delete_results")
    if record.state == "fetched":
        return step.then("clean_up", status=None)
    step = step.noted(state="fetched", found=False, native=record.native or "ended")
    # Before anybody has an answer: a program may end with its last one.
    return step.then("clean_up" if step.brought else "ingest")


def _after_delete_results(step: Step, _: Event) -> Step:
    record = step.record
    others = (*record.others, record.job or "")
    step = replace(step, record=record.unmade())
    step = step.noted(state="creating", found=False, others=others)
    step = replace(step, may_exist=True, status=None, seen=None, brought=False)
    return _submit(replace(step, downloads=0, again=0))


def _after_clean_up(step: Step, _: Event) -> Step:
    return _refused(step) if step.phase == "refused" else step.then("ingest")


def _after_ingest(step: Step, event: Event) -> Step:
    """End the job, or find another way for rows that it has not answered."""
    record, count = step.record, event.leftovers
    native = record.native or "ended"
    step = replace(step, phase="leave")
    if not count:
        return _end(step, native)
    live = replace(step, outcome=f"{native}; {count:,} asked in parallel")
    if record.cancel == "deadline" or event.is_late:
        return live.telling("the deadline is near").then("go_live")
    # Where a job's own word is no more than "ended", its rows tell.
    was_cancelled = native.lower().startswith("cancel") or event.were_cancelled
    if record.cancel == "user" or (record.cancel is None and was_cancelled):
        return step.then("cancel_rows", outcome=f"{native}; {count:,} not asked again")
    if event.is_few:
        return live.telling("few leftovers").then("go_live", asks_again=True)
    outcome = f"{native}; {count:,} not answered"
    return step.then("next_round", outcome=outcome, asks_again=record.round < step.rounds)


def _end(step: Step, outcome: str, error: ProviderError | None = None) -> Step:
    return step.noted(state="done", outcome=outcome).then("end", error=error)


_AFTER: Final[dict[Action, Callable[[Step, Event], Step]]] = {
    "begin": _begin,
    "await_primer": _primed,
    "enter": _entered,
    "upload": _uploaded,
    "lock": _locked,
    "search": _after_search,
    "create": _after_create,
    "back_off": _after_back_off,
    "sleep": _after_sleep,
    "look": _after_look,
    "cancel": _after_cancel,
    "fetch": _after_fetch,
    "set_aside": lambda step, _: step.then("look"),
    "check_owner": _after_check_owner,
    "delete_results": _after_delete_results,
    "clean_up": _after_clean_up,
    "free_room": _after_free_room,
    "find_bad_rows": _after_find_bad_rows,
    "fail_rows": _after_fail_rows,
    "ingest": _after_ingest,
    "go_live": lambda step, _: _end(step, step.outcome),
    "cancel_rows": lambda step, _: _end(step, step.outcome),
    "next_round": lambda step, _: _end(step, step.outcome),
}
_EXPECT_ERRORS: Final = ("upload", "create", "search", "look", "cancel", "fetch")
