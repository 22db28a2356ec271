"""A call on its way to an answer, and its route."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Hashable, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from llmflow.errors import JournalError, ProviderError
from llmflow.limits import Limiter
from llmflow.provider import Provider
from llmflow.types import Charge, Request, Response, Usage, WireRequest

if TYPE_CHECKING:
    from llmflow.cache import Cache
    from llmflow.calls.in_flight import InFlight
    from llmflow.calls.judge import Judge
    from llmflow.calls.mode_options import ModeOptions
    from llmflow.calls.payment import Payment, Second, Sending
    from llmflow.limits import Permit
    from llmflow.pricing import Price
    from llmflow.typed.methods import Chosen

TIMES_THE_ESTIMATE: Final = 100
ALWAYS_FITS: Final = 2048
"""Tokens: no model's context is smaller."""
_UNBOUNDED_ANSWER: Final = 1024

NOTHING: Final = Response(
    text="", usage=Usage(), finish_reason=None, model="", provider="", source="nothing"
)
"""What a call comes to that wants no result."""


class Pending(Protocol):
    """A call answered by a batch job, until the answer is durable."""

    def mark_durable(self) -> None:
        """Note that the outcome is written down, or need not be."""
        ...

    def mark_failed(self, error: JournalError, /) -> None:
        """Note that it cannot be written down."""
        ...


@dataclass(slots=True, eq=False, repr=False)
class Call:
    """One call, as its steps hand it on.

    Args:
        request: what is asked.
        route: how it reaches its answer.
        mode_options: the mode that is chosen for it; None: live.
        judge: looks at its answer; None where any is accepted.
        wanted: whether the answer is waited for; else it comes into the journal.
        shares: whether equal calls in flight have one answer.

    Attributes:
        id: the call's number in this process.
        key: what stands for it in the journal; empty where nothing asks for it.
        ordinal: how often the same was asked before in this session.
        in_flight: the equal calls that it belongs to, if it shares their answer.
        source: where its answer is from, as `Response.source` says.
        in_batch: whether a batch job has answered it.
        pending: what waits in a batch job until its answer is written down, or None.
        placed: whether a batch job has it, if nobody waits for its answer.
        done: gets the outcome of a placed call, once it is written down; or None.
        answer: an answer that is known and counted, and not accepted; or None.
        charge: what its provider reserves for it, where that was asked already.
        payment: what is kept back for it; None where nobody limits that.
        retried: is told of each failure after which the request is sent again; None where
            nobody asks.
    """

    request: Request
    route: Route
    _: KW_ONLY
    mode_options: ModeOptions | None = None
    judge: Judge | None = None
    wanted: bool = True
    shares: bool = False
    id: int = field(init=False, default_factory=count(1).__next__)
    key: bytes = field(init=False, default=b"")
    ordinal: int = field(init=False, default=0)
    in_flight: InFlight | None = field(init=False, default=None)
    source: str = field(init=False, default="provider")
    in_batch: bool = field(init=False, default=False)
    pending: Pending | None = field(init=False, default=None)
    placed: bool = field(init=False, default=False)
    done: Done | None = field(init=False, default=None)
    answer: Response | None = field(init=False, default=None)
    charge: Charge | None = field(init=False, default=None)
    payment: Payment | None = field(init=False, default=None)
    retried: Callable[[ProviderError], None] | None = field(init=False, default=None)

    @property
    def row(self) -> tuple[bytes, int]:
        """Its fingerprint and ordinal in the journal."""
        return self.key, self.ordinal

    def again(self, request: Request) -> Call:
        """Return a call for another request, in this route and mode."""
        return replace(self, request=request, judge=None)


@dataclass(slots=True, eq=False, repr=False)
class LiveCall:
    """State of a live call between its attempts."""

    id: int
    request: Request
    charge: Charge
    wire: WireRequest | None
    now: Callable[[], float]
    kind: Hashable = None
    expect: Callable[[], Charge] | None = None
    chosen: Chosen | None = None
    attempts: int = 0
    place: int = 0
    in_flight: float = 0.0
    doubted: bool = False
    probed: bool = False
    rejected_since: float | None = None
    retried: Callable[[ProviderError], None] | None = None
    payment: Payment | None = None
    second: Second | None = None
    sending: Sending | None = None
    permit: Permit | None = None

    def leave(self) -> None:
        """Take note that the request goes out."""
        if self.sending is not None:
            self.sending.in_flight = True
        if self.permit is not None:
            self.permit.leave()


