"""How batch jobs are shown while a run waits for them."""

from __future__ import annotations

import io

import pytest

from llmflow.progress.display import Lines
from llmflow.progress.view import BatchView, RunView, Traffic


def test_jobs_take_the_place_of_speed() -> None:
    jobs = BatchView(states={"in_progress": 2, "validating": 1}, rows=3000, done=1200, age=3725)
    view = RunView(done=1200, total=3000, cost=0.5, input_tokens=10, failed=3, batch=jobs)
    told = "batch: 2 in_progress, 1 validating, 1,200/3,000 rows"
    assert view.line() == f"{told}, for 1 h 2 min, 3 failed, $0.50"
    assert view.lines() == (told, "for 1 h 2 min, $0.50, 3 failed, tokens 10 in, 0 out")
    assert "/s" not in view.log_line(), "a speed would promise an end"


def test_trouble_is_told_beside_the_jobs() -> None:
    view = RunView(
        done=0, total=None, batch=BatchView(submitting=70), traffic=Traffic(paused_for=4)
    )
    assert view.line() == "batch: submitting, 70 rows so far, paused 4 s"


@pytest.mark.parametrize(
    ("left", "latest", "told"),
    [
        (1510.0, 80_000.0, "about 25 min 10 s left"),
        (None, 84_600.0, "23 h 30 min left at the most"),
        (None, None, "for 1 min 30 s"),
    ],
)
def test_the_end_is_told_as_well_as_it_is_known(
    left: float | None, latest: float | None, told: str
) -> None:
    jobs = BatchView(states={"running": 1}, rows=100, done=40, age=90, left=left, latest=latest)
    assert jobs.words().endswith(told)


def test_at_80_columns_the_time_left_of_jobs_is_not_cut() -> None:
    jobs = BatchView(states={"in_progress": 1}, rows=2000, done=180, age=90, left=84_600)
    view = RunView(done=180, total=2000, cost=0.5, failed=3, batch=jobs)
    first, second = view.lines()
    bar, margin = 12, 3
    assert bar + len(f" {view.count} {first}") <= 80 - margin
    assert "about 23 h 30 min left" in second[: 80 - margin]


def test_trouble_on_the_way_to_the_provider_is_told() -> None:
    jobs = BatchView(states={"running": 1}, rows=9, trouble="no connection")
    assert jobs.words() == "batch: 1 running, 0/9 rows, trying again: no connection"


def test_a_log_has_a_line_for_news_and_else_one_in_ten_minutes() -> None:
    stream = io.StringIO()
    lines = Lines(stream)

    def lines_for(shows: int, **state: int) -> int:
        before = len(stream.getvalue().splitlines())
        for age in range(shows):
            jobs = BatchView(states={"running": 1}, rows=100, age=float(10 * age), **state)  # type: ignore[arg-type]
            lines.show(RunView(done=0, total=None, batch=jobs))
        return len(stream.getvalue().splitlines()) - before

    assert lines_for(60) == 1
    assert lines_for(1) == 1, "ten minutes later it is told that there is no news"
    assert lines_for(6, done=7) == 1
    assert lines_for(1, done=8) == 1


def test_without_jobs_each_line_is_printed() -> None:
    stream = io.StringIO()
    for _ in range(3):
        Lines(stream).show(RunView(done=1, total=10))
    assert len(stream.getvalue().splitlines()) == 3
