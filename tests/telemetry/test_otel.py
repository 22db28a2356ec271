"""Spans and metrics, as OpenTelemetry's own SDK receives them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, StatusCode

from llmflow import Retry, Usage, telemetry
from llmflow.errors import (
    AuthenticationError,
    ConfigurationError,
    ProviderError,
    RateLimitError,
    ServerError,
)
from llmflow.events import listening, observed
from llmflow.telemetry import content
from llmflow.telemetry.otel import WELL_KNOWN
from llmflow.testing import ScriptedProvider
from llmflow.types import Request, Response
from tests.observing import SECRET_ANSWER, SECRET_PROMPT, Asker

pytestmark = pytest.mark.virtual_time

ANSWER = Response(
    text=SECRET_ANSWER,
    usage=Usage(input_tokens=12, output_tokens=7, cached_tokens=4, reasoning_tokens=2),
    finish_reason="stop",
    model="model-2026-01-01",
    provider="scripted",
    request_id="req_1",
    cost=0.25,
    raw={"id": "chatcmpl-1"},
)


class Collected:
    """What an SDK with exporters in memory has got."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(**({"sampler": sampler} if sampler else {}))
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider(metric_readers=[self.reader])

    def instrument(self, **options: Any) -> None:
        telemetry.instrument(tracer_provider=self.tracers, meter_provider=self.meters, **options)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    @property
    def span(self) -> ReadableSpan:
        (found,) = self.spans
        return found

    @property
    def metrics(self) -> dict[str, list[Any]]:
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def collected() -> Iterator[Collected]:
    assert not listening()
    here = Collected()
    here.instrument()
    yield here
    telemetry.uninstrument()
    assert not listening()


def attributes(of: ReadableSpan) -> Mapping[str, Any]:
    return dict(of.attributes or {})


async def test_a_call_is_one_client_span_with_the_conventions_attributes(
    collected: Collected,
) -> None:
    asker = Asker(ScriptedProvider([ANSWER], latency=2.0))
    await asker.ask(max_tokens=50, temperature=0.5, options={"top_p": 0.9, "user": "me"})
    span = collected.span
    assert span.name == "chat model"
    assert span.kind == SpanKind.CLIENT
    assert span.parent is None
    assert span.status.status_code == StatusCode.UNSET
    assert span.events == ()
    assert attributes(span) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "scripted",
        "gen_ai.request.model": "model",
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.response.model": "model-2026-01-01",
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "llmflow.source": "provider",
        "llmflow.attempts": 1,
        "llmflow.waited": 0.0,
        "llmflow.cost": 0.25,
        "llmflow.request_id": "req_1",
    }
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time - span.start_time == pytest.approx(2.0 * 1e9, rel=1e-6)


async def test_the_span_of_the_calling_task_is_the_parent(collected: Collected) -> None:
    tracer = collected.tracers.get_tracer("test")
    asker = Asker(ScriptedProvider(latency=1.0))
    with tracer.start_as_current_span("one") as one:
        first = asyncio.create_task(asker.ask())
        await asyncio.sleep(0.5)
    with tracer.start_as_current_span("two") as two:
        second = asyncio.create_task(asker.ask())
        await asyncio.sleep(0.5)
    await asyncio.gather(first, second)
    await asker.ask()
    calls = [each for each in collected.spans if each.name == "chat model"]
    parents = [None if each.parent is None else each.parent.span_id for each in calls]
    assert parents == [one.get_span_context().span_id, two.get_span_context().span_id, None]


class Tracing(ScriptedProvider):
    """Makes a span of its own for each request, as an instrumented HTTP client does."""

    def __init__(self, tracers: TracerProvider) -> None:
        super().__init__(latency=0.1)
        self.tracer = tracers.get_tracer("http")

    async def complete(self, request: Request, *, timeout: float) -> Response:
        with self.tracer.start_as_current_span("POST"):
            return await super().complete(request, timeout=timeout)


async def test_the_http_clients_spans_lie_under_the_calls(collected: Collected) -> None:
    asker = Asker(Tracing(collected.tracers))
    await asyncio.gather(*(asker.ask() for _ in range(3)))
    calls = {each.context.span_id for each in collected.spans if each.name == "chat model"}
    below = {each.parent.span_id for each in collected.spans if each.name == "POST" and each.parent}
    assert calls == below
    assert len(calls) == 3


async def test_after_a_call_the_callers_span_is_the_current_one_again(
    collected: Collected,
) -> None:
    tracer = collected.tracers.get_tracer("test")
    asker = Asker(ScriptedProvider(["ok", *[AuthenticationError("no")] * 2]))
    with tracer.start_as_current_span("around") as around:
        await asker.ask()
        assert trace.get_current_span() is around
        with pytest.raises(AuthenticationError):
            await asker.ask()
        assert trace.get_current_span() is around


