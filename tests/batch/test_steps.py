"""The life of a batch job as a table, and driven at random: without I/O, without a clock."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow.batch.job import Job
from llmflow.batch.lifecycle import next_step
from llmflow.batch.record import JobRecord
from llmflow.batch.steps import FINAL, Action, Event, Seen, Step
from llmflow.errors import (
    AuthenticationError,
    BadReplyError,
    BillingError,
    ConnectionFailedError,
    InvalidRequestError,
    ProviderError,
    QueueLimitError,
    RateLimitError,
    ResultsTooLargeError,
    ServerError,
    TooLargeForLimitError,
)
from llmflow.provider import BatchProblem, BatchStatus

ROWS = 10
POLL = 10.0
SEALED = JobRecord(
    tag="ours", queue="q", provider="fake", model="m", requests=ROWS, tokens=1000.0, sealed_at=5.0
)
CREATING = SEALED.but(state="creating", uploaded="file", sent_at=7.0)
CREATED = CREATING.but(state="created", job="job", created_at=8.0, native="running")
FETCHED = CREATED.but(state="fetched", native="completed")

RUNNING = BatchStatus(id="job", state="running", native="running", tag="ours")
ENDED = BatchStatus(
    id="job", state="succeeded", native="completed", succeeded=ROWS, results=("file",)
)
WHOLE = Seen(ROWS, 0, is_cut_off=False, needs_earlier=False)
SHORT = Seen(ROWS - 1, 1, is_cut_off=False, needs_earlier=False)
EMPTY = Seen(0, ROWS, is_cut_off=False, needs_earlier=False)

LOST = ConnectionFailedError("no reply")
BUSY = RateLimitError("slow down", status=429)
UNKNOWN = ProviderError("no such job", status=404)
BAD = InvalidRequestError("a bad row", status=400)
KEY = AuthenticationError("a wrong key", status=401)
FULL = QueueLimitError("too much is enqueued", status=429)
BROKE = BillingError("no money", status=402)
TRANSIENT = ServerError("it failed", status=500)


def at(action: Action, record: JobRecord = CREATED, **known: Any) -> Step:
    """Return a step whose action has been carried out."""
    return Step(record=record, poll=POLL, rounds=8, action=action, **known)


def refused(*errors: ProviderError, line: int | None = None) -> BatchStatus:
    """Return the status of a job that failed for these."""
    problems = tuple(BatchProblem(each, line) for each in errors)
    return BatchStatus(id="job", state="failed", native="failed", problems=problems)


def problem(error: ProviderError) -> dict[str, Any]:
    return {"problems": (BatchProblem(error),), "phase": "refused", "outcome": "refused for a row"}


def user(record: JobRecord) -> JobRecord:
    return record.but(cancel="user")


def late(record: JobRecord) -> JobRecord:
    return record.but(cancel="deadline")


@dataclass
class Row:
    """One row of the table."""

    claim: str
    before: Step
    event: Event
    action: Action
    expected: dict[str, Any] = field(default_factory=dict)


def row(claim: str, before: Step, event: Event, action: Action, **expected: Any) -> Row:
    return Row(claim, before, event, action, expected)


DOWNLOAD: dict[str, Any] = {"phase": "download", "status": ENDED}
TABLE = [
    # The beginning.
    row("a sealed job waits for its primer", at("begin", SEALED), Event(), "await_primer"),
    row(
        "a job being created waits", at("begin", CREATING, may_exist=True), Event(), "await_primer"
    ),
    row("a created job is looked at", at("begin"), Event(), "sleep", seconds=10.0, phase="watch"),
    row("fetched results are checked", at("begin", FETCHED), Event(), "check_owner"),
    row("an unsent job is not sent for a user", at("begin", user(SEALED)), Event(), "cancel_rows"),
    row("nor near a deadline", at("begin", late(SEALED)), Event(), "go_live"),
    row(
        "what may exist is searched even so",
        at("begin", user(CREATING), may_exist=True),
        Event(),
        "await_primer",
    ),
    # On the way there.
    row("a primed job waits for room", at("await_primer", SEALED), Event(), "enter"),
    row(
        "a cancellation ends the waiting",
        at("await_primer", user(SEALED)),
        Event(interrupted=True),
        "cancel_rows",
    ),
    row(
        "what may exist is searched instead",
        at("enter", user(CREATING), may_exist=True),
        Event(interrupted=True),
        "lock",
    ),
    row("with room the file is uploaded", at("enter", SEALED), Event(), "upload"),
    row("but not twice", at("enter", SEALED, uploaded="file"), Event(), "lock"),
    row(
        "nor before what may exist is searched",
        at("enter", CREATING, may_exist=True),
        Event(),
        "lock",
    ),
    row(
        "an uploaded file waits for its turn",
        at("upload", SEALED),
        Event(uploaded="file"),
        "lock",
        uploaded="file",
        unsaved=False,
    ),
    row(
        "the creation is written down first",
        at("lock", SEALED, uploaded="file"),
        Event(at=9.0),
        "create",
        record=SEALED.but(state="creating", uploaded="file", sent_at=9.0),
        unsaved=True,
    ),
    row(
        "its first moment stays",
        at("lock", CREATING, uploaded="new"),
        Event(at=9.0),
        "create",
        record=CREATING.but(uploaded="new"),
    ),
    row(
        "what may exist is searched first",
        at("lock", CREATING, may_exist=True),
        Event(),
        "search",
        has_lock=True,
    ),
    row(
        "what was found is not created",
        at("search", CREATING, may_exist=True, has_lock=True),
        Event(status=RUNNING, at=8.0),
        "sleep",
        record=CREATED,
        unsaved=True,
        has_lock=False,
    ),
    row(
        "what was found by its size may be another's",
        at("search", CREATING, may_exist=True),
        Event(status=replace(RUNNING, tag=None), at=8.0),
        "sleep",
        record=CREATED.but(found=True),
    ),
    row(
        "what was not found is uploaded anew",
        at("search", CREATING, may_exist=True),
        Event(),
        "upload",
        may_exist=False,
        has_lock=True,
    ),
    row("and created", at("upload", CREATING, has_lock=True), Event(uploaded="new"), "create"),
    row(
        "a search that fails decides nothing",
        at("search", CREATING, may_exist=True),
        Event(error=BAD),
        "fail",
        error=BAD,
    ),
    row(
        "a created job is written down",
        at("create", CREATING, has_lock=True, uploaded="file"),
        Event(status=RUNNING, at=8.0),
        "sleep",
        record=CREATED,
        unsaved=True,
        uploaded=None,
    ),
    # Errors of a creation.
    row(
        "without a reply it is searched",
        at("create", CREATING, attempts=1),
        Event(error=LOST),
        "search",
        has_lock=True,
        error=LOST,
    ),
    row("then waited for", at("search", CREATING, error=LOST), Event(), "back_off", error=LOST),
    row("then created again", at("back_off", CREATING, attempts=1), Event(), "create", attempts=2),
    row("unless it was found", at("search", CREATING, error=LOST), Event(status=RUNNING), "sleep"),
    row(
        "nobody knows when the search fails",
        at("search", CREATING, error=LOST),
        Event(error=BUSY),
        "fail",
        error=LOST,
    ),
    row(
        "what was refused was not made",
        at("create", CREATING, attempts=1),
        Event(error=BUSY),
        "back_off",
    ),
    row(
        "in the end the next process searches",
        at("create", CREATING, attempts=8),
        Event(error=LOST),
        "fail",
        error=LOST,
    ),
    row(
        "a file may not be seen at once",
        at("create", CREATING, attempts=1),
        Event(error=UNKNOWN),
        "back_off",
    ),
    row("but soon", at("create", CREATING, attempts=3), Event(error=UNKNOWN), "find_bad_rows"),
    row(
        "a key that worked is asked once more",
        at("create", CREATING, attempts=1),
        Event(error=KEY, has_worked=True),
        "back_off",
        probed=True,
    ),
    row(
        "and then believed",
        at("create", CREATING, attempts=2, probed=True),
        Event(error=KEY, has_worked=True),
        "end",
        error=KEY,
    ),
    row(
        "one that never worked at once",
        at("create", CREATING, attempts=1),
        Event(error=KEY),
        "end",
        error=KEY,
        unsaved=True,
    ),
    row(
        "a bad row is looked for",
        at("create", CREATING, attempts=1),
        Event(error=BAD),
        "find_bad_rows",
    ),
    row(
        "too much makes it unsent again",
        at("create", CREATING, attempts=1),
        Event(error=FULL),
        "free_room",
        record=CREATING.but(state="sealed", uploaded=None, sent_at=None),
        unsaved=True,
    ),
    row(
        "a cancelled one is not created",
        at("create", user(CREATING)),
        Event(interrupted=True),
        "cancel_rows",
        has_lock=False,
    ),
    row("nor created again", at("back_off", late(CREATING)), Event(interrupted=True), "go_live"),
    row("nor uploaded", at("upload", user(SEALED)), Event(interrupted=True), "cancel_rows"),
    row(
        "an upload that fails ends this session's try",
        at("upload", SEALED),
        Event(error=BUSY),
        "fail",
        error=BUSY,
    ),
    # At the provider.
    row(
        "looks come less often",
        at("look", looks=3, phase="watch"),
        Event(status=RUNNING, at=9.0),
        "sleep",
        seconds=60.0,
    ),
    row(
        "and of an old job less still",
        at("look", looks=3, phase="watch"),
        Event(status=RUNNING, at=9999.0),
        "sleep",
        seconds=120.0,
    ),
    row(
        "a server may ask for more",
        at("look", looks=1, phase="watch"),
        Event(status=replace(RUNNING, retry_after=99.0)),
        "sleep",
        seconds=99.0,
    ),
    row("one failed look is nothing", at("look", phase="watch"), Event(error=BUSY), "sleep"),
    row(
        "a job may not be everywhere",
        at("look", unknown=2, phase="watch"),
        Event(error=UNKNOWN),
        "sleep",
        unknown=3,
    ),
    row(
        "but after four looks it is gone",
        at("look", unknown=3, phase="watch"),
        Event(error=UNKNOWN),
        "check_owner",
    ),
    row(
        "five refusals end the session's try",
        at("look", refused_looks=4, phase="watch"),
        Event(error=KEY),
        "fail",
        error=KEY,
    ),
    row(
        "what it does is written down",
        at("look", phase="watch"),
        Event(status=replace(RUNNING, native="finalizing")),
        "sleep",
        unsaved=True,
    ),
    row(
        "counts alone are not",
        at("look", phase="watch"),
        Event(status=replace(RUNNING, succeeded=3)),
        "sleep",
        unsaved=False,
    ),
    row("an ended job is fetched", at("look", phase="watch"), Event(status=ENDED), "fetch"),
    # Unwanted.
    row(
        "a cancellation is told to the provider",
        at("sleep", user(CREATED), phase="watch"),
        Event(),
        "look",
    ),
    row(
        "and written down",
        at("look", user(CREATED), phase="watch"),
        Event(status=RUNNING, time=3),
        "cancel",
        unsaved=True,
        cancelled_at=3,
        seconds=600.0,
    ),
    row(
        "then the job is looked at more often",
        at("cancel", user(CREATED), looks=9, cancelled_at=3),
        Event(time=4),
        "sleep",
        cancel_told=True,
        seconds=10.0,
    ),
    row(
        "who was not heard says it again",
        at("cancel", user(CREATED), cancelled_at=3),
        Event(error=BUSY),
        "sleep",
        cancel_told=False,
    ),
    row(
        "a user's cancellation has time",
        at("look", user(CREATED), phase="watch", cancelled_at=0, cancel_told=True),
        Event(status=RUNNING, time=9999),
        "sleep",
    ),
    row(
        "a deadline's has not",
        at("look", late(CREATED), phase="watch", cancelled_at=0, cancel_told=True),
        Event(status=RUNNING, time=121),
        "fetch",
    ),
    row(
        "what was found is not cancelled",
        at("look", late(CREATED).but(found=True), phase="watch"),
        Event(status=RUNNING, time=3),
        "sleep",
        says=("not cancelled: it may be somebody else's", None),
    ),
    # Refused.
    row(
        "files of a refused job are deleted",
        at("look", phase="watch"),
        Event(status=refused(BAD)),
        "clean_up",
        phase="refused",
    ),
    row(
        "then its bad rows are looked for", at("clean_up", **problem(BAD)), Event(), "find_bad_rows"
    ),
    row(
        "a passing failure has results",
        at("look", phase="watch"),
        Event(status=refused(TRANSIENT)),
        "fetch",
    ),
    row(
        "what concerns all jobs ends it",
        at("clean_up", **problem(BROKE)),
        Event(),
        "end",
        error=BROKE,
    ),
    row(
        "named rows fail",
        at("find_bad_rows", **problem(BAD)),
        Event(named=1, rows=ROWS),
        "fail_rows",
        error=None,
    ),
    row(
        "the only row fails",
        at("find_bad_rows", **problem(BAD)),
        Event(rows=1),
        "fail_rows",
        error=BAD,
    ),
    row(
        "all fail if it concerns all",
        at("find_bad_rows", **problem(BAD)),
        Event(rows=ROWS, concerns_all=True),
        "fail_rows",
        error=BAD,
    ),
    row(
        "else the job is halved",
        at("find_bad_rows", **problem(BAD)),
        Event(rows=ROWS),
        "split",
        parts=2,
        part=SEALED.but(sent_at=7.0, failures=1, family="ours", whole=ROWS, halved=1),
    ),
    row(
        "without its bad row it is sent again",
        at("fail_rows", **problem(BAD)),
        Event(rows=9),
        "split",
        parts=1,
        part=SEALED.but(sent_at=7.0, failures=1),
    ),
    row(
        "after the second it is halved",
        at("fail_rows", CREATED.but(failures=1), **problem(BAD)),
        Event(rows=9),
        "split",
        parts=2,
    ),
    row("without rows it ends", at("fail_rows", **problem(BAD)), Event(), "end"),
    # Too much.
    row(
        "what is too large is split",
        at("free_room", SEALED, **problem(FULL)),
        Event(most=400.0),
        "split",
        parts=3,
    ),
    row(
        "else it waits",
        at("free_room", SEALED, **problem(FULL)),
        Event(most=2000.0),
        "sleep",
        seconds=60.0,
        record=SEALED.but(refused=1),
        unsaved=False,
    ),
    row(
        "longer each time",
        at("free_room", SEALED.but(refused=3), **problem(FULL)),
        Event(),
        "sleep",
        seconds=600.0,
    ),
    row(
        "an estimate may be too low",
        at("free_room", SEALED.but(refused=3), **problem(FULL)),
        Event(most=2000.0, alone=True),
        "split",
        parts=2,
    ),
    row(
        "one row may never fit",
        at("free_room", SEALED.but(requests=1), **problem(FULL)),
        Event(most=400.0, alone=True),
        "fail_rows",
    ),
    row("an unsent job tries again", at("sleep", SEALED, phase="submit"), Event(), "await_primer"),
    row(
        "one that was made is made anew",
        at("sleep", CREATED, **problem(FULL)),
        Event(),
        "split",
        parts=1,
        says=None,
    ),
    # Results.
    row(
        "whole results are ours to check",
        at("fetch", **DOWNLOAD),
        Event(seen=WHOLE),
        "check_owner",
        brought=True,
    ),
    row(
        "others are fetched again",
        at("fetch", **DOWNLOAD),
        Event(seen=SHORT),
        "set_aside",
        seconds=10.0,
    ),
    row("after a look", at("set_aside", **DOWNLOAD), Event(), "look"),
    row("whatever that says", at("look", **DOWNLOAD), Event(error=UNKNOWN), "fetch"),
    row(
        "but not for ever",
        at("fetch", again=3, **DOWNLOAD),
        Event(seen=SHORT),
        "check_owner",
        brought=False,
        says=("results that are not whole", 1),
    ),
    row(
        "nor long near a deadline",
        at("fetch", late(CREATED), again=1, **DOWNLOAD),
        Event(seen=SHORT),
        "check_owner",
    ),
    row(
        "a fetch that fails is repeated",
        at("fetch", **DOWNLOAD),
        Event(error=BUSY),
        "sleep",
        tries=1,
        seconds=60.0,
    ),
    row("five times", at("fetch", tries=4, **DOWNLOAD), Event(error=BUSY), "fail", error=BUSY),
    row(
        "gone files are looked for again",
        at("fetch", **DOWNLOAD),
        Event(error=UNKNOWN),
        "set_aside",
    ),
    row(
        "paid results that are gone are not asked again",
        at("fetch", downloads=5, **DOWNLOAD),
        Event(error=UNKNOWN),
        "fail",
    ),
    row(
        "unless the user gave them up",
        at("fetch", user(CREATED), downloads=5, **DOWNLOAD),
        Event(error=UNKNOWN),
        "check_owner",
        says=("results that are not there", None),
    ),
    row(
        "empty files are missing results",
        at("fetch", again=3, **DOWNLOAD),
        Event(seen=EMPTY),
        "fail",
    ),
    row(
        "results too large fail all rows",
        at("fetch", **DOWNLOAD),
        Event(error=ResultsTooLargeError("too large")),
        "fail_rows",
    ),
    row(
        "a job that does not end has what it has",
        at("fetch", late(CREATED), phase="download", status=RUNNING),
        Event(),
        "check_owner",
        brought=False,
    ),
    # The end.
    row(
        "results are written down as fetched",
        at("check_owner", brought=True, **DOWNLOAD),
        Event(),
        "clean_up",
        record=CREATED.but(state="fetched"),
        unsaved=True,
    ),
    row("what was not all brought stays there", at("check_owner", **DOWNLOAD), Event(), "ingest"),
    row(
        "another's results are deleted",
        at("check_owner", CREATED.but(found=True), **DOWNLOAD),
        Event(is_ours=False),
        "delete_results",
    ),
    row(
        "and ours is searched",
        at("delete_results", CREATED.but(found=True), **DOWNLOAD),
        Event(),
        "await_primer",
        may_exist=True,
        unsaved=True,
        record=CREATING.but(others=("job",)),
    ),
    row(
        "an earlier session's files may be left",
        at("check_owner", FETCHED, phase="download"),
        Event(),
        "clean_up",
        status=None,
    ),
    row(
        "then rows get their outcomes", at("clean_up", FETCHED, phase="download"), Event(), "ingest"
    ),
    row(
        "all answered is the end",
        at("ingest", FETCHED),
        Event(),
        "end",
        unsaved=True,
        record=FETCHED.but(state="done", outcome="completed"),
    ),
    row(
        "the rest goes into another job",
        at("ingest", FETCHED),
        Event(leftovers=2),
        "next_round",
        asks_again=True,
    ),
    row(
        "but not for ever again",
        at("ingest", FETCHED.but(round=8)),
        Event(leftovers=2),
        "next_round",
        asks_again=False,
    ),
    row(
        "a few are asked in parallel",
        at("ingest", FETCHED),
        Event(leftovers=2, is_few=True),
        "go_live",
        asks_again=True,
    ),
    row(
        "all near the deadline",
        at("ingest", FETCHED),
        Event(leftovers=2, is_late=True),
        "go_live",
        asks_again=False,
    ),
    row(
        "a user's rest is not asked again",
        at("ingest", user(FETCHED)),
        Event(leftovers=2),
        "cancel_rows",
        outcome="completed; 2 not asked again",
    ),
    row(
        "nor what others have cancelled",
        at("ingest", FETCHED.but(native="cancelled")),
        Event(leftovers=2),
        "cancel_rows",
    ),
    row(
        "nor what its rows say was",
        at("ingest", FETCHED),
        Event(leftovers=2, were_cancelled=True),
        "cancel_rows",
    ),
    row(
        "a row has its way, and the job ends",
        at("go_live", FETCHED, outcome="way"),
        Event(),
        "end",
        record=FETCHED.but(state="done", outcome="way"),
    ),
]


@pytest.mark.parametrize("each", TABLE, ids=lambda each: each.claim)
def test_each_step_follows_from_the_one_before(each: Row) -> None:
    found = next_step(each.before, each.event)
    assert found.action == each.action
    for name, value in each.expected.items():
        assert getattr(found, name) == value, name


def test_each_action_is_one_that_a_job_can_do_and_the_table_has() -> None:
    actions = set(get_args(Action))
    assert {each for each in actions if hasattr(Job, f"_{each}")} | {
        "begin",
        "end",
        "fail",
    } == actions
    assert {each.before.action for each in TABLE} | {"await_primer", *FINAL} >= actions - {
        "next_round",
        "cancel_rows",
    }


def test_a_row_that_never_fits_says_so() -> None:
    step = next_step(
        at("free_room", SEALED.but(requests=1), **problem(FULL)), Event(most=400.0, alone=True)
    )
    assert isinstance(step.error, TooLargeForLimitError)
    assert isinstance(
        next_step(at("fetch", downloads=5, **DOWNLOAD), Event(error=UNKNOWN)).error, BadReplyError
    )


# --- driven at random ----------------------------------------------------------------------------


class Killed(Exception):
    """The process has ended here."""


@dataclass
class World:
    """A provider, what is written down, and what becomes of rows: all of it in memory.

    Args:
        data: draws what happens.
        faults: how often something goes wrong, at most.
    """

    data: st.DataObject
    faults: int
    time: float = 0.0
    stored: dict[str, JobRecord] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    """Of each job how many rows have no outcome yet."""
    made: dict[str, int] = field(default_factory=dict)
    """Of each job how often it was really created."""
    unsure: set[str] = field(default_factory=set)
    """Jobs whose creation nobody has heard of, and nobody has searched for since."""
    given: int = 0
    steps: int = 0

    def goes_wrong(self, one_in: int = 2) -> bool:
        if self.faults > 0 and self.data.draw(st.integers(1, one_in)) == one_in:
            self.faults -= 1
            return True
        return False

    def one_of(self, *choices: Any) -> Any:
        return self.data.draw(st.sampled_from(choices))

    def run(self, tag: str, *, adopted: bool) -> None:
        """Have a process go on with a job, to its end or the process's."""
        step = Step(
            record=self.stored[tag],
            poll=POLL,
            rounds=3,
            may_exist=adopted and self.stored[tag].state == "creating",
        )
        event = Event(rows=self.rows[tag])
        while True:
            self.steps += 1
            assert self.steps < 2000, "it never ends"
            step = next_step(step, event)
            self.may_die()
            if step.unsaved:
                self.stored[tag] = step.record
                if step.error is not None:  # told to callers; whoever asks again is a new row
                    self.give(tag, self.rows[tag])
                self.may_die()
            if step.action in FINAL:
                break
            open_ = step.record.cancel is None and step.record.state != "fetched"
            if open_ and self.goes_wrong(one_in=20):
                reason = self.one_of("user", "deadline")
                step = replace(step, record=step.record.but(cancel=reason))
            event = self.act(tag, step)
        if step.action == "split":
            self.split(tag, step)

    def may_die(self) -> None:
        if self.goes_wrong(one_in=20):
            raise Killed

    def act(self, tag: str, step: Step) -> Event:
        self.time += 1.0 + step.seconds
        brought = getattr(self, step.action, lambda *_: {})(tag, step)
        return Event(at=self.time, time=self.time, rows=self.rows[tag], **brought)

    def give(self, tag: str, rows: int) -> None:
        self.given += rows
        self.rows[tag] -= rows

    # What actions bring.

    def is_stopped(self, step: Step) -> bool:
        return step.record.cancel is not None and step.cancelled_at is None

    def await_primer(self, tag: str, step: Step) -> dict[str, Any]:
        return {"interrupted": self.is_stopped(step)}

    enter = await_primer

    def lock(self, tag: str, step: Step) -> dict[str, Any]:
        return {"interrupted": self.is_stopped(step) and not step.may_exist}

    def upload(self, tag: str, step: Step) -> dict[str, Any]:
        if self.is_stopped(step):
            return {"interrupted": True}
        if self.goes_wrong():
            return {"error": self.one_of(BUSY, LOST, BAD, KEY)}
        return {"uploaded": self.one_of("file", None)}

    def create(self, tag: str, step: Step) -> dict[str, Any]:
        if step.record.cancel is not None:
            return {"interrupted": True}
        assert step.has_lock
        assert self.stored[tag].state == "creating"
        assert tag not in self.unsure, "created twice without a search in between"
        if self.goes_wrong():
            error = self.one_of(LOST, TRANSIENT, BUSY, UNKNOWN, BAD, KEY, FULL, BROKE)
            if error in (LOST, TRANSIENT):
                self.unsure.add(tag)
                self.made[tag] = self.made.get(tag, 0) + self.one_of(0, 1)
            return {"error": error, "has_worked": self.one_of(True, False)}
        self.made[tag] = self.made.get(tag, 0) + 1
        self.unsure.add(tag)
        self.may_die()  # the reply is not written down yet
        return {"status": replace(RUNNING, tag=tag)}

    def search(self, tag: str, step: Step) -> dict[str, Any]:
        if self.goes_wrong():
            return {"error": self.one_of(BUSY, LOST, KEY)}
        self.unsure.discard(tag)
        if self.made.get(tag):
            return {"status": replace(RUNNING, tag=self.one_of(tag, None))}
        if "not-ours" not in step.record.others and self.goes_wrong():
            return {"status": replace(RUNNING, id="not-ours", tag=None)}
        return {}

    def back_off(self, tag: str, step: Step) -> dict[str, Any]:
        return {"interrupted": step.record.cancel is not None}

    def look(self, tag: str, step: Step) -> dict[str, Any]:
        if self.goes_wrong():
            choices = (BUSY, LOST, KEY, UNKNOWN)
            fate = self.one_of("error", "running", "refused", "expired")
            if fate == "error":
                return {"error": self.one_of(*choices)}
            if fate == "running":
                return {"status": replace(RUNNING, id=step.record.job or "")}
            if fate == "refused":
                error = self.one_of(BAD, FULL, TRANSIENT, BROKE)
                return {"status": replace(refused(error), id=step.record.job or "")}
            return {"status": replace(ENDED, state="expired", native="expired", succeeded=3)}
        return {"status": replace(ENDED, id=step.record.job or "")}

    def cancel(self, tag: str, step: Step) -> dict[str, Any]:
        return {"error": BUSY} if self.goes_wrong() else {}

    def fetch(self, tag: str, step: Step) -> dict[str, Any]:
        if self.goes_wrong():
            return self.one_of(
                {"error": BUSY},
                {"error": UNKNOWN},
                {"error": ResultsTooLargeError("too large")},
                {"seen": SHORT},
                {"seen": EMPTY},
                {"missing": ": no file is named"},
            )
        return {"seen": WHOLE}

    def check_owner(self, tag: str, step: Step) -> dict[str, Any]:
        assert not (step.record.found and step.record.state == "fetched")
        return {"is_ours": step.record.job != "not-ours"}

    def free_room(self, tag: str, step: Step) -> dict[str, Any]:
        return {"most": self.one_of(None, 100.0, 5000.0), "alone": self.one_of(True, False)}

    def find_bad_rows(self, tag: str, step: Step) -> dict[str, Any]:
        return {
            "named": min(self.rows[tag], self.one_of(0, 1)),
            "concerns_all": self.one_of(True, False),
        }

    def fail_rows(self, tag: str, step: Step) -> dict[str, Any]:
        self.give(tag, self.rows[tag] if step.error is not None else min(1, self.rows[tag]))
        return {}

    def ingest(self, tag: str, step: Step) -> dict[str, Any]:
        assert self.stored[tag].state == "fetched"
        left = self.one_of(0, 1, self.rows[tag]) if self.goes_wrong() else 0
        left = min(left, self.rows[tag])
        self.give(tag, self.rows[tag] - left)
        flags = ("were_cancelled", "is_few", "is_late")
        return {"leftovers": left, **{each: self.one_of(True, False) for each in flags}}

    def go_live(self, tag: str, step: Step) -> dict[str, Any]:
        self.give(tag, self.rows[tag])
        return {}

    cancel_rows = go_live

    def next_round(self, tag: str, step: Step) -> dict[str, Any]:
        if step.asks_again:
            part = SEALED.but(round=step.record.round + 1)
            self.add(f"{tag}.next", part, self.rows[tag])
            self.rows[tag] = 0
        else:
            self.give(tag, self.rows[tag])
        return {}

    def split(self, tag: str, step: Step) -> None:
        rows, parts = self.rows[tag], max(1, min(step.parts, self.rows[tag]))
        assert step.part is not None
        for number in range(parts):
            share = rows // parts + (number < rows % parts)
            self.add(f"{tag}.{number}", step.part, share)
        self.rows[tag] = 0
        self.stored[tag] = step.record.but(state="done", replaced=True)

    def add(self, tag: str, part: JobRecord, rows: int) -> None:
        self.stored[tag] = part.but(tag=tag, requests=rows, tokens=100.0 * rows)
        self.rows[tag] = rows


