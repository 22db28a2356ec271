"""The asynchronous map: what stops it, what holds it up, and what its calls see."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import pickle
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from llmflow import LLM, AsyncParallelBatchNode, Quota, partial_results
from llmflow.errors import (
    AuthenticationError,
    BillingError,
    ConfigurationError,
    InputError,
    ModelNotFoundError,
    ProviderError,
    UsageError,
)
from llmflow.items.runner import DRAIN_SECONDS
from llmflow.mapping.async_map import Answers
from llmflow.mapping.engine import window_of
from llmflow.mapping.result import Result
from llmflow.testing import ScriptedProvider
from llmflow.types import Request, Response
from tests.mapping.asking import Asked, NoBudget, Read, Refused, mapped, others, response

pytestmark = pytest.mark.virtual_time


def echo(request: Request) -> str:
    return str(request.messages[-1]["content"]).upper()


def shouting() -> LLM:
    return LLM(ScriptedProvider(default=echo))


async def take(answers: Answers[Any, Any], out: list[int]) -> None:
    """Note the results' indexes, also if there is an error in the end."""
    async for result in answers:
        out.append(result.index)  # noqa: PERF401 - a comprehension would lose them


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_template_is_filled_by_texts_and_by_dicts() -> None:
    out = await shouting().map(["a", {"text": "b"}, 3], prompt="say {text}")
    assert out.texts() == ["SAY A", "SAY B", "SAY 3"]
    assert [each.item for each in out] == ["a", {"text": "b"}, 3]


async def test_a_function_makes_texts_or_messages() -> None:
    llm = shouting()
    out = await llm.map([1, 2], prompt=lambda number: f"number {number}")
    assert out.texts() == ["NUMBER 1", "NUMBER 2"]
    chat = [{"role": "user", "content": "hi"}]
    assert (await llm.map([chat])).texts() == ["HI"]
    assert (await llm.map([1], prompt=lambda _: chat)).texts() == ["HI"]


async def test_options_reach_every_call() -> None:
    provider = ScriptedProvider()
    await LLM(provider).map(["a", "b"], system="Be brief.", max_tokens=7, temperature=0, top_p=0.5)
    assert [
        (each.system, each.max_tokens, each.temperature, each.options) for each in provider.requests
    ] == [("Be brief.", 7, 0, {"top_p": 0.5})] * 2


async def test_an_item_that_makes_no_prompt_fails_alone() -> None:
    llm = shouting()
    items: list[Any] = [{"text": "a"}, {"other": "b"}, {"text": None}]
    out = await llm.map(items, prompt="{text}")
    assert out.texts(default=None) == ["A", None, None]
    assert [str(each.error) for each in out.failed] == [
        "row 1 has no field 'text'; it has 'other'",
        "row 2: field 'text' is null",
    ]
    with pytest.raises(InputError, match="row 1 has no field"):
        out.texts()
    with pytest.raises(InputError, match="row 1 has no field"):
        _ = out[1].text

    out = await llm.map(items, prompt=lambda row: row["text"])
    assert str(out[1].error) == "the prompt function failed for item 1: KeyError: 'text'"
    assert isinstance(out[1].error.__cause__, KeyError)  # type: ignore[union-attr]
    out = await llm.map(["a", {"text": "b"}, None, "c"])  # type: ignore[list-item]
    assert [each.index for each in out.failed] == [1, 2]
    assert "item 1 is a dict and no prompt" in str(out[1].error)


async def test_a_text_cannot_fill_two_fields() -> None:
    (failed,) = await shouting().map(["a"], prompt="{title}: {text}")
    assert "item 0 is a text and no dict" in str(failed.error)
    (failed,) = await shouting().map(["a"], prompt="{user.name}")
    assert "cannot fill the prompt's fields 'user.name'" in str(failed.error)


