"""Running again asks nothing twice: whatever asks, in whatever order, as often as it asks."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llmflow import (
    LLM,
    AsyncBatchNode,
    AsyncFlow,
    AsyncNode,
    AsyncParallelBatchFlow,
    AsyncParallelBatchNode,
    BatchNode,
    Flow,
    Node,
    Quota,
    Retry,
)
from llmflow.runs.run import Run, current_run
from llmflow.simulator import Latency, SimulatorSettings, serve_in_thread
from llmflow.testing import ScriptedProvider, VirtualLoop
from llmflow.types import Request
from tests.runs.asking import Program, asked, in_run, numbered, play

ITEMS = [f"text {number}" for number in range(7)]


# --- whatever asks ---------------------------------------------------------------------


async def one_call(llm: LLM) -> list[str]:
    return [await llm("text 0")]


async def calls_at_once(llm: LLM) -> list[str]:
    return list(await asyncio.gather(*map(llm, ITEMS)))


async def many_mapped(llm: LLM) -> list[str]:
    results = await llm.map(ITEMS)
    return [str(text) for text in results.texts()]


async def many_streamed(llm: LLM) -> list[str]:
    return sorted([result.text async for result in llm.map(ITEMS)])


class Asks(AsyncNode):
    """Asks for one text, and leaves the answer in the store."""

    def __init__(self, llm: LLM, key: str, **options: Any) -> None:
        super().__init__(**options)
        self.llm, self.key = llm, key

    async def exec_async(self, prep_res: Any, /) -> Any:
        return await self.llm(self.key)

    async def post_async(self, shared: Any, prep_res: Any, exec_res: Any, /) -> Any:
        shared.setdefault("answers", {})[self.key + self.params.get("n", "")] = exec_res


class AsksForItsParameter(Asks):
    async def prep_async(self, shared: Any, /) -> Any:
        return self.key + self.params["n"]

    async def exec_async(self, prep_res: Any, /) -> Any:
        return await self.llm(prep_res)


class AsksInAThread(Node):
    def __init__(self, llm: LLM, key: str) -> None:
        super().__init__()
        self.llm, self.key = llm, key

    def exec(self, prep_res: Any, /) -> Any:
        return self.llm.run(self.key)

    def post(self, shared: Any, prep_res: Any, exec_res: Any, /) -> Any:
        shared.setdefault("answers", {})[self.key] = exec_res


def many_of(kind: type[AsyncNode]) -> Program:
    """Return a program that asks for all texts through a node of this kind."""

    class Many(kind):  # type: ignore[misc, valid-type]
        async def prep_async(self, shared: Any) -> Any:
            return ITEMS

        async def exec_async(self, text: str) -> Any:
            return await shared_llm[0](text)

        async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
            shared["out"] = exec_res

    shared_llm: list[LLM] = []

    async def program(llm: LLM) -> Any:
        shared_llm[:] = [llm]
        shared: dict[str, Any] = {}
        await Many().run_async(shared)
        return shared["out"]

    return program


async def a_flow_in_a_flow(llm: LLM) -> Any:
    first, second, third = Asks(llm, "a"), Asks(llm, "b"), AsksInAThread(llm, "c")
    inner = AsyncFlow(start=second)
    _ = second >> third
    _ = first >> inner
    shared: dict[str, Any] = {}
    await AsyncFlow(start=first).run_async(shared)
    return shared["answers"]


async def a_parallel_batch_flow(llm: LLM) -> Any:
    class Fan(AsyncParallelBatchFlow):
        async def prep_async(self, shared: Any) -> Any:
            return [{"n": str(number)} for number in range(5)]

    first, second = AsksForItsParameter(llm, "a"), AsksForItsParameter(llm, "b")
    _ = first >> second
    shared: dict[str, Any] = {}
    await Fan(start=first, concurrency_limit=3).run_async(shared)
    return shared["answers"]


def a_sync_call(llm: LLM) -> list[str]:
    return [llm.run("text 0"), llm.complete_sync("text 1").text]


def a_sync_flow(llm: LLM) -> Any:
    class Many(BatchNode):
        def prep(self, shared: Any) -> Any:
            return ITEMS

        def exec(self, text: str) -> Any:
            return llm.run(text)

        def post(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
            shared["out"] = exec_res

    shared: dict[str, Any] = {}
    node = AsksInAThread(llm, "first")
    _ = node >> Many()
    Flow(start=node).run(shared)
    return shared


def mapped_in_the_sync_way(llm: LLM) -> Any:
    return [str(text) for text in llm.map_sync(ITEMS).texts()]


def threads_of_a_script(llm: LLM) -> Any:
    with ThreadPoolExecutor(4) as threads:
        return sorted(threads.map(llm.run, ITEMS))


async def a_thread_of_asyncio(llm: LLM) -> Any:
    return [await asyncio.to_thread(llm.run, text) for text in ITEMS]


PROGRAMS = [
    one_call,
    calls_at_once,
    many_mapped,
    many_streamed,
    a_flow_in_a_flow,
    a_parallel_batch_flow,
    a_sync_call,
    a_sync_flow,
    mapped_in_the_sync_way,
    threads_of_a_script,
    a_thread_of_asyncio,
    pytest.param(many_of(AsyncBatchNode), id="batch_node"),
    pytest.param(many_of(AsyncParallelBatchNode), id="parallel_node"),
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_second_run_of_the_program_asks_nothing_and_says_the_same(program: Program) -> None:
    first = numbered()
    results = play(program, LLM(first))
    assert first.requests
    second = numbered()
    assert play(program, LLM(second)) == results
    assert second.requests == []


def test_an_llm_with_a_run_of_its_own_needs_no_block() -> None:
    first, second = numbered(), numbered()
    with Run("run") as run:
        pass
    run = Run("other")
    run.open()
    text = LLM(first, journal=run).run("Hi")
    run.close()
    again = Run("other")
    again.open()
    assert LLM(second, journal=again).run("Hi") == text
    again.close()
    assert len(first.requests) == 1
    assert second.requests == []


def test_threads_that_a_script_starts_belong_to_its_run_and_only_while_it_lasts() -> None:
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(current_run).result() is None
        with Run("outer") as outer:
            assert threads.submit(current_run).result() is outer
            with Run("inner") as inner:
                assert threads.submit(current_run).result() is inner
            assert threads.submit(current_run).result() is outer
        assert threads.submit(current_run).result() is None


def test_a_run_inside_an_event_loop_is_not_that_of_other_threads() -> None:
    """They may well serve somebody else: a web server's other requests, say."""

    async def main(run: Run) -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as threads:
            assert await loop.run_in_executor(threads, current_run) is None
            context = contextvars.copy_context()
            assert await loop.run_in_executor(threads, context.run, current_run) is run

    in_run(main)


