"""Submits all rows of a source before any of them is written.

They are read once for that, and their keys are kept in a file.
"""

from __future__ import annotations

import asyncio
import struct
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Final, TypeAlias

from llmflow.calls.mode_options import ModeOptions, use_mode
from llmflow.errors import (
    BatchCancelledError,
    BatchUnsupportedError,
    BudgetExceededError,
    InputError,
    JournalError,
    TooLargeForBudgetError,
)
from llmflow.items.idle import active_items
from llmflow.llm import LLM
from llmflow.rows import LeftOut, PromptTemplate, RowSource, Selection
from llmflow.runs.run import Run

_ROWS_PER_TURN: Final = 64
Key: TypeAlias = tuple[bytes, int]
"""Fingerprint and ordinal of a row's call."""

NO_KEY: Final[Key] = b"", 0
NO_HASH: Final = -1
"""No text has this hash."""
_ENTRY: Final = struct.Struct("=16sIq")
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
        keys = self.keys = RowKeys()
        for index, row in enumerate(self._source):
            self.rows += 1
            if not index % _ROWS_PER_TURN:
                await asyncio.sleep(0)
            text, call = "", None
            try:
                prompt = self._selection.prompt(row, index)
                if not isinstance(prompt, LeftOut):
                    text = prompt
                    session, call = self._llm.call_for(text, wanted=False)
                    self.submitted += await session.submit(call)
            except (InputError, TooLargeForBudgetError):
                continue  # whoever writes the rows says so
            except BudgetExceededError as error:
                self.refused = error
                return  # what has been submitted may still cost less than it was reserved
            finally:
                keys.add(text, NO_KEY if call is None else call.row)


class RowKeys:
    """The journal keys of rows, in the order of the rows.

    Whoever reads the source a second time does not have to work them out again.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - `close` does that
        self.close = weakref.finalize(self, self._file.close)
        self._new: list[bytes] = []

    def add(self, prompt: str = "", key: Key = NO_KEY) -> None:
        """Add the next row, without a key where nothing was asked.

        Raises:
            JournalError: there is no room in the temporary folder.
        """
        self._new.append(_ENTRY.pack(*key, hash(prompt) if key[0] else NO_HASH))
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

    def read(self) -> Iterator[list[tuple[Key, int]]]:
        """Yield keys and hashes of prompts, many rows at a time."""
        self._flush()
        self._file.seek(0)
        while data := self._file.read(_ENTRY.size * _AT_ONCE):
            yield [((key, nth), digest) for key, nth, digest in _ENTRY.iter_unpack(data)]
