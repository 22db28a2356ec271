"""Budgets: what is reserved, what waits, what is refused, and what is said then."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow.budget import (
    Budget,
    Estimate,
    Ledger,
    OutputForecast,
    Remaining,
    Reservation,
    Spent,
    estimate,
)
from llmflow.budget.forecast import DEFAULT_OUTPUT
from llmflow.errors import BudgetExceededError, ConfigurationError
from llmflow.events import BudgetReached, Event, subscribe
from llmflow.pricing import Price
from llmflow.types import Charge, Request, Response, Usage
from tests.event_loops import abandon
from tests.examples import examples

ONE = Estimate(usd=1.0)


async def settled() -> None:
    """Let everything that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


def granted(ledger: Ledger, estimate: Estimate = ONE) -> Reservation:
    reservation = ledger.reserve_nowait(estimate)
    assert reservation is not None
    return reservation


def answer(
    *, cost: float | None = None, tokens: tuple[int, int] = (0, 0), attempts: int = 1
) -> Response:
    usage = Usage(input_tokens=tokens[0], output_tokens=tokens[1])
    return Response(
        text="",
        usage=usage,
        finish_reason="stop",
        model="m",
        provider="p",
        cost=cost,
        attempts=attempts,
    )


class TestValue:
    def test_amounts_are_read_as_those_of_a_quota(self) -> None:
        assert Budget(usd="5.50", tokens="2M", requests="10k") == Budget(
            usd=5.5, tokens=2_000_000, requests=10_000
        )
        assert repr(Budget(usd=5, seconds=60)) == "Budget(usd=5.0, seconds=60.0)"

    @pytest.mark.parametrize("value", [0, -1, "much", math.inf, math.nan, True])
    @pytest.mark.parametrize("name", ["usd", "tokens", "requests", "seconds"])
    def test_what_is_no_amount_is_refused_by_name(self, name: str, value: object) -> None:
        with pytest.raises(ConfigurationError, match=name):
            Budget(**{name: value})  # type: ignore[arg-type]

    def test_dollars_need_a_price_and_the_message_says_where_to_write_it(self) -> None:
        with pytest.raises(ConfigurationError) as caught:
            Budget(usd=1).check_price("openai/mine", None)
        assert '[providers.openai.models."mine"]' in str(caught.value)
        assert "Budget(tokens=...)" in str(caught.value)
        Budget(usd=1).check_price("openai/mine", Price(input=0, output=0))
        Budget(tokens=1).check_price("openai/mine", None)


class TestAccounting:
    def test_what_is_reserved_becomes_what_is_spent(self) -> None:
        ledger = Ledger(Budget(usd=5, tokens=1000, requests=10, seconds=60), clock=lambda: 7.0)
        one = granted(ledger, Estimate(usd=2.0, tokens=300))
        assert ledger.remaining() == Remaining(3.0, 700, 9, 60)
        one.settle(usd=0.5, tokens=200, requests=3)
        assert ledger.spent == (0.5, 200, 3)
        assert ledger.remaining() == Remaining(4.5, 800, 7, 60)
        assert ledger.state().under_way == 0

    def test_only_the_first_end_of_a_reservation_counts(self) -> None:
        ledger = Ledger(Budget(usd=5))
        one = granted(ledger)
        one.settle(usd=0.5)
        one.settle(usd=2.0)
        one.release()
        assert ledger.spent.usd == 0.5
        assert ledger.state().under_way == 0

    def test_what_is_released_was_not_spent(self) -> None:
        ledger = Ledger(Budget(usd=1))
        granted(ledger).release()
        assert ledger.spent == Spent()
        granted(ledger)

    def test_what_earlier_sessions_spent_counts(self) -> None:
        ledger = Ledger(Budget(usd=5), spent=Spent(usd=4.5))
        assert ledger.remaining().usd == 0.5
        with pytest.raises(BudgetExceededError):
            ledger.reserve_nowait(ONE)

    def test_an_answer_settles_with_its_cost_tokens_and_attempts(self) -> None:
        ledger = Ledger(Budget(usd=5))
        granted(ledger).settle_with(answer(cost=0.25, tokens=(90, 10), attempts=2))
        assert ledger.spent == (0.25, 100, 2)

    def test_an_answer_that_does_not_say_what_it_used_used_what_was_reserved(self) -> None:
        ledger = Ledger(Budget(usd=5))
        granted(ledger, Estimate(usd=0.5, tokens=80)).settle_with(answer(cost=0.0))
        assert ledger.spent == (0.5, 80, 1)
        granted(ledger, Estimate(usd=0.5, tokens=80)).settle_with(answer(tokens=(7, 0)))
        assert ledger.spent == (1.0, 87, 2)

    @pytest.mark.parametrize("amount", [-3.0, math.nan])
    def test_nothing_that_a_server_says_makes_the_budget_larger(self, amount: float) -> None:
        ledger = Ledger(Budget(usd=5))
        granted(ledger).settle(usd=amount, tokens=amount, requests=amount)
        assert ledger.spent == Spent()

    def test_rounding_refuses_nobody(self) -> None:
        ledger = Ledger(Budget(usd=0.3))
        for _ in range(3):
            granted(ledger, Estimate(usd=0.1)).settle(usd=0.1)
        assert ledger.remaining().usd == pytest.approx(0.0, abs=1e-12)

    def test_all_units_or_none_are_reserved(self) -> None:
        ledger = Ledger(Budget(usd=10, tokens=100))
        granted(ledger, Estimate(usd=1, tokens=90))
        assert ledger.reserve_nowait(Estimate(usd=1, tokens=20)) is None
        assert ledger.state().reserved == Spent(1, 90, 1)