# --- what changed ----------------------------------------------------------------------


def test_one_changed_item_is_the_only_one_that_is_asked() -> None:
    play(lambda llm: llm.map_sync(ITEMS).texts(), LLM(numbered()))
    second = numbered()
    changed = [*ITEMS[:3], "another text", *ITEMS[4:]]
    play(lambda llm: llm.map_sync(changed).texts(), LLM(second))
    assert asked(second) == ["another text"]


def test_an_added_item_is_asked_and_a_missing_one_is_no_matter() -> None:
    play(lambda llm: llm.map_sync(ITEMS).texts(), LLM(numbered()))
    second = numbered()
    play(lambda llm: llm.map_sync([*ITEMS[2:], "new"]).texts(), LLM(second))
    assert asked(second) == ["new"]


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.5},
        {"temperature": 0},
        {"max_tokens": 9},
        {"system": "Be brief."},
        {"options": {"top_p": 0.5}},
        {"options": {"seed": 1}},
    ],
    ids=str,
)
def test_a_changed_parameter_asks_anew_and_the_former_one_nothing(change: dict[str, Any]) -> None:
    play(a_sync_call, LLM(numbered()))
    second, third, fourth = numbered(), numbered(), numbered()
    play(a_sync_call, LLM(second, **change))
    assert len(second.requests) == 2
    play(a_sync_call, LLM(third, **change))
    play(a_sync_call, LLM(fourth))
    assert (third.requests, fourth.requests) == ([], [])


