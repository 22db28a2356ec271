"""The synchronous map: threads, backpressure, endings. On the real clock and the real loop."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from llmflow import LLM, partial_results
from llmflow.background import background
from llmflow.errors import InputError, UsageError
from llmflow.mapping.result import ResultList
from llmflow.mapping.sync_map import AnswerStream, collect
from llmflow.testing import ScriptedProvider
from llmflow.types import Request, Response
from tests.mapping.asking import Asked, NoBudget, Read, Refused, response, work


def echo(request: Request) -> str:
    return str(request.messages[-1]["content"]).upper()


def shouting() -> LLM:
    return LLM(ScriptedProvider(default=echo))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def background_tasks() -> set[asyncio.Task[Any]]:
    async def others() -> set[asyncio.Task[Any]]:
        return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}

    return background.run(others, instead="")


def test_a_list_comes_back_in_the_order_of_the_items() -> None:
    out = shouting().map_sync((f"item {n}" for n in range(500)), prompt="{text}")
    assert isinstance(out, ResultList)
    assert out.texts() == [f"ITEM {n}" for n in range(500)]


def test_it_can_be_called_again_and_again() -> None:
    llm = shouting()
    for _ in range(3):
        assert llm.map_sync(["a"]).texts() == ["A"]


def test_a_stream_gives_each_result_once() -> None:
    stream = shouting().map_sync([f"item {n}" for n in range(1000)], stream=True)
    assert sorted(each.index for each in stream) == list(range(1000))
    assert stream.counts.delivered == stream.counts.total == 1000
    with pytest.raises(UsageError, match="used already"):
        list(stream)


def test_a_stream_is_in_order_if_asked() -> None:
    items = [(n, 0.02 if n % 7 == 0 else None, None) for n in range(300)]
    out = [each.index for each in AnswerStream(work(Asked(), items, ordered=True))]
    assert out == list(range(300))


def test_the_source_is_read_in_the_thread_that_iterates() -> None:
    database = sqlite3.connect(":memory:")  # refuses to be used in another thread
    database.execute("create table texts (text)")
    database.executemany("insert into texts values (?)", [(f"row {n}",) for n in range(1000)])
    rows = ({"text": text} for (text,) in database.execute("select text from texts"))
    out = shouting().map_sync(rows, prompt="{text}")
    assert out.texts() == [f"ROW {n}" for n in range(1000)]
    database.close()


def test_an_endless_source_is_read_only_a_bounded_way_ahead() -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield f"item {read}"

    stream = shouting().map_sync(endless(), stream=True, concurrency=10)
    for taken, _ in enumerate(stream, start=1):
        # A window, what is handed over ahead of it, and one portion of results.
        assert read - taken <= 110 + 16 + 128
        if taken == 2000:
            break


def test_a_slow_source_does_not_hold_up_the_first_item() -> None:
    ended = threading.Event()

    async def ask(prompt: str) -> Response:
        ended.set()
        return response(prompt)

    def slow() -> Iterator[str]:
        yield "first"
        time.sleep(0.02)  # longer than what is read in one go
        yield "second"
        # Asked while this is still being read.
        assert ended.wait(10.0)
        yield "third"

    assert len(collect(work(ask, slow()))) == 3


def test_the_source_is_read_on_while_a_straggler_holds_back_all_results() -> None:
    asked = asyncio.Event()

    async def ask(prompt: str) -> Response:
        if prompt == "item 0":
            await asyncio.wait_for(asked.wait(), 10.0)
            return response(prompt)
        if prompt == "item 500":
            asked.set()
        await asyncio.sleep(0.001)  # so that what was handed over is used up bit by bit
        return response(prompt)

    stream: AnswerStream[str] = AnswerStream(
        work(ask, (f"item {n}" for n in range(600)), ordered=True)
    )
    assert [each.index for each in stream] == list(range(600))


def test_no_more_is_read_once_a_fatal_error_has_come() -> None:
    read = Read([(0, 0.5, None), *((n, None, NoBudget) for n in range(1, 1000))], "sync")

    def slowly() -> Iterator[Any]:
        for item in read.items:
            time.sleep(0.011)  # longer than what is read in one go
            yield item

    out: list[int] = []
    with pytest.raises(NoBudget):
        out.extend(each.index for each in AnswerStream(work(Asked(), slowly())))
    assert out == [0]
    assert read.read < 10


def test_an_async_source_will_do() -> None:
    async def source() -> AsyncIterator[str]:
        for n in range(100):
            yield f"item {n}"
            await asyncio.sleep(0)

    assert shouting().map_sync(source()).texts() == [f"ITEM {n}" for n in range(100)]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_loop_that_is_left_ends_what_is_under_way_and_closes_the_source(kind: str) -> None:
    before = background_tasks()  # a library that another test uses may have one for ever
    items = [(n, None if n == 0 else 60.0, None) for n in range(100)]
    asked, read = Asked(), Read(items, kind)
    stream: AnswerStream[Any] = AnswerStream(work(asked, read.items))
    for result in stream:
        assert result.index == 0
        until(lambda: asked.in_flight > 0)
        break
    assert asked.in_flight == 0
    assert not read.open
    until(lambda: background_tasks() <= before)
    assert stream.counts.delivered == 1


def test_a_stream_can_be_closed() -> None:
    items = [(n, None if n == 0 else 60.0, None) for n in range(100)]
    asked, read = Asked(), Read(items, "sync")
    with AnswerStream(work(asked, read.items)) as stream:
        iterator = iter(stream)
        assert next(iterator).index == 0
    assert asked.in_flight == 0
    assert not read.open
    assert list(iterator) == []


def test_a_stream_may_be_dropped_by_a_thread_that_runs_an_event_loop() -> None:
    before = background_tasks()
    items = [(n, None if n == 0 else 60.0, None) for n in range(100)]
    asked = Asked()
    kept = [iter(AnswerStream(work(asked, items)))]
    next(kept[0])

    async def drop() -> None:
        kept.clear()
        gc.collect()

    asyncio.run(drop())
    until(lambda: asked.in_flight == 0 and background_tasks() <= before)


def test_a_fatal_error_comes_after_what_was_answered() -> None:
    items = [(n, None, NoBudget if n == 50 else None) for n in range(1000)]
    stream: AnswerStream[Any] = AnswerStream(work(Asked(), items, concurrency=3))
    out: list[int] = []
    with pytest.raises(NoBudget) as caught:
        out.extend(each.index for each in stream)
    assert stream.counts.unfinished == 1000 - len(out)
    assert set(range(50)) <= set(out)
    assert f"{1000 - len(out):,} have neither" in caught.value.__notes__[0]


def test_partial_results_gives_what_was_answered_before_a_fatal_error() -> None:
    items = [(n, None, NoBudget if n == 5 else None) for n in range(100)]
    with pytest.raises(NoBudget) as caught:
        collect(work(Asked(), items, concurrency=1))
    partial: Any = partial_results(caught.value)
    assert [each.index for each in partial] == [0, 1, 2, 3, 4]


def test_a_broken_source_is_raised_after_what_was_read() -> None:
    def broken() -> Iterator[Any]:
        yield from ((n, None, None) for n in range(20))
        raise ZeroDivisionError

    out: list[int] = []
    with pytest.raises(ZeroDivisionError):
        out.extend(each.index for each in AnswerStream(work(Asked(), broken(), concurrency=3)))
    assert sorted(out) == list(range(20))


def test_ctrl_c_in_the_source_ends_what_is_under_way() -> None:
    asked = Asked()

    def interrupted() -> Iterator[Any]:
        yield (0, 60.0, None)
        time.sleep(0.02)
        yield (1, 60.0, None)
        until(lambda: asked.in_flight > 0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(work(asked, interrupted()))
    assert asked.in_flight == 0


def test_ctrl_c_in_the_source_loses_no_answer_that_has_come_meanwhile() -> None:
    asked = Asked()

    def interrupted() -> Iterator[Any]:
        yield (0, None, None)
        time.sleep(0.02)
        yield (1, None, None)
        until(lambda: len(asked.ended) == 2)
        time.sleep(0.02)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        collect(work(asked, interrupted()))
    results = partial_results(caught.value)
    assert results is not None
    assert [each.text for each in results] == ["answer 0", "answer 1"]
    assert results.counts.delivered == 2  # type: ignore[attr-defined]


def test_failed_items_are_collected_or_raised() -> None:
    items = [(0, None, None), (1, None, Refused), (2, None, None)]
    out = collect(work(Asked(), items))
    assert out.texts(None) == ["answer 0", None, "answer 2"]
    with pytest.raises(Refused):
        collect(work(Asked(), items, on_error="raise"))


def test_calls_see_what_the_calling_thread_set() -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    seen = set()

    async def ask(prompt: str) -> Response:
        seen.add(variable.get())
        return response(prompt)

    variable.set("caller")
    collect(work(ask, (f"item {n}" for n in range(200))))
    assert seen == {"caller"}


async def test_in_a_running_event_loop_it_says_what_to_write_instead() -> None:
    with pytest.raises(UsageError, match=r"await llm\.map"):
        shouting().map_sync(["a"])
    with pytest.raises(UsageError, match=r"async for result in llm\.map"):
        list(shouting().map_sync(["a"], stream=True))


def test_mistakes_are_refused_at_once() -> None:
    with pytest.raises(InputError, match="whose items are its characters"):
        shouting().map_sync("one text", stream=True)
