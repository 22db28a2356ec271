"""Jobs that wait for room at the provider."""

from __future__ import annotations

import asyncio

import pytest

from llmflow.batch.job_limits import JobSlots

pytestmark = pytest.mark.virtual_time


async def test_jobs_that_come_at_the_same_moment_are_told_that_they_wait() -> None:
    admission = JobSlots(tokens=None, jobs=1)
    told: list[str] = []

    async def enter(tag: str) -> None:
        await admission.enter(tag, 10, when_full=lambda: told.append(tag))

    first, second, third = (asyncio.ensure_future(enter(tag)) for tag in "abc")
    await first
    assert told == ["b", "c"]
    admission.leave("a")
    await second
    assert not third.done()
    admission.leave("b")
    await third
    assert told == ["b", "c"]
    assert admission.inside == 1


async def test_a_job_that_is_cancelled_while_it_waits_makes_room_for_the_next() -> None:
    admission = JobSlots(tokens=100, jobs=None)
    waits: list[str] = []
    await admission.enter("a", 90, when_full=lambda: waits.append("a"))
    large = asyncio.ensure_future(admission.enter("b", 50, when_full=lambda: waits.append("b")))
    small = asyncio.ensure_future(admission.enter("c", 5, when_full=lambda: waits.append("c")))
    await asyncio.sleep(1)
    assert waits == ["b", "c"], "first come, first served"
    large.cancel()
    await small
    assert admission.enqueued == 95
