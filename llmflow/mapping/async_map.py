"""Asynchronous map: a stream to iterate over, or a whole."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, Self, TypeVar

from llmflow.errors import UsageError
from llmflow.mapping.engine import MapEngine
from llmflow.mapping.result import ItemT, MapCounts, Result, ended_stream, note
from llmflow.mapping.spec import MapSpec, Prepared
from llmflow.types import ParsedT

CollectedT = TypeVar("CollectedT")
_INSTEAD: Final = (
    "`async for result in llm.map(...)`, or `(await llm.map(...))`, or without async "
    "`llm.map_sync(...)`"
)


class Answers(Generic[ItemT, CollectedT, ParsedT]):
    """The answers of one `LLM.map`: iterate over them or await them.

    Nothing is asked before one of the two begins, and it can be done once. The stream
    of an ``async for`` ends when the loop is left in any way; ``async with`` waits
    until everything has ended.
    """

    def __init__(self, spec: MapSpec) -> None:
        self._spec = spec
        self._begun = False
        self._engine: MapEngine[ItemT] | None = None
        # Weak: a loop that is left drops the stream, and so ends it.
        self._stream: weakref.ref[AsyncGenerator[Result[ItemT, ParsedT], None]] | None = None

    def __repr__(self) -> str:
        return f"<llm.map: {'not begun' if self._engine is None else self.counts}>"

    @property
    def counts(self) -> MapCounts:
        """Counts of the items so far."""
        return MapCounts() if self._engine is None else self._engine.counts

    if not TYPE_CHECKING:  # to a type checker these are simply not there

        def __iter__(self) -> NoReturn:
            raise TypeError(f"llm.map(...) is asynchronous: write {_INSTEAD}")

        def __getattr__(self, name: str) -> NoReturn:
            if name.startswith("_"):
                raise AttributeError(name)
            raise AttributeError(
                f"llm.map(...) has no {name!r} before it is awaited: write {_INSTEAD}"
            )

    def __aiter__(self) -> AsyncIterator[Result[ItemT, ParsedT]]:
        stream = self._results(self._begin())
        self._stream = weakref.ref(stream)
        return stream

    def __await__(self) -> Generator[Any, None, CollectedT]:
        return self._collect(self._begin()).__await__()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel running work and close the source, then return."""
        self._begun = True
        stream = None if self._stream is None else self._stream()
        if stream is not None:
            await stream.aclose()
        if self._engine is not None:
            await self._engine.runner.close()

    def _begin(self) -> MapSpec:
        if self._begun:
            raise UsageError(
                "this map was used already, and to ask again costs again: call llm.map(...) anew"
            )
        self._begun = True
        return self._spec

    async def _prepared(self, spec: MapSpec, *, whole: bool = False) -> Prepared:
        if not spec.unread:
            return spec.prepared(whole=whole)
        # It can take long, and its library does it outside of Python.
        return await asyncio.to_thread(spec.prepared, whole=whole)

    async def _results(
        self, spec: MapSpec, collected: Prepared | None = None
    ) -> AsyncGenerator[Result[ItemT, ParsedT], None]:
        engine = self._engine = spec.engine(collected or await self._prepared(spec))
        try:
            engine.start()
            while True:
                await engine.wait()
                if not engine.ready:
                    break
                while engine.ready:
                    yield engine.pop()
        except BaseException as error:
            if collected is None:
                ended_stream(error, engine.counts.delivered)
            raise
        finally:
            await engine.runner.close()
        raise_failure(engine)

    async def _collect(self, spec: MapSpec) -> CollectedT:
        ready = await self._prepared(spec, whole=True)
        collector = ready.collector
        assert collector is not None
        try:
            async for result in self._results(spec, ready):
                collector.add(result)
        except BaseException as error:
            collector.attach_to(error, self._engine)
            raise
        collected: CollectedT = collector.collected(self.counts)
        return collected


def raise_failure(engine: MapEngine[Any]) -> None:
    """Raise the error that ended the map, noting unfinished items."""
    error = engine.failure
    if error is None:
        return
    note(error, engine.counts)
    try:
        raise error
    finally:
        # Or the error would keep itself alive through this frame.
        error = None