class TestWaiting:
    async def test_what_may_still_fit_waits_and_goes_in_order(self) -> None:
        ledger = Ledger(Budget(usd=3))
        first, second = granted(ledger), granted(ledger)
        order: list[int] = []

        async def call(number: int, usd: float) -> Reservation:
            reservation = await ledger.reserve(Estimate(usd=usd))
            order.append(number)
            return reservation

        # The large one came first: the small one, which would fit now, does not pass it.
        tasks = [asyncio.create_task(call(1, 2.0)), asyncio.create_task(call(2, 0.5))]
        await settled()
        assert order == []
        assert ledger.state().waiting == 2
        assert ledger.reserve_nowait(Estimate(usd=0.1)) is None
        first.settle(usd=0.2)
        await settled()
        assert order == []  # 0.2 + 1 + 2 is still too much
        second.settle(usd=0.2)
        await settled()
        assert order == [1, 2]
        for task in tasks:
            (await task).release()
        assert ledger.state().reserved == Spent()

    async def test_a_call_is_refused_when_nothing_under_way_can_help(self) -> None:
        ledger = Ledger(Budget(usd=3))
        first, second = granted(ledger), granted(ledger)
        waiting = asyncio.create_task(ledger.reserve(Estimate(usd=1.5)))
        await settled()
        first.settle(usd=1.0)
        await settled()
        assert not waiting.done()
        second.settle(usd=0.9)
        with pytest.raises(BudgetExceededError, match=r"\$3.00 is reached: \$1.90 spent, and the"):
            await waiting
        assert ledger.reached == "usd"

    async def test_after_a_refusal_even_a_call_that_would_fit_is_refused(self) -> None:
        ledger = Ledger(Budget(usd=3))
        under_way = granted(ledger, Estimate(usd=2.9))
        tasks = [
            asyncio.create_task(ledger.reserve(Estimate(usd=each))) for each in (2.0, 0.05, 0.01)
        ]
        await settled()
        under_way.settle(usd=2.5)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in results] == [BudgetExceededError] * 3
        with pytest.raises(BudgetExceededError):
            ledger.reserve_nowait(Estimate(usd=0.001))
        assert ledger.state().waiting == 0

    async def test_what_is_under_way_at_a_refusal_is_still_settled(self) -> None:
        ledger = Ledger(Budget(usd=2), spent=Spent(usd=0.5))
        under_way = granted(ledger)
        with pytest.raises(BudgetExceededError, match=r"and \$1.00 reserved for 1 call under way"):
            await ledger.reserve(Estimate(usd=1.6))
        under_way.settle(usd=0.75)
        assert ledger.spent.usd == 1.25
        assert ledger.state().reserved == Spent()

    async def test_a_cancelled_waiter_makes_room_for_the_next(self) -> None:
        ledger = Ledger(Budget(usd=3))
        granted(ledger)
        large = asyncio.create_task(ledger.reserve(Estimate(usd=2.5)))
        small = asyncio.create_task(ledger.reserve(Estimate(usd=0.5)))
        await settled()
        assert not small.done()
        large.cancel()
        await settled()
        assert small.done()
        assert ledger.state().under_way == 2

    async def test_a_call_that_is_cancelled_as_it_is_let_go_gives_its_place_on(self) -> None:
        ledger = Ledger(Budget(usd=1))
        under_way = granted(ledger)
        first = asyncio.create_task(ledger.reserve(ONE))
        second = asyncio.create_task(ledger.reserve(ONE))
        await settled()
        under_way.release()  # lets the first one go, which has not run yet
        first.cancel()
        await settled()
        assert first.cancelled()
        assert second.done()
        second.result().release()
        assert ledger.state().reserved == Spent()

    async def test_room_that_another_thread_makes_before_the_call_queues_is_seen(self) -> None:
        ledger = Ledger(Budget(usd=1))
        under_way = granted(ledger)
        assert ledger.reserve_nowait(ONE) is None
        under_way.release()  # nobody waits yet, and nobody will end after this
        await asyncio.wait_for(ledger._wait(ONE), 5)

    async def test_many_cancelled_calls_leave_no_queue_behind(self) -> None:
        ledger = Ledger(Budget(usd=1))
        under_way = granted(ledger)
        head = asyncio.create_task(ledger.reserve(ONE))
        for _ in range(10):
            tasks = [asyncio.create_task(ledger.reserve(ONE)) for _ in range(50)]
            await settled()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert len(ledger._queue) < 120
        under_way.release()
        (await head).release()

    async def test_an_estimate_that_is_no_number_waits_for_nothing(self) -> None:
        with pytest.raises(BudgetExceededError):
            await asyncio.wait_for(Ledger(Budget(usd=1)).reserve(Estimate(usd=math.nan)), 1)

    def test_an_abandoned_call_gives_back_what_it_held(self) -> None:
        ledger = Ledger(Budget(usd=1))

        async def call() -> None:
            reservation = await ledger.reserve(ONE)
            try:
                await asyncio.Event().wait()
            finally:
                reservation.release()

        loop = asyncio.new_event_loop()
        task = loop.create_task(call())
        loop.run_until_complete(settled())
        assert ledger.state().under_way == 1
        loop.close()
        abandon(task)
        del task
        gc.collect()
        assert ledger.state().reserved == Spent()

    def test_what_is_given_back_while_the_ledger_is_locked_is_not_lost(self) -> None:
        # As when the collector ends a call in the middle of another one's accounting.
        ledger = Ledger(Budget(usd=1))
        under_way = granted(ledger)
        with ledger._lock:
            under_way.settle(usd=0.25)
        assert ledger.remaining().usd == 0.75

    def test_what_a_job_goes_on_with_is_kept_without_waiting_for_the_ledger(self) -> None:
        # Also told while the collector ends a call in the middle of another one's accounting.
        ledger = Ledger(Budget(usd=1))

        async def main() -> Reservation:
            return granted(ledger)

        kept = asyncio.run(main())

        def detach_within() -> None:
            with ledger._lock:
                ledger.detach(kept)
                ledger._sweep()  # the loop is closed

        thread = threading.Thread(target=detach_within, daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
        assert ledger.state().under_way == 1
        assert kept.loop is None
        kept.settle(usd=0.25)
        assert ledger.remaining().usd == 0.75

    @pytest.mark.parametrize("need", [1.0, 1.9])
    def test_a_waiter_of_a_closed_loop_keeps_nobody_from_going(self, need: float) -> None:
        ledger = Ledger(Budget(usd=2))
        under_way = granted(ledger, Estimate(usd=2))
        loop = asyncio.new_event_loop()
        task = loop.create_task(ledger.reserve(Estimate(usd=need)))
        loop.run_until_complete(settled())
        assert ledger.state().waiting == 1
        loop.close()

        async def main() -> None:
            second = asyncio.create_task(ledger.reserve(ONE))
            await settled()
            under_way.settle(usd=1)  # 1.9 dollars more would be beyond all hope
            (await asyncio.wait_for(second, 5)).release()

        asyncio.run(main())
        assert ledger.state().reserved == Spent()
        abandon(task)

    def test_who_waits_behind_a_call_of_a_loop_that_is_closed_later_is_granted(self) -> None:
        ledger = Ledger(Budget(usd=2))
        other = asyncio.new_event_loop()

        async def main() -> None:
            under_way = granted(ledger, Estimate(usd=2))
            waiting = await asyncio.to_thread(begin)
            mine = asyncio.create_task(ledger.reserve(Estimate(usd=1.5)))
            await settled()
            under_way.release()
            await asyncio.to_thread(other.run_until_complete, waiting)
            other.close()  # with what its call was granted
            (await asyncio.wait_for(mine, 20)).release()

        def begin() -> asyncio.Task[Reservation]:
            task = other.create_task(ledger.reserve(Estimate(usd=1.5)))
            other.run_until_complete(settled())
            return task

        asyncio.run(main())
        assert ledger.state().reserved == Spent()


class TestSeconds:
    @pytest.mark.virtual_time
    async def test_after_the_time_no_call_begins(self) -> None:
        ledger = Ledger(Budget(seconds=60))
        await asyncio.sleep(59)
        under_way = granted(ledger)
        assert ledger.remaining().seconds == 1
        await asyncio.sleep(1)
        with pytest.raises(BudgetExceededError, match="the budget of 60 seconds is used up"):
            await ledger.reserve(ONE)
        under_way.settle(usd=1)
        assert ledger.spent.usd == 1

    @pytest.mark.virtual_time
    async def test_waiting_calls_are_refused_when_the_time_is_over(self) -> None:
        ledger = Ledger(Budget(usd=1, seconds=60))
        granted(ledger)  # takes for ever
        with pytest.raises(BudgetExceededError, match="60 seconds"):
            await ledger.reserve(ONE)
        assert asyncio.get_running_loop().time() == pytest.approx(60, abs=0.1)


class TestTelling:
    def test_the_first_refusal_is_told_and_no_other(self) -> None:
        ledger = Ledger(Budget(tokens=100), spent=Spent(tokens=60))
        granted(ledger, Estimate(tokens=30))
        events: list[Event] = []
        with subscribe(events.append, kinds=BudgetReached):
            for _ in range(3):
                with pytest.raises(BudgetExceededError):
                    ledger.reserve_nowait(Estimate(tokens=50))
        (event,) = events
        assert isinstance(event, BudgetReached)
        assert (event.dimension, event.spent, event.limit) == ("tokens", 90, 100)

    @pytest.mark.parametrize(
        ("budget", "spent", "need", "text"),
        [
            (
                Budget(usd=0.01),
                Spent(usd=0.005),
                Estimate(usd=0.0073),
                "the budget of $0.01 is reached: $0.005 spent",
            ),
            (
                Budget(usd=2000),
                Spent(usd=1000),
                Estimate(usd=1234.5),
                "the next call may come to $1,234.50.",
            ),
            (
                Budget(tokens="2M"),
                Spent(tokens=1e6),
                Estimate(tokens=15e5),
                "the budget of 2,000,000 tokens",
            ),
            # With nothing left, it is not for its size.
            (
                Budget(requests=1),
                Spent(requests=1),
                Estimate(requests=2),
                "the budget of 1 request is reached",
            ),
        ],
    )
    def test_the_message_says_what_is_spent_and_what_to_do(
        self, budget: Budget, spent: Spent, need: Estimate, text: str
    ) -> None:
        with pytest.raises(BudgetExceededError) as caught:
            Ledger(budget, spent=spent).reserve_nowait(need)
        assert text in str(caught.value)
        assert "Raise the budget and run again" in str(caught.value)
        assert caught.value.fatal


def test_loops_in_threads_share_one_ledger() -> None:
    ledger = Ledger(Budget(usd=100, tokens=1e9))
    worst = [0.0]

    async def call(number: int) -> None:
        reservation = await ledger.reserve(Estimate(usd=10 + number % 7, tokens=10))
        state = ledger.state()
        worst[0] = max(worst[0], state.spent.usd + state.reserved.usd)
        await asyncio.sleep(0)
        if number % 5 == 0:
            reservation.release()
        else:
            reservation.settle(usd=0.01, tokens=1)

    async def main() -> None:
        async with asyncio.timeout(60):
            await asyncio.gather(*(call(number) for number in range(500)))

    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    state = ledger.state()
    assert state.spent == pytest.approx((16.0, 1600, 1600))
    assert (state.reserved, state.waiting, state.under_way) == (Spent(), 0, 0)
    assert worst[0] <= 100 * (1 + 1e-6)


AMOUNTS = st.sampled_from([0.0, 0.1, 0.3, 1.0, 2.5, 7.0])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "settle", "release", "cancel", "settle and cancel"]),
        st.integers(0, 30),
        AMOUNTS,
        st.integers(0, 60),
    ),
    max_size=60,
)