def test_a_parameter_of_the_call_is_as_good_as_one_of_the_llm() -> None:
    play(lambda llm: llm.run("Hi", top_p=0.5, seed=1, max_tokens=5), LLM(numbered()))
    second = numbered()
    options = {"seed": 1, "top_p": 0.5}
    play(lambda llm: llm.run("Hi", max_tokens=5), LLM(second, options=options))
    assert second.requests == []


def test_another_model_asks_anew() -> None:
    play(one_call, LLM(numbered(model="small")))
    second = numbered(model="large")
    play(one_call, LLM(second))
    assert len(second.requests) == 1


def test_what_does_not_change_the_answer_asks_nothing() -> None:
    play(calls_at_once, LLM(numbered()))
    second = numbered()
    llm = LLM(
        second,
        quota=Quota(rpm=3),
        retry=Retry(attempts=2),
        timeout=5.0,
    )
    play(calls_at_once, llm)
    assert second.requests == []


def test_over_http_address_and_body_count_and_key_and_quota_do_not() -> None:
    settings = SimulatorSettings(latency=Latency(seconds=0.001))
    with serve_in_thread(settings) as one, serve_in_thread(settings) as other:

        def ask(url: str, *, key: str = "sk-first-key", model: str = "m", **options: Any) -> Any:
            llm = LLM(f"openai/{model}", base_url=url, api_key=key, **options)
            return play(calls_at_once, llm)

        results = ask(one.url)
        assert one.stats().answered == len(ITEMS)
        assert ask(one.url, key="sk-second-key", quota=Quota(rpm=60_000), timeout=9.0) == results
        assert one.stats().received == len(ITEMS)
        ask(other.url)
        assert other.stats().answered == len(ITEMS)
        ask(one.url, max_tokens=50)
        ask(one.url, model="another")
        assert one.stats().answered == 3 * len(ITEMS)


def test_over_http_an_answer_from_the_journal_equals_the_first_one() -> None:
    with serve_in_thread(SimulatorSettings(latency=Latency(seconds=0.001))) as simulator:
        llm = LLM("openai/m", base_url=simulator.url, api_key="sk-a-key")
        first = play(lambda llm: llm.complete_sync("Summarize: One. Two."), llm)
        again = play(lambda llm: llm.complete_sync("Summarize: One. Two."), llm)
    assert (first.source, again.source) == ("provider", "journal")
    assert again == first
    assert again.raw == first.raw
    assert first.raw


# --- equal questions -------------------------------------------------------------------


def test_equal_prompts_get_answers_of_their_own_and_the_same_ones_again() -> None:
    def program(llm: LLM) -> Any:
        return llm.map_sync(["Hi"] * 20, temperature=1.0).texts()

    first = play(program, LLM(numbered()))
    assert len(set(first)) == 20
    second = numbered()
    assert Counter(play(program, LLM(second))) == Counter(first)
    assert second.requests == []


def test_more_equal_prompts_than_before_ask_for_the_surplus_only() -> None:
    first = play(lambda llm: llm.map_sync(["Hi"] * 5).texts(), LLM(numbered()))
    second = numbered()
    more = play(lambda llm: llm.map_sync(["Hi"] * 8).texts(), LLM(second))
    assert len(second.requests) == 3
    assert not Counter(first) - Counter(more)


class Picky(AsyncParallelBatchNode):
    """Rejects the first answers to each item, and asks again."""

    def __init__(self, llm: LLM, rejected: int, **options: Any) -> None:
        super().__init__(max_retries=rejected + 1, **options)
        self.llm, self.rejected = llm, rejected

    async def prep_async(self, shared: Any, /) -> Any:
        return shared["texts"]

    async def exec_async(self, prep_res: Any, /) -> Any:
        answer = await self.llm(prep_res)
        self.seen.append(answer)
        if self.cur_retry < self.rejected:
            raise ValueError("not good enough")
        return answer

    async def post_async(self, shared: Any, prep_res: Any, exec_res: Any, /) -> Any:
        shared["out"] = exec_res

    seen: list[str]


def picky(rejected: int, texts: list[str]) -> Program:
    async def program(llm: LLM) -> Any:
        node = Picky(llm, rejected)
        node.seen = []
        shared: dict[str, Any] = {"texts": texts}
        await node.run_async(shared)
        return node.seen, shared["out"]

    return program


