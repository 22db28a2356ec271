"""Spans and metrics of OpenTelemetry, made from events.

The names of the semantic conventions for generative AI are written down here because these
have left the core repository (https://github.com/open-telemetry/semantic-conventions-genai,
status: development), and the constants of ``opentelemetry-semantic-conventions`` are deprecated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Token
from typing import Any, Final, NamedTuple, TypeAlias

from opentelemetry import context, metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from llmflow.errors import ProviderError, redact
from llmflow.events import (
    Event,
    RequestCancelled,
    RequestEvent,
    RequestFailed,
    RequestFinished,
    RequestHedged,
    RequestRejected,
    RequestRetried,
    RequestStarted,
    Subscription,
    subscribe,
)
from llmflow.telemetry import content
from llmflow.types import Request

_End: TypeAlias = RequestFinished | RequestFailed | RequestCancelled

_CHAT: Final = "chat"
_SCOPE: Final = "llmflow"
_NANO: Final = 1_000_000_000
_OPTIONS: Final = {
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "seed": "gen_ai.request.seed",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
}
"""The options of a call that the conventions have a name for; all are numbers."""
WELL_KNOWN: Final = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
"""Providers that the conventions call by another name than llmflow does."""


class _Open(NamedTuple):
    """The span of a call that has not ended."""

    span: Span
    token: Token[Context]
    started: int


class Bridge:
    """Turns events into one client span for each call, and into metrics.

    The span is the current one while its call runs, so that spans of the HTTP client lie
    under it; its parent is what is current where the call is made.

    Args:
        tracer_provider: where spans go; None: the global one.
        meter_provider: where metrics go; None: the global one.
        capture_content: whether spans hold prompts and answers.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
        *,
        capture_content: bool,
    ) -> None:
        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)
        self._instruments = _Instruments(meter_provider)
        self._capture_content = capture_content
        self._open: dict[int, _Open] = {}
        self._closing = False
        self._handlers: Final[dict[type[Event], Callable[[Any], None]]] = {
            RequestStarted: self._start,
            RequestRejected: self._reject,
            RequestRetried: self._retry,
            RequestHedged: self._hedge,
            RequestFinished: self._finish,
            RequestFailed: self._fail,
            RequestCancelled: self._cancel,
        }
        self._subscription: Subscription = subscribe(self._on_event, kinds=self._handlers)

    def close(self) -> None:
        """Begin no more spans; those in progress end normally."""
        self._closing = True
        if not self._open:
            self._subscription.close()

    def _on_event(self, event: Event) -> None:
        self._handlers[type(event)](event)

    # --- a call's beginning and end --------------------------------------------------

    def _start(self, event: RequestStarted) -> None:
        if self._closing:
            return
        started = _nanoseconds(event.at)
        span = self._tracer.start_span(
            f"{_CHAT} {event.model}",
            kind=SpanKind.CLIENT,
            attributes=_common(event),
            start_time=started,
        )
        if span.is_recording():
            if event.run_id is not None:
                span.set_attribute("llmflow.run_id", event.run_id)
            if event.request is not None:
                span.set_attributes(_asked(event.request))
                if self._capture_content:
                    span.set_attributes(content.of_request(event.request))
        token = context.attach(trace.set_span_in_context(span))
        self._open[event.call_id] = _Open(span, token, started)

    def _finish(self, event: RequestFinished) -> None:
        try:
            self._instruments.finished(event)
        finally:
            self._end(event, self._tell_answer)

    def _fail(self, event: RequestFailed) -> None:
        try:
            self._instruments.failed(event)
        finally:
            self._end(event, _tell_failure)

    def _cancel(self, event: RequestCancelled) -> None:
        self._end(event, _tell_cancellation)

    def _end(self, event: _End, tell: Callable[[Span, Any], None]) -> None:
        found = self._open.pop(event.call_id, None)
        if found is None:  # it began before this did
            return
        try:
            context.detach(found.token)
            if found.span.is_recording():
                tell(found.span, event)
        finally:
            found.span.end(found.started + _nanoseconds(event.seconds))
            if self._closing and not self._open:
                self._subscription.close()

    def _tell_answer(self, span: Span, event: RequestFinished) -> None:
        span.set_attributes(_answered(event))
        if self._capture_content and event.response is not None:
            span.set_attributes(content.of_response(event.response))

    # --- what happens in between -------------------------------------------------------

    def _reject(self, event: RequestRejected) -> None:
        self._instruments.rejections.add(1, _common(event))
        self._note(event, "llmflow.rejected")

    def _retry(self, event: RequestRetried) -> None:
        kind = type(event.error).__name__
        self._instruments.retries.add(1, {**_common(event), "error.type": kind})
        self._note(event, "llmflow.retried")

    def _hedge(self, event: RequestHedged) -> None:
        self._note(event, "llmflow.hedged")

    def _note(self, event: RequestEvent, name: str) -> None:
        found = self._open.get(event.call_id)
        if found is not None and found.span.is_recording():
            facts = {
                name: value for name, value in event.facts().items() if name not in _ON_THE_SPAN
            }
            found.span.add_event(name, facts, timestamp=_nanoseconds(event.at))