@pytest.mark.parametrize(
    ("items", "settings", "message"),
    [
        ("one text", {}, "whose items are its characters"),
        ({"text": "a"}, {}, "whose items are its keys"),
        (7, {}, "something to iterate over; got int"),
        ([], {"prompt": "no field"}, "has no {field}"),
        ([], {"prompt": 7}, "prompt must be a text"),
        ([], {"concurrency": 0}, "concurrency must be at least 1"),
        ([], {"concurrency": True}, "concurrency must be at least 1"),
        ([], {"on_error": "ignore"}, "on_error must be"),
    ],
)
async def test_mistakes_are_refused_at_once(
    items: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        shouting().map(items, **settings)


async def test_an_async_prompt_function_is_refused_at_once() -> None:
    async def prompt(item: str) -> str:
        return item

    with pytest.raises(UsageError, match="plain function"):
        shouting().map(["a"], prompt=prompt)  # type: ignore[call-overload]


def test_a_wrong_option_is_refused_before_anything_is_sent() -> None:
    provider = ScriptedProvider()
    with pytest.raises(ConfigurationError, match="max_tokens"):
        LLM(provider).map(["a"] * 1000, max_tokens=-1)
    assert provider.requests == []


async def test_a_map_is_used_once() -> None:
    answers = mapped(Asked(), [(0, None, None)])
    await answers
    with pytest.raises(UsageError, match="used already"):
        await answers
    with pytest.raises(UsageError, match="used already"):
        _ = [each async for each in answers]


async def test_a_map_that_is_not_used_reads_nothing_and_warns_of_nothing() -> None:
    read = Read([(0, None, None)], "async")
    answers = mapped(Asked(), read.items)
    assert answers.counts.read == 0
    async with answers:
        pass
    del answers
    gc.collect()
    assert read.read == 0


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_slow_consumer_stops_the_reading_and_the_sending(kind: str) -> None:
    asked, read = Asked(), Read([(n, 1.0, None) for n in range(10_000)], kind)
    async for result in mapped(asked, read.items, concurrency=10):
        if result.index == 0:
            await asyncio.sleep(3600)
            window = window_of(10, ordered=False)
            assert asked.in_flight == 0
            # One was handed out.
            assert len(asked.ended) == window + 1
            assert read.read <= window + 1 + 10
        if len(asked.ended) > 300:
            break


async def test_a_straggler_holds_up_an_ordered_stream_only_after_a_full_window() -> None:
    items = [(n, 1000.0 if n == 3 else 1.0, None) for n in range(5000)]
    asked, read = Asked(), Read(items, "sync")
    out: list[int] = []
    async for result in mapped(asked, read.items, concurrency=10, ordered=True):
        out.append(result.index)
        if result.index == 2:
            await asyncio.sleep(990)
            # Number 3, and all that the window has room for behind it.
            assert len(asked.calls) == 3 + window_of(10, ordered=True)
            assert asked.in_flight == 1
    assert out == list(range(5000))


async def test_answers_that_come_while_the_source_is_slow_are_handed_out_at_once() -> None:
    read = Read([(n, 1.0, None) for n in range(3)], "async", pause=10.0)
    times = [(result.index, now()) async for result in mapped(Asked(), read.items)]
    assert times == [(0, 11.0), (1, 21.0), (2, 31.0)]


async def test_the_first_failure_is_raised_if_asked_and_cancels_the_rest() -> None:
    items = [(0, 1.0, None), (1, 2.0, Refused), (2, 60.0, None), (3, 1.0, None), (4, 0.5, None)]
    asked = Asked()
    answers = mapped(asked, items, on_error="raise", concurrency=4, ordered=True)
    out: list[int] = []
    with pytest.raises(Refused, match="item 1"):
        await take(answers, out)
    assert now() == 2.0
    assert out == [0, 3, 4]
    assert asked.cancelled == [2]
    assert others() == set()
    assert answers.counts.failed == 1


async def test_items_that_have_not_begun_are_cancelled_too() -> None:
    asked = Asked()
    items = [(0, None, Refused), *((n, 1.0, None) for n in range(1, 50))]
    with pytest.raises(Refused):
        await mapped(asked, items, on_error="raise", concurrency=50)
    assert others() == set()


async def test_answers_on_their_way_are_waited_for_after_a_fatal_error_but_not_for_ever() -> None:
    items = [(0, 1.0, NoBudget), (1, 30.0, None), (2, 1e6, None), (3, 1.0, None)]
    asked = Asked()
    answers = mapped(asked, items, concurrency=3)
    out: list[int] = []
    with pytest.raises(NoBudget) as caught:
        await take(answers, out)
    assert out == [1]
    assert asked.cancelled == [2]
    assert now() == 1.0 + DRAIN_SECONDS
    assert answers.counts.unfinished == 3
    assert caught.value.__notes__ == [
        "llm.map: of 4 items, 1 was answered, 0 failed, 3 have neither"
    ]


@pytest.mark.parametrize("error", [AuthenticationError, ModelNotFoundError, BillingError])
async def test_where_nothing_can_be_answered_nothing_is_waited_for(
    error: type[ProviderError],
) -> None:
    # A request limit keeps most of them waiting to be sent: each would only be refused.
    asked = Asked()
    items = [(0, 1.0, error), *((n, 50.0, error) for n in range(1, 1000))]
    with pytest.raises(error, match="item 0"):
        await mapped(asked, items, concurrency=500)
    assert now() == 1.0
    assert len(asked.cancelled) == 499
    assert others() == set()


async def test_credit_that_runs_out_leaves_time_for_answers_on_their_way() -> None:
    items = [(0, 1.0, None), (1, 2.0, BillingError), (2, 30.0, None)]
    with pytest.raises(BillingError) as caught:
        await mapped(Asked(), items)
    partial: Any = partial_results(caught.value)
    assert partial.texts() == ["answer 0", "answer 2"]


async def test_a_source_of_unknown_length_says_so_when_it_was_not_read_to_its_end() -> None:
    read = Read([(n, 1.0, NoBudget if n == 5 else None) for n in range(100)], "sync")
    answers = mapped(Asked(), read.items, concurrency=1)
    with pytest.raises(NoBudget) as caught:
        await answers
    assert answers.counts.unfinished is None
    assert "the source was not read to its end" in caught.value.__notes__[0]


async def test_partial_results_gives_what_was_answered_before_a_fatal_error() -> None:
    items = [(0, 3.0, None), (1, 1.0, Refused), (2, 2.0, NoBudget), (3, 1.0, None)]
    with pytest.raises(NoBudget) as caught:
        await mapped(Asked(), items, concurrency=3)
    partial: Any = partial_results(caught.value)
    assert [each.index for each in partial] == [0, 1, 3]
    assert partial.texts(None) == ["answer 0", None, "answer 3"]
    assert partial.counts.unfinished == 1
    assert partial_results(pickle.loads(pickle.dumps(caught.value))) is None


async def test_partial_results_gives_what_was_answered_before_a_time_out() -> None:
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(5.0):
            await mapped(Asked(), [(0, 1.0, None), (1, 60.0, None)])
    partial: Any = partial_results(caught.value)
    assert partial.texts() == ["answer 0"]
    assert others() == set()


async def test_an_error_that_ends_two_maps_tells_of_the_last_one_only() -> None:
    shared = NoBudget("no")

    async def ask(prompt: str) -> Response:
        raise shared

    for count in (2, 3):
        with pytest.raises(NoBudget):
            await mapped(ask, ["a"] * count)
    assert shared.__notes__ == ["llm.map: of 3 items, 0 were answered, 0 failed, 3 have neither"]


async def test_a_broken_source_is_raised_after_what_was_read_has_ended() -> None:
    def sync() -> Iterator[Any]:
        yield (0, 5.0, None)
        yield (1, 1.0, None)
        raise ZeroDivisionError

    async def async_() -> AsyncIterator[Any]:
        yield (0, 5.0, None)
        await asyncio.sleep(1.0)
        yield (1, 1.0, None)
        raise asyncio.CancelledError  # from inside the source: not the end of the items

    for source, error in ((sync(), ZeroDivisionError), (async_(), asyncio.CancelledError)):
        out: list[int] = []
        with pytest.raises(error):
            await take(mapped(Asked(), source), out)
        assert sorted(out) == [0, 1]


async def test_what_nobody_foresaw_is_raised_and_not_taken_for_a_failed_item() -> None:
    for unforeseen in (ZeroDivisionError, asyncio.CancelledError, KeyboardInterrupt):

        async def ask(prompt: str, error: type[BaseException] = unforeseen) -> Response:
            if prompt == "bad":
                raise error
            return response(prompt)

        out: list[int] = []
        with pytest.raises(unforeseen):
            await take(mapped(ask, ["a", "bad", "b"], concurrency=2), out)
        # A bug lets what is under way end; who stops the program does not.
        assert out == ([0, 2] if issubclass(unforeseen, Exception) else [0])
        assert others() == set()


async def test_a_stream_that_is_dropped_ends_what_is_under_way_though_the_map_is_kept() -> None:
    asked, read = Asked(), Read([(n, 1.0, None) for n in range(100)], "sync")
    answers = mapped(asked, read.items)
    async for _ in answers:
        break
    await asyncio.sleep(0.01)
    assert others() == set()
    assert asked.in_flight == 0
    assert not read.open
    assert answers.counts.delivered == 1


async def test_async_with_waits_until_everything_has_ended() -> None:
    asked, read = Asked(), Read([(n, 1.0, None) for n in range(100)], "async")
    async with mapped(asked, read.items) as answers:
        async for _ in answers:
            break
    assert asked.in_flight == 0
    assert not read.open
    await asyncio.sleep(0)
    assert others() == set()


async def test_calls_see_what_the_caller_set_and_nothing_of_each_other() -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    async def ask(prompt: str) -> Response:
        seen.append(variable.get())
        variable.set(prompt)
        await asyncio.sleep(1.0)
        assert variable.get() == prompt
        return response(prompt)

    def source() -> Iterator[str]:
        for n in range(20):
            assert variable.get() == ("caller" if n == 0 else "source")
            variable.set("source")
            yield f"item {n}"

    answers = mapped(ask, source(), concurrency=3)
    variable.set("caller")
    assert len(await answers) == 20
    assert seen == ["caller"] * 20
    assert variable.get() == "caller"


async def test_nothing_keeps_an_item_alive_that_was_handed_out() -> None:
    class Item(str):
        __slots__ = ("__weakref__",)

    items = (Item(n) for n in range(30))
    async for result in mapped(lambda prompt: answer(prompt), items, concurrency=5):
        alive = weakref.ref(result.item)
        del result
        await asyncio.sleep(10)
        assert alive() is None


async def answer(prompt: str) -> Response:
    return response(str(prompt))


async def test_it_works_inside_a_node_at_many_items_at_once() -> None:
    llm = shouting()

    class Chapters(AsyncParallelBatchNode):
        async def prep_async(self, shared: Any) -> Any:
            return shared["chapters"]

        async def exec_async(self, chapter: list[str]) -> list[str]:
            return (await llm.map(chapter, prompt="{p}")).texts()

        async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> None:
            shared["out"] = exec_res

    shared = {"chapters": [["a", "b"], ["c"], []]}
    await Chapters(concurrency_limit=2).run_async(shared)
    assert shared["out"] == [["A", "B"], ["C"], []]


async def test_concurrency_follows_the_quota_and_100_without_one() -> None:
    for quota, expected in ((None, 100), (Quota(rpm=1e6, burst_seconds=60), 500)):
        provider = ScriptedProvider(latency=1.0, quota=quota)
        await LLM(provider).map(["a"] * 500)
        # The limiter may admit fewer for a start; more than the map asks for it cannot.
        assert provider.most_in_flight <= expected
        assert provider.most_in_flight > expected * 0.5


def test_a_result_can_be_pickled_and_compared() -> None:
    result = Result(index=1, item="a", response=response("b"))
    assert pickle.loads(pickle.dumps(result)) == result
    assert result.text == "b"