def test_a_retry_of_a_node_gets_its_second_answer_again_in_order() -> None:
    first = play(picky(2, ["Hi"]), LLM(numbered()))
    assert first == (["1. Hi", "2. Hi", "3. Hi"], ["3. Hi"])
    second = numbered()
    assert play(picky(2, ["Hi"]), LLM(second)) == first
    assert second.requests == []


def test_retries_of_many_items_are_replayed_each_with_its_own() -> None:
    _, out = play(picky(1, ITEMS), LLM(numbered()))
    second = numbered()
    _, again = play(picky(1, ITEMS), LLM(second))
    assert again == out
    assert second.requests == []


def test_one_more_rejection_than_before_asks_once_more_for_each_item() -> None:
    play(picky(1, ITEMS), LLM(numbered()))
    second = numbered()
    play(picky(2, ITEMS), LLM(second))
    assert asked(second) == ITEMS


def test_an_attempt_that_ran_out_of_time_is_no_answer_that_is_missing() -> None:
    """The second attempt was answered: replayed, it is the first question's answer."""

    class Patient(AsyncNode):
        async def exec_async(self, prep_res: Any) -> Any:
            return await llm("Hi")

        async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
            shared["out"] = exec_res

    def program(provider: ScriptedProvider, timeout: float) -> Any:
        async def main() -> Any:
            shared: dict[str, Any] = {}
            async with Run("run"):
                await Patient(max_retries=3, timeout=timeout).run_async(shared)
            return shared["out"]

        nonlocal llm
        llm = LLM(provider)
        return asyncio.run(main())

    class SlowAtFirst(ScriptedProvider):
        async def complete(self, request: Request, *, timeout: float) -> Any:
            self._latency = 30.0 if not self.requests else 0.0
            return await super().complete(request, timeout=timeout)

    llm: LLM
    first = SlowAtFirst(default="late")
    assert program(first, 0.2) == "late"
    assert len(first.requests) == 2
    second = numbered()
    assert program(second, 30.0) == "late"
    assert second.requests == []


# --- half done -------------------------------------------------------------------------


def test_a_flow_that_failed_in_the_middle_asks_only_what_comes_after() -> None:
    def program(works: bool) -> Program:
        class Second(Asks):
            async def post_async(self, shared: Any, prep_res: Any, exec_res: Any, /) -> Any:
                if not works:
                    raise RuntimeError("a mistake of the program")
                await super().post_async(shared, prep_res, exec_res)

        async def main(llm: LLM) -> Any:
            first, third = Asks(llm, "first"), Asks(llm, "third")
            _ = first >> Second(llm, "second") >> third
            shared: dict[str, Any] = {}
            await AsyncFlow(start=first).run_async(shared)
            return shared["answers"]

        return main

    one = numbered()
    with pytest.raises(RuntimeError, match="a mistake"):
        play(program(works=False), LLM(one))
    assert asked(one) == ["first", "second"]
    two = numbered()
    answers = play(program(works=True), LLM(two))
    assert asked(two) == ["third"]
    assert answers == {"first": "1. first", "second": "2. second", "third": "1. third"}


@pytest.mark.parametrize("seed", range(5))
def test_wherever_it_is_cancelled_nothing_that_was_given_out_is_asked_again(seed: int) -> None:
    rng = random.Random(seed)
    texts = [f"text {number % 40}" for number in range(60)]
    given_out: list[Counter[str]] = []

    async def session(llm: LLM, seconds: float | None) -> None:
        out: Counter[str] = Counter()
        given_out.append(out)

        async def ask(text: str) -> None:
            out[await llm(text)] += 1

        async with asyncio.timeout(seconds), Run("run"), asyncio.TaskGroup() as group:
            for text in texts:
                group.create_task(ask(text))
                await asyncio.sleep(0.01)

    provider = numbered(latency=0.3)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        for _ in range(4):
            llm = LLM(provider)
            with pytest.raises(TimeoutError):
                runner.run(session(llm, rng.uniform(0.05, 0.85)))
        runner.run(session(LLM(provider), None))
    whole = given_out[-1]
    assert sum(whole.values()) == len(texts)
    for part in given_out:
        assert not part - whole, "an answer that was given out is given out again"
