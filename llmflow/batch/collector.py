"""Collects rows until they are enough for a job."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from itertools import islice
from pathlib import Path
from typing import Final

from llmflow.batch.job_limits import JobSlots
from llmflow.batch.record import JobRecord
from llmflow.batch.spool import Spool, copy_rows
from llmflow.errors import InvalidRequestError, JournalError
from llmflow.items.idle import active_items

# For those who have been woken and are about to ask again.
_GRACE_SECONDS: Final = 0.02
_PATIENCE: Final = 30
# Of what the provider takes: it may count what is around the rows, too.
_SHARE_OF_SIZE: Final = 0.98
_LEAST_PRIMED: Final = 2

Finish = Callable[[Spool, str, int], Awaitable[None]]


class Collector:
    """The open files of one queue: one per schema and round.

    A file is handed on when it is full; all of them, when every item that is known of waits,
    or nothing new has come for a while.

    Args:
        folder: where files are.
        requests: the most rows of a file.
        size: the most bytes of one.
        slots: say the most tokens of one, which may change.
        quiet: seconds without a new row after which files are handed on.
        finish: makes a job of a file, given its schema and round.
    """

    def __init__(
        self,
        folder: Path,
        *,
        requests: int,
        size: int,
        slots: JobSlots,
        quiet: float,
        finish: Finish,
    ) -> None:
        self._folder = folder
        self._requests = requests
        self._size = int(size * _SHARE_OF_SIZE)
        self._slots = slots
        self._quiet = quiet
        self._finish = finish
        self._open: dict[tuple[str, int], Spool] = {}
        self._sealing: dict[Spool, asyncio.Task[None]] = {}
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._added_at = 0.0
        self._live = active_items()
        self._stop_listening = self._live.listen(self._maybe_all_wait)

    def __contains__(self, name: str) -> bool:
        for spool in self._open.values():
            if name in spool.names:
                return True
        return any(name in spool.names for spool in self._sealing) if self._sealing else False

    def __len__(self) -> int:
        return sum(each.requests for each in (*self._open.values(), *self._sealing))

    @property
    def under_way(self) -> list[asyncio.Task[None]]:
        """The tasks that turn files into jobs now."""
        return list(self._sealing.values())

    def add(self, name: str, line: bytes, *, tokens: float, schema: str, round_: int) -> Spool:
        """Write a row into its kind's open file, and return that file.

        Raises:
            InvalidRequestError: it is larger than a whole job may be.
            JournalError: it cannot be written.
        """
        if len(line) > self._size:
            raise InvalidRequestError(
                f"the request is too large for a batch job: {len(line):,} bytes, and a whole job "
                f"may have {self._size:,}"
            )
        key = (schema, round_)
        spool = self._open.get(key)
        if spool is not None and self._is_full(spool, line, tokens):
            self._seal(key)
            spool = None
        try:
            if spool is None:
                spool = self._open[key] = Spool(self._folder / f"{new_tag()}.jsonl")
            spool.add(name, line, tokens)
        except OSError as error:
            raise cannot_write(self._folder, error) from error
        self._added_at = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._quiet, self._look)
        return spool

    def drop(self, name: str) -> bool:
        """Remove a row whose caller is gone; False if already sent.

        The row is in no job then.
        """
        for spool in self._open.values():
            if name in spool.names:
                spool.drop(name)
                return True
        return False

    def _is_full(self, spool: Spool, line: bytes, tokens: float) -> bool:
        most = self._slots.most_tokens
        return (
            len(spool.names) >= self._requests
            or spool.size + 1 + len(line) > self._size
            or (most is not None and bool(spool.names) and spool.tokens + tokens > most)
        )

    def _maybe_all_wait(self) -> None:
        if self._open and self._live.all_wait:
            self._loop.call_later(_GRACE_SECONDS, self._look_again)

    def _look_again(self) -> None:
        if self._open and self._live.all_wait:
            self.seal()

    def _look(self) -> None:
        """Hand on what is open if nothing more is to be expected."""
        self._timer = None
        if not self._open:
            return
        patience = self._quiet
        if self._live.pools and self._live.at_work > 0:
            patience *= _PATIENCE
        left = self._added_at + patience - self._loop.time()
        if left <= 0 or self._live.all_wait:
            self.seal()
        else:
            left = min(left, self._quiet)  # items may end without asking
            self._timer = self._loop.call_later(max(left, _GRACE_SECONDS), self._look)

    def seal(self) -> None:
        """Hand on all that has been collected."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for key in list(self._open):
            self._seal(key)

    def _seal(self, key: tuple[str, int]) -> None:
        spool = self._open.pop(key)
        if not spool.requests:
            spool.discard()
            return
        task = self._sealing[spool] = asyncio.create_task(self._hand_on(spool, key))
        task.add_done_callback(lambda _: self._sealing.pop(spool, None))

    async def _hand_on(self, spool: Spool, key: tuple[str, int]) -> None:
        try:
            await self._finish(spool, *key)
        finally:
            spool.handed_on.set()

    def discard(self) -> set[str]:
        """Remove the open files, and return their rows."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        names: set[str] = set()
        for spool in self._open.values():
            names |= spool.names
            spool.discard()
        self._open.clear()
        return names

    async def stop(self) -> None:
        """Stop, and remove what is in no job yet."""
        self._stop_listening()
        tasks = self.under_way
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.discard()


class Primers:
    """The jobs of this process that warm the provider's cache.

    Rows of one job are worked on at the same time, and so none finds in the provider's prompt
    cache what another one has put there: each pays for writing it. A row that was answered
    before them spares them that.
    """

    def __init__(self) -> None:
        self._tags: dict[bytes, str] = {}

    def choose(self, spool: Spool) -> tuple[dict[bytes, str], str | None]:
        """Choose what goes before a file.

        Returns:
            A row for each beginning that several rows share and no primer has, and the tag of
            the latest job that is the primer of another one.
        """
        rows, last = dict[bytes, str](), None
        for digest, names in spool.prefixes.items():
            if (tag := self._tags.get(digest)) is not None:
                last = tag
                continue
            sharing = list(islice(filter(spool.names.__contains__, names), _LEAST_PRIMED))
            if len(sharing) == _LEAST_PRIMED:  # so that others are left for the job after it
                rows[digest] = sharing[0]
        return rows, last

    def note(self, digests: dict[bytes, str], tag: str) -> None:
        """Note that a job has the rows of these beginnings."""
        self._tags.update(dict.fromkeys(digests, tag))


def divide(
    spool: Spool, record: JobRecord, first: set[str], path: Path
) -> tuple[JobRecord, JobRecord]:
    """Split a sealed file into primer and rest; return their records.

    Blocks for as long as the disk takes. Until the records are written down, the files
    belong to nobody.

    Args:
        spool: the file; what is left of it has the rest.
        record: what was to be written down of it.
        first: the rows of the primer.
        path: where the primer's file will be.
    """
    size = copy_rows(spool.path, path, first.__contains__)
    rest = copy_rows(spool.path, spool.path, lambda name: name not in first)
    tokens = record.tokens * len(first) / record.requests
    primer = record.but(tag=path.stem, requests=len(first), size=size, tokens=tokens)
    others = record.but(
        requests=record.requests - len(first),
        size=rest,
        tokens=record.tokens - tokens,
        after=primer.tag,
    )
    return primer, others


def new_tag() -> str:
    """Return a name that no job had before."""
    return f"llmflow-{secrets.token_hex(12)}"


def cannot_write(folder: Path, error: OSError) -> JournalError:
    """Return the error for a full disk or a foreign folder."""
    return JournalError(
        f"the rows of a batch job cannot be written to {folder}: {error}; "
        "make room there, or keep runs elsewhere (LLMFLOW_JOURNAL_DIR)"
    )
