"""A runner works off every item once, within its room, and ends whole however it is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

import pytest

from llmflow.errors import AuthenticationError, InputError
from llmflow.items.runner import ItemRunner, item_calls
from llmflow.items.slots import ItemSlots
from llmflow.items.sources import NOTHING, IterableSource

pytestmark = pytest.mark.virtual_time


class Trial:
    """A runner over items, and what became of each."""

    def __init__(
        self,
        work: Callable[[int, Any], Awaitable[None]],
        items: Iterable[Any],
        limit: int = 5,
        **options: Any,
    ) -> None:
        self.ended: list[int] = []
        self.most = 0
        self._under_way = 0
        self._work = work
        self._slots = ItemSlots(limit, lambda: self.runner.advance())
        self.runner: ItemRunner[Any] = ItemRunner(
            self._one, IterableSource(items), self._slots, **options
        )

    async def _one(self, index: int, item: Any) -> None:
        self._under_way += 1
        self.most = max(self.most, self._under_way)
        try:
            await self._work(index, item)
            self.ended.append(index)
        finally:
            self._under_way -= 1

    async def run(self) -> None:
        self.runner.start()
        await self.runner.wait()
        await self.runner.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def second(index: int, item: Any) -> None:
    await asyncio.sleep(1)


async def test_every_item_is_worked_on_once_within_the_room() -> None:
    trial = Trial(second, range(100))
    await trial.run()
    assert sorted(trial.ended) == list(range(100))
    assert trial.most == 5
    assert trial.runner.failure is None


async def test_others_have_their_turn_though_no_item_waits() -> None:
    async def at_once(index: int, item: Any) -> None:
        pass

    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    trial = Trial(at_once, range(1000))
    trial.runner.start()
    await trial.runner.wait()
    task.cancel()
    assert len(trial.ended) == 1000
    assert turns >= 3


async def test_a_broken_source_ends_it_after_the_items_before() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise InputError("line 4 is broken")

    trial = Trial(second, items(), sends_after_stop=False)
    await trial.run()
    assert sorted(trial.ended) == [0, 1, 2]
    assert isinstance(trial.runner.failure, InputError)


async def test_what_an_item_raises_ends_the_run_once_the_others_have_ended() -> None:
    async def work(index: int, item: Any) -> None:
        if index == 2:
            await asyncio.sleep(0.5)
            raise AuthenticationError("no")
        await asyncio.sleep(1)

    trial = Trial(work, range(100))
    await trial.run()
    assert sorted(trial.ended) == [0, 1, 3, 4]
    assert isinstance(trial.runner.failure, AuthenticationError)


async def test_after_a_stop_items_have_so_long_to_end() -> None:
    async def work(index: int, item: Any) -> None:
        await asyncio.sleep(index * 10)

    trial = Trial(work, range(100), drain_seconds=16)
    asyncio.get_running_loop().call_later(5, trial.runner.stop)
    await trial.run()
    assert sorted(trial.ended) == [0, 1, 2]
    assert asyncio.get_running_loop().time() == pytest.approx(21.0)


async def test_what_waits_to_be_sent_is_dropped_and_answers_are_awaited() -> None:
    async def answer() -> None:
        await asyncio.sleep(10)

    async def work(index: int, item: Any) -> None:
        calls = item_calls.get()
        assert calls is not None
        calls.begin()
        try:
            if index % 2:
                await asyncio.sleep(1000)
            await calls.sent(answer)()
        finally:
            calls.end()

    trial = Trial(work, range(100), limit=10, sends_after_stop=False)
    loop = asyncio.get_running_loop()
    loop.call_later(5, trial.runner.stop)
    await trial.run()
    assert sorted(trial.ended) == [0, 2, 4, 6, 8]
    assert loop.time() == pytest.approx(10.0)
    assert trial.runner.failure is None


async def test_what_is_to_be_sent_again_is_dropped_when_its_answer_has_come() -> None:
    async def refused() -> None:
        await asyncio.sleep(10)

    async def work(index: int, item: Any) -> None:
        calls = item_calls.get()
        assert calls is not None
        calls.begin()
        try:
            while True:
                await calls.sent(refused)()
                await asyncio.sleep(100)
        finally:
            calls.end()

    trial = Trial(work, range(100), sends_after_stop=False)
    loop = asyncio.get_running_loop()
    loop.call_later(5, trial.runner.stop)
    await trial.run()
    assert trial.ended == []
    assert loop.time() == pytest.approx(10.0)


async def test_a_stop_while_no_item_comes_ends_it() -> None:
    class Stalled(IterableSource[int]):
        def take(self) -> Any:
            return NOTHING

    runner: ItemRunner[Any] = ItemRunner(second, Stalled([]), ItemSlots(1, lambda: None))
    asyncio.get_running_loop().call_later(3, runner.stop)
    runner.start()
    await runner.wait()
    await runner.close()
    assert asyncio.get_running_loop().time() == pytest.approx(3.0)
