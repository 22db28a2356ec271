"""Sources hand out every item once, in order, and read no further than they say."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import copy_context
from typing import Any

import pytest

from llmflow.errors import InputError
from llmflow.items.sources import (
    END,
    NOTHING,
    AsyncIterableSource,
    IterableSource,
    Source,
    ThreadSource,
)


class Reader:
    """Takes what a source has, and waits where it has nothing yet."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.told = 0
        self._more = asyncio.Event()
        source.start(copy_context(), self._wake)

    def _wake(self) -> None:
        self.told += 1
        self._more.set()

    async def next(self) -> Any:
        while True:
            self._more.clear()
            if (item := self.source.take()) is not NOTHING:
                return item
            async with asyncio.timeout(10):
                await self._more.wait()

    async def rest(self) -> list[Any]:
        found = []
        while (item := await self.next()) is not END:
            found.append(item)
        return found


def in_async(items: Any) -> AsyncIterableSource[Any]:
    async def each() -> AsyncIterator[Any]:
        for item in items:
            yield item

    return AsyncIterableSource(each(), read_ahead=4)


KINDS: list[Callable[[Any], Source]] = [IterableSource, ThreadSource, in_async]


async def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("kind", KINDS)
class TestAllKinds:
    async def test_items_come_in_order_and_once(self, kind: Callable[[Any], Source]) -> None:
        assert await Reader(kind(range(1000))).rest() == list(range(1000))

    async def test_an_empty_source_ends_at_once(self, kind: Callable[[Any], Source]) -> None:
        assert await Reader(kind([])).rest() == []

    async def test_after_the_end_it_stays_at_its_end(self, kind: Callable[[Any], Source]) -> None:
        reader = Reader(kind([1]))
        await reader.rest()
        assert reader.source.take() is END

    async def test_an_error_comes_after_the_items_before_it(
        self, kind: Callable[[Any], Source]
    ) -> None:
        def rows() -> Iterator[int]:
            yield from range(3)
            raise InputError("line 4 is broken")

        reader = Reader(kind(rows()))
        assert [await reader.next() for _ in range(3)] == [0, 1, 2]
        with pytest.raises(InputError, match="line 4"):
            await reader.next()
        await reader.source.close()


async def test_an_iterable_is_read_no_further_than_it_is_taken() -> None:
    read: list[int] = []

    def rows() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    reader = Reader(IterableSource(rows()))
    await reader.next()
    await reader.next()
    assert read == [0, 1]
    await reader.source.close()


class TestThread:
    async def test_it_reads_a_bounded_number_ahead(self) -> None:
        read: list[int] = []

        def rows() -> Iterator[int]:
            for number in range(1000):
                read.append(number)
                yield number

        reader = Reader(ThreadSource(rows(), read_ahead=8))
        await reader.next()
        # One was taken, eight are ready, and one is in the thread's hand.
        await eventually(lambda: len(read) == 10)
        await asyncio.sleep(0.01)
        assert len(read) == 10
        await reader.source.close()

    async def test_a_blocked_source_does_not_block_the_loop(self) -> None:
        go_on = threading.Event()

        def rows() -> Iterator[int]:
            yield 1
            go_on.wait(10)
            yield 2

        reader = Reader(ThreadSource(rows()))
        assert await reader.next() == 1
        waiting = asyncio.create_task(reader.next())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        go_on.set()
        assert await waiting == 2
        await reader.source.close()

    async def test_items_that_nobody_waits_for_wake_nobody(self) -> None:
        read = threading.Event()

        def rows() -> Iterator[int]:
            yield from range(100)
            read.set()

        reader = Reader(ThreadSource(rows()))
        await asyncio.to_thread(read.wait, 10)
        assert len(await reader.rest()) == 100
        assert reader.told < 10

    async def test_closing_ends_a_thread_that_waits_for_room(self) -> None:
        reader = Reader(ThreadSource(iter(range(1000)), read_ahead=1))
        await reader.next()
        thread = next(each for each in threading.enumerate() if each.name == "llmflow-rows")
        await reader.source.close()
        await eventually(lambda: not thread.is_alive())

    def test_a_thread_survives_the_loop_that_it_fed(self) -> None:
        go_on = threading.Event()

        def rows() -> Iterator[int]:
            yield 1
            go_on.wait(10)
            yield 2

        async def pull() -> None:
            reader = Reader(ThreadSource(rows()))
            await reader.next()
            assert reader.source.take() is NOTHING

        asyncio.run(pull())
        thread = next(each for each in threading.enumerate() if each.name == "llmflow-rows")
        go_on.set()
        thread.join(10)
        assert not thread.is_alive()
