"""A source's rows as batch jobs: submitted once, collected, and left when that is wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM, Budget, Price, Run
from llmflow.batch import Batch
from llmflow.batch.record import JobRecord
from llmflow.errors import BatchCancelledError, JournalError
from llmflow.jobs.file_run import FileRun
from llmflow.jobs.submission import Submission
from llmflow.journal import Journal
from llmflow.rows import PromptTemplate, open_output, open_rows
from llmflow.runs.run_progress import batch_view
from tests.batch.fakes import FakeProvider, FakeServer

QUICK = Batch(quiet=0.02, poll=0.01)


def submit(
    server: FakeServer,
    path: Path,
    *,
    detach: bool = False,
    after: Callable[[Submission, Run], Any] = lambda submission, run: None,
    **options: Any,
) -> Any:
    """Submit ten rows, one of which has no text, in the run "rows"."""
    lines = [f'{{"text": "row {n}"}}' for n in range(9)]
    (path / "in.jsonl").write_text("\n".join([*lines, '{"other": 1}']) + "\n")

    async def main() -> Any:
        llm = LLM(FakeProvider(server), batch=QUICK, price=Price(input=1, output=1))
        with open_rows(str(path / "in.jsonl")) as rows:
            async with Run("rows", folder=path, mode="batch", **options) as run:
                template = PromptTemplate("{text}")
                submission = Submission(llm, run, rows, template, total=10, detach=detach)
                await submission.run()
                return after(submission, run)

    return asyncio.run(main())


def test_a_row_that_fits_no_prompt_is_left_to_who_writes_the_rows(tmp_path: Path) -> None:
    server = FakeServer()
    submission, totals = submit(server, tmp_path, after=lambda sub, run: (sub, run.totals))
    assert (submission.rows, submission.submitted, submission.is_over) == (10, 9, True)
    assert totals.answers == 9
    assert server.sizes == [9]


def write_out(server: FakeServer, path: Path, texts: Iterable[str], **options: Any) -> FileRun:
    """Submit rows with these texts, and write their answers."""
    (path / "in.jsonl").write_text("".join(f'{{"text": "{each}"}}\n' for each in texts))

    async def main() -> FileRun:
        llm = LLM(FakeProvider(server), batch=Batch(quiet=0.02, poll=0.01, **options))
        template = PromptTemplate("{text}")
        with open_rows(str(path / "in.jsonl")) as rows, open_output(path / "out.jsonl") as writer:
            async with Run("rows", folder=path, mode="batch") as run:
                submission = Submission(llm, run, rows, template, total=9)
                job = FileRun(llm, rows, template, writer, submission=submission)
                await job.run()
        return job

    return asyncio.run(main())


@pytest.mark.parametrize("temperature", [None, 0.0])  # at 0, equal calls share an answer
def test_a_row_above_a_jobs_size_fails_alone(temperature: float | None, tmp_path: Path) -> None:
    server = FakeServer()
    texts = [f"{'long ' * 500 if n == 4 else 'row'} {n}" for n in range(9)]
    job = write_out(server, tmp_path, texts, size=2000)
    assert job.stopped_by is None
    assert (job.counters.answered, list(job.counters.reasons)) == (8, ["InvalidRequestError"])
    assert server.sizes == [8]


def test_rows_are_not_paid_twice_where_their_answers_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, read = FakeServer(), Journal.find_texts

    async def fail_once(journal: Journal, keys: Any) -> Any:
        monkeypatch.setattr(Journal, "find_texts", read)
        raise JournalError("a page of it is damaged")

    monkeypatch.setattr(Journal, "find_texts", fail_once)
    job = write_out(server, tmp_path, [f"row {n}" for n in range(9)])
    assert server.sizes == [9]
    assert isinstance(job.stopped_by, JournalError)


def test_what_was_left_is_collected_and_submitted_no_more(tmp_path: Path) -> None:
    server = FakeServer(looks=3)
    assert submit(server, tmp_path, detach=True, after=lambda sub, run: sub.detach)
    found = submit(
        server, tmp_path, after=lambda sub, run: (sub.is_over, run.statistics().answered)
    )
    assert found == (True, 9)
    assert server.sizes == [9]


def test_nothing_is_left_where_all_is_known(tmp_path: Path) -> None:
    server = FakeServer()
    submit(server, tmp_path)
    assert not submit(server, tmp_path, detach=True, after=lambda sub, run: sub.detach)
    assert server.sizes == [9]


def test_a_budget_ends_the_submission_and_not_the_run(tmp_path: Path) -> None:
    server = FakeServer()
    budget = Budget(requests=4)
    found = submit(server, tmp_path, budget=budget, after=lambda sub, run: sub.submitted)
    assert found == 4
    assert server.sizes == [4]


def test_what_somebody_else_cancels_is_not_sent_again(tmp_path: Path) -> None:
    server = FakeServer(ends=lambda number: "cancelled", fate=lambda prompt, number: None)
    with pytest.raises(BatchCancelledError):
        submit(server, tmp_path)
    assert server.sizes == [9]


def test_jobs_are_shown_until_they_have_ended(tmp_path: Path) -> None:
    def look(submission: Submission, run: Run) -> Any:
        return batch_view(run.batch_jobs, None, run.batch_jobs[0].sealed_at + 90)

    found = submit(FakeServer(looks=9), tmp_path, detach=True, after=look)
    assert (found.rows, found.age, sum(found.states.values())) == (9, 90, 1)


def test_jobs_that_have_ended_are_shown_no_more(tmp_path: Path) -> None:
    shown = submit(
        FakeServer(), tmp_path, after=lambda sub, run: batch_view(run.batch_jobs, None, 0.0)
    )
    assert shown is None


@pytest.mark.parametrize(
    ("jobs", "left"),
    [
        ([(100, 25)], 300),
        ([(100, 100), (100, 0)], 100),
        ([(100, 4)], None),  # its first rows say nothing of the others
        ([(100, None)], None),
        ([(100, 100)], 0),
    ],
)
def test_the_rest_is_taken_to_go_on_as_before(
    jobs: list[tuple[int, int | None]], left: float | None
) -> None:
    records = [
        JobRecord(tag="t", queue="q", provider="p", model="m", requests=rows, succeeded=done)
        for rows, done in jobs
    ]
    view = batch_view(records, None, 100.0)
    assert view is not None
    assert view.left == (None if left is None else pytest.approx(left))


def test_what_is_told_of_jobs_is_of_those_that_have_not_ended() -> None:
    both = {"queue": "q", "provider": "p", "model": "m"}
    records = [
        JobRecord(tag="a", state="done", requests=9, succeeded=7, **both),
        JobRecord(tag="b", state="created", requests=2, succeeded=1, round=2, **both),
    ]
    view = batch_view(records, None, 0.0)
    assert view is not None
    assert (view.rows, view.done) == (2, 1)