class World:
    """Calls in all their states, and what the ledger must say of them."""

    def __init__(self) -> None:
        self.ledger = Ledger(Budget(usd=10, tokens=100))
        self.asked: list[tuple[asyncio.Task[Reservation], Estimate]] = []
        self.open: list[Reservation] = []
        self.spent = [0.0, 0.0]
        self.over = [0.0, 0.0]

    def do(self, kind: str, which: int, usd: float, tokens: int) -> None:
        if kind == "ask":
            need = Estimate(usd, tokens)
            self.asked.append((asyncio.create_task(self.ledger.reserve(need)), need))
        if kind in {"settle", "settle and cancel"} and self.open:
            one = self.open.pop(which % len(self.open))
            one.settle(usd=usd, tokens=tokens)
            for place, amount in enumerate((usd, tokens)):
                self.spent[place] += amount
                self.over[place] += max(0.0, amount - one.estimate[place])
        if kind == "release" and self.open:
            self.open.pop(which % len(self.open)).release()
        if kind in {"cancel", "settle and cancel"} and self.asked:
            self.asked[which % len(self.asked)][0].cancel()

    def look(self) -> None:
        for task, need in list(self.asked):
            if task.done():
                self.asked.remove((task, need))
                if not task.cancelled() and task.exception() is None:
                    self.open.append(task.result())
        state = self.ledger.state()
        held = [sum(each.estimate[place] for each in self.open) for place in (0, 1)]
        assert state.reserved[:2] == pytest.approx(held)
        assert state.spent[:2] == pytest.approx(self.spent)
        assert (state.under_way, state.waiting) == (len(self.open), len(self.asked))
        for spent, reserved, limit, over in zip(
            state.spent, state.reserved, (10, 100), self.over, strict=False
        ):
            assert spent + reserved <= limit + over + 1e-6
        if self.asked:  # somebody waits: it does not fit, and something may still help
            head = self.asked[0][1]
            total = [sum(each) for each in zip(state.spent, state.reserved, head, strict=True)]
            assert total[0] > 10 or total[1] > 100
            assert self.open
            assert state.reached is None


