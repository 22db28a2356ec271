"""The harness drives admission as the limiter does: the same work through both, side by side."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.harness.provider import Provider
from benchmarks.harness.setting import Setting
from benchmarks.harness.world import REJECTING, run
from llmflow.limits import Limiter
from llmflow.limits.registry import START_IN_FLIGHT
from llmflow.testing import run_virtual
from llmflow.types import Quota, QuotaSignal

pytestmark = pytest.mark.slow


async def through_the_limiter(setting: Setting) -> tuple[float, int]:
    """Return the seconds and the rejections of the same work with tasks, permits and timers."""
    loop = asyncio.get_running_loop()
    start, rejected = loop.time(), 0
    provider = Provider(setting)
    quota = Quota(rpm=setting.rate * 60.0) if setting.told else Quota()
    limiter = Limiter(quota, max_in_flight=10_000, start_in_flight=START_IN_FLIGHT)

    async def call() -> None:
        nonlocal rejected
        permit = await limiter.acquire()
        while True:
            await asyncio.sleep(setting.way)
            reply = provider.arrive(1.0, loop.time() - start)
            await asyncio.sleep(setting.latency if reply.accepted else REJECTING)
            if reply.accepted and setting.stamp == "reply":
                reply = provider.headers(loop.time() - start)
            await asyncio.sleep(setting.way)
            signals = [QuotaSignal("rpm", reply.limit, reply.remaining, reply.reset)]
            if reply.accepted:
                permit.settle(signals=signals)
                return
            rejected += 1
            permit.reject(reply.retry_after, signals=signals)
            await permit.renew()

    await asyncio.gather(*(call() for _ in range(setting.n)))
    return loop.time() - start, rejected


@pytest.mark.parametrize("stamp", ["admission", "reply"])
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(("burst", "header_burst"), [(1.0, 0.0), (20.0, 0.0), (1.0, 60.0)])
def test_the_harness_and_the_limiter_take_the_same_time(
    burst: float, header_burst: float, told: bool, stamp: str
) -> None:
    setting = Setting(
        seed=0,
        n=1_000 if burst > 1.0 else 600,
        rate=30.0,
        burst=burst,
        header_burst=header_burst,
        told=told,
        stamp=stamp,
        way=0.01,
        jitter=0.0,
    )
    outcome = run(setting)
    seconds, rejected = run_virtual(through_the_limiter(setting))
    assert outcome.seconds == pytest.approx(seconds, rel=0.005)
    assert outcome.rejections == pytest.approx(rejected, abs=2)
