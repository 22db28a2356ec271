"""A tool that must be called is called: live, streamed and in batch rows, in both dialects."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from llmflow.simulator import Engine, Reply, Simulator, SimulatorSettings
from llmflow.simulator.anthropic.message_batches import AnthropicBatches
from llmflow.simulator.anthropic.message_request import read_messages
from llmflow.simulator.anthropic.message_wire import AnthropicError
from llmflow.simulator.batches.store import JobRecord, Store
from llmflow.simulator.openai.chat_request import read_chat
from llmflow.simulator.openai.chat_wire import OpenAIError
from llmflow.simulator.openai.file_batches import OpenAIBatches

USER = [{"role": "user", "content": "Whales sing."}]
SCHEMA = {
    "type": "object",
    "properties": {"place": {"$ref": "#/$defs/place"}, "days": {"type": "integer", "minimum": 3}},
    "required": ["place", "days"],
    "$defs": {"place": {"type": "string", "maxLength": 6}},
}
INPUT = {"place": "Whales", "days": 3}
CHAT_TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "now"}},
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
    {"type": "custom", "custom": {"name": "shell"}},
]
CLAUDE_TOOLS: list[Any] = [
    {"name": "now", "input_schema": {"type": "object"}},
    {"name": "weather", "input_schema": SCHEMA},
]
NAMED: dict[str, Any] = {"type": "function", "function": {"name": "weather"}}
CUSTOM: dict[str, Any] = {"type": "custom", "custom": {"name": "shell"}}
SETTINGS = SimulatorSettings(latency=0)


def allowed(mode: str, *tools: Any) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(tools)}}


def chat_body(choice: Any, **more: Any) -> dict[str, Any]:
    return {"model": "sim", "messages": USER, "tools": CHAT_TOOLS, "tool_choice": choice, **more}


def message_body(choice: Any, **more: Any) -> dict[str, Any]:
    asked = {"model": "sim", "max_tokens": 99, "messages": USER, "tools": CLAUDE_TOOLS}
    return {**asked, "tool_choice": choice, **more}


def post(path: str, body: Any) -> Reply:
    headers = {"authorization": "Bearer k", "x-api-key": "k", "anthropic-version": "2023-06-01"}
    target = Engine(SETTINGS, now=0.0)
    reply = target.receive("POST", path, headers=headers, body=orjson.dumps(body), now=0.0)
    assert reply.status == 200, reply.body
    return reply


def chatted(choice: Any, **more: Any) -> Any:
    return orjson.loads(post("/v1/chat/completions", chat_body(choice, **more)).body)


def messaged(choice: Any, **more: Any) -> Any:
    return orjson.loads(post("/v1/messages", message_body(choice, **more)).body)


@pytest.mark.parametrize(
    ("choice", "name", "value"),
    [
        (NAMED, "weather", INPUT),
        ("required", "now", {}),
        (allowed("required", NAMED), "weather", INPUT),
    ],
)
def test_openai_answers_a_forced_choice_with_a_call(choice: Any, name: str, value: Any) -> None:
    told = chatted(choice, n=2)
    for part in told["choices"]:
        assert (part["finish_reason"], part["message"]["content"]) == ("tool_calls", None)
        (call,) = part["message"]["tool_calls"]
        assert (call["type"], call["function"]["name"]) == ("function", name)
        assert json.loads(call["function"]["arguments"]) == value
    idents = {part["message"]["tool_calls"][0]["id"] for part in told["choices"]}
    assert len(idents) == 2
    assert told["usage"]["completion_tokens"] > 0


def test_openai_gives_a_custom_tool_plain_text() -> None:
    (part,) = chatted(CUSTOM)["choices"]
    (call,) = part["message"]["tool_calls"]
    assert (call["type"], call["custom"]["name"]) == ("custom", "shell")
    assert call["custom"]["input"] == "Whales sing."


@pytest.mark.parametrize("choice", ["auto", "none", None, allowed("auto", NAMED)])
def test_openai_answers_in_words_where_no_call_is_forced(choice: Any) -> None:
    (part,) = chatted(choice)["choices"]
    assert (part["finish_reason"], part["message"]["content"]) == ("stop", "Whales sing.")
    assert "tool_calls" not in part["message"]


@pytest.mark.parametrize(
    ("choice", "name", "value"),
    [
        ({"type": "tool", "name": "weather"}, "weather", INPUT),
        ({"type": "any", "disable_parallel_tool_use": True}, "now", {}),
    ],
)
def test_anthropic_answers_a_forced_choice_with_a_call(choice: Any, name: str, value: Any) -> None:
    told = messaged(choice)
    (block,) = told["content"]
    assert (told["stop_reason"], block["type"], block["name"]) == ("tool_use", "tool_use", name)
    assert block["input"] == value
    assert block["id"].startswith("toolu_")


@pytest.mark.parametrize("kind", ["auto", "none"])
def test_anthropic_answers_in_words_where_no_call_is_forced(kind: str) -> None:
    told = messaged({"type": kind})
    assert (told["stop_reason"], told["content"][0]["type"]) == ("end_turn", "text")


def test_a_call_that_is_cut_says_so() -> None:
    (part,) = chatted(NAMED, max_tokens=3)["choices"]
    assert part["finish_reason"] == "length"
    assert not part["message"]["tool_calls"][0]["function"]["arguments"].endswith("}")
    told = messaged({"type": "tool", "name": "weather"}, max_tokens=3)
    assert (told["stop_reason"], told["content"][0]["input"]) == ("max_tokens", {})


ASKED = "Give your answer by calling the tool weather, once and as a whole."


def test_a_tool_that_the_instructions_ask_for_is_called_where_none_is_forced() -> None:
    """As by a model that thinks, whose calls cannot be forced."""
    system = {"role": "system", "content": ASKED}
    for choice in ({}, {"tool_choice": "auto"}):
        body = {"model": "sim", "messages": [system, *USER], "tools": CHAT_TOOLS, **choice}
        (part,) = orjson.loads(post("/v1/chat/completions", body).body)["choices"]
        assert part["finish_reason"] == "tool_calls"
        assert json.loads(part["message"]["tool_calls"][0]["function"]["arguments"]) == INPUT
    thinking = {"type": "enabled", "budget_tokens": 1024}
    told = messaged({"type": "auto"}, system=ASKED, thinking=thinking, max_tokens=4096)
    assert (told["stop_reason"], told["content"][0]["input"]) == ("tool_use", INPUT)


@pytest.mark.parametrize("system", ["You may call tools.", "The weather is fine.", "call weathers"])
def test_other_instructions_call_no_tool(system: str) -> None:
    assert messaged({"type": "auto"}, system=system)["stop_reason"] == "end_turn"
    assert messaged({"type": "none"}, system=ASKED)["stop_reason"] == "end_turn"


def events(reply: Reply) -> list[Any]:
    lines = b"".join(reply.events or []).decode().splitlines()
    found = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [json.loads(line) for line in found if line != "[DONE]"]


@pytest.mark.parametrize(("choice", "kind"), [(NAMED, "function"), (CUSTOM, "custom")])
def test_openai_streams_a_call(choice: Any, kind: str) -> None:
    reply = post("/v1/chat/completions", chat_body(choice, stream=True))
    choices = [event["choices"][0] for event in events(reply)]
    calls = [c["delta"]["tool_calls"][0] for c in choices if "tool_calls" in c["delta"]]
    assert calls[0][kind]["name"] == choice[kind]["name"]
    assert [call["id"] for call in calls if "id" in call] == [calls[0]["id"]]
    field = "arguments" if kind == "function" else "input"
    text = "".join(call[kind][field] for call in calls)
    assert text == "Whales sing." if kind == "custom" else json.loads(text) == INPUT
    assert choices[-1]["finish_reason"] == "tool_calls"


def test_anthropic_streams_a_call() -> None:
    body = message_body({"type": "tool", "name": "weather"}, stream=True)
    told = events(post("/v1/messages", body))
    (begun,) = [event["content_block"] for event in told if event["type"] == "content_block_start"]
    assert (begun["type"], begun["name"], begun["input"]) == ("tool_use", "weather", {})
    deltas = [event["delta"] for event in told if event["type"] == "content_block_delta"]
    assert json.loads("".join(delta["partial_json"] for delta in deltas)) == INPUT
    (last,) = [event["delta"] for event in told if event["type"] == "message_delta"]
    assert last["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    ("choice", "named"),
    [
        (allowed("required"), "allowed_tools.tools"),
        (allowed("perhaps", NAMED), "allowed_tools.mode"),
        (allowed("required", {"type": "function", "function": {"name": "x"}}), "'x'"),
        ({"type": "allowed_tools"}, "tool_choice.allowed_tools"),
    ],
)
def test_openai_refuses_allowed_tools_that_cannot_be_called(choice: Any, named: str) -> None:
    with pytest.raises(OpenAIError) as caught:
        read_chat(chat_body(choice), SETTINGS)
    assert named in f"{caught.value} {caught.value.param}"


def test_anthropic_refuses_to_think_where_a_call_is_forced() -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    with pytest.raises(AnthropicError, match="Thinking may not be enabled"):
        read_messages(
            message_body({"type": "any"}, thinking=thinking, max_tokens=4096),
            SETTINGS,
            caching=False,
        )


JOB = JobRecord(
    id="job",
    ordinal=1,
    owner="me",
    created=0.0,
    expires=9.0,
    endpoint="/v1/chat/completions",
    input="rows",
    version="2023-06-01",
)


def test_a_batch_row_is_answered_with_a_call_at_openai() -> None:
    body = chat_body(NAMED)
    row = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    store = Store(None, seed=0)
    try:
        done = OpenAIBatches(SETTINGS, store).answer(
            JOB, orjson.dumps(row), ident="a", fails=False, now=0.0
        )
    finally:
        store.close()
    (part,) = orjson.loads(done.line)["response"]["body"]["choices"]
    assert part["finish_reason"] == "tool_calls"
    assert json.loads(part["message"]["tool_calls"][0]["function"]["arguments"]) == INPUT


def test_a_batch_row_is_answered_with_a_call_at_anthropic() -> None:
    row = {"custom_id": "a", "params": message_body({"type": "tool", "name": "weather"})}
    store = Store(None, seed=1)
    try:
        done = AnthropicBatches(SETTINGS, store).answer(
            JOB, orjson.dumps(row), ident="a", fails=False, now=0.0
        )
    finally:
        store.close()
    message = orjson.loads(done.line)["result"]["message"]
    assert (message["stop_reason"], message["content"][0]["input"]) == ("tool_use", INPUT)


async def test_the_official_sdks_read_a_call() -> None:
    openai: Any = pytest.importorskip("openai")
    anthropic: Any = pytest.importorskip("anthropic")
    async with Simulator(SETTINGS) as sim:
        async with openai.AsyncOpenAI(base_url=sim.url, api_key="k", max_retries=0) as sdk:
            told = await sdk.chat.completions.create(**chat_body(NAMED))
            (call,) = told.choices[0].message.tool_calls
            assert json.loads(call.function.arguments) == INPUT
        async with anthropic.AsyncAnthropic(
            base_url=sim.root_url, api_key="k", max_retries=0
        ) as sdk:
            body = message_body({"type": "tool", "name": "weather"})
            async with sdk.messages.stream(**body) as stream:
                last = await stream.get_final_message()
            assert (last.stop_reason, last.content[0].input) == ("tool_use", INPUT)
