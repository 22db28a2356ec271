"""A budget ends nodes, flows and maps where it is used up, keeps what was paid, and goes on."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from llmflow import (
    LLM,
    AsyncBatchNode,
    AsyncFlow,
    AsyncNode,
    AsyncParallelBatchFlow,
    BatchNode,
    Budget,
    Failure,
    NotRun,
    Price,
    Run,
    partial_results,
)
from llmflow.errors import (
    AuthenticationError,
    BudgetExceededError,
    ConfigurationError,
    ContentFilterError,
)
from llmflow.items.runner import OnError
from llmflow.runs.catalog import find_run
from llmflow.simulator import Latency, SimulatorSettings, serve_in_thread
from llmflow.testing import ScriptedProvider, VirtualLoop
from llmflow.types import Request, Response, Usage
from tests.runs.asking import Answers, Program, in_run, numbered, play

DOLLAR_A_TOKEN = Price(input=1_000_000, output=1_000_000)
TEXTS = [f"text {number:03}" for number in range(50)]


def metered(*, tokens: int = 10, latency: float = 0.0) -> ScriptedProvider:
    """Return a provider whose every answer has taken so many tokens in all."""

    def answer(request: Request) -> Response:
        return Response(
            text=f"answer to {request.messages[-1]['content']}",
            usage=Usage(input_tokens=tokens - tokens // 2, output_tokens=tokens // 2),
            finish_reason="stop",
            model="model",
            provider="scripted",
        )

    return ScriptedProvider(default=answer, latency=latency)


def answer_all(llm: LLM, texts: list[str] = TEXTS, **options: Any) -> Any:
    async def program(_: Any = None) -> Any:
        shared: dict[str, Any] = {"texts": texts}
        await Answers(llm, max_tokens=5, **options).run_async(shared)
        return shared["out"]

    return program


# --- where it ends ---------------------------------------------------------------------


@pytest.mark.parametrize("on_error", ["raise", "collect"])
def test_a_node_ends_with_the_budget_and_not_with_a_failure_for_each_item(
    on_error: OnError,
) -> None:
    provider = metered(latency=0.01)
    llm = LLM(provider)
    node = answer_all(llm, concurrency_limit=4, on_error=on_error)
    with pytest.raises(BudgetExceededError) as caught:
        play(node, llm, budget=Budget(requests=10))
    assert len(provider.requests) == 10
    results = partial_results(caught.value)
    assert results is not None
    answered = [each for each in results if isinstance(each, str)]
    failed = [each for each in results if isinstance(each, Failure)]
    assert len(answered) == 10
    assert 1 <= len(failed) <= 4
    assert results.count(NotRun) == len(TEXTS) - 10 - len(failed)
    assert len(results) == len(TEXTS)


@pytest.mark.parametrize("on_error", ["raise", "collect"])
def test_what_is_under_way_is_paid_and_is_not_cancelled(on_error: OnError) -> None:
    """The budget ends while nine calls are waited for: all of them are answered and kept."""
    provider = metered(latency=0.05)
    llm = LLM(provider)
    with pytest.raises(BudgetExceededError):
        play(answer_all(llm, on_error=on_error), llm, budget=Budget(requests=9))
    assert find_run("run").totals.answers == 9
    second = metered()
    play(answer_all(LLM(second)), LLM(second))
    assert len(second.requests) == len(TEXTS) - 9


def test_a_source_without_an_end_is_not_read_on() -> None:
    read = 0

    class Endless(Answers):
        async def prep_async(self, shared: Any, /) -> Any:
            async def source() -> Any:
                nonlocal read
                while True:
                    read += 1
                    yield f"text {read}"
                    await asyncio.sleep(0.001)

            return source()

    llm = LLM(metered())
    with pytest.raises(BudgetExceededError):
        play(
            lambda _: asyncio.run(
                Endless(llm, concurrency_limit=5, on_error="collect").run_async({})
            ),
            llm,
            budget=Budget(requests=20),
        )
    assert read < 60


def test_a_source_that_is_waited_for_does_not_hold_up_the_end() -> None:
    async def program(_: LLM) -> Any:
        class Slow(Answers):
            async def prep_async(self, shared: Any, /) -> Any:
                async def source() -> Any:
                    yield "a"
                    yield "b"
                    await asyncio.sleep(3600)

                return source()

        async with asyncio.timeout(10):
            await Slow(llm, on_error="collect").run_async({})

    llm = LLM(metered())
    with pytest.raises(BudgetExceededError):
        play(program, llm, budget=Budget(requests=1))


class InTurn(BatchNode):
    def __init__(self, llm: LLM) -> None:
        super().__init__(on_error="collect")
        self.llm = llm

    def prep(self, shared: Any, /) -> Any:
        return TEXTS

    def exec(self, prep_res: Any, /) -> Any:
        return self.llm.run(prep_res)


class AsyncInTurn(AsyncBatchNode):
    def __init__(self, llm: LLM) -> None:
        super().__init__(on_error="collect")
        self.llm = llm

    async def prep_async(self, shared: Any, /) -> Any:
        return TEXTS

    async def exec_async(self, prep_res: Any, /) -> Any:
        return await self.llm(prep_res)


async def in_turn_and_async(llm: LLM) -> None:
    await AsyncInTurn(llm).run_async({})


async def in_turn_and_in_a_thread(llm: LLM) -> None:
    await AsyncFlow(start=InTurn(llm)).run_async({})


def in_turn_and_sync(llm: LLM) -> None:
    InTurn(llm).run({})


@pytest.mark.parametrize("program", [in_turn_and_async, in_turn_and_in_a_thread, in_turn_and_sync])
def test_nodes_that_go_through_items_in_turn_end_there_too(program: Program) -> None:
    provider = metered()
    with pytest.raises(BudgetExceededError) as caught:
        play(program, LLM(provider), budget=Budget(requests=3))
    assert len(provider.requests) == 3
    results = partial_results(caught.value)
    assert results is not None
    assert [type(each) for each in results[:4]] == [str, str, str, Failure]


def test_a_flow_of_many_branches_ends_there_too() -> None:
    class Ask(AsyncNode):
        async def exec_async(self, prep_res: Any) -> Any:
            return await llm(self.params["text"])

    class Fan(AsyncParallelBatchFlow):
        async def prep_async(self, shared: Any) -> Any:
            return [{"text": text} for text in TEXTS]

    async def program(_: LLM) -> Any:
        fan = Fan(start=AsyncFlow(start=Ask()), concurrency_limit=5, on_error="collect")
        await fan.run_async({})

    provider = metered(latency=0.005)
    llm = LLM(provider)
    with pytest.raises(BudgetExceededError):
        play(program, llm, budget=Budget(requests=12))
    assert len(provider.requests) == 12


def test_a_node_does_not_wait_to_try_again_what_the_budget_refuses() -> None:
    calls = 0

    class Patient(AsyncNode):
        async def exec_async(self, prep_res: Any) -> Any:
            nonlocal calls
            calls += 1
            return await llm("Hi")

    async def program(_: LLM) -> Any:
        node = Patient(max_retries=5, wait=3600)
        await node.run_async({})
        await node.run_async({})

    llm = LLM(metered())
    with pytest.raises(BudgetExceededError):
        play(program, llm, budget=Budget(requests=1))
    assert calls == 2


def test_a_fallback_may_still_answer() -> None:
    class Careful(AsyncNode):
        async def exec_async(self, prep_res: Any) -> Any:
            return [await llm("a"), await llm("b")]

        async def exec_fallback_async(self, prep_res: Any, exc: Exception) -> Any:
            return type(exc).__name__

        async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
            shared["out"] = exec_res

    async def program(_: LLM) -> Any:
        shared: dict[str, Any] = {}
        await Careful().run_async(shared)
        return shared["out"]

    llm = LLM(metered())
    assert play(program, llm, budget=Budget(requests=1)) == "BudgetExceededError"


def test_a_wrong_key_ends_a_node_that_collects_with_what_was_answered() -> None:
    replies = ["one", "two", *[AuthenticationError("wrong key")] * 2]
    llm = LLM(ScriptedProvider(replies))
    with pytest.raises(AuthenticationError) as caught:
        play(answer_all(llm, concurrency_limit=1, on_error="collect"), llm)
    results = partial_results(caught.value)
    assert results is not None
    assert results[:2] == ["one", "two"]
    assert results[3:] == [NotRun] * 47


def test_an_ordinary_failure_is_collected_as_before() -> None:
    llm = LLM(ScriptedProvider([ContentFilterError("no")], default="fine"))
    out = play(answer_all(llm, concurrency_limit=1, on_error="collect"), llm)
    assert isinstance(out[0], Failure)
    assert out[1:] == ["fine"] * 49


# --- how much is spent -----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_dollars_are_never_overshot_where_answers_keep_to_their_bound(seed: int) -> None:
    rng = random.Random(seed)

    def answer(request: Request) -> Response:
        usage = Usage(input_tokens=rng.randint(1, 6), output_tokens=rng.randint(0, 5))
        return Response(
            text="fine", usage=usage, finish_reason="stop", model="model", provider="scripted"
        )

    limit = rng.uniform(30, 200)
    provider = ScriptedProvider(default=answer, latency=0.01)
    llm = LLM(provider, price=DOLLAR_A_TOKEN)

    async def main(run: Run) -> Any:
        with pytest.raises(BudgetExceededError):
            await answer_all(llm, [f"t{n}" for n in range(200)])()
        return run.statistics()

    done = in_run(main, budget=Budget(usd=limit))
    assert done.cost is not None
    assert done.cost <= limit
    # And it was used: less is left than one call may come to.
    assert done.cost > limit - 15


def test_what_settles_above_its_reserve_is_all_that_overshoots() -> None:
    llm = LLM(metered(tokens=100, latency=0.01), price=DOLLAR_A_TOKEN)

    async def main(run: Run) -> Any:
        with pytest.raises(BudgetExceededError):
            await answer_all(llm, concurrency_limit=3)()
        return run.statistics()

    # At most three are under way, and each settles far above what was reserved for it.
    done = in_run(main, budget=Budget(usd=150))
    assert done.cost == pytest.approx(300)


def test_tokens_end_a_run_as_dollars_do() -> None:
    provider = metered(tokens=10)
    llm = LLM(provider)
    with pytest.raises(BudgetExceededError, match="token"):
        play(answer_all(llm, concurrency_limit=1), llm, budget=Budget(tokens=105))
    used = 10 * len(provider.requests)
    assert 85 <= used <= 105


def test_seconds_end_the_asking_and_not_what_is_under_way() -> None:
    provider = metered(latency=4.0)

    async def main() -> Any:
        async with Run(budget=Budget(seconds=10)) as run:
            with pytest.raises(BudgetExceededError):
                await answer_all(LLM(provider), concurrency_limit=2)()
            return run.statistics(), asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        done, seconds = runner.run(main())
    assert (done.answered, seconds) == (6, 12.0)


def test_attempts_that_failed_count_as_requests() -> None:
    provider = ScriptedProvider(default=ContentFilterError("no"))
    llm = LLM(provider)
    with pytest.raises(BudgetExceededError):
        play(
            answer_all(llm, concurrency_limit=1, on_error="collect"), llm, budget=Budget(requests=4)
        )
    assert len(provider.requests) == 4


# --- going on --------------------------------------------------------------------------


def test_running_again_with_the_same_budget_asks_nothing_more() -> None:
    for sent in (10, 0):
        provider = metered()
        llm = LLM(provider)
        with pytest.raises(BudgetExceededError):
            play(answer_all(llm, concurrency_limit=2), llm, budget=Budget(requests=10))
        assert len(provider.requests) == sent


def test_a_larger_budget_goes_on_where_the_smaller_one_ended() -> None:
    sent = []
    for requests in (10, 25, 1000):
        provider = metered()
        llm = LLM(provider)
        try:
            out = play(answer_all(llm, concurrency_limit=3), llm, budget=Budget(requests=requests))
        except BudgetExceededError:
            out = None
        sent.append(len(provider.requests))
    assert sent == [10, 15, 25]
    assert out == [f"answer to {text}" for text in TEXTS]


def test_what_earlier_sessions_spent_is_spent() -> None:
    llm = LLM(metered(tokens=10), price=DOLLAR_A_TOKEN)
    play(answer_all(llm, TEXTS[:5]), llm)

    async def main(run: Run) -> Any:
        assert run.ledger is not None
        return run.ledger.spent

    spent = in_run(main, budget=Budget(usd=1000))
    assert spent == (pytest.approx(50), 50, 5)


def test_what_is_answered_from_the_journal_costs_nothing_and_needs_no_price() -> None:
    play(answer_all(LLM(metered())), LLM(metered()))
    provider = metered()
    play(answer_all(LLM(provider)), LLM(provider), budget=Budget(usd=0.01))
    assert provider.requests == []


def test_a_run_without_a_name_keeps_a_budget_too_and_no_file() -> None:
    provider = metered()
    llm = LLM(provider)
    with pytest.raises(BudgetExceededError):
        play(answer_all(llm, concurrency_limit=1), llm, None, budget=Budget(requests=3))
    assert len(provider.requests) == 3


def test_a_run_whose_budget_is_used_up_is_stopped_and_not_complete() -> None:
    llm = LLM(metered())

    async def swallows(_: LLM) -> None:
        with pytest.raises(BudgetExceededError):
            await answer_all(llm)()

    play(swallows, llm, budget=Budget(requests=3))
    summary = find_run("run")
    assert summary.state == "stopped"
    assert "requests" in str(summary.reason)


# --- prices ----------------------------------------------------------------------------


@pytest.mark.parametrize("on_error", ["raise", "collect"])
def test_dollars_without_a_price_are_refused_before_anything_is_sent(on_error: OnError) -> None:
    provider = metered()
    llm = LLM(provider)
    with pytest.raises(ConfigurationError, match="price"):
        play(answer_all(llm, on_error=on_error), llm, budget=Budget(usd=5))
    assert provider.requests == []


def test_tokens_need_no_price() -> None:
    llm = LLM(metered())
    assert len(play(answer_all(llm), llm, budget=Budget(tokens="1M"))) == len(TEXTS)


def test_costs_are_in_answers_in_statistics_and_in_the_journal() -> None:
    llm = LLM(metered(tokens=10), price=Price(input=1, output=3))

    async def main(run: Run) -> Any:
        return await llm.complete("a"), await llm.complete("b"), run.statistics()

    one, _, done = in_run(main)
    assert one.cost == pytest.approx(20e-6)
    assert done.cost == pytest.approx(40e-6)
    assert (done.input_tokens, done.output_tokens) == (10, 10)
    again, _, replayed = in_run(main)
    assert again.cost == one.cost
    assert (replayed.replayed, replayed.cost) == (2, None)
    assert find_run("run").totals.cost == pytest.approx(40e-6)


def test_costs_are_in_answers_outside_of_runs_too() -> None:
    llm = LLM(metered(tokens=10), price=Price(input=1, output=3))
    assert llm.complete_sync("a").cost == pytest.approx(20e-6)


def test_over_http_a_known_price_is_enough() -> None:
    with serve_in_thread(SimulatorSettings(latency=Latency(seconds=0.002))) as simulator:
        llm = LLM(
            "openai/priced", base_url=simulator.url, api_key="sk-x", price=Price(input=1, output=2)
        )

        async def main(run: Run) -> Any:
            with pytest.raises(BudgetExceededError):
                await answer_all(llm)()
            return run.statistics()

        done = in_run(main, budget=Budget(usd=0.0005))
        stats = simulator.stats()
    assert done.cost is not None
    assert 0.0004 < done.cost <= 0.0005
    assert stats.answered == done.answered
    spent = (stats.input_tokens + 2 * stats.output_tokens) / 1e6
    assert done.cost == pytest.approx(spent)


def test_a_budget_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Budget\("):
        Run("run", budget=5)  # type: ignore[arg-type]


def test_numbered_answers_are_kept_as_far_as_the_budget_went() -> None:
    """Even where nothing looks at the partial results: they are in the journal."""
    first = numbered()
    with pytest.raises(BudgetExceededError):
        play(lambda llm: llm.map_sync(TEXTS), LLM(first), budget=Budget(requests=7))
    second = numbered()
    results = play(lambda llm: llm.map_sync(TEXTS), LLM(second))
    assert len(second.requests) == len(TEXTS) - 7
    assert all(results.texts())
