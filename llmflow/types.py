"""Values that pass between the layers: plain and frozen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

from llmflow.arguments import values_by_name
from llmflow.errors import ConfigurationError
from llmflow.parts import Output, OutputSchema, Parsed, Tool, ToolCall, ToolChoice, Vector, Wanted
from llmflow.shares import parse_share, share_text

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    ParsedT = TypeVar("ParsedT", default=Any)
    AnswerT = TypeVar("AnswerT", default=str)
else:  # without the default, which the standard library has from Python 3.13 on
    from typing import TypeVar

    ParsedT = TypeVar("ParsedT")
    AnswerT = TypeVar("AnswerT")
OutputT = TypeVar("OutputT")
"""What a call's own ``output_type`` gives."""

_WITHOUT_TEXT = ("tool_calls", "function_call")
_SUFFIX = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9}


def parse_amount(text: str | float, *, name: str = "amount") -> float:
    """Parse a quota: a positive number, or text such as ``"10k"``.

    >>> parse_amount("2.5M")
    2500000.0

    Raises:
        ConfigurationError: it is not a finite number above zero.

    """
    remedy = f"{name} must be a number above 0, such as 500, 10k or 2M; got {text!r}"
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise ConfigurationError(remedy)
    if isinstance(text, str):
        digits = text.strip().lower().replace("_", "").replace(",", "")
        unit = digits[-1:] if digits[-1:] in "kmb" else ""
        try:
            value = float(digits.removesuffix(unit)) * _SUFFIX[unit]
        except ValueError:
            raise ConfigurationError(remedy) from None
    else:
        value = float(text)
    if not math.isfinite(value) or value <= 0:
        raise ConfigurationError(remedy)
    return value


@values_by_name()
@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """The provider's limits for one key and model; None if none.

    >>> Quota(rpm=500, tpm="200k")
    Quota(rpm=500.0, tpm=200000.0)

    Args:
        rpm: requests per minute.
        tpm: tokens per minute, input and output together.
        itpm: input tokens per minute, where the provider limits them apart.
        otpm: output tokens per minute, likewise.
        rpd: requests per day.
        tpd: tokens per day.
        max_concurrent: requests in flight at once.
        burst_seconds: how many seconds' worth of a per-minute limit the provider
            lets through at once. Providers enforce "600 per minute" in slices as
            short as a second, so one second is assumed where nothing is said.
        share: the part of all this that is this program's own, such as ``"1/4"`` or 0.25 for
            one of four programs with the same key. It applies to limits that replies name,
            too. None: that of ``LLMFLOW_SHARE``, or all of it.

    Raises:
        ConfigurationError: a value is not a number above zero, or the share leaves less than
            one request in flight.

    """

    rpm: float | str | None = None
    tpm: float | str | None = None
    itpm: float | str | None = None
    otpm: float | str | None = None
    rpd: float | str | None = None
    tpd: float | str | None = None
    max_concurrent: int | None = None
    burst_seconds: float | None = None
    share: float | str | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None:
                continue
            if item.name == "max_concurrent":
                if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                    raise ConfigurationError(
                        f"max_concurrent must be a whole number of at least 1; got {value!r}"
                    )
                continue
            read = parse_share if item.name == "share" else parse_amount
            object.__setattr__(self, item.name, read(value, name=item.name))
        if self.max_concurrent and self.max_concurrent * self.part < 1.0:
            raise ConfigurationError(
                f"a share of {share_text(self.part)} of max_concurrent={self.max_concurrent} is "
                f"less than one request in flight: share it by {self.max_concurrent} programs at "
                "the most, or raise max_concurrent"
            )

    @property
    def part(self) -> float:
        """The share as a number; 1.0 where none is given."""
        return 1.0 if self.share is None else float(self.share)

    def __repr__(self) -> str:
        given = ((item.name, getattr(self, item.name)) for item in fields(self))
        return f"Quota({', '.join(f'{k}={v!r}' for k, v in given if v is not None)})"


class Charge(NamedTuple):
    """The cost of one request in each limited unit."""

    requests: float = 1.0
    tokens: float = 0.0
    input_tokens: float = 0.0
    output_tokens: float = 0.0


class MarkedPrefix(NamedTuple):
    """A prompt's beginning that the provider should keep in its cache.

    Args:
        digest: equal for equal beginnings.
        tokens: its tokens, estimated.
        for_an_hour: whether it is to be kept for an hour, which may cost more.
    """

    digest: bytes
    tokens: int
    for_an_hour: bool = False


