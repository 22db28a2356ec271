"""One call that is above the whole budget by itself is refused alone, and the run goes on."""

from __future__ import annotations

import asyncio
import pickle
from functools import partial
from typing import Any

import pytest

from llmflow import LLM, Budget, Failure, Price, Run
from llmflow.budget import Estimate, Ledger
from llmflow.errors import BudgetExceededError, TooLargeForBudgetError
from llmflow.simulator import BatchSettings, SimulatorSettings, serve_in_thread
from llmflow.testing import ScriptedProvider
from tests.batch.test_over_http import FAST, llm_at
from tests.runs.asking import Answers, in_run

CENT_A_TOKEN = Price(input=10_000, output=10_000)
HUGE = "word " * 400
TEXTS = [*(f"text {n}" for n in range(3)), HUGE, *(f"text {n}" for n in range(3, 9))]
OPTIONS: dict[str, Any] = {"max_tokens": 5, "price": CENT_A_TOKEN}


class TestTheLedger:
    async def test_it_is_named_with_what_it_needs_and_closes_nothing(self) -> None:
        ledger = Ledger(Budget(usd=1, tokens=1000))
        for _ in range(2):
            with pytest.raises(TooLargeForBudgetError, match=r"\$2\.00.*budget of \$1\.00") as told:
                await ledger.reserve(Estimate(usd=2.0, tokens=10))
            assert not told.value.fatal
            assert (told.value.dimension, told.value.needed, told.value.limit) == ("usd", 2.0, 1.0)
        assert ledger.reached is None
        (await ledger.reserve(Estimate(usd=0.9))).settle(usd=0.9)
        with pytest.raises(TooLargeForBudgetError, match="2,000 tokens"):
            await ledger.reserve(Estimate(tokens=2000))
        with pytest.raises(BudgetExceededError) as ended:
            await ledger.reserve(Estimate(usd=0.2))
        assert ended.value.fatal
        assert ledger.reached == "usd"

    async def test_it_does_not_wait_behind_others(self) -> None:
        ledger = Ledger(Budget(usd=1))
        first = await ledger.reserve(Estimate(usd=0.8))
        waiting = asyncio.create_task(ledger.reserve(Estimate(usd=0.5)))
        await asyncio.sleep(0)
        with pytest.raises(TooLargeForBudgetError):
            await asyncio.wait_for(ledger.reserve(Estimate(usd=1.5)), 9)
        first.settle(usd=0.1)
        (await waiting).release()

    async def test_one_that_has_become_too_large_while_it_waited(self) -> None:
        ledger = Ledger(Budget(usd=1))
        first = await ledger.reserve(Estimate(usd=0.8))
        large = ledger.reserve(Estimate(usd=0.5), anew=lambda: Estimate(usd=1.5))
        waiting = asyncio.create_task(large)
        behind = asyncio.create_task(ledger.reserve(Estimate(usd=0.6)))
        await asyncio.sleep(0)
        first.settle(usd=0.3)
        with pytest.raises(TooLargeForBudgetError):
            await waiting
        (await behind).release()

    def test_it_can_be_pickled(self) -> None:
        error = TooLargeForBudgetError("no", dimension="tokens", needed=2.0, limit=1.0)
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is TooLargeForBudgetError
        assert (str(copy), copy.dimension, copy.needed, copy.limit) == ("no", "tokens", 2.0, 1.0)


def test_a_node_goes_on_with_the_others_in_every_session() -> None:
    async def program(llm: LLM, _: Run) -> Any:
        shared: dict[str, Any] = {"texts": TEXTS}
        await Answers(llm, on_error="collect", max_retries=3, wait=60).run_async(shared)
        return shared["out"]

    for session in range(2):
        provider = ScriptedProvider()
        out = in_run(partial(program, LLM(provider, **OPTIONS)), name="node", budget=Budget(usd=3))
        assert [each for each in out if each != "ok"] == [out[3]]
        assert isinstance(out[3], Failure)
        assert isinstance(out[3].error, TooLargeForBudgetError)
        assert len(provider.requests) == (0 if session else 9)


def test_a_map_goes_on_with_the_others() -> None:
    llm = LLM(ScriptedProvider(), **OPTIONS)
    with Run("map", budget=Budget(usd=3)):
        result = llm.map_sync(TEXTS)
    assert result.texts(default=None) == ["ok"] * 3 + [None] + ["ok"] * 6
    (failed,) = result.failed
    assert (failed.index, type(failed.error)) == (3, TooLargeForBudgetError)


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("mode", ["parallel", "batch"])
def test_over_http_live_and_in_batch_jobs(mode: Any, dialect: str) -> None:
    ways = BatchSettings(**FAST)
    with serve_in_thread(SimulatorSettings(latency=0.0, answer="echo", batch=ways)) as sim:
        llm = llm_at(sim, dialect, price=CENT_A_TOKEN)
        texts = [*(f"text {n}" for n in range(3)), HUGE, "one", "two"]
        with Run("both", budget=Budget(usd=4), mode=mode):
            result = llm.map_sync(texts)
        (failed,) = result.failed
        assert (failed.index, type(failed.error)) == (3, TooLargeForBudgetError)
        assert sum(text is not None for text in result.texts(default=None)) == 5
