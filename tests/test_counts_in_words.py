"""Of one thing is said "1 row is", and of more "2 rows are", wherever a count is shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from llmflow.batch.record import JobRecord, State
from llmflow.cli.batch_jobs import describe_unfinished
from llmflow.cli.job_commands import _kept
from llmflow.jobs.file_report import Report
from llmflow.mapping.result import MapCounts
from llmflow.progress.view import BatchView, RunView, Traffic
from llmflow.runs.interruptions import tell_results, tell_stream
from llmflow.runs.report import RunReport

ONE = re.compile(
    r"\b1 (?!is\b|was\b|has\b|costs\b|takes\b)(?:\w+ )?(?:rows|calls|items|answers|jobs|lines|"
    r"rounds|requests|results|are|were|have|go|wait)\b"
)


def of_run(number: int) -> str:
    report = RunReport(
        batch_jobs=number,
        batch_rounds=number,
        batch_rows=number,
        decisions={"asked again": number},
        answered=number,
    )
    return str(report)


def of_command(number: int) -> str:
    zero: dict[str, Any] = dict.fromkeys(Report.__dataclass_fields__, 0)
    maps: dict[str, Any] = {
        name: {} for name in ("limits", "utilisation", "bound_by", "reasons", "retries")
    }
    words = dict.fromkeys(("verdict", "output", "failures", "stopped_by", "run", "cost"))
    counts = {"model": "m", "items": 100, "answered": 100, "cut": number, "seconds": 1.0}
    empty = {"retried": number, "empty": number, "requests": number}
    return "\n".join(Report(**(zero | maps | words | counts | empty)).lines())


def of_map(number: int) -> str:
    counts = {"read": number, "answered": number, "failed": 0, "delivered": 0}
    known = MapCounts(total=number + 1, **counts)
    return f"{known}; {MapCounts(total=None, **counts)}; {MapCounts(total=number, **counts)}"


def of_interrupts(number: int) -> str:
    errors = [KeyboardInterrupt() for _ in range(3)]
    tell_results(errors[0], number, number)
    tell_results(errors[1], number, None)
    tell_stream(errors[2], number)
    return "; ".join(note for error in errors for note in error.__notes__)


def of_progress(number: int) -> str:
    batch = BatchView(states={"running": number}, rows=number, done=0, submitting=number)
    stopping = RunView(done=0, total=number, traffic=Traffic(in_flight=number), stopping=True)
    return f"{batch.words()}; {stopping.line()}"


def job(state: State, number: int) -> JobRecord:
    return JobRecord(
        tag=f"{state}-{number}",
        queue="q",
        provider="openai",
        model="m",
        state=state,
        requests=1,
        size=1,
        tokens=1,
        sealed_at=0.0,
    )


def of_jobs(number: int) -> str:
    there = [job("created", each) for each in range(number)]
    here = [job("sealed", each) for each in range(number)]
    left = "; ".join(str(describe_unfinished(each)) for each in (there, here, [*there, *here]))
    return f"{left}; {_kept(number, number)}; {_kept(0, 1)}"


@pytest.mark.parametrize("said", [of_run, of_command, of_map, of_interrupts, of_progress, of_jobs])
def test_a_count_of_one_is_no_plural(said: Callable[[int], str]) -> None:
    assert ONE.findall(said(1)) == []
    assert re.search(r"\b2 (?:\w+ )?\w+s\b|\b2 (?:were|have)\b", said(2))


def test_one_job_is_spoken_of_as_one() -> None:
    assert _kept(1, 1) == "1 answer of this job is kept"
    assert _kept(2, 3) == "2 answers of these jobs are kept"
    both = [job("created", 0), job("sealed", 0)]
    assert (
        describe_unfinished(both)
        == "1 batch job is still running at openai, 1 waits here to be sent"
    )
