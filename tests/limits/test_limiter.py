"""The limiter, on a virtual clock: pace, order, pauses, cancellation."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import signal
import threading
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from llmflow import Budget, Limiter, Quota
from llmflow.budget import Estimate, Ledger
from llmflow.errors import TooLargeForLimitError
from llmflow.limits.bucket import burst_capacity
from llmflow.testing import VirtualLoop
from llmflow.types import Charge, QuotaSignal
from tests.event_loops import abandon

pytestmark = pytest.mark.virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


async def admitted_at(limiter: Limiter, charge: Charge | None = None) -> float:
    """Take one permit, keep it, and return when it came."""
    await limiter.acquire(charge)
    return now()


async def test_after_the_burst_requests_leave_evenly() -> None:
    limiter = Limiter(Quota(rpm=600, burst_seconds=1))
    times = await asyncio.gather(*(admitted_at(limiter) for _ in range(27)))
    burst = burst_capacity(10.0, 1.0)
    # The burst goes faster than the rate, then one leaves every 0.1 s.
    late = [0.1 * (index + 1 - burst) for index in range(27)]
    assert times[13:] == pytest.approx(late[13:])
    assert all(moment >= due - 1e-9 for moment, due in zip(times, late, strict=True))
    assert times[7] < 0.35


async def test_what_was_saved_up_is_spent_faster_and_faster_but_never_all_at_once() -> None:
    limiter = Limiter(Quota(rpm=6000, burst_seconds=60), max_in_flight=10_000)
    times = await asyncio.gather(*(admitted_at(limiter) for _ in range(5000)))
    sent = [sum(moment <= second for moment in times) for second in (0.0, 0.25, 0.5, 1.0)]
    assert sent[0] <= 10
    assert sent[1] - sent[0] <= 100
    assert sent[3] - sent[2] > 2 * (sent[2] - sent[1])
    assert times[-1] < 3.0


async def test_a_rate_below_one_per_second_still_starts_at_once() -> None:
    limiter = Limiter(Quota(rpm=3))
    assert await asyncio.gather(*(admitted_at(limiter) for _ in range(3))) == [0.0, 20.0, 40.0]


async def test_all_dimensions_are_taken_or_none() -> None:
    limiter = Limiter(Quota(rpm=6000, tpm=6000))
    await limiter.acquire(Charge(tokens=75))
    waiting = asyncio.create_task(limiter.acquire(Charge(tokens=50)))
    await asyncio.sleep(0.1)
    level = limiter.statistics().levels
    assert not waiting.done()
    assert level["rpm"] == pytest.approx(75.0)  # no request was taken while tokens are short
    await waiting
    assert now() == pytest.approx(0.5)


async def test_large_requests_are_not_starved_by_small_newcomers() -> None:
    limiter = Limiter(Quota(tpm=60_000))
    await limiter.acquire(Charge(tokens=750))
    large = asyncio.create_task(admitted_at(limiter, Charge(tokens=700)))
    small = [asyncio.create_task(admitted_at(limiter, Charge(tokens=10))) for _ in range(100)]
    assert await large == pytest.approx(0.7)
    assert min(await asyncio.gather(*small)) >= 0.7


async def test_a_newcomer_never_passes_a_waiter_even_when_it_would_fit() -> None:
    limiter = Limiter(Quota(tpm=6000))
    await limiter.acquire(Charge(tokens=75))
    first = asyncio.create_task(admitted_at(limiter, Charge(tokens=70)))
    await asyncio.sleep(0.5)  # 50 are there: enough for the newcomer, not for the first
    newcomer = asyncio.create_task(admitted_at(limiter, Charge(tokens=1)))
    assert await first < await newcomer


async def test_more_than_the_bucket_holds_is_slow_not_impossible() -> None:
    limiter = Limiter(Quota(tpm=6000))  # the bucket holds 75
    assert await admitted_at(limiter, Charge(tokens=675)) == 0.0
    # The debt of 600 is paid first: 6 s, and then the bucket must hold what is asked for.
    assert await admitted_at(limiter, Charge(tokens=50)) == pytest.approx(6.5)


async def test_what_can_never_fit_fails_at_once_with_the_numbers() -> None:
    limiter = Limiter(Quota(tpm=6000))
    with pytest.raises(TooLargeForLimitError, match=r"needs 6,001 of tpm.*limit is 6,000"):
        await limiter.acquire(Charge(tokens=6001))


async def test_settling_gives_back_and_takes_more() -> None:
    limiter = Limiter(Quota(tpm=6000))
    permit = await limiter.acquire(Charge(tokens=75))
    permit.settle(Charge(tokens=5))
    assert limiter.statistics().levels["tpm"] == pytest.approx(70)
    permit = await limiter.acquire(Charge(tokens=5))
    assert now() == 0.0
    permit.settle(Charge(tokens=110))
    assert limiter.statistics().levels["tpm"] == pytest.approx(-40)


async def test_a_refund_lets_the_next_waiter_go_at_once() -> None:
    limiter = Limiter(Quota(tpm=6000))
    permit = await limiter.acquire(Charge(tokens=75))
    waiting = asyncio.create_task(admitted_at(limiter, Charge(tokens=60)))
    await asyncio.sleep(0.01)
    permit.settle(Charge(tokens=1))
    assert await waiting == pytest.approx(0.01)


async def test_the_in_flight_cap_holds_and_a_release_wakes_the_next() -> None:
    limiter = Limiter(Quota(max_concurrent=2))
    first, second = await limiter.acquire(), await limiter.acquire()
    third = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(1)
    assert not third.done()
    first.release()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert third.done()
    second.release()
    (await third).release()
    assert limiter.statistics().in_flight == 0


async def test_releasing_twice_changes_nothing() -> None:
    limiter = Limiter(Quota(max_concurrent=2))
    permit = await limiter.acquire()
    permit.settle()
    permit.settle()
    permit.release()
    assert limiter.statistics().in_flight == 0


async def test_a_rejection_pauses_the_whole_domain_until_the_servers_time() -> None:
    limiter = Limiter()
    rejected = await limiter.acquire()
    assert rejected.reject(7.5) == pytest.approx(7.5)
    others = [asyncio.create_task(admitted_at(limiter)) for _ in range(3)]
    await rejected.renew()
    assert now() == 7.5
    rejected.settle()
    assert min(await asyncio.gather(*others)) >= 7.5


async def test_the_rejected_request_goes_first_after_the_pause() -> None:
    limiter = Limiter(Quota(max_concurrent=1))
    order: list[str] = []
    rejected = await limiter.acquire()

    async def other(name: str) -> None:
        async with await limiter.acquire():
            order.append(name)

    tasks = [asyncio.create_task(other(name)) for name in "ab"]
    await asyncio.sleep(0)
    rejected.reject(1.0)
    await rejected.renew()
    order.append("rejected")
    rejected.settle()
    await asyncio.gather(*tasks)
    assert order == ["rejected", "a", "b"]


async def test_several_rejected_requests_keep_their_order() -> None:
    limiter = Limiter()
    permits = [await limiter.acquire() for _ in range(5)]
    order: list[int] = []

    async def again(index: int) -> None:
        permits[index].reject(1.0)
        await permits[index].renew()
        order.append(index)
        permits[index].settle()

    await asyncio.gather(*(again(i) for i in (3, 0, 4, 1, 2)))
    assert order == [0, 1, 2, 3, 4]


async def test_a_request_that_is_sent_again_goes_before_those_that_came_later() -> None:
    limiter = Limiter(Quota(max_concurrent=1))
    order: list[str] = []
    first = await limiter.acquire()

    async def take(name: str, place: int = 0) -> None:
        async with await limiter.acquire(place=place):
            order.append(name)

    later = [asyncio.create_task(take(name)) for name in "ab"]
    await asyncio.sleep(0)
    again = asyncio.create_task(take("again", first.number))
    await asyncio.sleep(0)
    first.release()
    await asyncio.gather(again, *later)
    assert order == ["again", "a", "b"]


async def test_one_probe_goes_before_the_rest() -> None:
    limiter = Limiter()
    rejected = await limiter.acquire()
    await asyncio.sleep(0.2)  # the rejection takes a round trip of 0.2 s
    rejected.reject(1.0)
    others = [asyncio.create_task(limiter.acquire()) for _ in range(50)]
    await rejected.renew()
    await asyncio.sleep(0.3)  # no word from the probe yet, and the grace time is 0.42 s
    assert not any(task.done() for task in others)
    rejected.settle()
    await asyncio.sleep(0.01)
    assert sum(task.done() for task in others) == 2
    await asyncio.gather(*others)


async def test_a_silent_probe_does_not_hold_up_the_domain() -> None:
    limiter = Limiter()
    rejected = await limiter.acquire()
    await asyncio.sleep(0.1)
    rejected.reject(1.0)
    other = asyncio.create_task(admitted_at(limiter))
    await rejected.renew()  # the probe, which never comes back
    assert await other == pytest.approx(1.1 + 0.02 + 0.2)


async def test_a_probe_that_fails_otherwise_is_followed_by_another() -> None:
    limiter = Limiter()
    rejected = await limiter.acquire()
    rejected.reject(1.0)
    other = asyncio.create_task(admitted_at(limiter))
    await rejected.renew()
    rejected.release()
    assert await other == pytest.approx(1.0)


async def test_the_release_after_a_pause_is_no_herd() -> None:
    limiter = Limiter()
    rejected = await limiter.acquire()
    rejected.reject(1.0)
    tasks = [asyncio.create_task(admitted_at(limiter)) for _ in range(500)]
    await rejected.renew()
    rejected.settle()
    times = sorted(await asyncio.gather(*tasks))
    in_the_first_quarter = sum(time < 1.25 for time in times)
    assert in_the_first_quarter <= 4
    assert times[-1] < 4.0


async def test_a_pause_is_never_shortened() -> None:
    limiter = Limiter()
    first, second = await limiter.acquire(), await limiter.acquire()
    first.reject(10.0)
    second.reject(1.0)
    assert await admitted_at(limiter) == 10.0


async def test_many_rejections_of_one_moment_count_as_one_when_no_time_was_given() -> None:
    limiter = Limiter(seed=1)
    permits = [await limiter.acquire() for _ in range(100)]
    await asyncio.sleep(0.1)
    pauses = [permit.reject(None) for permit in permits]
    assert 0.4 <= pauses[0] <= 0.6
    assert pauses == [pauses[0]] * 100


async def test_without_a_given_time_repeated_rejections_wait_longer_and_longer() -> None:
    limiter = Limiter(seed=1)
    permit = await limiter.acquire()
    waits = []
    for _ in range(8):
        await asyncio.sleep(0.1)
        waits.append(permit.reject(None))
        await permit.renew()
    for wait, expected in zip(waits, [0.5, 1, 2, 4, 8, 16, 32, 60], strict=True):
        assert wait == pytest.approx(expected, rel=0.2)


async def test_a_bucket_counts_as_empty_after_a_rejection() -> None:
    limiter = Limiter(Quota(rpm=60))
    permit = await limiter.acquire()
    permit.reject(5.0)
    others = [asyncio.create_task(admitted_at(limiter)) for _ in range(3)]
    await permit.renew()
    permit.settle()
    # The probe took what was not there; and the rate was too much, so it is lower for now.
    first, second, third = await asyncio.gather(*others)
    assert first >= 7.0
    assert 1.0 <= second - first <= 1.5
    assert 1.0 <= third - second <= 1.5


async def test_a_cancelled_head_lets_the_second_go_earlier() -> None:
    limiter = Limiter(Quota(tpm=6000))
    await limiter.acquire(Charge(tokens=75))
    head = asyncio.create_task(admitted_at(limiter, Charge(tokens=70)))
    second = asyncio.create_task(admitted_at(limiter, Charge(tokens=10)))
    await asyncio.sleep(0.05)
    head.cancel()
    assert await second < 0.45  # the head would have had to wait for 0.7 s


async def test_cancelled_waiters_leave_nothing_behind() -> None:
    limiter = Limiter(Quota(max_concurrent=1))
    holder = await limiter.acquire()
    tasks = [asyncio.create_task(limiter.acquire()) for _ in range(1000)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert limiter.statistics().waiting == 0
    assert len(limiter._admission.queue) < 130
    holder.release()
    assert (await admitted_at(limiter)) == now()


async def test_a_cancellation_in_the_moment_of_admission_gives_everything_back() -> None:
    limiter = Limiter(Quota(rpm=60, max_concurrent=1))
    holder = await limiter.acquire()
    task = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(5)
    holder.settle()  # admits the waiter: its future is set, its task has not run yet
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    statistics = limiter.statistics()
    assert (statistics.in_flight, statistics.admitted) == (0, 1)
    assert statistics.levels["rpm"] == pytest.approx(1.0)


async def test_retuning_lets_waiters_go_at_the_new_rate() -> None:
    limiter = Limiter(Quota(rpm=1))
    await limiter.acquire()
    waiting = asyncio.create_task(admitted_at(limiter))
    await asyncio.sleep(1)
    limiter.retune(Quota(rpm=60))
    assert await waiting == pytest.approx(1 + (1 - 1 / 60))


async def test_while_no_rate_is_known_the_number_in_flight_doubles_with_every_round_trip() -> None:
    limiter = Limiter(start_in_flight=10)
    times: list[float] = []

    async def call() -> None:
        permit = await limiter.acquire()
        times.append(now())
        await asyncio.sleep(0.5)
        permit.settle()

    await asyncio.gather(*(call() for _ in range(150)))
    for trip, (least, most) in enumerate([(10, 16), (20, 36), (40, 90)]):
        sent = sum(0.5 * trip <= moment < 0.5 * (trip + 1) for moment in times)
        assert least <= sent <= most
    # What the answers of one moment let go does not leave in one moment.
    assert times.count(0.0) == 10
    assert max(times.count(moment) for moment in times if moment) <= 2


async def test_slow_answers_do_not_hold_up_the_start_while_nothing_is_refused() -> None:
    limiter = Limiter(start_in_flight=10)
    tasks = [asyncio.create_task(limiter.acquire()) for _ in range(400)]
    seen = []
    for _ in range(5):
        await asyncio.sleep(1)
        seen.append(limiter.statistics().in_flight)
    assert all(1.7 <= after / before <= 2.3 for before, after in itertools.pairwise(seen))
    for task in tasks:
        task.cancel()


async def test_the_slow_start_ends_when_headers_name_a_limit() -> None:
    limiter = Limiter(start_in_flight=2)
    for _ in range(2):
        await limiter.acquire()
    waiting = asyncio.create_task(admitted_at(limiter))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    limiter.observe([QuotaSignal(dimension="rpm", limit=600)])
    assert await waiting < 0.5


async def test_a_rejection_tells_the_rate_that_nobody_has_named() -> None:
    limiter = Limiter(start_in_flight=4)
    for _ in range(20):
        permit = await limiter.acquire()
        await asyncio.sleep(0.05)
        permit.settle()
    permit = await limiter.acquire()
    permit.reject(1.0)
    assert limiter.statistics().limits["rpm"] == pytest.approx(60 * 20 * 0.85, rel=0.15)


async def test_a_rejection_of_the_first_requests_leaves_few_in_flight() -> None:
    limiter = Limiter(start_in_flight=4)
    permits = [await limiter.acquire() for _ in range(4)]
    for permit in permits:
        permit.reject(1.0)
    more = [asyncio.create_task(limiter.acquire()) for _ in range(50)]
    await asyncio.sleep(1.5)
    assert limiter.statistics().limits == {}  # too little was sent to tell a rate from it
    assert 1 <= limiter.statistics().in_flight <= 6
    for task in more:
        task.cancel()


async def test_limits_are_learned_from_headers_when_none_are_configured() -> None:
    limiter = Limiter()
    limiter.observe([QuotaSignal(dimension="rpm", limit=60), QuotaSignal(dimension="x", limit=1)])
    times = [await admitted_at(limiter) for _ in range(3)]
    assert times == [0.0, 1.0, 2.0]
    assert limiter.statistics().limits == {"rpm": 60.0}


async def test_configured_limits_are_a_ceiling_for_learned_ones() -> None:
    limiter = Limiter(Quota(rpm=600))
    limiter.observe([QuotaSignal(dimension="rpm", limit=6000)])
    assert limiter.statistics().limits == {"rpm": 600.0}
    limiter.observe([QuotaSignal(dimension="rpm", limit=60)])
    assert limiter.statistics().limits == {"rpm": 60.0}


@pytest.mark.slow
async def test_a_hundred_thousand_waiters_are_fine() -> None:
    limiter = Limiter(Quota(rpm="60M", burst_seconds=0.01, max_concurrent=100_000))
    tasks = [asyncio.create_task(admitted_at(limiter)) for _ in range(100_000)]
    times = await asyncio.gather(*tasks)
    assert times == sorted(times)
    assert now() == pytest.approx(0.095, rel=0.05)


async def test_repr_and_statistics_show_the_live_state() -> None:
    limiter = Limiter(Quota(rpm=60, tpm=6000))
    permit = await limiter.acquire(Charge(tokens=60))
    waiting = asyncio.create_task(limiter.acquire(Charge(tokens=70)))
    await asyncio.sleep(0)
    assert repr(limiter) == "<Limiter rpm=60, tpm=6000: 1 in flight, 1 waiting>"
    permit.reject(2.0)
    assert "paused for 2 s" in repr(limiter)
    waiting.cancel()


@pytest.mark.parametrize("threads", [4])
def test_loops_in_several_threads_share_one_limit(threads: int) -> None:
    limiter = Limiter(Quota(rpm=60_000, burst_seconds=0.02))  # 1,000 per second
    taken: list[float] = []

    def work() -> None:
        async def main() -> None:
            async def one() -> None:
                permit = await limiter.acquire()
                taken.append(now())
                permit.settle()

            await asyncio.gather(*(one() for _ in range(100)))

        asyncio.run(main())

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=30)
    assert len(taken) == 400
    assert max(taken) - min(taken) >= (400 - 20) / 1000 * 0.99
    assert limiter.statistics().in_flight == 0


def test_one_loop_after_another_shares_what_was_spent() -> None:
    limiter = Limiter(Quota(rpm=60))

    async def take() -> float:
        started = now()
        await limiter.acquire()
        return now() - started

    assert asyncio.run(take()) < 0.5
    assert limiter.statistics().levels["rpm"] < 0.5


def test_a_waiter_of_a_loop_that_was_closed_does_not_block_the_others() -> None:
    limiter = Limiter(Quota(max_concurrent=1))
    dead = asyncio.new_event_loop()
    permit = dead.run_until_complete(limiter.acquire())
    task = dead.create_task(limiter.acquire())
    dead.run_until_complete(asyncio.sleep(0))
    abandon(task)
    dead.close()

    async def after() -> int:
        waiting = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0)
        permit.settle()
        await asyncio.wait_for(waiting, 5)
        return limiter.statistics().in_flight

    assert asyncio.run(after()) == 1


def test_a_clock_that_starts_anew_does_not_freeze_the_limiter() -> None:
    limiter = Limiter(Quota(rpm=60))

    async def take() -> float:
        await limiter.acquire()
        await limiter.acquire()
        return now()

    for _ in range(2):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            assert runner.run(take()) <= 2.0


async def test_less_than_one_request_a_minute_is_slow_not_impossible() -> None:
    limiter = Limiter(Quota(rpm=0.5))
    assert [await admitted_at(limiter) for _ in range(3)] == pytest.approx([0.0, 120.0, 240.0])


async def test_a_permit_that_has_ended_can_neither_be_rejected_nor_counted_again() -> None:
    limiter = Limiter(Quota(max_concurrent=1))
    permit = await limiter.acquire()
    await permit.renew()  # it still holds what it would wait for
    permit.settle()
    assert permit.reject(60.0) == 0.0
    assert limiter.statistics().in_flight == 0
    assert limiter.statistics().rejected == 0


async def test_a_renewal_that_was_cancelled_can_be_asked_for_again() -> None:
    limiter = Limiter()
    older, permit = await limiter.acquire(), await limiter.acquire()
    older.reject(100.0)
    permit.reject(100.0)
    first = asyncio.create_task(older.renew())
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(permit.renew(), 1.0)
    await permit.renew()
    await first
    await asyncio.sleep(10)
    assert limiter.statistics().in_flight == 2
    assert limiter.statistics().waiting == 0


async def test_a_rejection_without_a_time_of_its_own_still_pauses() -> None:
    limiter = Limiter(seed=1)
    permit = await limiter.acquire()
    assert 0.4 <= permit.reject(0.0) <= 0.6


async def test_a_late_rejection_that_prolongs_the_pause_is_followed_by_a_probe_too() -> None:
    limiter = Limiter()
    first, straggler = await limiter.acquire(), await limiter.acquire()
    await asyncio.sleep(0.1)
    first.reject(1.0)
    tasks = [asyncio.create_task(admitted_at(limiter)) for _ in range(500)]
    await first.renew()
    first.settle()
    await asyncio.sleep(0.05)
    straggler.reject(10.0)
    until = now() + 10.0
    times = await asyncio.gather(*tasks)
    assert sum(until <= time < until + 0.2 for time in times) == 1
    assert not any(until - 10.0 < time < until for time in times)


async def test_a_limit_that_is_learned_to_be_higher_lets_waiters_go_at_once() -> None:
    limiter = Limiter()
    limiter.observe([QuotaSignal(dimension="rpm", limit=1)])
    await limiter.acquire()
    waiting = asyncio.create_task(admitted_at(limiter))
    await asyncio.sleep(1)
    limiter.observe([QuotaSignal(dimension="rpm", limit=60)])
    assert await waiting == pytest.approx(1 + (1 - 1 / 60))


def test_retuning_from_another_thread_wakes_the_waiters_in_time() -> None:
    limiter = Limiter(Quota(rpm=1))
    waiting = threading.Event()

    async def wait() -> None:
        await limiter.acquire()
        second = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0)
        waiting.set()
        await asyncio.wait_for(second, 10)

    worker = threading.Thread(target=asyncio.run, args=(wait(),))
    worker.start()
    waiting.wait()
    limiter.retune(Quota(rpm=6000))
    worker.join(5)
    assert limiter.statistics().admitted == 2


def test_a_loop_that_is_closed_while_it_heads_the_queue_does_not_strand_the_others() -> None:
    limiter = Limiter(Quota(tpm=6000))
    dead = asyncio.new_event_loop()
    dead.run_until_complete(limiter.acquire(Charge(tokens=75)))
    task = dead.create_task(limiter.acquire(Charge(tokens=60)))
    dead.run_until_complete(asyncio.sleep(0))
    abandon(task)

    async def after() -> None:
        waiting = asyncio.create_task(limiter.acquire(Charge(tokens=1)))
        await asyncio.sleep(0)
        dead.close()
        await asyncio.wait_for(waiting, 5)

    asyncio.run(after())


def test_an_abandoned_permit_may_be_collected_while_the_limiter_is_at_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limiter = Limiter(Quota(max_concurrent=1))
    loop = asyncio.new_event_loop()

    async def hold() -> None:
        async with await limiter.acquire():
            await asyncio.Event().wait()

    task: object = loop.create_task(hold())
    loop.run_until_complete(asyncio.sleep(0))
    abandon(task)
    loop.close()
    task = None
    monkeypatch.setattr(limiter._admission, "observe", lambda *_: gc.collect())
    worker = threading.Thread(target=limiter.observe, args=([],), daemon=True)
    worker.start()
    worker.join(5)
    assert not worker.is_alive()
    assert limiter.statistics().in_flight == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_its_parents_requests() -> None:
    limiter = Limiter(Quota(max_concurrent=1))
    held, done = threading.Event(), threading.Event()

    async def hold() -> None:
        async with await limiter.acquire():
            queued = asyncio.create_task(limiter.acquire())
            await asyncio.sleep(0)
            held.set()
            await asyncio.to_thread(done.wait)
            queued.cancel()

    worker = threading.Thread(target=asyncio.run, args=(hold(),))
    worker.start()
    held.wait()
    child = os.fork()
    if not child:
        signal.alarm(10)
        asyncio.run(limiter.acquire())
        os._exit(7)
    _, status = os.waitpid(child, 0)
    done.set()
    worker.join()
    assert os.waitstatus_to_exitcode(status) == 7


def test_a_loop_whose_timers_do_not_tell_when_they_ring_is_served_all_the_same() -> None:
    # uvloop returns a plain handle where the delay is below a millisecond.
    class Loop(asyncio.SelectorEventLoop):
        def call_at(self, when, callback, *args, context=None):  # type: ignore[no-untyped-def]
            timer = super().call_at(when, callback, *args, context=context)
            return SimpleNamespace(cancel=timer.cancel)

    limiter = Limiter(Quota(rpm="60k", burst_seconds=0.002))

    async def take() -> None:
        await asyncio.gather(*(limiter.acquire() for _ in range(20)))

    loop = Loop()
    loop.run_until_complete(take())
    loop.close()
    assert limiter.statistics().admitted == 20


class TestALoopThatIsClosedWithCallsInFlight:
    """Its calls never end: what they held is given back to the calls of other loops."""

    def leave(self, limiter: Limiter, count: int) -> list[asyncio.Task[Any]]:
        """Close a loop in the midst of calls; the tasks are returned, so that nobody ends them."""

        async def hold() -> None:
            async with await limiter.acquire():
                await asyncio.Event().wait()

        async def begin() -> list[asyncio.Task[Any]]:
            tasks = [asyncio.create_task(hold()) for _ in range(count)]
            while limiter.statistics().in_flight < min(count, 2):  # noqa: ASYNC110
                await asyncio.sleep(0)
            return tasks

        loop = asyncio.new_event_loop()
        tasks = loop.run_until_complete(begin())
        abandon(*tasks)
        loop.close()
        return tasks

    @pytest.mark.parametrize("count", [2, 5])
    def test_the_next_loops_call_is_answered_at_once(self, count: int) -> None:
        limiter = Limiter(Quota(max_concurrent=2))
        tasks = self.leave(limiter, count)

        async def after() -> None:
            async with await asyncio.wait_for(limiter.acquire(), 9) as permit:
                permit.settle()

        for _ in range(2):
            asyncio.run(after())
        assert (limiter.statistics().in_flight, limiter.waiting) == (0, 0)
        del tasks

    def test_a_call_that_waits_already_is_answered_soon(self) -> None:
        limiter = Limiter(Quota(max_concurrent=2))
        waits = threading.Event()
        tasks: list[Any] = []

        async def wait() -> None:
            other = threading.Thread(target=others_after, args=(waits,))
            other.start()
            await asyncio.to_thread(held.wait)
            waiting = asyncio.create_task(limiter.acquire())
            while not limiter.waiting:  # noqa: ASYNC110
                await asyncio.sleep(0)
            waits.set()
            (await asyncio.wait_for(waiting, 9)).settle()
            other.join()

        held = threading.Event()

        def others_after(go: threading.Event) -> None:
            async def hold() -> None:
                async with await limiter.acquire():
                    await asyncio.Event().wait()

            async def begin() -> list[asyncio.Task[Any]]:
                begun = [asyncio.create_task(hold()) for _ in range(2)]
                while limiter.statistics().in_flight < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                held.set()
                while not go.is_set():  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
                return begun

            loop = asyncio.new_event_loop()
            tasks.extend(loop.run_until_complete(begin()))
            abandon(*tasks)
            loop.close()

        asyncio.run(wait())
        assert limiter.statistics().in_flight == 0

    def test_a_permit_that_ends_after_all_ends_nobody_elses(self) -> None:
        limiter = Limiter(Quota(max_concurrent=2))
        tasks = self.leave(limiter, 2)

        async def after() -> None:
            permits = [await asyncio.wait_for(limiter.acquire(), 9) for _ in range(2)]
            tasks.clear()
            gc.collect()
            assert limiter.statistics().in_flight == 2
            for permit in permits:
                permit.settle()

        asyncio.run(after())
        assert limiter.statistics().in_flight == 0


def test_loops_that_were_closed_with_nothing_in_flight_are_forgotten() -> None:
    limiter, ledger = Limiter(), Ledger(Budget(usd=1))

    async def one_call() -> None:
        reservation = await ledger.reserve(Estimate(usd=0.01))
        async with await limiter.acquire() as permit:
            permit.settle()
        reservation.release()

    loops = []
    for _ in range(20):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(one_call())
        loop.close()
        loops.append(weakref.ref(loop))
    del loop
    gc.collect()
    assert sum(each() is not None for each in loops) <= 2


class TestWhatACapCosts:
    @pytest.mark.virtual_time
    async def test_statistics_say_how_more_could_be_in_flight(self) -> None:
        limiter = Limiter(max_in_flight=2, more_connections=lambda: "allow more files")
        assert limiter.statistics().remedy is None
        first, second = await limiter.acquire(), await limiter.acquire()
        waiting = asyncio.ensure_future(limiter.acquire())
        await asyncio.sleep(1.0)
        first.settle()
        third = await waiting
        assert limiter.statistics().bound_by["in_flight"] > 0.5
        assert limiter.statistics().remedy == "allow more files"
        second.settle()
        third.settle()

    @pytest.mark.virtual_time
    async def test_a_configured_cap_is_raised_where_it_was_set(self) -> None:
        limiter = Limiter(Quota(max_concurrent=1), more_connections=lambda: "allow more files")
        first = await limiter.acquire()
        waiting = asyncio.ensure_future(limiter.acquire())
        await asyncio.sleep(1.0)
        first.settle()
        (await waiting).settle()
        assert limiter.statistics().remedy == "a higher max_concurrent allows more"

    @pytest.mark.virtual_time
    async def test_where_nobody_waited_for_a_place_there_is_nothing_to_say(self) -> None:
        limiter = Limiter(max_in_flight=2, more_connections=lambda: "allow more files")
        first, second = await limiter.acquire(), await limiter.acquire()
        await asyncio.sleep(1.0)
        first.settle()
        second.settle()
        assert limiter.statistics().remedy is None
