"""The synchronous face of a map: the source is read, and results are taken, in the caller's thread.

The items are asked on the background loop. What is to be read is asked for in small
portions, a few ahead of what is under way, so that a generator runs in the thread
that made it (a database cursor may insist), and blocks nobody else's calls.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import AsyncIterable, Callable, Generator, Iterator
from types import TracebackType
from typing import Any, Final, Generic, Self

from llmflow.background import background
from llmflow.errors import UsageError
from llmflow.mapping.answers import raise_failure
from llmflow.mapping.pump import Pump
from llmflow.mapping.result import ItemT, MapCounts, Result, attach, ended_stream
from llmflow.mapping.sources import FedSource, close_generator
from llmflow.mapping.work import Prepared, Work, source_of

_INSTEAD: Final = "async for result in llm.map(...), or await llm.map(...)"
_RESULTS_AT_ONCE: Final = 128
_READ_AHEAD_AT_LEAST: Final = 16
_READING_SECONDS: Final = 0.01


class AnswerStream(Generic[ItemT]):
    """The answers of one ``LLM.map_sync(..., stream=True)``: iterate over them as they come.

    Nothing is asked before the iteration begins, and it can be done once. A loop that
    is left in any way ends what is under way.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._begun = False
        self._exchange: _Exchange | None = None
        # Weak: a loop that is left drops the stream, and so ends it.
        self._stream: weakref.ref[Generator[Result[ItemT], None, None]] | None = None

    def __repr__(self) -> str:
        return f"<llm.map_sync: {self.counts}>"

    @property
    def counts(self) -> MapCounts:
        """What has become of the items so far."""
        pump = None if self._exchange is None else self._exchange.pump
        if pump is None:
            return MapCounts(total=None, read=0, answered=0, failed=0, delivered=0)
        return pump.counts

    def __iter__(self) -> Iterator[Result[ItemT]]:
        if self._begun:
            raise UsageError(
                "this map was used already, and to ask again costs again: "
                "call llm.map_sync(...) anew"
            )
        self._begun = True
        self._exchange = _Exchange(self._work, self._work.prepared(), tells=True)
        stream = _results(self._exchange)
        self._stream = weakref.ref(stream)
        return stream

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is under way and close the source; once back, all has ended."""
        self._begun = True
        stream = None if self._stream is None else self._stream()
        if stream is not None:
            stream.close()


def collect(work: Work) -> Any:
    """Ask for all items, and return a list or a frame in their order."""
    ready = work.prepared()
    exchange, collector = _Exchange(work, ready), ready.collector()
    try:
        for result in _results(exchange):
            collector.add(result)
    except BaseException as error:
        if exchange.pump is not None:
            counts = exchange.pump.counts
            attach(error, collector.collected(counts), counts)
        raise
    assert exchange.pump is not None
    return collector.collected(exchange.pump.counts)


class _Exchange:
    """What passes between the caller's thread and the background loop."""

    def __init__(self, work: Work, ready: Prepared, *, tells: bool = False) -> None:
        self.pump: Pump[Any] | None = None
        self.tells = tells
        """Whether a Ctrl-C has to be told of as one of a stream."""
        self._work = work
        self._ready = ready
        self._fed: FedSource[Any] | None = None
        self._iterator: Iterator[Any] | None = None
        if not isinstance(ready.items, AsyncIterable):
            self._fed = FedSource(max(_READ_AHEAD_AT_LEAST, work.concurrency))
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

    async def pass_on(
        self, items: list[Any], end: bool, error: Exception | None
    ) -> tuple[list[Result[Any]], int]:
        """Hand over items; return finished results, and how many items are wanted."""
        pump, fed = self.pump, self._fed
        if pump is None:
            source = fed or source_of(self._ready.items, concurrency=self._work.concurrency)
            pump = self.pump = self._work.pump(self._ready, source)
            if fed is not None:
                fed.on_low = pump.wake
            pump.start()
        if fed is not None and (items or end or error is not None):
            fed.feed(items, end=end, error=error)
        await pump.wait(unless=self._wanted)
        results: list[Result[Any]] = []
        while pump.ready and len(results) < _RESULTS_AT_ONCE:
            results.append(pump.pop())
        return results, self._wanted()

    def _wanted(self) -> int:
        """Return how many items the background loop has room for."""
        if self._fed is None or self.pump is None or self.pump.failure is not None:
            return 0
        return self._fed.wanted

    def close(self) -> None:
        """Cancel what is under way, and close the source where it was read."""
        pump = self.pump
        try:
            if pump is not None and not pump.loop.is_closed():
                background.run(pump.close, instead=_INSTEAD)
        except UsageError:
            # The stream was dropped by the loop itself, or by another: nobody can wait here.
            assert pump is not None
            pump.loop.call_soon_threadsafe(pump.cancel)
        finally:
            close_generator(self._iterator)


def _results(exchange: _Exchange) -> Generator[Result[Any], None, None]:
    read: tuple[list[Any], bool, Exception | None] = [], False, None
    delivered = 0
    try:
        while True:
            call: Callable[[], Any] = lambda: exchange.pass_on(*read)  # noqa: B023, E731
            results, wanted = background.run(call, instead=_INSTEAD)
            if not results and not wanted:
                break
            yield from results
            delivered += len(results)
            read = exchange.read(wanted)
    except BaseException as error:
        if exchange.tells and exchange.pump is not None:
            ended_stream(error, delivered)
        raise
    finally:
        exchange.close()
    assert exchange.pump is not None
    raise_failure(exchange.pump)