class QuotaSignal(NamedTuple):
    """One dimension of the quota as headers report it; None if silent.

    Args:
        dimension: the name of the field of `Quota`, such as ``"rpm"``.
        limit: the limit, per minute or per day as the dimension says.
        remaining: what was left of it when the server looked, this request being charged.
        reset: seconds until all of it is back.
    """

    dimension: str
    limit: float | None = None
    remaining: float | None = None
    reset: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call of a model, in no provider's dialect.

    Args:
        model: the model's name at the provider, without the provider's prefix.
        messages: chat messages, each with ``role`` and ``content``: a text, or a tuple of parts
            (`llmflow.parts`).
        system: instructions that come before the messages.
        max_tokens: upper bound of the answer's tokens.
        temperature: sampling temperature.
        options: further fields of the provider's own body, sent as they are.
        wanted: what the answer may hold beside a text: see `output`, `tools` and `tool_choice`.

    Of parts, no provider of llmflow's own sends more than texts yet, and of what is `wanted` they
    take an `OutputSchema`: the rest is refused before anything is sent.
    """

    model: str
    messages: tuple[Mapping[str, Any], ...]
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    # One field for all kinds, here and in `Response`: each field costs every call.
    wanted: tuple[Wanted, ...] = ()

    @property
    def output(self) -> OutputSchema | None:
        """The schema that the answer must fit, or None."""
        for each in self.wanted:
            if type(each) is OutputSchema:
                return each
        return None

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The tools that the model may call."""
        return tuple(each for each in self.wanted if isinstance(each, Tool))

    @property
    def tool_choice(self) -> str | None:
        """The name of its `ToolChoice`, or None."""
        return next((each.name for each in self.wanted if isinstance(each, ToolChoice)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens that the provider counted.

    Args:
        input_tokens: the whole prompt's.
        output_tokens: the whole answer's, reasoning among them.
        cached_tokens: those of the prompt that were read from the provider's cache.
        reasoning_tokens: those of the answer that were reasoning.
        cache_write_tokens: those of the prompt that were put into the cache.
        cache_write_1h_tokens: those of them that stay there for an hour, where that is said.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Response(Generic[ParsedT]):
    """The answer to one `Request`, with what it took to get it.

    Args:
        text: the answer. Untrusted: it can hold anything.
        usage: tokens as the provider counted them.
        finish_reason: why the model stopped: ``stop``, ``length`` where it was cut off at
            `max_tokens`, whatever the provider's word for that is, ``tool_calls``, ...
        model: the model that answered, as the provider names it.
        provider: the provider's name.
        request_id: the provider's id of this request.
        cost: US dollars where known, else None.
        attempts: how often the request was sent and counted; a 429 is not counted.
        waited: seconds spent waiting for the quota and between attempts.
        source: where this answer is from: the ``provider``; the run's ``journal`` or the
            ``cache`` of all runs, at no further cost; or ``shared``, from an equal call in flight.
        signals: what the reply said of the quota, from a provider with a client of its own.
        raw: the provider's whole reply, for fields that have no place above.
        outputs: what was answered beside the text: see `parsed`, `tool_calls` and `vectors`.

    """

    text: str
    usage: Usage
    finish_reason: str | None
    model: str
    provider: str
    request_id: str | None = None
    cost: float | None = None
    attempts: int = 1
    waited: float = 0.0
    source: str = field(default="provider", compare=False)
    signals: Sequence[QuotaSignal] = field(default=(), repr=False, compare=False)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    outputs: tuple[Output, ...] = ()

    @property
    def parsed(self) -> ParsedT:
        """The answer as its call's ``output_type``; without one, None."""
        for each in self.outputs:
            if type(each) is Parsed:
                value: ParsedT = each.value
                return value
        return None  # type: ignore[return-value]

    def with_parsed(self, value: Any) -> Response[Any]:
        """Return the same answer with a value as `parsed`.

        >>> answer = Response(
        ...     text="7", usage=Usage(), finish_reason="stop", model="m", provider="p"
        ... )
        >>> answer.with_parsed(7).parsed
        7
        """
        others = [each for each in self.outputs if type(each) is not Parsed]
        # By hand: `dataclasses.replace` takes three times as long, and each answer passes here.
        return Response(
            text=self.text,
            usage=self.usage,
            finish_reason=self.finish_reason,
            model=self.model,
            provider=self.provider,
            request_id=self.request_id,
            cost=self.cost,
            attempts=self.attempts,
            waited=self.waited,
            source=self.source,
            signals=self.signals,
            raw=self.raw,
            outputs=(Parsed(value=value), *others),
        )

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tools that the model wants to be run."""
        return tuple(each for each in self.outputs if isinstance(each, ToolCall))

    @property
    def vectors(self) -> tuple[Vector, ...]:
        """The embeddings, in the order of the inputs."""
        return tuple(each for each in self.outputs if isinstance(each, Vector))

    @property
    def is_cut(self) -> bool:
        """True if it was cut off at a token limit."""
        return self.finish_reason == "length"

    @property
    def is_empty(self) -> bool:
        """True if it holds neither text nor another output."""
        text = self.text
        without_text = self.outputs or self.finish_reason in _WITHOUT_TEXT
        return (not text or text.isspace()) and not without_text


class WireRequest(NamedTuple):
    """An encoded request. Its headers hold the key: never log them."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"WireRequest({self.method} {self.url}, {len(self.body)} bytes)"


class WireReply(NamedTuple):
    """A reply as it came over the wire.

    Args:
        status: HTTP status.
        headers: response headers; looked up with lower-case names.
        body: the whole body.
        received_at: wall-clock time of arrival, in seconds since 1970.

    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    received_at: float
