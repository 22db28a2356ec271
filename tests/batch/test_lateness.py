"""How early before its deadline a job's rest is asked in parallel."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from llmflow import Quota
from llmflow.batch.deadline import Lateness
from llmflow.batch.record import JobRecord
from llmflow.limits import Limiter
from llmflow.types import Charge

pytestmark = pytest.mark.virtual_time


@dataclass
class Job:
    rows: int
    answered: int = 0

    @property
    def names(self) -> set[str]:
        return {str(n) for n in range(self.rows)}

    @property
    def record(self) -> JobRecord:
        return JobRecord(
            tag="a",
            queue="q",
            provider="p",
            model="m",
            requests=self.rows,
            tokens=100.0 * self.rows,
            succeeded=self.answered,
        )


@dataclass
class Rows:
    jobs: list[Job]
    collecting: int = 0
    late_at: list[float] = field(default_factory=list)

    def late(self, why: str) -> None:
        assert "deadline" in why
        self.late_at.append(asyncio.get_running_loop().time())


def watching(rows: Rows, seconds: float, *, passed: float = 0.0, **quota: Any) -> Lateness:
    limiter = Limiter(Quota(**quota))
    return Lateness(rows, limiter, seconds=seconds, passed=passed)  # type: ignore[arg-type]


async def late_after(rows: Rows, seconds: float, **options: Any) -> float:
    """Return when the rest was asked in parallel."""
    begun = asyncio.get_running_loop().time()
    watching(rows, seconds, **options)
    await asyncio.sleep(seconds)
    (late,) = rows.late_at
    return late - begun


async def test_few_rows_have_a_quarter_of_the_time() -> None:
    assert await late_after(Rows([Job(10)]), 1000, rpm=600) == pytest.approx(750, abs=1)


async def test_many_rows_have_the_time_that_they_take() -> None:
    # 400 rows at 60 a minute, and a quarter more.
    assert await late_after(Rows([Job(300)], collecting=100), 1200, rpm=60) == pytest.approx(
        700, abs=1
    )


async def test_too_many_rows_have_half_of_it() -> None:
    assert await late_after(Rows([Job(10_000)]), 1000, rpm=60) == pytest.approx(500, abs=1)


async def test_what_a_job_has_answered_meanwhile_needs_no_time() -> None:
    job = Job(400)
    rows = Rows([job])
    asyncio.get_running_loop().call_later(600, setattr, job, "answered", 390)
    assert await late_after(rows, 1200, rpm=60) == pytest.approx(900, abs=1)


async def test_time_that_has_passed_in_earlier_processes_counts() -> None:
    assert await late_after(Rows([Job(10)]), 1000, passed=500, rpm=600) == pytest.approx(250, abs=1)
    assert await late_after(Rows([Job(10)]), 1000, passed=5000, rpm=600) == pytest.approx(0, abs=1)


async def test_rows_of_an_earlier_process_have_its_count_of_tokens() -> None:
    watch = watching(Rows([Job(400)]), 1200, tpm=6000)  # 400 rows of 100 tokens: 400 s
    assert watch.lead() == pytest.approx(500)
    watch.charge = Charge(1.0, 80.0, 80.0, 0.0)
    assert watch.lead() == pytest.approx(400)


async def test_once_stopped_it_looks_no_longer() -> None:
    rows = Rows([Job(10)])
    watching(rows, 1000, rpm=600).stop()
    await asyncio.sleep(1000)
    assert rows.late_at == []
