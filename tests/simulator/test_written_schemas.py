"""A schema in the words of a prompt is obeyed, as a model obeys it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmflow.simulator import SimulatorSettings
from llmflow.simulator.answer import answer
from llmflow.simulator.anthropic.message_request import read_messages
from llmflow.simulator.openai.chat_request import read_chat
from llmflow.simulator.written_schema import written_schema
from tests.typed.fourteen import FOURTEEN

SETTINGS = SimulatorSettings(latency=0)
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}}


def chatted(*messages: tuple[str, str], **more: Any) -> str:
    shown = [{"role": role, "content": text} for role, text in messages]
    call = read_chat({"model": "any", "messages": shown, **more}, SETTINGS)
    return answer(call, style="summary").text


def messaged(system: Any, text: str) -> str:
    body = {"model": "any", "max_tokens": 4000, "system": system}
    body["messages"] = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    call = read_messages(body, SETTINGS, caching=False)
    return answer(call, style="summary").text


@pytest.mark.parametrize("name", FOURTEEN)
def test_a_schema_in_instructions_is_obeyed(name: str) -> None:
    kind = FOURTEEN[name]
    asked = f"Respond with JSON that fits this schema:\n{json.dumps(kind.model_json_schema())}"
    said = [
        chatted(("system", asked), ("user", "Whales sing.")),
        chatted(("user", f"Whales sing.\n\n{asked}")),
        messaged(asked, "Whales sing."),
        messaged([{"type": "text", "text": asked}], "Whales sing."),
    ]
    for text in said:
        kind.model_validate_json(text)
    assert said[0] == said[2]


def test_json_mode_obeys_the_schema_that_the_words_ask_for() -> None:
    form = {"type": "json_object"}
    asked = f"The JSON schema: {json.dumps(SCHEMA)}"
    assert chatted(("user", asked), response_format=form) == '{"n":3}'
    assert json.loads(chatted(("user", "Whales. JSON."), response_format=form)) == {
        "answer": "Whales. JSON."
    }


def test_the_last_of_several_schemas_counts() -> None:
    """Some instructions have an example before."""
    example = {"properties": {"foo": {"type": "string"}}, "required": ["foo"]}
    text = f"As an example, for the schema {example!r} or {json.dumps(example)} JSON such as "
    found = written_schema(f'{text} {{"foo": 1}} fits. Here is yours: ```{json.dumps(SCHEMA)}```')
    assert found is not None
    assert found.schema == SCHEMA


@pytest.mark.parametrize(
    "text",
    [
        "Summarize: JSON schemas describe data.",
        'Summarize this JSON by our schema: {"type": "review", "stars": 3}',
        'JSON schema of {"type": "string", "stars": 3} {"properties": [1]} {"type": ["a"]}',
        'Translate {"type": "object"} to words.',
        '{"type": "object" schema json {{{{',
    ],
)
def test_data_is_no_schema(text: str) -> None:
    assert written_schema(text) is None


def test_an_endless_row_of_brackets_is_left_soon() -> None:
    assert written_schema('json schema "type" ' + "{" * 100_000) is None


def test_a_choice_to_call_no_tool_leaves_the_answer_in_words() -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
    text = "Whales sing."
    assert chatted(("user", text), tools=[tool], tool_choice="none") == text
