"""Real servers refuse these requests, and so does the simulator: live, and row by row."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llmflow.simulator import Engine, Reply, SimulatorSettings
from llmflow.simulator.anthropic.message_batches import AnthropicBatches
from llmflow.simulator.anthropic.message_request import read_messages
from llmflow.simulator.anthropic.message_wire import AnthropicError
from llmflow.simulator.batches.store import JobRecord, Store
from llmflow.simulator.openai.chat_request import read_chat
from llmflow.simulator.openai.chat_wire import OpenAIError
from llmflow.simulator.openai.file_batches import OpenAIBatches

USER = [{"role": "user", "content": "Whales sing."}]
SETTINGS = SimulatorSettings(latency=0)
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CLAUDE_TOOL = {"name": "look", "input_schema": {"type": "object"}}


def ask(target: str, body: Any, method: str = "POST", **headers: str) -> Reply:
    engine = Engine(SimulatorSettings(latency=0, api_key="k"), now=0.0)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named.setdefault("authorization", "Bearer k")
    return engine.receive(method, target, headers=named, body=orjson.dumps(body), now=0.0)


def chat(**fields: Any) -> None:
    read_chat({"model": "sim", "messages": USER, **fields}, SETTINGS)


def message(version: str = "2023-06-01", beta: bool = False, **fields: Any) -> None:
    body = {"model": "sim", "max_tokens": 9, "messages": USER, **fields}
    read_messages(body, SETTINGS, caching=False, version=version, beta=beta)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"mode": "batch"}, "mode"),
        ({"system": "Be brief."}, "system"),
        ({"stop_sequences": ["."]}, "stop_sequences"),
        ({"model": "o3", "max_tokens": 9}, "max_completion_tokens"),
        ({"model": "gpt-5-mini-2025-08-07", "max_tokens": 9}, "max_completion_tokens"),
        ({"model": "o4-mini", "temperature": 0}, "temperature"),
        ({"model": "gpt-4.1-mini", "reasoning_effort": "low"}, "reasoning_effort"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "name"),
        ({"response_format": {"type": "json"}}, "response_format.type"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "'x'",
        ),
        ({"tools": [CLAUDE_TOOL]}, "tools[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "'image'"),
        ({"messages": [{**USER[0], "cache_control": {}}]}, "messages[0].cache_control"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_a_chat_that_openai_refuses_is_refused_by_name(fields: Any, named: str) -> None:
    with pytest.raises(OpenAIError) as caught:
        chat(**fields)
    assert caught.value.status == 400
    assert named in f"{caught.value} {getattr(caught.value, 'param', '')}"


@pytest.mark.parametrize("part", [{"properties": 1}, {"required": 3.5}, {"properties": True}])
def test_a_strict_schema_with_parts_of_another_type_is_refused(part: dict[str, Any]) -> None:
    whole = {"type": "object", "properties": {"a": {}}, "required": ["a"]}
    schema = {**whole, "additionalProperties": False, **part}
    named = {"name": "n", "strict": True, "schema": schema}
    with pytest.raises(OpenAIError, match="of type 'array'"):
        chat(response_format={"type": "json_schema", "json_schema": named})


@pytest.mark.parametrize("schema", ["x", 5, ["a"]])
def test_a_strict_tool_whose_schema_is_no_object_is_refused(schema: Any) -> None:
    function = {"name": "look", "strict": True, "parameters": schema}
    with pytest.raises(OpenAIError, match=r"tools\[0\]\.function\.parameters.*an object"):
        chat(tools=[{"type": "function", "function": function}])


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "o3", "max_completion_tokens": 9, "temperature": 1},
        {"model": "gpt-5.1", "temperature": 0},
        {"model": "gpt-4.1-mini", "max_tokens": 9, "temperature": 0, "stop": ["."]},
        {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": True},
        {"temperature": None, "seed": 3, "metadata": {"a": "b"}, "user": "u"},
    ],
)
def test_a_chat_that_openai_takes_is_taken(fields: Any) -> None:
    chat(**fields)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"response_format": {"type": "text"}}, "response_format"),
        ({"max_completion_tokens": 9}, "max_completion_tokens"),
        ({"seed": 3}, "seed"),
        ({"version": "2026-10-21", "temperature": 1}, "temperature"),
        ({"version": "2026-10-21", "top_k": 5}, "top_k"),
        ({"model": "claude-opus-4-8", "temperature": 0.5}, "temperature"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [CLAUDE_TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "'x'"),
        ({"tools": [TOOL]}, "tools.0"),
        ({"tools": [{**CLAUDE_TOOL, "type": ""}]}, "tools.0.custom.type"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
        ({"metadata": {"team": "a"}}, "metadata.team"),
        ({"context_management": {}}, "context_management"),
    ],
)
def test_a_message_that_anthropic_refuses_is_refused_by_name(fields: Any, named: str) -> None:
    with pytest.raises(AnthropicError) as caught:
        message(**fields)
    assert caught.value.status == 400
    assert named in f"{caught.value} {getattr(caught.value, 'param', '')}"


def test_what_anthropic_takes_is_taken() -> None:
    message(temperature=0.5, top_k=5)
    message(version="2026-10-21", tools=[CLAUDE_TOOL], tool_choice={"type": "any"})
    message(beta=True, context_management={})


@pytest.mark.parametrize("version", ["2024-01-01", "latest"])
def test_an_unknown_version_is_refused(version: str) -> None:
    reply = ask("/v1/messages", {}, anthropic_version=version)
    assert reply.status == 400
    assert version.encode() in reply.body


@pytest.mark.parametrize(
    ("method", "target", "headers", "status"),
    [
        ("GET", "/v1/nothing", {}, 404),
        ("GET", "/v1/chat/completions", {}, 405),
        ("GET", "/v1/models", {"authorization": "Bearer wrong"}, 401),
        ("POST", "/v1/chat/completions", {"authorization": "Bearer wrong"}, 401),
        ("POST", "/v1/chat/completions", {}, 400),
        ("GET", "/v1/messages", {}, 405),
        ("GET", "/v1/models/x", {"anthropic_version": "2023-06-01", "x_api_key": "no"}, 401),
        ("POST", "/v1/messages", {"anthropic_version": "2023-06-01"}, 400),
    ],
)
def test_every_error_has_the_identifier_of_its_request(
    method: str, target: str, headers: dict[str, str], status: int
) -> None:
    reply = ask(target, {}, method, **headers)
    anthropic = "anthropic_version" in headers or "messages" in target
    name = "request-id: req_" if anthropic else "x-request-id: req_"
    assert reply.status == status
    assert reply.headers.startswith(name)
    if anthropic:
        assert orjson.loads(reply.body)["request_id"] in reply.headers


def test_a_model_is_retrieved_by_its_name_in_both_dialects() -> None:
    settings = SimulatorSettings(models=("org/one",))
    engine = Engine(settings, now=0.0)
    for headers in ({}, {"anthropic-version": "2026-10-21"}):
        found, lost = (
            engine.receive("GET", f"/v1/models/{name}", headers=headers, body=b"", now=0.0)
            for name in ("org%2Fone", "two")
        )
        assert orjson.loads(found.body)["id"] == "org/one"
        assert lost.status == 404


def test_a_bad_row_of_a_batch_fails_alone() -> None:
    job = JobRecord(
        id="job",
        ordinal=1,
        owner="me",
        created=0.0,
        expires=9.0,
        endpoint="/v1/chat/completions",
        input="rows",
        version="2026-10-21",
    )
    good = {"model": "sim", "max_tokens": 9, "messages": USER}
    store = Store(None, seed=0)
    try:
        chats, messages = OpenAIBatches(SETTINGS, store), AnthropicBatches(SETTINGS, store)
        for fields, kind in (({}, "succeeded"), ({"mode": "batch"}, "errored")):
            row = {"custom_id": "a", "method": "POST", "url": job.endpoint, "body": good | fields}
            line = orjson.dumps(row)
            chats.check(job, line, set())  # it does not fail the job
            assert chats.answer(job, line, ident="1", fails=False, now=0.0).kind == kind
        for fields, kind in (({}, "succeeded"), ({"temperature": 1}, "errored")):
            line = orjson.dumps({"custom_id": "a", "params": good | fields})
            assert messages.answer(job, line, ident="1", fails=False, now=0.0).kind == kind
    finally:
        store.close()