async def test_rejections_and_retries_are_events_of_the_span(collected: Collected) -> None:
    limit = RateLimitError("slow", retry_after=2.0, dimension="tpm")
    asker = Asker(ScriptedProvider([limit, ServerError("broken", retry_after=3.0), "ok"]))
    await asker.ask()
    span = collected.span
    rejected, retried = span.events
    assert rejected.name == "llmflow.rejected"
    assert rejected.attributes is not None
    assert rejected.attributes["dimension"] == "tpm"
    assert rejected.attributes["retry_after"] == 2.0
    assert retried.name == "llmflow.retried"
    assert dict(retried.attributes or {}) == {
        "attempt": 1,
        "error": "ServerError",
        "reason": "scripted/model: broken",
        "delay": 3.0,
    }
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.start_time <= rejected.timestamp < retried.timestamp < span.end_time
    assert attributes(span)["llmflow.attempts"] == 2
    assert attributes(span)["llmflow.waited"] >= 5.0
    assert span.status.status_code == StatusCode.UNSET
    metrics = collected.metrics
    assert [each.value for each in metrics["llmflow.client.rejections"]] == [1]
    assert [each.value for each in metrics["llmflow.client.retries"]] == [1]
    (wait,) = metrics["llmflow.client.wait.duration"]
    assert wait.sum == attributes(span)["llmflow.waited"]


async def test_a_failure_is_the_spans_status_and_error_type(collected: Collected) -> None:
    broken = ServerError("broken, key sk-abcdef123456", status=503, request_id="req_9")
    asker = Asker(ScriptedProvider(default=broken), retry=Retry(attempts=2))
    with pytest.raises(ServerError):
        await asker.ask()
    span = collected.span
    assert span.status.status_code == StatusCode.ERROR
    assert "broken" in (span.status.description or "")
    assert "sk-abcdef" not in span.to_json()
    found = attributes(span)
    assert found["error.type"] == "ServerError"
    assert found["http.response.status_code"] == 503
    assert found["llmflow.request_id"] == "req_9"
    assert found["llmflow.attempts"] == 2
    (point,) = collected.metrics["gen_ai.client.operation.duration"]
    assert point.attributes["error.type"] == "ServerError"


async def test_calls_that_are_cancelled_leave_no_span_behind(collected: Collected) -> None:
    asker = Asker(ScriptedProvider(latency=10.0))
    tasks = [asyncio.create_task(asker.ask()) for _ in range(20)]
    await asyncio.sleep(1.0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert len(collected.spans) == 20
    assert {each.status.status_code for each in collected.spans} == {StatusCode.UNSET}
    assert all(attributes(each)["llmflow.cancelled"] for each in collected.spans)
    assert bridge()._open == {}
    assert "gen_ai.client.operation.duration" not in collected.metrics


async def test_whatever_becomes_of_calls_each_has_one_span_that_ended(
    collected: Collected,
) -> None:
    replies: list[str | ProviderError] = ["ok", ServerError("x"), AuthenticationError("no")] * 20
    asker = Asker(ScriptedProvider(replies, default="ok", latency=0.5))
    tasks = [asyncio.create_task(asker.ask()) for _ in range(60)]
    for task in tasks[::7]:
        asyncio.get_running_loop().call_later(0.7, task.cancel)
    await asyncio.wait(tasks)
    assert len(collected.spans) == 60
    assert len({each.context.span_id for each in collected.spans}) == 60
    assert bridge()._open == {}


async def test_an_answer_from_the_journal_is_marked_and_in_no_metric(
    collected: Collected,
) -> None:
    async def from_the_journal() -> Response:
        return Response(
            text="", usage=Usage(), finish_reason=None, model="m", provider="p", source="journal"
        )

    await observed(from_the_journal, call_id=1, provider="p", model="m", run_id="mine")
    assert attributes(collected.span)["llmflow.source"] == "journal"
    assert attributes(collected.span)["llmflow.run_id"] == "mine"
    assert collected.metrics == {}


async def test_the_metrics_are_the_conventions_with_their_bucket_boundaries(
    collected: Collected,
) -> None:
    asker = Asker(ScriptedProvider([ANSWER, ANSWER], latency=2.0))
    await asker.ask()
    await asker.ask()
    metrics = collected.metrics
    (duration,) = metrics["gen_ai.client.operation.duration"]
    assert isinstance(duration, HistogramDataPoint)
    assert (duration.count, duration.sum) == (2, pytest.approx(4.0))
    assert list(duration.explicit_bounds) == [
        *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64),
        *(1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    ]
    assert dict(duration.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "scripted",
        "gen_ai.request.model": "model",
        "gen_ai.response.model": "model-2026-01-01",
    }
    tokens = {
        each.attributes["gen_ai.token.type"]: each for each in metrics["gen_ai.client.token.usage"]
    }
    assert {kind: each.sum for kind, each in tokens.items()} == {"input": 24, "output": 14}
    assert list(tokens["input"].explicit_bounds) == [
        *(1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144),
        *(1048576, 4194304, 16777216, 67108864),
    ]
    (cost,) = metrics["llmflow.client.cost"]
    assert cost.value == pytest.approx(0.5)
    assert "llmflow.client.wait.duration" not in metrics


async def test_texts_are_in_no_span_unless_that_is_asked_for(collected: Collected) -> None:
    await Asker(ScriptedProvider([ANSWER])).ask(system="nobody may see")
    assert "nobody may see" not in collected.span.to_json()


async def test_texts_are_in_the_conventions_form_where_that_is_asked_for(
    collected: Collected,
) -> None:
    collected.instrument(capture_content=True)
    await Asker(ScriptedProvider([ANSWER])).ask(system="Be brief.")
    found = attributes(collected.span)
    assert json.loads(found["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": SECRET_PROMPT}]}
    ]
    assert json.loads(found["gen_ai.system_instructions"]) == [
        {"type": "text", "content": "Be brief."}
    ]
    assert json.loads(found["gen_ai.output.messages"]) == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": SECRET_ANSWER}],
            "finish_reason": "stop",
        }
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("true", True), ("SPAN_ONLY", True), ("span_and_event", True), ("event_only", False)],
)
async def test_the_environment_may_ask_for_texts(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: bool
) -> None:
    monkeypatch.setenv(content.VARIABLE, value)
    here = Collected()
    here.instrument()
    await Asker(ScriptedProvider([ANSWER])).ask()
    telemetry.uninstrument()
    assert ("gen_ai.input.messages" in attributes(here.span)) is expected


