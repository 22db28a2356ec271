"""How batch jobs are shown while a run waits for them."""

from __future__ import annotations

from llmflow.progress.batches import BatchView
from llmflow.progress.view import Traffic, View


def test_jobs_take_the_place_of_speed() -> None:
    jobs = BatchView(states={"in_progress": 2, "validating": 1}, rows=3000, done=1200, age=3725)
    view = View(done=1200, total=3000, cost=0.5, input_tokens=10, failed=3, batch=jobs)
    told = "batch: 2 in_progress, 1 validating, 1,200/3,000 rows, for 1 h 2 min"
    assert view.line() == f"{told}, 3 failed, $0.50"
    assert view.lines() == (told, "3 failed, $0.50, tokens 10 in, 0 out")
    assert "/s" not in view.log_line(), "a speed would promise an end"


def test_trouble_is_told_beside_the_jobs() -> None:
    view = View(done=0, total=None, batch=BatchView(submitting=70), traffic=Traffic(paused_for=4))
    assert view.line() == "batch: submitting, 70 rows so far, paused 4 s"
