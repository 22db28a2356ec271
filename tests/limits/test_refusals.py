"""Refusing all calls at once: nobody waits on, nothing is left over, and it ends."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow import Limiter, Quota
from llmflow.errors import OutageError, QuotaExhaustedError
from llmflow.limits import Permit
from llmflow.testing import run_virtual
from llmflow.types import Charge

pytestmark = pytest.mark.virtual_time


async def waiting(limiter: Limiter, count: int) -> list[asyncio.Task[Permit]]:
    """Let so many calls wait."""
    tasks = [asyncio.create_task(limiter.acquire()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_every_waiter_gets_an_error_of_its_own() -> None:
    limiter = Limiter(Quota(max_concurrent=1))
    await limiter.acquire()
    tasks = await waiting(limiter, 3)
    original = QuotaExhaustedError("used up", dimension="rpd", retry_after=60.0)
    limiter.refuse(original, seconds=60.0)
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert len({id(error) for error in [*errors, original]}) == 4
    for error in errors:
        assert isinstance(error, QuotaExhaustedError)
        assert (error.dimension, error.retry_after) == ("rpd", 60.0)
    assert original.__traceback__ is None


async def test_calls_are_let_through_again_when_the_refusal_ends() -> None:
    limiter = Limiter()
    limiter.refuse(OutageError("down"), seconds=10.0)
    with pytest.raises(OutageError):
        await limiter.acquire()
    await asyncio.sleep(10.0)
    (await limiter.acquire()).settle()


async def test_a_call_that_is_rejected_after_the_refusal_does_not_wait_on() -> None:
    limiter = Limiter(Quota(rpm=600))
    permit = await limiter.acquire()
    limiter.refuse(OutageError("down"), seconds=60.0)
    permit.reject(1.0)
    with pytest.raises(OutageError):
        await permit.renew()
    assert limiter.statistics().waiting == limiter.statistics().in_flight == 0


async def test_a_waiter_that_is_refused_and_cancelled_at_once_leaves_no_unseen_error() -> None:
    unseen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unseen.append(context))
    limiter = Limiter(Quota(max_concurrent=1))
    await limiter.acquire()
    for refuse_first in (True, False):
        (task,) = await waiting(limiter, 1)
        if refuse_first:
            limiter.refuse(OutageError("down"), seconds=0.0)
            task.cancel()
        else:
            task.cancel()
            limiter.refuse(OutageError("down"), seconds=0.0)
        with pytest.raises((asyncio.CancelledError, OutageError)):
            await task
        del task
    gc.collect()
    assert not unseen
    assert limiter.statistics().waiting == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ask", "cancel", "settle", "reject", "refuse", "pause", "sleep"]),
            st.integers(0, 50),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_whenever_calls_are_cancelled_nothing_leaks(
    events: list[tuple[str, int, bool]],
) -> None:
    limiter = run_virtual(_live(events))
    statistics = limiter.statistics()
    assert (statistics.waiting, statistics.in_flight) == (0, 0)
    spent = sum(bucket.charged for bucket in limiter._admission.dimensions.buckets[:1])
    assert spent == statistics.admitted
    assert len(limiter._admission.queue) == 0


class _Call:
    """One call, from waiting for admission to its end."""

    def __init__(self, limiter: Limiter) -> None:
        self.end = asyncio.Event()
        self.rejected = False
        self.task = asyncio.create_task(self._run(limiter))

    async def _run(self, limiter: Limiter) -> None:
        async with await limiter.acquire(Charge(1, 10)) as permit:
            await self.end.wait()
            while self.rejected:
                self.rejected = False
                permit.reject(0.5)
                await permit.renew()
            permit.settle(Charge(1, 12))

    def happen(self, kind: str) -> None:
        if kind == "cancel":
            self.task.cancel()
            return
        self.rejected = kind == "reject"
        self.end.set()


async def _live(events: list[tuple[str, int, bool]]) -> Limiter:
    """Let calls come, be cancelled, rejected and refused; then let the rest end."""
    limiter = Limiter(Quota(rpm=600, max_concurrent=4), seed=1)
    calls: list[_Call] = []
    for kind, number, at_once in events:
        if kind == "ask":
            calls.append(_Call(limiter))
        elif kind == "refuse":
            limiter.refuse(OutageError("down"), seconds=number / 10)
        elif kind == "pause":
            limiter.pause(number / 10)
        elif kind == "sleep":
            await asyncio.sleep(number / 10)
        elif calls:
            calls[number % len(calls)].happen(kind)
        if not at_once:
            await asyncio.sleep(0)
    for call in calls:
        call.end.set()
    async with asyncio.timeout(10_000):
        await asyncio.gather(*(call.task for call in calls), return_exceptions=True)
    return limiter


async def test_a_daily_quota_that_is_used_up_here_ends_calls_that_do_not_wait_for_it() -> None:
    limiter = Limiter(Quota(rpd=24))
    for _ in range(24):
        await limiter.acquire(patience=0.0)
    with pytest.raises(QuotaExhaustedError, match="rpd of 24") as caught:
        await limiter.acquire(patience=0.0)
    assert caught.value.retry_after == pytest.approx(3600.0, abs=1.0)
    assert asyncio.get_running_loop().time() < 1.0
    await asyncio.sleep(3601.0)
    await limiter.acquire(patience=0.0)


async def test_a_daily_quota_is_waited_for_within_the_patience() -> None:
    limiter = Limiter(Quota(rpd=24))
    for _ in range(25):
        await limiter.acquire(patience=7200.0)
    assert asyncio.get_running_loop().time() == pytest.approx(3600.0, abs=1.0)


async def test_a_daily_quota_that_lets_one_through_every_few_seconds_is_a_slow_rate() -> None:
    limiter = Limiter(Quota(rpd=8640))
    tasks = [asyncio.create_task(limiter.acquire(patience=0.0)) for _ in range(8643)]
    for task in tasks:
        (await task).settle()
    assert asyncio.get_running_loop().time() == pytest.approx(30.0, abs=1.0)
