"""Synchronous map: its source is read in the caller's thread.

The items are asked on the background loop. What is to be read is asked for in small
portions, a few ahead of what is under way, so that a generator runs in the thread
that made it (a database cursor may insist), and blocks nobody else's calls.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import AsyncIterable, Generator, Iterator
from functools import partial
from typing import Any, Final, Generic, Self

from llmflow.background import background
from llmflow.errors import UsageError
from llmflow.items.sources import FedSource, close_generator
from llmflow.mapping.async_map import raise_failure
from llmflow.mapping.engine import MapEngine
from llmflow.mapping.result import ItemT, MapCounts, Result, ended_stream
from llmflow.mapping.spec import MapSpec, Prepared, source_of
from llmflow.types import ParsedT

_INSTEAD: Final = "async for result in llm.map(...), or await llm.map(...)"
_RESULTS_AT_ONCE: Final = 128
_READ_AHEAD_AT_LEAST: Final = 16
_READING_SECONDS: Final = 0.01


class AnswerStream(Generic[ItemT, ParsedT]):
    """The answers of one ``LLM.map_sync(..., stream=True)``: iterate over them as they come.

    Nothing is asked before the iteration begins, and it can be done once. A loop that
    is left in any way ends what is under way.
    """

    def __init__(self, spec: MapSpec) -> None:
        self._spec = spec
        self._begun = False
        self._exchange: _Exchange | None = None
        # Weak: a loop that is left drops the stream, and so ends it.
        self._stream: weakref.ref[Generator[Result[ItemT, ParsedT], None, None]] | None = None

    def __repr__(self) -> str:
        return f"<llm.map_sync: {self.counts}>"

    @property
    def counts(self) -> MapCounts:
        """Counts of the items so far."""
        engine = None if self._exchange is None else self._exchange.engine
        return MapCounts() if engine is None else engine.counts

    def __iter__(self) -> Iterator[Result[ItemT, ParsedT]]:
        if self._begun:
            raise UsageError(
                "this map was used already, and to ask again costs again: "
                "call llm.map_sync(...) anew"
            )
        self._begun = True
        self._exchange = _Exchange(self._spec, self._spec.prepared(), tells=True)
        stream = _results(self._exchange)
        self._stream = weakref.ref(stream)
        return stream

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel running work and close the source, then return."""
        self._begun = True
        stream = None if self._stream is None else self._stream()
        if stream is not None:
            stream.close()


def collect(spec: MapSpec) -> Any:
    """Ask for all items; return a list or frame in order."""
    ready = spec.prepared(whole=True)
    exchange, collector = _Exchange(spec, ready), ready.collector
    assert collector is not None
    try:
        for result in _results(exchange):
            collector.add(result)
    except BaseException as error:
        if exchange.engine is not None:
            for result in exchange.handed:
                collector.add(result)
            collector.attach_to(error, exchange.engine)
        raise
    assert exchange.engine is not None
    return collector.collected(exchange.engine.counts)


class _Exchange:
    """What passes between the caller's thread and the background loop."""

    def __init__(self, spec: MapSpec, ready: Prepared, *, tells: bool = False) -> None:
        self.engine: MapEngine[Any] | None = None
        self.handed: deque[Result[Any]] = deque()
        """Results that have left the engine; a Ctrl-C may come at any moment."""
        self.tells = tells
        """Whether a Ctrl-C has to be told of as one of a stream."""
        self._spec = spec
        self._ready = ready
        self._fed: FedSource[Any] | None = None
        self._iterator: Iterator[Any] | None = None
        if not isinstance(ready.items, AsyncIterable):
            self._fed = FedSource(max(_READ_AHEAD_AT_LEAST, spec.concurrency))
            self._iterator = iter(ready.items)

    def read(self, most: int) -> tuple[list[Any], bool, Exception | None]:
        """Read some items here, but not for long while others could be asked already."""
        items: list[Any] = []
        iterator = self._iterator
        if not most or iterator is None:
            return items, False, None
        until = time.monotonic() + _READING_SECONDS
        try:
            for item in iterator:
                items.append(item)
                if len(items) >= most or time.monotonic() > until:
                    return items, False, None
        except Exception as error:  # noqa: BLE001 - raised again once the rest has ended
            return items, False, error
        return items, True, None

    async def pass_on(self, items: list[Any], end: bool, error: Exception | None) -> int:
        """Hand over items, and take finished results; return how many items are wanted."""
        engine, fed = self.engine, self._fed
        if engine is None:
            source = fed or source_of(self._ready, concurrency=self._spec.concurrency)
            engine = self.engine = self._spec.engine(self._ready, source)
            if fed is not None:
                fed.on_low = engine.wake
            engine.start()
        if fed is not None and (items or end or error is not None):
            fed.feed(items, end=end, error=error)
        await engine.wait(unless=self._wanted)
        while engine.ready and len(self.handed) < _RESULTS_AT_ONCE:
            self.handed.append(engine.pop())
        return self._wanted()

    def _wanted(self) -> int:
        """Return how many items the background loop has room for."""
        if self._fed is None or self.engine is None or self.engine.failure is not None:
            return 0
        return self._fed.wanted

    def close(self) -> None:
        """Cancel what is under way, and close the source where it was read."""
        engine = self.engine
        try:
            if engine is not None and not engine.runner.loop.is_closed():
                background.run(engine.runner.close, instead=_INSTEAD)
        except UsageError:
            # The stream was dropped by the loop itself, or by another: nobody can wait here.
            assert engine is not None
            engine.runner.loop.call_soon_threadsafe(engine.runner.cancel)
        finally:
            close_generator(self._iterator)


def _results(exchange: _Exchange) -> Generator[Result[Any], None, None]:
    read: tuple[list[Any], bool, Exception | None] = [], False, None
    delivered = 0
    try:
        while True:
            wanted = background.run(partial(exchange.pass_on, *read), instead=_INSTEAD)
            if not exchange.handed and not wanted:
                break
            while exchange.handed:
                delivered += 1
                yield exchange.handed.popleft()
            read = exchange.read(wanted)
    except BaseException as error:
        if exchange.tells and exchange.engine is not None:
            ended_stream(error, delivered)
        raise
    finally:
        exchange.close()
    assert exchange.engine is not None
    raise_failure(exchange.engine)