@examples(200)
@given(STEPS)
def test_the_budget_holds_nothing_leaks_and_nobody_is_forgotten(
    steps: list[tuple[str, int, float, int]],
) -> None:
    async def main() -> None:
        world = World()
        for step in steps:
            world.do(*step)
            await settled()
            world.look()
        while world.open:
            world.do("release", 0, 0.0, 0)
            await settled()
            world.look()
        assert world.asked == []
        assert world.ledger.state().reserved == Spent()

    asyncio.run(main())


# What a call may come to


def ask(content: object = "Hi", **fields: object) -> Request:
    return Request(model="m", messages=({"role": "user", "content": content},), **fields)  # type: ignore[arg-type]


class TestEstimate:
    PRICE = Price(input=1_000_000, output=10_000_000)

    def test_the_bound_of_the_answer_is_what_it_is_taken_to_come_to(self) -> None:
        one = estimate(ask(max_tokens=100), self.PRICE, expected_output=7)
        prompt = one.tokens - 100
        assert 1 <= prompt <= 10
        assert one == (prompt + 1000, prompt + 100, 1)

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
    def test_a_bound_may_stand_among_the_options(self, name: str) -> None:
        assert estimate(ask(options={name: 50}), None) == estimate(ask(max_tokens=50), None)

    def test_without_a_bound_the_forecast_counts_up_to_the_providers_own(self) -> None:
        plain = estimate(ask(), None, expected_output=0).tokens
        assert estimate(ask(), None).tokens == plain + DEFAULT_OUTPUT
        assert estimate(ask(), None, expected_output=300).tokens == plain + 300
        charge = Charge(1, 0, 0, 200)
        assert estimate(ask(), None, charge=charge, expected_output=300).tokens == plain + 200

    def test_a_provider_that_expects_a_longer_prompt_is_believed(self) -> None:
        assert estimate(ask(), None, charge=Charge(1, 0, 500, 0), expected_output=1).tokens == 501

    def test_several_answers_cost_several_times(self) -> None:
        one, three = (estimate(ask(max_tokens=100, options={"n": n}), None) for n in (1, 3))
        assert three.tokens - one.tokens == 200

    def test_what_goes_with_the_prompt_counts(self) -> None:
        plain = estimate(ask(max_tokens=1), None).tokens
        assert estimate(ask(max_tokens=1, system="Be brief. " * 50), None).tokens > plain + 50
        tools = [{"name": "search", "description": "Look things up. " * 50}]
        assert estimate(ask(max_tokens=1, options={"tools": tools}), None).tokens > plain + 100
        parts = [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {}}]
        assert estimate(ask(parts, max_tokens=1), None).tokens == plain + 1600

    def test_writing_to_the_cache_is_reckoned_with(self) -> None:
        dear = Price(input=1, output=1, cache_write=2)
        cheap = Price(input=1, output=1, cache_write=0.5)
        plain = Price(input=1, output=1)
        costs = [estimate(ask("x" * 4000, max_tokens=1), p).usd for p in (dear, plain, cheap)]
        assert costs[0] > 1.9 * costs[1]
        assert costs[1] == costs[2]

    def test_in_batch_the_batch_price_counts(self) -> None:
        price = Price(input=2, output=2, batch_input=1, batch_output=1)
        live, batch = (estimate(ask(max_tokens=9), price, batch=each).usd for each in (False, True))
        assert batch == live / 2

    def test_without_a_price_no_dollars_are_reserved(self) -> None:
        assert estimate(ask(), None).usd == 0.0


