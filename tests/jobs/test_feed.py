"""Feeds hand out every row once, in order, no further than they are pulled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from llmflow.errors import InputError
from llmflow.jobs.feed import Feed, ThreadFeed


async def drain(feed: Feed[int]) -> list[tuple[int, int]]:
    found = []
    while (one := await feed.next()) is not None:
        found.append(one)
    return found


async def eventually(condition: object, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("kind", [Feed, ThreadFeed])
class TestBothKinds:
    async def test_rows_come_in_order_with_their_position(self, kind: type[Feed[int]]) -> None:
        assert await drain(kind(range(10, 1010))) == list(enumerate(range(10, 1010)))

    async def test_an_empty_source_ends_at_once(self, kind: type[Feed[int]]) -> None:
        assert await drain(kind([])) == []

    async def test_after_the_end_it_stays_at_its_end(self, kind: type[Feed[int]]) -> None:
        feed = kind([1])
        await drain(feed)
        assert await feed.next() is None

    async def test_many_pullers_get_every_row_once(self, kind: type[Feed[int]]) -> None:
        feed = kind(range(5000))
        found = await asyncio.gather(*(drain(feed) for _ in range(20)))
        assert sorted(row for rows in found for row in rows) == list(enumerate(range(5000)))

    async def test_an_error_comes_after_the_rows_before_it_and_once(
        self, kind: type[Feed[int]]
    ) -> None:
        def rows() -> Iterator[int]:
            yield from range(3)
            raise InputError("line 4 is broken")

        feed = kind(rows())
        assert [await feed.next() for _ in range(3)] == [(0, 0), (1, 1), (2, 2)]
        with pytest.raises(InputError, match="line 4"):
            await feed.next()
        assert await feed.next() is None

    async def test_a_closed_feed_hands_out_no_more(self, kind: type[Feed[int]]) -> None:
        feed = kind(range(10))
        await feed.next()
        feed.close()
        assert await feed.next() is None

    async def test_others_have_their_turn(self, kind: type[Feed[int]]) -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        await drain(kind(range(1000)))
        task.cancel()
        assert turns >= 3


async def test_others_have_their_turn_though_all_rows_have_been_read() -> None:
    read = threading.Event()

    def rows() -> Iterator[int]:
        yield from range(1000)
        read.set()

    feed = ThreadFeed(rows(), read_ahead=1000)
    await feed.next()
    await asyncio.to_thread(read.wait, 30.0)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await drain(feed)
    task.cancel()
    assert turns >= 3


async def test_a_feed_reads_no_further_than_it_is_pulled() -> None:
    read: list[int] = []

    def rows() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    feed = Feed(rows())
    await feed.next()
    await feed.next()
    assert read == [0, 1]
    feed.close()


class TestThread:
    async def test_it_reads_a_bounded_number_ahead(self) -> None:
        read: list[int] = []

        def rows() -> Iterator[int]:
            for number in range(1000):
                read.append(number)
                yield number

        feed = ThreadFeed(rows(), read_ahead=8)
        await feed.next()
        # One waits here, eight are ready, and one is in the thread's hand.
        await eventually(lambda: len(read) == 10)
        await asyncio.sleep(0.01)
        assert len(read) == 10
        feed.close()

    async def test_a_blocked_source_does_not_block_the_loop(self) -> None:
        go_on = threading.Event()

        def rows() -> Iterator[int]:
            yield 1
            go_on.wait(10)
            yield 2

        feed = ThreadFeed(rows())
        assert await feed.next() == (0, 1)
        waiting = asyncio.create_task(feed.next())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        go_on.set()
        assert await waiting == (1, 2)
        feed.close()

    async def test_a_puller_that_is_cancelled_loses_no_row(self) -> None:
        go_on = threading.Event()

        def rows() -> Iterator[int]:
            go_on.wait(10)
            yield from (1, 2)

        feed = ThreadFeed(rows())
        waiting = asyncio.create_task(feed.next())
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        go_on.set()
        assert await drain(feed) == [(0, 1), (1, 2)]

    async def test_closing_ends_a_thread_that_waits_for_room(self) -> None:
        feed = ThreadFeed(iter(range(1000)), read_ahead=1)
        await feed.next()
        thread = next(each for each in threading.enumerate() if each.name == "llmflow-rows")
        feed.close()
        await eventually(lambda: not thread.is_alive())

    def test_a_thread_survives_the_loop_that_it_fed(self) -> None:
        go_on = threading.Event()

        def rows() -> Iterator[int]:
            yield 1
            go_on.wait(10)
            yield 2

        feed = ThreadFeed(rows())
        waiting: list[asyncio.Task[object]] = []

        async def pull() -> None:
            await feed.next()
            waiting.append(asyncio.create_task(feed.next()))
            await asyncio.sleep(0.01)

        asyncio.run(pull())
        thread = next(each for each in threading.enumerate() if each.name == "llmflow-rows")
        go_on.set()
        thread.join(10)
        assert not thread.is_alive()
