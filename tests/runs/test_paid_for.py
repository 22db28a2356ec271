"""What was sent is paid for, whatever became of it; and nobody pays for one bug many times."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import threading
from contextlib import closing
from typing import Any

import pytest

from llmflow import LLM, Budget, Price, Retry, Run
from llmflow.calls.session import Tally
from llmflow.errors import BudgetExceededError, InvalidRequestError, RequestTimeoutError
from llmflow.journal import Journal
from llmflow.runs.catalog import find_run
from llmflow.testing import ScriptedProvider
from llmflow.types import Charge, Request, Response, Usage

PRICE = Price(input=1, output=10)
KEY = "sk-abcdefghijklmnop123456"


def silent(request: Request) -> Response:
    """Answer, without a word of what it took."""
    return Response(text="ok", usage=Usage(), finish_reason="stop", model="m", provider="scripted")


async def session(llm: LLM, budget: Budget) -> int:
    """Ask until the budget is used up; return how often."""
    asked = 0
    async with Run("paid", budget=budget, retry_failed=True):
        while asked < 1000:
            try:
                await llm(f"{asked} {os.urandom(4).hex()}")
            except BudgetExceededError:
                break
            except RequestTimeoutError:
                pass
            asked += 1
    return asked


@pytest.mark.parametrize("outcome", [silent, RequestTimeoutError("no answer in time")])
def test_what_no_reply_told_the_use_of_is_spent_in_later_sessions_too(outcome: Any) -> None:
    llm = LLM(
        ScriptedProvider(default=outcome), price=PRICE, max_tokens=1000, retry=Retry(attempts=1)
    )
    assert 3 <= asyncio.run(session(llm, Budget(usd=0.05))) <= 6
    assert asyncio.run(session(llm, Budget(usd=0.05))) == 0
    totals = find_run("paid").totals
    assert 0.03 <= totals.unsaid_cost <= 0.05
    assert not totals.cost


def test_a_call_that_is_cancelled_on_its_way_is_paid_for() -> None:
    provider = ScriptedProvider(latency=60.0)
    llm = LLM(provider)

    async def main() -> None:
        async with Run("paid", budget=Budget(requests=2)) as run:
            for number in range(2):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(llm(f"{number}"), 0.02)
            with pytest.raises(BudgetExceededError):
                await llm("one more")
            assert run.ledger is not None
            assert run.ledger.spent.requests == 2

    asyncio.run(main())
    assert len(provider.requests) == 2
    assert find_run("paid").totals.requests == 2


def test_a_call_that_is_cancelled_before_it_was_sent_costs_nothing() -> None:
    provider = ScriptedProvider()
    llm = LLM(provider)

    async def main() -> None:
        llm.limiter.pause(60.0)
        async with Run(budget=Budget(requests=1)) as run:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(llm("Hi"), 0.02)
            assert run.ledger is not None
            assert run.ledger.spent.requests == 0

    asyncio.run(main())
    assert not provider.requests


def test_a_negative_cost_makes_no_budget_larger() -> None:
    def generous(request: Request) -> Response:
        usage = Usage(input_tokens=-5, output_tokens=-5)
        return Response(
            text="ok", usage=usage, cost=-1.0, finish_reason="stop", model="m", provider="s"
        )

    async def main() -> None:
        async with Run("paid", budget=Budget(tokens="1M")):
            await LLM(ScriptedProvider(default=generous))("Hi")

    asyncio.run(main())
    totals = find_run("paid").totals
    assert (totals.cost, totals.input_tokens, totals.output_tokens) == (None, 0, 0)
    assert totals.unsaid_tokens > 0  # the reserve, as nobody has said what it took


def test_a_bug_after_the_reply_is_met_by_all_who_shared_the_call_and_paid_once() -> None:
    class Broken(ScriptedProvider):
        def settle(self, charge: Charge, usage: Usage) -> Charge:
            raise KeyError("usage")

    provider = Broken(latency=0.01)
    llm = LLM(provider, temperature=0)

    async def main() -> list[Any]:
        async with Run("paid"):
            calls = (llm("Hi") for _ in range(20))
            return await asyncio.gather(*calls, return_exceptions=True)

    assert {type(each) for each in asyncio.run(main())} == {KeyError}
    assert len(provider.requests) == 1


def test_an_error_of_a_class_with_more_arguments_reaches_all_who_share_it() -> None:
    class Detailed(InvalidRequestError):
        def __init__(self, message: str, detail: int) -> None:
            super().__init__(message)
            self.detail = detail

    class Refusing(ScriptedProvider):
        async def complete(self, request: Request, *, timeout: float) -> Response:
            await asyncio.sleep(0.01)
            raise Detailed("no", 3)

    llm = LLM(Refusing(), temperature=0)

    async def main() -> list[Any]:
        async with Run("paid"):
            calls = (llm.complete("Hi") for _ in range(3))
            return await asyncio.gather(*calls, return_exceptions=True)

    errors = asyncio.run(main())
    assert [each.detail for each in errors] == [3, 3, 3]
    assert len({id(each) for each in errors}) == 3


@pytest.mark.parametrize("name", ["paid", None])
def test_a_key_in_any_part_of_an_error_is_taken_out(name: str | None) -> None:
    error = InvalidRequestError(f"bad key {KEY}", code=KEY, request_id=KEY)
    with Run(name), pytest.raises(InvalidRequestError) as caught:
        LLM(ScriptedProvider(default=error)).run("Hi")
    assert KEY not in str(caught.value) + repr(caught.value) + repr(vars(caught.value))
    if name is not None:
        with closing(sqlite3.connect(find_run(name).folder / "journal.db")) as journal:
            assert KEY not in repr(journal.execute("SELECT * FROM failures").fetchall())


def test_a_call_that_is_collected_while_a_run_is_counted_does_not_stand_still() -> None:
    tally = Tally()

    class Abandoned:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            tally.add("in_flight", -1)

    def count() -> None:
        before = gc.get_threshold()
        gc.set_threshold(1)
        try:
            for _ in range(200):
                Abandoned()
                tally.statistics()
        finally:
            gc.set_threshold(*before)

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def test_a_ctrl_c_while_a_run_is_closed_leaves_it_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    llm = LLM(ScriptedProvider())
    run = Run("held")
    interruptions = [KeyboardInterrupt()]

    def closed(journal: Journal, **how: Any) -> None:
        if interruptions:
            raise interruptions.pop()
        close(journal, **how)

    close = Journal.close
    monkeypatch.setattr(Journal, "close", closed)
    with pytest.raises(KeyboardInterrupt), run:
        llm.run("a")
    with Run("held") as again:
        assert llm.run("a") == "ok"
        assert again.statistics().replayed == 1


def test_calls_that_wait_for_the_budget_reserve_what_was_learned_meanwhile() -> None:
    provider = ScriptedProvider(default=short, latency=0.01)
    llm = LLM(provider, price=PRICE)

    async def main() -> float:
        # Of the 1,024 tokens that are assumed at first, only four answers would fit.
        async with Run(budget=Budget(usd=0.045)) as run:
            calls = (llm(f"{number}") for number in range(200))
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert answers == ["ok"] * 200
            assert run.ledger is not None
            return run.ledger.spent.usd

    assert asyncio.run(main()) == pytest.approx(200 * 0.00015)


def short(request: Request) -> Response:
    """Answer in ten tokens, or so it says."""
    usage = Usage(input_tokens=50, output_tokens=10)
    return Response(text="ok", usage=usage, finish_reason="stop", model="m", provider="scripted")
