"""Programs that ask a scripted provider within a run, for the tests of runs."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

from llmflow.llm import LLM
from llmflow.nodes import AsyncParallelBatchNode
from llmflow.runs.run import Run
from llmflow.testing import ScriptedProvider
from llmflow.types import Request

Program = Callable[[LLM], Any]
"""Something that asks, in the async way or in the sync way, and returns its results."""


def numbered(*, latency: float = 0.0, model: str = "model") -> ScriptedProvider:
    """Return a provider that answers with a number of its own and what was asked."""
    numbers = itertools.count(1)

    def answer(request: Request) -> str:
        return f"{next(numbers)}. {request.messages[-1]['content']}"

    return ScriptedProvider(default=answer, latency=latency, model=model)


def asked(provider: ScriptedProvider) -> list[str]:
    """Return what the provider was asked, in order of the alphabet."""
    return sorted(str(request.messages[-1]["content"]) for request in provider.requests)


class Answers(AsyncParallelBatchNode):
    """Asks for every text, and leaves the answers in the store."""

    def __init__(self, llm: LLM, *, max_tokens: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.llm = llm
        self.max_tokens = max_tokens

    async def prep_async(self, shared: Any, /) -> Any:
        return shared["texts"]

    async def exec_async(self, prep_res: Any, /) -> Any:
        return await self.llm(prep_res, max_tokens=self.max_tokens)

    async def post_async(self, shared: Any, prep_res: Any, exec_res: Any, /) -> Any:
        shared["out"] = exec_res


def play(program: Program, llm: LLM, name: str | None = "run", **options: Any) -> Any:
    """Run a program within a run, as a user's script does it, and return its results."""
    if not asyncio.iscoroutinefunction(program):
        with Run(name, **options):
            return program(llm)

    async def main() -> Any:
        async with Run(name, **options):
            return await program(llm)

    return asyncio.run(main())


def in_run(
    main: Callable[[Run], Coroutine[Any, Any, Any]], name: str | None = "run", **options: Any
) -> Any:
    """Run a coroutine function within a run that it is given, and return its result."""

    async def whole() -> Any:
        async with Run(name, **options) as run:
            return await main(run)

    return asyncio.run(whole())
