"""Every row of a source through an LLM, and out again: the engine of ``llmflow run``.

A few workers pull rows, so that memory does not grow with the source. Every row
ends as an answer or as a named failure; what was not asked any more, because the
run was stopped, is counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from llmflow.errors import InputError, LLMFlowError, ProviderError
from llmflow.llm import LLM
from llmflow.rows import PromptTemplate, RowSource, RowWriter, answer_row, failed_row
from llmflow.runs.feed import feed

DEFAULT_CONCURRENCY = 100
DRAIN_SECONDS = 30.0
_ROWS_PER_TURN = 64


@dataclass(slots=True)
class Counters:
    """What a job has done so far."""

    answered: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    in_flight: int = 0

    @property
    def done(self) -> int:
        """Rows that have ended."""
        return self.answered + self.failed


class Job:
    """One prompt over many rows.

    >>> job = Job(llm, rows, template, writer)  # doctest: +SKIP
    >>> await job.run()  # doctest: +SKIP

    Args:
        llm: the model.
        source: the rows.
        template: makes a prompt of a row.
        writer: takes the answers and the failures.
        concurrency: how many rows are under way at once.
    """

    def __init__(
        self,
        llm: LLM,
        source: RowSource,
        template: PromptTemplate,
        writer: RowWriter,
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
    ) -> None:
        self.counters = Counters()
        self.stopped_by: BaseException | None = None
        """What ended the job before the source's end: a fatal error, or a broken source."""
        self.interrupted = False
        self._llm = llm
        self._source = source
        self._template = template
        self._writer = writer
        self._concurrency = concurrency
        self._reader: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Work off the source. Afterwards `stopped_by` and `interrupted` say how it ended."""
        self._reader = asyncio.create_task(self._read())
        try:
            await asyncio.wait({self._reader})
            while self._calls:
                await asyncio.wait(self._calls)
        finally:
            await self._cancel({self._reader, *self._calls})

    def interrupt(self) -> None:
        """Send no more. What is in flight may come to its end; asked twice, it is dropped."""
        if self.interrupted:
            self._drop_calls()
            return
        self.interrupted = True
        self._stop_reading()
        self._llm.limiter.pause(10 * DRAIN_SECONDS)
        asyncio.get_running_loop().call_later(DRAIN_SECONDS, self._drop_calls)
        self._drop_waiting()

    def _drop_waiting(self) -> None:
        """Once the last answer on its way is here, drop the calls that were never sent."""
        if not self._llm.limiter.statistics().in_flight:
            self._drop_calls()

    def _drop_calls(self) -> None:
        for call in self._calls:
            call.cancel()

    async def _read(self) -> None:
        """Start a call for every row, so many at a time."""
        free = asyncio.Semaphore(self._concurrency)

        def ended(call: asyncio.Task[None]) -> None:
            self._calls.discard(call)
            free.release()
            if self.interrupted:
                self._drop_waiting()
            if not call.cancelled() and (error := call.exception()) is not None:
                self._stop(error)

        try:
            index = 0
            async with aclosing(_rows(self._source)) as rows:
                async for row in rows:
                    await free.acquire()
                    call = asyncio.create_task(self._answer(row, index))
                    self._calls.add(call)
                    call.add_done_callback(ended)
                    index += 1
        except LLMFlowError as error:
            self._stop(error)

    def _stop(self, error: BaseException) -> None:
        """End the job early: take no more rows, let what is in flight come to its end."""
        if self.stopped_by is None:
            self.stopped_by = error
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self._reader is not None and self._reader is not asyncio.current_task():
            self._reader.cancel()

    @staticmethod
    async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, row: Mapping[str, Any], index: int) -> None:
        counters = self.counters
        counters.in_flight += 1
        try:
            prompt = self._template.render(row, index=index)
            response = await self._llm.complete(prompt)
        except ProviderError as error:
            if error.fatal:
                self._stop(error)
            self._fail(row, error, index)
        except InputError as error:
            self._fail(row, error, index)
        else:
            counters.answered += 1
            counters.input_tokens += response.usage.input_tokens
            counters.output_tokens += response.usage.output_tokens
            if response.cost is not None:
                counters.cost = (counters.cost or 0.0) + response.cost
            self._writer.write(answer_row(row, response.text, index))
        finally:
            counters.in_flight -= 1

    def _fail(self, row: Mapping[str, Any], error: LLMFlowError, index: int) -> None:
        self.counters.failed += 1
        self._writer.fail(failed_row(row, error, index))


async def _rows(source: RowSource) -> AsyncGenerator[Mapping[str, Any], None]:
    """Yield a source's rows; those of a pipe are read by a thread."""
    if source.once:
        async with aclosing(feed(source)) as fed:
            async for row in fed:
                yield row
        return
    for number, row in enumerate(source, 1):
        yield row
        if not number % _ROWS_PER_TURN:
            await asyncio.sleep(0)