def live(world: World) -> None:
    """Have processes go on until every job is done."""
    adopted = False
    for _ in range(100):
        waiting = [tag for tag, each in world.stored.items() if each.is_active]
        if not waiting:
            return
        try:
            world.run(waiting[0], adopted=adopted)
        except Killed:
            adopted = True  # everything else is an earlier process's now
        else:
            # A job that failed is gone on with by the next process.
            adopted = adopted or world.stored[waiting[0]].is_active
    raise AssertionError("it never ends")


@given(data=st.data(), faults=st.integers(0, 12))
def test_every_row_has_an_outcome_and_no_job_is_created_twice(
    data: st.DataObject, faults: int
) -> None:
    world = World(data, faults)
    world.add("ours", SEALED, ROWS)
    live(world)
    assert world.given == ROWS
    assert not any(world.rows.values())
    # Refused ones are created again, under another tag.
    assert all(count <= 1 for count in world.made.values())


@given(data=st.data(), point=st.integers(0, 40))
def test_a_restart_from_any_recorded_state_ends_the_same(data: st.DataObject, point: int) -> None:
    class Once(World):
        def may_die(self) -> None:
            nonlocal point
            point -= 1
            if point == 0:
                raise Killed

    world = Once(data, faults=0)
    world.add("ours", SEALED, ROWS)
    live(world)
    assert world.given == ROWS
    assert world.made == {"ours": 1}
    assert world.stored["ours"].outcome == "completed"
