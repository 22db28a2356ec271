"""Protocols of providers and batch APIs.

A provider is small and does no I/O: it turns a `Request` into bytes, a reply into a `Response`
or an error of `llmflow.errors`, and knows what a request is charged. Sending, waiting, retrying
and bookkeeping are done once, above it, for all providers alike, and for their batch APIs.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, cast, runtime_checkable

from llmflow.errors import ConfigurationError, ProviderError
from llmflow.retry import Retry
from llmflow.types import (
    Charge,
    Quota,
    QuotaSignal,
    Request,
    Response,
    Usage,
    WireReply,
    WireRequest,
)


@runtime_checkable
class Provider(Protocol):
    """A provider, bound to one model, base URL and key.

    Attributes:
        name: the provider's name, as in ``name/model``.
        model: the model's name at the provider.
        default_quota: the quota assumed where none is configured, or None.
        default_retry: the retry policy that fits this provider, or None for llmflow's own.
        endpoint: optional: where the provider is, such as its base URL; what was answered
            elsewhere is not taken for an answer from here.
        server: optional: what takes the endpoint's place in that, if more than the endpoint
            decides who answers. It is hashed and never shown.
        marked_prefix: optional: a method that returns a request's `MarkedPrefix`, or None.
        sends: optional: the kinds of `llmflow.parts` that it takes beside texts; else none.
        known_options: optional: the names of the fields that calls may give as keywords, for its
            body; without it, or where it is None, any name that is not llmflow's own.
        batch: optional: its `BatchAPI`, or None where it has none.
        outputs: optional: the `llmflow.typed.methods.OutputMethods` by which it can be asked for
            answers of a schema, the request's `output`, and ``output_schema`` among what it
            `sends`. It sends what ``outputs.chosen(request.output)`` says, and charges its tokens;
            what a model gives as arguments of the tool ``return_answer`` is the response's text.
            llmflow sets other methods where the user wants one. Without it a schema is refused.
        refuses_output: optional, with `outputs`: a method of an error and its request that
            returns whether the server did not know the method: then the next one is used.
        default_max_tokens: optional: the bound of an answer that it sends where a request has
            none, or None.
        reserves_output: whether ``max_tokens`` is charged when a request arrives. Where it is
            not, what is produced is charged, and llmflow reserves what it has learned to expect.
    """

    name: str
    model: str
    default_quota: Quota | None
    default_retry: Retry | None
    reserves_output: bool

    @property
    def domain(self) -> Hashable:
        """Its quota: equal domains share one limiter. Holds no secret."""

    def prepare(self) -> None:
        """Check what can be checked without a request: key, model, installed extras.

        Raises:
            ConfigurationError: something is missing; the message says what to do.
        """

    def reserve(self, request: Request) -> Charge:
        """Return what the provider charges a request when it arrives."""
        ...

    def settle(self, charge: Charge, usage: Usage) -> Charge:
        """Return what a request was charged, now that its usage is known."""
        ...


@runtime_checkable
class WireProvider(Provider, Protocol):
    """A provider without I/O: llmflow's own transport sends its bytes."""

    def encode(self, request: Request) -> WireRequest:
        """Turn a request into what goes over the wire."""
        ...

    def decode(self, reply: WireReply) -> Response:
        """Turn a reply into a response.

        Raises:
            ProviderError: the reply is an error, of the class that says what to do;
                `retry_after` holds the delay that the server asked for.
        """
        ...

    def signals(self, reply: WireReply) -> Sequence[QuotaSignal]:
        """Read what a reply's headers say of the quota."""
        ...


@runtime_checkable
class ClientProvider(Provider, Protocol):
    """A provider that brings a client of its own, such as litellm."""

    async def complete(self, request: Request, *, timeout: float) -> Response:
        """Send one request, once, and return its answer.

        What the reply's headers say of the quota goes into `signals`, of the response
        or of the error.

        Args:
            request: what to ask.
            timeout: seconds until the attempt is given up.

        Raises:
            ProviderError: as `WireProvider.decode`.
        """
        ...


BatchState = Literal[
    "queued", "running", "cancelling", "succeeded", "failed", "cancelled", "expired"
]
"""The state of a job, in one provider's words or another's. ``succeeded`` says that it came to
its end, whatever became of its rows; only ``failed`` has no row to show."""