class TestForecast:
    def observed(self, lengths: Iterator[int] | range | list[int]) -> OutputForecast:
        forecast = OutputForecast()
        for length in lengths:
            forecast.observe(length)
        return forecast

    def test_nothing_known_is_a_stated_default_or_what_the_model_gives(self) -> None:
        assert OutputForecast().tokens == DEFAULT_OUTPUT == 1024
        assert OutputForecast(most=500).tokens == 500

    def test_a_few_long_answers_raise_it_at_once(self) -> None:
        assert self.observed([3000]).tokens == 6000
        assert self.observed([3]).tokens == 1024

    def test_it_is_what_49_of_50_answers_stay_within(self) -> None:
        forecast = self.observed(range(1, 501))
        assert 480 <= forecast.tokens <= 500

    def test_it_forgets_what_was_long_ago(self) -> None:
        forecast = self.observed([5000] * 600 + [10] * 600)
        assert forecast.tokens == 10

    def test_answers_without_tokens_teach_nothing(self) -> None:
        assert self.observed([0] * 100).tokens == 1024

    @given(st.lists(st.integers(1, 5000), min_size=100, max_size=1200))
    def test_reserves_are_rarely_below_what_is_settled(self, lengths: list[int]) -> None:
        forecast = self.observed(lengths)
        recent = lengths[-512:]
        assert sum(each > forecast.tokens for each in recent) <= 0.09 * len(recent)
