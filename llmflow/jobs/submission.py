"""Submits all rows of a source before any of them is written.

They are read once for that, and their keys are kept in a file.
"""

from __future__ import annotations

import asyncio
import struct
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

from llmflow.calls.call import Call, RowKey
from llmflow.calls.mode_options import ModeOptions, use_mode
from llmflow.calls.place import submit_many
from llmflow.errors import (
    BatchCancelledError,
    BatchUnsupportedError,
    BudgetExceededError,
    InputError,
    InvalidRequestError,
    JournalError,
    TooLargeForBudgetError,
)
from llmflow.items.idle import active_items
from llmflow.llm import LLM
from llmflow.rows import LeftOut, PromptTemplate, Row, RowSource, Selection
from llmflow.runs.run import Run
from llmflow.types import Request

ROWS_PER_TURN: Final = 64
NO_KEY: Final[RowKey] = b"", 0
NO_HASH: Final = -1
"""No text has this hash."""
_ENTRY: Final = struct.Struct("=16sIq")
_NO_ENTRY: Final = _ENTRY.pack(*NO_KEY, NO_HASH)
_AT_ONCE: Final = 128
_BUFFERED: Final = 1000


class Submission:
    """The rows of a source, as batch jobs of a run.

    >>> submission = Submission(llm, run, rows, template)  # doctest: +SKIP
    >>> await submission.run()  # doctest: +SKIP

    Afterwards the outcomes are in the run's journal, where whoever asks for the rows finds
    them.

    The run is open and has a journal, and the source is read again afterwards. `total` is how many
    rows there are, for a mode that decides. `detach`: return once the jobs are at the provider; it
    is without effect if no job goes on there.
    """

    def __init__(
        self,
        llm: LLM,
        run: Run,
        source: RowSource,
        template: PromptTemplate | Selection,
        *,
        total: int | None = None,
        detach: bool = False,
    ) -> None:
        self.detach = detach
        self.rows = 0
        """Rows that were looked at."""
        self.submitted = 0
        """Rows that are in a job of this session, or in one of an earlier session."""
        self.refused: BudgetExceededError | None = None
        """Why rows that are left were not submitted."""
        self.is_over = False
        """Whether all jobs have ended; with `detach`, are at the provider."""
        self.is_read = False
        """Whether there is nothing more to submit."""
        self.keys: RowKeys | None = None
        """The keys of the rows that were read so far."""
        self._total = total or 0
        self._llm = llm
        self._run = run
        self._source = source
        self._selection = template if isinstance(template, Selection) else Selection(template)

    async def run(self) -> None:
        """Submit all rows; wait for the jobs, or for their submission.

        Raises:
            LLMFlowError: the jobs cannot be gone on with, in this session.
        """
        run = self._run
        was_cancelled = any(each.is_active and each.cancel == "user" for each in run.batch_jobs)
        await self._read()
        try:
            await self._wait()
        except BatchCancelledError:
            # In this session somebody else has; in an earlier one it was the user, who now
            # wants the rest.
            if not was_cancelled:
                raise
            run.session.ordinals.begin_again()
            await self._read()
            await self._wait()
        self.is_over = True

    async def _read(self) -> None:
        """Submit all rows of which no outcome is known and no job has any."""
        self.rows, self.submitted, self.is_read = 0, 0, False
        live = active_items()
        live.expected += self._total  # what is decided for all of them is decided at the first
        try:
            await self._llm.collect()
            await self._submit()
        except BatchUnsupportedError:
            if not self._may_ask_in_parallel():
                raise
        finally:
            live.expected -= self._total
            self.is_read = True

    async def _wait(self) -> None:
        """Wait for the jobs; with `detach`, for their place at the provider."""
        run = self._run
        try:
            if self.detach:
                await run.submitted()
                self.detach = any(each.is_active for each in run.batch_jobs)
            if not self.detach:
                await run.settled()
        except BatchUnsupportedError:  # the first job was the first to ask
            if not self._may_ask_in_parallel():
                raise
            self.detach = False

    def _may_ask_in_parallel(self) -> bool:
        options = self._llm.mode_options
        return options is not None and (options.mode == "auto" or options.fallback == "parallel")

    async def put(self) -> None:
        """Submit the rows without answers during a parallel run.

        Whoever asks for a row then waits for its job.

        Raises:
            LLMFlowError: a row cannot be submitted.
        """
        self._run.session.ordinals.begin_again()
        options = self._llm.mode_options or ModeOptions()
        with use_mode(replace(options, mode="batch", fallback=None)):
            await self._submit()
        self.is_read = True

    async def stop(self) -> None:
        """Stop polling the jobs; they continue at the provider."""
        await self._run.session.stop_batches()

    async def _submit(self) -> None:
        keys, rows = RowKeys(), enumerate(self._source)
        self.keys = keys
        while chunk := list(islice(rows, self._at_once())):
            session, like = self._llm.call_for("", wanted=False)
            calls = [self._call(index, row, like) for index, row in chunk]
            self.rows += len(chunk)
            if len(chunk) > 1 or not self.rows % ROWS_PER_TURN:
                await asyncio.sleep(0)
            try:
                if wanted := list(filter(None, calls)):
                    self.submitted += await submit_many(session, wanted)
            except (InvalidRequestError, TooLargeForBudgetError):
                continue  # whoever writes the rows says so
            except BudgetExceededError as error:
                self.refused = error
                return  # what has been submitted may still cost less than it was reserved
            finally:
                keys.add(calls)

    def _at_once(self) -> int:
        """Return how many rows may be submitted in one; each takes its own share of a budget."""
        return 1 if self._run.session.spending is not None else ROWS_PER_TURN

    def _call(self, index: int, row: Row, like: Call) -> Call | None:
        """Return the call of a row; None if it is not asked."""
        try:
            prompt = self._selection.prompt(row, index)
        except InputError:  # whoever writes the rows says so
            return None
        if isinstance(prompt, LeftOut):
            return None
        given = like.request
        request = Request(
            model=given.model,
            messages=({"role": "user", "content": prompt},),
            system=given.system,
            max_tokens=given.max_tokens,
            temperature=given.temperature,
            options=given.options,
            wanted=given.wanted,
        )
        return Call(
            request,
            like.route,
            mode_options=like.mode_options,
            wanted=False,
            shares=like.shares,
        )


