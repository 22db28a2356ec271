"""Settings of a simulated provider: quota, latency, faults, manners."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

from llmflow.errors import ConfigurationError
from llmflow.simulator.batch_settings import BatchSettings
from llmflow.simulator.checks import check_fields, from_mapping, number
from llmflow.simulator.faults import Faults, Latency

Scope = Literal["key+model", "key", "model", "all"]
ChargeRule = Literal["max", "sum"]
QuotaHeaders = Literal["bucket", "minute", "off"]
HeadersAt = Literal["admission", "reply"]
HeadersOn = Literal["all", "rejections"]
AnswerStyle = Literal["summary", "echo"]
CreditError = Literal["quota", "spend_limit", "balance"]


class Limits(NamedTuple):
    """The quota as plain numbers; None is no limit."""

    rpm: float | None
    tpm: float | None
    rpd: float | None
    tpd: float | None
    itpm: float | None
    otpm: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorSettings:
    """Everything a simulated provider can be set to.

    Both dialects obey every limit that is set, each by its own rule: OpenAI's charges
    output on arrival, by ``max_tokens``; Anthropic's charges it while it is produced.

    >>> SimulatorSettings(rpm=600, itpm="100k", otpm="20k").limits.otpm
    20000.0

    Args:
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        rpm: requests per minute. None: no such limit, as for the next five.
        tpm: tokens per minute, input and output together.
        rpd: requests per day.
        tpd: tokens per day.
        itpm: input tokens per minute.
        otpm: output tokens per minute.
        burst_seconds: how many seconds' worth of a per-minute limit fit into its bucket.
            60 is the friendliest reading of "per minute", 1 a strict one.
        max_concurrent: requests in flight at once.
        scope: what has a quota of its own: each key and model, each key, each model, or all.
        charge: what OpenAI's rule takes from `tpm` and `tpd` on arrival: the larger of
            ``max_tokens`` and the prompt's estimate, or their sum.
        default_max_tokens: what counts as ``max_tokens`` where the request has none.
        refund: OpenAI's rule settles the charge to the tokens really used when the
            answer is sent; Anthropic's always does.
        rejections_cost: by OpenAI's rule, a request rejected for its tokens still costs
            one request.
        credit_requests: after this many admitted requests of a dialect, no more is paid for.
        credit_error: how that is said: ``"quota"`` is the provider's cap (OpenAI's 429
            ``insufficient_quota``, Anthropic's 429 ``enforced_spend_limit_reached``);
            ``"spend_limit"`` is one that the customer has set (429
            ``organization_spend_limit_exceeded``, 400); ``"balance"`` is money used up
            (429 ``credit_balance_exhausted``, 402).
        ramp: how many times the trailing average of input tokens is allowed, such as 1.5;
            faster growth gets a 429 ``slow_down`` or ``ramp_limit_exceeded``. None: any.
        ramp_window: seconds over which that average trails.
        ramp_floor: input tokens per minute that are allowed however sudden they come.
        schedule: ``(second, factor)`` pairs, ascending: from that second after the start,
            the per-minute limits are `factor` times what is set.
        others: ``(second, share)`` pairs, ascending: from that second after the start, other
            clients take this share of what comes in of the per-minute limits, evenly; the
            limits that are named stay the same.
        api_key: the only key accepted. None: any, or none at all.
        models: the models that exist. Empty: all.
        context_tokens: size of every model's context.
        quota_headers: ``"bucket"`` shows what is really left in the enforced bucket;
            ``"minute"`` shows the per-minute account only, as a provider does that enforces
            shorter slices without saying so; ``"off"`` sends none.
        headers_at: the moment that the quota headers of an answer speak of: the
            ``"admission"`` of its request, or the ``"reply"``, when the answer (the first
            byte of a stream) leaves. What real services do is not documented. Gateways that
            ask a rate-limit service before they pass a request on, as Envoy and Kong do, can
            only tell what was left at admission; hence the default.
        headers_on: ``"all"`` answers carry quota headers, or only the ``"rejections"``, as
            with gateways that name the limit in a 429 alone.
        retry_after: send ``retry-after`` with a 429.
        retry_after_ms: send ``retry-after-ms`` with a 429.
        retry_text: say "Please try again in ..." in the message of a 429. With this and
            all headers of quota and retry off, a 429 names no limit, no number and no time.
        organization: the name in messages and headers.
        answer: ``"summary"`` extracts one or two sentences; ``"echo"`` repeats the prompt's
            beginning, which costs the simulator less time.
        invalid_answer_rate: where an answer must fit a JSON schema, the share of conversations
            whose first answer does not: it is no JSON, lacks a field, is out of range, has words
            around or within it, or is cut off, each of them equally often; live and in batch
            jobs. It is right as soon as the user answers to it; what was cut off is right
            with twice the ``max_tokens``. Without ``max_tokens`` nothing is cut off.
        varied_values: where a schema leaves a choice, answers take what the text names and
            otherwise one by chance, the same for the same text; else the plainest: the first of
            an enum, the number next to 0, true.
        latency: how long answers take; a number of seconds is a constant. Unset it is
            `Latency.usual`, lognormal around half a second.
        jitter: the most seconds that a request travels before it is admitted or rejected,
            uniformly: requests overtake each other.
        slow_openings: seconds, on average, until a fresh connection is listened to: each
            waits between half and one and a half times as long, as with a busy load balancer.
        faults: what goes wrong, and how often.
        batch: how the batch APIs behave.
        seed: makes latencies, faults, jitter and openings repeatable: the n-th admitted
            request has the same latency and fault in every run.
        record: how many admissions are kept with their moment, latency and charge, for
            ``GET /admissions`` and `Simulator.admissions`; those after them are only counted.
            56 bytes each. 0 keeps none and costs nothing.
        max_body_bytes: larger request bodies are refused with 413.

    Raises:
        ConfigurationError: a value is wrong; the message names it.

    """

    host: str = "127.0.0.1"
    port: int = 0
    rpm: float | str | None = None
    tpm: float | str | None = None
    rpd: float | str | None = None
    tpd: float | str | None = None
    itpm: float | str | None = None
    otpm: float | str | None = None
    burst_seconds: float = 60.0
    max_concurrent: int | None = None
    scope: Scope = "key+model"
    charge: ChargeRule = "max"
    default_max_tokens: int = 16
    refund: bool = False
    rejections_cost: bool = True
    credit_requests: int | None = None
    credit_error: CreditError = "quota"
    ramp: float | None = None
    ramp_window: float = 900.0
    ramp_floor: float | str = "1M"
    schedule: tuple[tuple[float, float], ...] = ()
    others: tuple[tuple[float, float], ...] = ()
    api_key: str | None = field(default=None, repr=False)
    models: tuple[str, ...] = ()
    context_tokens: int | None = None
    quota_headers: QuotaHeaders = "bucket"
    headers_at: HeadersAt = "admission"
    headers_on: HeadersOn = "all"
    retry_after: bool = True
    retry_after_ms: bool = False
    retry_text: bool = True
    organization: str = "org-simulator"
    answer: AnswerStyle = "summary"
    invalid_answer_rate: float = 0.0
    varied_values: bool = False
    latency: Latency | float = field(default_factory=Latency.usual)
    jitter: float = 0.0
    slow_openings: float = 0.0
    faults: Faults = field(default_factory=Faults)
    batch: BatchSettings = field(default_factory=BatchSettings)
    seed: int = 0
    record: int = 0
    max_body_bytes: int = 16_777_216

    def __post_init__(self) -> None:
        check_fields(
            self,
            port={"high": 65535},
            burst_seconds={"above": 0},
            ramp_window={"above": 0},
            ramp={"above": 1},
            max_concurrent={"low": 1},
            context_tokens={"low": 1},
            max_body_bytes={"low": 1},
        )
        if self.invalid_answer_rate > 1:
            raise ConfigurationError(
                "invalid_answer_rate must be at most 1, for it is a share; "
                f"got {self.invalid_answer_rate!r}"
            )
        self._check_nested()
        for name in ("host", "organization"):
            value = getattr(self, name)
            # A line break here would end a header early.
            if not isinstance(value, str) or not value or not value.isprintable():
                raise ConfigurationError(f"{name} must be a printable text; got {value!r}")
        if self.api_key is not None and (not isinstance(self.api_key, str) or not self.api_key):
            raise ConfigurationError("api_key must be a text or None; got something else")
        if isinstance(self.models, str) or not all(
            isinstance(model, str) and model for model in self.models
        ):
            raise ConfigurationError(
                f"models must be a list of names, such as ('gpt-6-luna',); got {self.models!r}"
            )
        object.__setattr__(self, "models", tuple(self.models))

    def _check_nested(self) -> None:
        latency: object = self.latency
        if isinstance(latency, Mapping):
            latency = from_mapping(Latency, latency, name="latency")
        elif not isinstance(latency, Latency):
            latency = Latency(seconds=number("latency", latency))
        object.__setattr__(self, "latency", latency)
        if not isinstance(self.faults, Faults):
            object.__setattr__(self, "faults", from_mapping(Faults, self.faults, name="faults"))
        if not isinstance(self.batch, BatchSettings):
            object.__setattr__(self, "batch", from_mapping(BatchSettings, self.batch, name="batch"))
        for name, rule, is_right, example in _STEPS:
            pairs = getattr(self, name)
            steps = _steps(pairs)
            if steps is None or not all(is_right(value) for _, value in steps):
                raise ConfigurationError(
                    f"{name} must be ascending pairs (second of at least 0, {rule}), "
                    f"such as {example}; got {pairs!r}"
                )
            object.__setattr__(self, name, steps)

    @property
    def limits(self) -> Limits:
        """Return the quota as plain numbers."""
        given = (getattr(self, name) for name in Limits._fields)
        return Limits(*(None if limit is None else float(limit) for limit in given))

    @property
    def blind(self) -> bool:
        """True if a 429 carries no details."""
        hints = self.retry_after or self.retry_after_ms or self.retry_text
        return self.quota_headers == "off" and not hints

    def to_json(self) -> str:
        """Return these settings, the key included, as JSON for `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> SimulatorSettings:
        """Read what `to_json` wrote, or any JSON object of settings.

        Raises:
            ConfigurationError: it is not JSON, or a setting is unknown or wrong.

        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ConfigurationError(f"the simulator's settings are not JSON: {error}") from None
        return from_mapping(cls, data, name="the simulator")


def _steps(pairs: Iterable[tuple[float, float]]) -> tuple[tuple[float, float], ...] | None:
    """Return ascending pairs of a second and a number, else None."""
    try:
        steps = tuple((number("second", at), number("value", value)) for at, value in pairs)
    except (TypeError, ValueError, ConfigurationError):
        return None
    return steps if all(a[0] <= b[0] for a, b in pairwise(steps)) else None


_STEPS: tuple[tuple[str, str, Callable[[float], bool], str], ...] = (
    ("schedule", "factor above 0", lambda factor: factor > 0, "[(0, 1), (60, 0.5)]"),
    ("others", "share from 0 to below 1", lambda share: share < 1, "[(0, 0.6), (10, 0)]"),
)