_ON_THE_SPAN: Final = {"kind", "call_id", "provider", "model", "run_id"}


def _tell_failure(span: Span, event: RequestFailed) -> None:
    error = event.error
    found: dict[str, Any] = {
        "error.type": type(error).__name__,
        "llmflow.attempts": event.attempts,
        "llmflow.source": event.source,
    }
    if isinstance(error, ProviderError):
        found |= {"http.response.status_code": error.status, "llmflow.request_id": error.request_id}
    span.set_attributes(_known(found))
    span.set_status(Status(StatusCode.ERROR, redact(str(error))))


def _tell_cancellation(span: Span, event: RequestCancelled) -> None:  # noqa: ARG001
    # Nobody's failure: the caller did not want the answer any more.
    span.set_attribute("llmflow.cancelled", True)


class _Instruments:
    """The metrics. What an answer from a journal did not cost is in none of them."""

    def __init__(self, meter_provider: MeterProvider | None) -> None:
        meter = metrics.get_meter(_SCOPE, meter_provider=meter_provider)
        self.tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=tuple(4**power for power in range(14)),
        )
        self.duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "GenAI operation duration.",
            explicit_bucket_boundaries_advisory=tuple(0.01 * 2**power for power in range(14)),
        )
        self.wait = meter.create_histogram(
            "llmflow.client.wait.duration",
            "s",
            "Time waited for the quota and between attempts, of calls that waited.",
            explicit_bucket_boundaries_advisory=(0.01, 0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0),
        )
        self.rejections = meter.create_counter(
            "llmflow.client.rejections", "{rejection}", "Rate limits (429) that were met."
        )
        self.retries = meter.create_counter(
            "llmflow.client.retries", "{retry}", "Attempts that were followed by another."
        )
        self.cost = meter.create_counter(
            "llmflow.client.cost", "{USD}", "Cost of answers, where their price is known."
        )

    def finished(self, event: RequestFinished) -> None:
        if event.source != "provider":
            return
        attributes = _common(event)
        if event.response_model is not None:
            attributes["gen_ai.response.model"] = event.response_model
        self.duration.record(event.seconds, attributes)
        if event.waited > 0.0:
            self.wait.record(event.waited, attributes)
        usage = event.usage
        self.tokens.record(usage.input_tokens, {**attributes, "gen_ai.token.type": "input"})
        self.tokens.record(usage.output_tokens, {**attributes, "gen_ai.token.type": "output"})
        if event.cost:
            self.cost.add(event.cost, attributes)

    def failed(self, event: RequestFailed) -> None:
        if event.source == "provider":
            attributes = {**_common(event), "error.type": type(event.error).__name__}
            self.duration.record(event.seconds, attributes)


def _common(event: RequestEvent) -> dict[str, str]:
    return {
        "gen_ai.operation.name": _CHAT,
        "gen_ai.provider.name": WELL_KNOWN.get(event.provider, event.provider),
        "gen_ai.request.model": event.model,
    }


def _asked(request: Request) -> dict[str, Any]:
    """Return what else is asked of the model, but for the texts."""
    options = {name: request.options.get(option) for option, name in _OPTIONS.items()}
    return _known(
        {
            "gen_ai.request.max_tokens": request.max_tokens,
            "gen_ai.request.temperature": request.temperature,
            **{name: each for name, each in options.items() if isinstance(each, int | float)},
        }
    )


def _answered(event: RequestFinished) -> dict[str, Any]:
    usage, reason = event.usage, event.finish_reason
    return _known(
        {
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
            "llmflow.source": event.source,
            "llmflow.attempts": event.attempts,
            "llmflow.waited": event.waited,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens or None,
            "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens or None,
            "gen_ai.response.finish_reasons": None if reason is None else (reason,),
            "gen_ai.response.model": event.response_model,
            "llmflow.request_id": event.request_id,
            "llmflow.cost": event.cost,
            "gen_ai.response.id": None if event.response is None else event.response.raw.get("id"),
        }
    )


def _known(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _nanoseconds(seconds: float) -> int:
    return int(seconds * _NANO)