class RowKeys:
    """The journal keys of rows, in the order of the rows.

    Whoever reads the source a second time does not have to work them out again.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - `close` does that
        self.close = weakref.finalize(self, self._file.close)
        self._new: list[bytes] = []

    def add(self, calls: Sequence[Call | None]) -> None:
        """Add the next rows, with the calls that were made of them.

        Raises:
            JournalError: there is no room in the temporary folder.
        """
        for call in calls:
            if call is None or not call.key:
                self._new.append(_NO_ENTRY)
                continue
            prompt = call.request.messages[0]["content"]
            self._new.append(_ENTRY.pack(call.key, call.ordinal, hash(prompt)))
        if len(self._new) >= _BUFFERED:
            self._flush()

    def _flush(self) -> None:
        try:
            self._file.write(b"".join(self._new))
        except OSError as error:
            raise JournalError(
                f"the keys of rows cannot be kept in the temporary folder: {error}; make room "
                "there, or name another folder in TMPDIR, and run again; what was answered is kept"
            ) from error
        self._new.clear()

    def read(self) -> Iterator[list[tuple[RowKey, int]]]:
        """Yield keys and hashes of prompts, many rows at a time."""
        self._flush()
        self._file.seek(0)
        while data := self._file.read(_ENTRY.size * _AT_ONCE):
            yield [((key, nth), digest) for key, nth, digest in _ENTRY.iter_unpack(data)]
