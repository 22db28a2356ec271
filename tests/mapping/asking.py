"""A bound call to map with: answers after as long as the item says, or fails as it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

from llmflow.errors import BudgetExceededError, ContentFilterError, LLMFlowError
from llmflow.mapping.async_map import Answers
from llmflow.mapping.spec import MapSpec
from llmflow.types import Response, Usage


def response(text: str) -> Response:
    return Response(text=text, usage=Usage(), finish_reason="stop", model="m", provider="p")


class Asked:
    """Prompts are tuples of number, seconds and outcome: an error class, or None."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.ended: list[int] = []
        self.cancelled: list[int] = []
        self.in_flight = 0
        self.peak = 0

    async def __call__(self, prompt: Any) -> Response:
        number, seconds, outcome = prompt
        self.calls.append(number)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            if seconds is not None:
                await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        finally:
            self.in_flight -= 1
        self.ended.append(number)
        if outcome is not None:
            raise outcome(f"item {number}")
        return response(f"answer {number}")


class Read:
    """Items in a list or a generator of either kind; keeps count, and notes when it is closed."""

    def __init__(self, items: list[Any], kind: str, pause: float = 0.0) -> None:
        self.read = 0
        self.open = False
        self._items = items
        self._pause = pause
        self.items: Any = {"list": items, "sync": self._sync(), "async": self._async()}[kind]

    def _sync(self) -> Iterator[Any]:
        self.open = True
        try:
            for item in self._items:
                self.read += 1
                yield item
        finally:
            self.open = False

    async def _async(self) -> AsyncIterator[Any]:
        self.open = True
        try:
            for item in self._items:
                await asyncio.sleep(self._pause)
                self.read += 1
                yield item
        finally:
            self.open = False


def mapped(ask: Any, items: Any, **settings: Any) -> Answers[Any, Any]:
    return Answers(work(ask, items, **settings))


def work(ask: Any, items: Any, **settings: Any) -> MapSpec:
    given = {"prompt": None, "concurrency": 10, "ordered": False, "on_error": "collect"}

    def begin(prompt: Any) -> Any:
        return SimpleNamespace(ask=ask), prompt

    return MapSpec(begin=begin, items=items, **{**given, **settings})


def others() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]


class Refused(ContentFilterError):
    """An item that fails for itself."""


class NoBudget(BudgetExceededError):
    """A failure that concerns all items."""


FAILURES: list[type[LLMFlowError] | None] = [None, None, None, Refused]