RowKey: TypeAlias = tuple[bytes, int]
"""Fingerprint and ordinal of a call, which name it in the journal and in batch jobs."""
Done: TypeAlias = Callable[["Response | Exception"], None]
Step: TypeAlias = Callable[[Call], Coroutine[Any, Any, Response]]
"""One step of a call: it answers the call itself, or passes it on."""


class RunLive(Exception):  # noqa: N818 - nothing is wrong
    """No batch job answers the call: ask it live.

    `answer` is one that a job has brought, and that is not accepted; else None.
    """

    answer: Response | None = None


class Mode(Protocol):
    """Protocol: gets answers, by live calls or by batch jobs."""

    async def complete(self, call: Call, /) -> Response:
        """Answer one call.

        Raises:
            ProviderError: it failed for good, with the number of its attempts.
        """
        ...

    async def place(self, calls: Sequence[Call], /) -> None:
        """Put calls of one kind into batch jobs, if there are any."""
        ...

    def is_batch(self, call: Call, /) -> bool:
        """Return whether a batch job answers a call first, at its price."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Route:
    """The way of an LLM's calls to their answers.

    Args:
        provider: who answers.
        live: how answers are got by live calls.
        limiter: whose admission its calls pass.
        price: returns what answers cost, or None if nobody knows.
        overrides_cost: whether that price goes before a cost that the provider reports.
        cache: where answers of earlier runs are taken from, and kept for later ones; or None.
        mode_options: the mode of its calls, whatever is chosen around them; None: what is.
        batch: the `Batch` settings of its batch jobs; None for the defaults.
    """

    provider: Provider
    live: Mode
    limiter: Limiter
    price: Callable[[], Price | None] = lambda: None
    overrides_cost: bool = False
    cache: Cache | None = None
    mode_options: ModeOptions | None = None
    batch: Any = None

    @property
    def endpoint(self) -> str:
        """The provider's address: another server's answers are other answers."""
        return getattr(self.provider, "endpoint", None) or ""

    @property
    def has_batch_api(self) -> bool:
        """True if the provider has a batch API."""
        return getattr(self.provider, "batch", None) is not None

    @property
    def has_public_price(self) -> bool:
        """True if its prices are those of the public table."""
        price = self.price()
        if price is None or price.is_free:
            return False
        from llmflow.pricing import price_of

        model = f"{self.provider.name}/{self.provider.model}"
        return price == price_of(model, base_url=self.endpoint or None)


def plausible(response: Response, provider: Provider, charge: Charge | None) -> Response:
    """Return an answer, without its usage if that cannot be.

    What is below zero would make calls free, and what is absurd would close a quota or a
    budget for good: above the model's context, or above 100 times the estimate where the
    context is not known. `charge` is what it was expected to take, where anybody knows.
    """
    usage = response.usage
    read, written = usage.input_tokens, usage.output_tokens
    total = read + written
    if read >= 0 and written >= 0:
        if charge is not None and total <= charge.input_tokens + charge.output_tokens:
            return response
        endpoint = getattr(provider, "endpoint", None) or None
        most: float = _context(f"{provider.name}/{provider.model}", endpoint)
        if not most and charge is not None:
            answer = charge.output_tokens or _UNBOUNDED_ANSWER
            most = TIMES_THE_ESTIMATE * max(charge.tokens, charge.input_tokens + answer)
        if not most or total <= most:
            return response
    return replace(response, usage=Usage(), cost=None)


@functools.lru_cache(maxsize=256)
def _context(model: str, endpoint: str | None) -> int:
    """Return how many tokens a call of a model can use at the most; 0 where nobody knows."""
    from llmflow.pricing import context_of

    context = context_of(model, base_url=endpoint)
    if context is None or not context.max_input_tokens:
        return 0
    return context.max_input_tokens + (context.max_output_tokens or 0)