def test_parts_of_a_message_are_told_one_by_one() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    request = Request(
        model="m",
        messages=(
            {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]},
            {"role": "assistant", "content": None},
        ),
    )
    assert json.loads(content.of_request(request)["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "What is this?"}, image]},
        {"role": "assistant", "parts": []},
    ]


async def test_a_sampler_sees_what_it_may_decide_by() -> None:
    seen: list[Mapping[str, Any]] = []

    class Seeing(Sampler):
        def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
            seen.append(dict(kwargs.get("attributes") or args[4]))
            return SamplingResult(Decision.DROP)

        def get_description(self) -> str:
            return "seeing"

    here = Collected(Seeing())
    here.instrument()
    await Asker(ScriptedProvider()).ask()
    telemetry.uninstrument()
    assert set(seen[0]) == {"gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model"}
    assert here.spans == []


async def test_a_span_that_is_not_sampled_costs_no_failure() -> None:
    here = Collected(ALWAYS_OFF)
    here.instrument(capture_content=True)
    limit = RateLimitError("slow", retry_after=1.0)
    refusals = [AuthenticationError("no")] * 2
    asker = Asker(ScriptedProvider([limit, ServerError("x"), ANSWER, *refusals]))
    await asker.ask()
    with pytest.raises(AuthenticationError):
        await asker.ask()
    telemetry.uninstrument()
    assert here.spans == []
    assert here.metrics["gen_ai.client.operation.duration"]


async def test_uninstrumenting_lets_calls_in_flight_end_their_spans() -> None:
    here = Collected()
    here.instrument()
    asker = Asker(ScriptedProvider(latency=1.0))
    early = asyncio.create_task(asker.ask())
    await asyncio.sleep(0.5)
    telemetry.uninstrument()
    late = asyncio.create_task(asker.ask())
    await early
    assert len(here.spans) == 1
    assert not listening()
    await late
    assert len(here.spans) == 1


async def test_instrumenting_again_replaces_the_providers() -> None:
    one, two = Collected(), Collected()
    one.instrument()
    two.instrument()
    await Asker(ScriptedProvider()).ask()
    telemetry.uninstrument()
    assert (len(one.spans), len(two.spans)) == (0, 1)


async def test_a_call_that_began_before_has_metrics_and_no_span() -> None:
    from llmflow.events import subscribe

    here = Collected()
    with subscribe(lambda event: None):
        call = asyncio.create_task(Asker(ScriptedProvider(latency=1.0)).ask())
        await asyncio.sleep(0.5)
        here.instrument()
        await call
    telemetry.uninstrument()
    assert here.spans == []
    (duration,) = here.metrics["gen_ai.client.operation.duration"]
    assert duration.sum == pytest.approx(1.0)


def test_providers_have_the_conventions_names() -> None:
    assert WELL_KNOWN["mistral"] == "mistral_ai"
    assert set(WELL_KNOWN) & set(WELL_KNOWN.values()) == set()


def test_capture_content_must_be_said_plainly() -> None:
    with pytest.raises(ConfigurationError, match="capture_content"):
        telemetry.instrument(capture_content="yes")  # type: ignore[arg-type]


def bridge() -> Any:
    assert telemetry._bridge is not None
    return telemetry._bridge
