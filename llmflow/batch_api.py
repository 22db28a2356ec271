"""What a provider's batch API is to llmflow.

A provider that has one offers it as its attribute `batch`. The adapter knows the provider's
calls, their order and their words; when to make them, what to do after a failure and what to
write down before and after is llmflow's, once for all providers (`llmflow.batch`). An adapter
keeps nothing between calls and reaches the network through the `Channel` that it is handed.

A job's life, as llmflow goes through it::

    line, line, ...   each request becomes a line of a file on this machine
    upload            the file, where the provider wants one first
    create            the job; not to be repeated without `find`
    status            until it has ended
    fetch             its results, onto this machine's disk
    read              each line of them
    clean_up          what nobody needs any more
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from llmflow.errors import ProviderError
from llmflow.types import Response, WireReply, WireRequest

BatchState = Literal[
    "queued", "running", "cancelling", "succeeded", "failed", "cancelled", "expired"
]
"""What a job is doing, in one provider's words or another's. ``succeeded`` says that it came to
its end, whatever became of its rows; only ``failed`` has no row to show."""

ENDED: frozenset[str] = frozenset({"succeeded", "failed", "cancelled", "expired"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """What one job may hold, and how many may wait at once.

    Args:
        requests: the most rows of one job.
        size: the most bytes of one job's file.
        least_requests: the fewest rows of one job.
        mixed_models: whether a job may ask several models.
        uniform_schema: whether all rows of a job must want the same JSON schema.
        enqueued_tokens: prompt tokens of one model that may wait or run at once; None where
            there is no such limit, or it is not known.
        jobs: how many jobs may wait or run at once; None where that is not limited.
        seconds: after how many seconds a job is given up by the provider.
        discount: what a row costs of a live call's price: 0.5 is half.
        calls_per_minute: how many requests about jobs and files may be sent in a minute.
        poll: how many seconds a new job is left alone before the first look at it.
    """

    requests: int = 50_000
    size: int = 200 * 2**20
    least_requests: int = 1
    mixed_models: bool = False
    uniform_schema: bool = False
    enqueued_tokens: float | None = None
    jobs: int | None = None
    seconds: float = 86_400.0
    discount: float = 0.5
    calls_per_minute: float = 300.0
    poll: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchInput:
    """The rows of one job, in a file on this machine: a row a line, none after the last.

    Args:
        path: the file.
        size: its bytes.
        requests: its rows.
        tag: what the job is found by, where the provider lets a job be named: at most 64
            characters of ``A-Z a-z 0-9 - _``, and never used before.
        model: the model's name at the provider.
        created_at: when its creation was begun, or before that, when it was finished; in
            seconds since 1970.
    """

    path: Path
    size: int
    requests: int
    tag: str
    model: str
    created_at: float


class BatchProblem(NamedTuple):
    """Why a job failed.

    Args:
        error: what is wrong, as a call would be told; a `QueueLimitError` where too much is
            waiting already: the same job is accepted later.
        line: which line of the input is meant, from 1; None where that is not said.
    """

    error: ProviderError
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatus:
    """What the provider says of one job.

    Args:
        id: the provider's name of it.
        state: what it is doing.
        native: that in the provider's own word.
        total: its rows; None where that is not said (yet).
        succeeded: rows that are answered so far; None where that is not said.
        failed: rows that have failed so far, likewise.
        created_at: when it was made, in seconds since 1970.
        expires_at: when the provider gives it up.
        tag: the tag that it was created with, where it has one.
        uploaded: the provider's name of its input file.
        results: what to fetch, in the provider's words; empty while there is nothing.
        problems: why it failed.
        retry_after: seconds that the server asked to wait before the next look.
    """

    id: str
    state: BatchState
    native: str = ""
    total: int | None = None
    succeeded: int | None = None
    failed: int | None = None
    created_at: float | None = None
    expires_at: float | None = None
    tag: str | None = None
    uploaded: str | None = None
    results: tuple[str, ...] = ()
    problems: tuple[BatchProblem, ...] = ()
    retry_after: float | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ENDED


class BatchRow(NamedTuple):
    """One line of the results: an answer, or why there is none.

    Args:
        custom_id: which row it is.
        response: the answer, without its cost.
        error: what became of it instead. A `BatchRowLostError` was never run.
    """

    custom_id: str
    response: Response | None
    error: ProviderError | None


class Upload(NamedTuple):
    """A body that is sent piece by piece.

    Args:
        pieces: begins at the first piece whenever it is called.
        size: all of their bytes.
    """

    pieces: Callable[[], Iterator[bytes]]
    size: int


class FileBounds(NamedTuple):
    """What a file may have at most, in the form that is sent and in that of the disk.

    Args:
        size: its bytes.
        lines: its line breaks; blank lines count.
    """

    size: int
    lines: int


class Channel(Protocol):
    """How an adapter reaches the provider: one request a call, never repeated."""

    async def send(self, wire: WireRequest, body: Upload | None = None) -> WireReply:
        """Send a request, with a streamed body in place of its own, and return the reply.

        Raises:
            ProviderError: there was no reply; a reply of any status is returned.
        """
        ...

    async def fetch(
        self, wire: WireRequest, path: Path, bounds: FileBounds | None = None
    ) -> WireReply:
        """Send a request and write a reply of status 200 into a file, whole or not at all.

        The returned reply has an empty body then; of another status it has its own. An adapter
        leaves the bounds to the channel that it is handed.

        Raises:
            ProviderError: there was no whole reply.
            ResultsTooLargeError: it is larger than the results of the job's rows can be.
        """
        ...


@runtime_checkable
class BatchAPI(Protocol):
    """A provider's batch API.

    Whatever is called on the network raises `ProviderError` in the classes of
    `llmflow.errors`, with the reply's `status`: 404 where the job is not known (yet).

    Attributes:
        limits: what the provider allows, where nothing else is configured.
    """

    limits: BatchLimits

    def line(self, custom_id: str, wire: WireRequest) -> bytes:
        """Return the input's line for a call, without a line break."""
        ...

    async def upload(self, rows: BatchInput, channel: Channel) -> str | None:
        """Bring the file to the provider and return its name there; None if `create` does so."""
        ...

    async def create(self, rows: BatchInput, uploaded: str | None, channel: Channel) -> BatchStatus:
        """Create the job.

        Raises:
            QueueLimitError: too much is waiting already; nothing was created.
            ProviderError: it was refused, or (with a status outside of the 400s, or none)
                nobody knows.
        """
        ...

    async def find(
        self, rows: BatchInput, known: Collection[str], channel: Channel
    ) -> BatchStatus | None:
        """Look for a job that `create` may have made without anybody hearing of it.

        Args:
            rows: what it was created for. By its tag, or else by its time and size.
            known: ids of jobs that were created for something else.
            channel: the way to the provider.
        """
        ...

    async def status(self, job: str, channel: Channel) -> BatchStatus:
        """Ask how a job is doing."""
        ...

    async def cancel(self, job: str, channel: Channel) -> None:
        """Ask for the end of a job. One that has ended already is no error."""
        ...

    async def fetch(self, status: BatchStatus, folder: Path, channel: Channel) -> Sequence[Path]:
        """Bring all results of an ended job into files of this folder; none is no error.

        Fetched again, they take the same places.
        """
        ...

    def read(self, line: bytes) -> BatchRow:
        """Read one line of the results; a large one is read in a thread.

        Raises:
            ValueError: it is cut off, or no result.
        """
        ...

    async def clean_up(self, status: BatchStatus, channel: Channel) -> None:
        """Delete the files of an ended job whose results are on this machine."""
        ...