ENDED: frozenset[str] = frozenset({"succeeded", "failed", "cancelled", "expired"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """The bounds of one job, and of all that wait at once.

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
    """The rows of one job, in a file: one per line.

    Args:
        path: the file.
        size: its bytes.
        requests: its rows.
        tag: what the job is found by, where the provider lets a job be named: at most 64
            characters of ``A-Z a-z 0-9 - _``, and never used before.
        model: the model's name at the provider.
        created_at: when its creation was begun, or the file finished; in seconds since 1970.
    """

    path: Path
    size: int
    requests: int
    tag: str
    model: str
    created_at: float


class BatchProblem(NamedTuple):
    """The reason why a job failed.

    Args:
        error: what is wrong, as a call would be told; a `QueueLimitError` where too much is
            waiting already: the same job is accepted later.
        line: which line of the input is meant, from 1; None where that is not said.
    """

    error: ProviderError
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatus:
    """The state of one job, as the provider tells it.

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
        """True once nothing will change any more."""
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
    """Size limits of a file: as sent, and on disk.

    Args:
        size: its bytes.
        lines: its line breaks; blank lines count.
    """

    size: int
    lines: int


class Channel(Protocol):
    """The way to the provider: one request a call, never repeated."""

    async def send(self, wire: WireRequest, body: Upload | None = None) -> WireReply:
        """Send a request, perhaps with a streamed body, and return the reply.

        Raises:
            ProviderError: there was no reply; a reply of any status is returned.
        """
        ...

    async def fetch(
        self, wire: WireRequest, path: Path, bounds: FileBounds | None = None
    ) -> WireReply:
        """Send a request and save a reply of status 200, atomically.

        The returned reply has an empty body then. An adapter leaves the bounds to the channel.

        Raises:
            ProviderError: there was no whole reply.
            ResultsTooLargeError: it is larger than the results of the job's rows can be.
        """
        ...


@runtime_checkable
class BatchAPI(Protocol):
    """The batch API of a provider.

    An adapter knows the provider's calls and words, and keeps nothing between calls; when to make
    which, and what to do after a failure, is llmflow's, once for all. A job's life::

        line, line, ...   each request becomes a line of a file on this machine
        upload            the file, where the provider wants one first
        create            the job; not to be repeated without `find`
        status            until it has ended
        fetch             its results, onto this machine's disk
        read              each line of them
        clean_up          what nobody needs any more

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
        """Upload the file and return its name; None if `create` uploads."""

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
        """Search for a job that `create` may have made unnoticed.

        By their tag, or else by time and size; jobs of `known` ids are others'.
        """

    async def status(self, job: str, channel: Channel) -> BatchStatus:
        """Ask how a job is doing."""
        ...

    async def cancel(self, job: str, channel: Channel) -> None:
        """Request a job's cancellation. An ended job is no error."""

    async def fetch(self, status: BatchStatus, folder: Path, channel: Channel) -> Sequence[Path]:
        """Bring all results of an ended job into files of this folder.

        None is no error. Fetched again, they take the same places.
        """
        ...

    def read(self, line: bytes) -> BatchRow:
        """Read one result line; a large one in a thread.

        Raises:
            ValueError: it is cut off, or no result.
        """
        ...

    async def clean_up(self, status: BatchStatus, channel: Channel) -> None:
        """Delete the remote files of an ended, downloaded job."""


class ProviderFactory(Protocol):
    """Protocol of an entry point: makes a provider."""

    def __call__(self, model: str, *, base_url: str | None, api_key: str | None) -> Provider:
        """Make a provider for one model; only `prepare` fails for want of a key."""
        ...


def checked(provider: object) -> WireProvider | ClientProvider:
    """Return a provider that has all its parts.

    Raises:
        ConfigurationError: something is missing; the message names it.
    """
    has_client = hasattr(type(provider), "complete")
    _check_parts(provider, "provider", Provider, *(() if has_client else (WireProvider,)))
    return cast("WireProvider | ClientProvider", provider)


def batch_api_of(provider: Provider) -> BatchAPI | None:
    """Return a provider's batch API, or None where it has none.

    Raises:
        ConfigurationError: something is missing in it; the message names it.
    """
    api: BatchAPI | None = getattr(provider, "batch", None)
    if api is not None:
        _check_parts(api, "batch API", BatchAPI)
    return api


def _check_parts(given: object, what: str, *protocols: type) -> None:
    names = [name for each in protocols for name in (*each.__annotations__, *vars(each))]
    parts = [name for name in names if not name.startswith("_")]
    # Looked up on the class where it is one's: a property must not run to be found.
    own = getattr(given, "__dict__", {})
    missing = [name for name in parts if not hasattr(type(given), name) and name not in own]
    if missing:
        raise ConfigurationError(
            f"{type(given).__name__} is no {what}: it lacks {', '.join(missing)}; "
            "see llmflow.provider"
        )


@functools.lru_cache(maxsize=128)
def key_digest(key: str | None) -> str:
    """Return a digest that tells keys apart in a quota domain."""
    return hashlib.sha256((key or "").encode("utf-8", "surrogatepass")).hexdigest()[:16]
