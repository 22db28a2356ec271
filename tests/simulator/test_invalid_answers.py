"""Answers that do not fit their schema at first: which, how, and counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest
from pydantic import ValidationError

from llmflow.errors import ConfigurationError
from llmflow.simulator import Engine, SimulatorSettings
from llmflow.simulator.answer import answer, count_tokens
from llmflow.simulator.exchange import Answer
from llmflow.simulator.openai.chat_request import read_chat
from llmflow.simulator.wrong_answer import KINDS, Mistakes, wrong_answer
from tests.simulator.batch_provider import OpenAI, Provider
from tests.typed.fourteen import FOURTEEN

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "score": {"type": "integer", "description": "{minimum: 3, maximum: 9}"},
        "mood": {"type": "string", "enum": ["good", "bad"]},
    },
    "required": ["title", "score", "mood"],
    "additionalProperties": False,
}
BOUNDED = {**SCHEMA, "properties": {**SCHEMA["properties"], "score": {"minimum": 3, "maximum": 9}}}
RIGHT = {"title": "Whales sing.", "score": 3, "mood": "good"}
ALWAYS = SimulatorSettings(latency=0, invalid_answer_rate=1.0)
FORMAT = {"type": "json_schema", "json_schema": {"name": "review", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "answer", "parameters": SCHEMA}}
WAYS: dict[str, dict[str, Any]] = {
    "json_schema": {"response_format": FORMAT},
    "json_object": {
        "response_format": {"type": "json_object"},
        "messages": [{"role": "system", "content": f"JSON of this schema: {json.dumps(SCHEMA)}"}],
    },
    "tool": {
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "answer"}},
    },
    "prompt": {
        "messages": [{"role": "developer", "content": f"JSON schema: {json.dumps(SCHEMA)}"}]
    },
}


def chat(text: str, *more: Any, way: str = "json_schema", **fields: Any) -> dict[str, Any]:
    asked = dict(WAYS[way])
    before = asked.pop("messages", [])
    messages = [*before, {"role": "user", "content": text}, *more]
    return {"model": "any", **asked, "messages": messages, **fields}


def said(body: dict[str, Any], settings: SimulatorSettings = ALWAYS) -> Answer:
    mistakes = Mistakes(settings.invalid_answer_rate, seed=settings.seed)
    return answer(read_chat(body, settings), style="summary", mistakes=mistakes)


def is_right(text: str) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return bool(jsonschema_rs.is_valid(BOUNDED, value))


def test_the_share_of_wrong_first_answers_is_the_rate_whatever_max_tokens_is() -> None:
    for rate in (0.2, 0.5, 0.95):
        mistakes = Mistakes(rate, seed=7)
        for limit in (None, 100, 200):
            kinds = Counter(mistakes.kind(f"text {n}", max_tokens=limit) for n in range(4000))
            right = kinds.pop(None, 0)
            assert abs(1 - right / 4000 - rate) < 0.03
            named = set(KINDS) if limit else set(KINDS) - {"cut_off"}
            assert set(kinds) == named
            if rate < 0.8:
                assert max(kinds.values()) < 1.4 * min(kinds.values())


def test_another_seed_answers_other_conversations_wrongly() -> None:
    texts = [f"text {n}" for n in range(300)]
    one, same, other = (
        [Mistakes(0.5, seed=seed).kind(text, max_tokens=None) for text in texts]
        for seed in (1, 1, 2)
    )
    assert one == same != other


@pytest.mark.parametrize("way", WAYS)
def test_a_wrong_answer_is_right_as_soon_as_the_user_answers_to_it(way: str) -> None:
    kinds = set()
    for number in range(40):
        text = f"Whales sing. {number}"
        first = said(chat(text, way=way))
        assert not is_right(first.text)
        kinds.add(first.wrong)
        told = ({"role": "assistant", "content": first.text}, {"role": "user", "content": "No!"})
        second = said(chat(text, *told, way=way))
        assert (is_right(second.text), second.wrong) == (True, None)
        # What was asked before the remark is answered, as if it had been right at once.
        never = said(chat(text, way=way), SimulatorSettings(latency=0))
        assert json.loads(second.text) == json.loads(never.text)
    assert kinds == set(KINDS) - {"cut_off"}


def test_the_question_after_a_right_answer_is_a_new_one() -> None:
    told = (
        {"role": "assistant", "content": json.dumps(RIGHT)},
        {"role": "user", "content": "Cats."},
    )
    assert json.loads(said(chat("Whales sing.", *told)).text)["title"] == "Cats."


def test_a_refused_call_of_a_tool_is_a_wrong_answer_as_well() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "answer", "arguments": "{"}}
    told = (
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "title: field required"},
    )
    second = said(chat("Whales sing.", *told, way="tool"))
    assert json.loads(second.text) == RIGHT


def test_what_was_cut_off_is_whole_with_twice_as_many_tokens() -> None:
    settings = SimulatorSettings(latency=0, invalid_answer_rate=0.6)
    for limit in (40, 100):
        cut = 0
        for number in range(80):
            text = f"Whales sing. {number}"
            first = said(chat(text, max_tokens=limit), settings)
            if first.wrong != "cut_off":
                continue
            cut += 1
            assert (first.cut, first.tokens) == (True, limit)
            assert not is_right(first.text)
            second = said(chat(text, max_tokens=2 * limit), settings)
            assert (is_right(second.text), second.cut, second.wrong) == (True, False, None)
        assert cut > 3


def test_no_wrong_answer_is_longer_than_max_tokens_by_accident() -> None:
    """It would be cut off, and cut off again with twice as many tokens."""
    for number in range(60):
        text = f"Whales sing. {number}"
        right = said(chat(text), SimulatorSettings(latency=0))
        first = said(chat(text, max_tokens=right.tokens))
        assert first.wrong is not None
        assert not first.cut
        assert count_tokens(first.text) <= right.tokens


@pytest.mark.parametrize("name", FOURTEEN)
@pytest.mark.parametrize("kind", KINDS)
def test_every_schema_has_wrong_answers(name: str, kind: Any) -> None:
    kept = FOURTEEN[name]
    schema = kept.model_json_schema()
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "response_format": form}
    right = said(body, SimulatorSettings(latency=0))
    kept.model_validate_json(right.text)
    wrong = wrong_answer(
        kind, orjson.loads(right.text), schema, as_object=False, has_room=lambda _: True
    )
    assert wrong is not None
    with pytest.raises(ValidationError):
        kept.model_validate_json(wrong.text)
    if name != "no properties":
        assert wrong.kind == kind
        read = wrong_answer(
            kind, orjson.loads(right.text), schema, as_object=True, has_room=lambda _: True
        )
        assert read is not None
        if kind != "cut_off":
            with pytest.raises(ValidationError):
                kept.model_validate(json.loads(read.text))


def test_an_object_without_properties_that_the_service_reads_is_never_wrong() -> None:
    schema = {"type": "object", "properties": {}}
    for kind in KINDS[:-1]:
        assert wrong_answer(kind, {}, schema, as_object=True, has_room=lambda _: True) is None


def test_an_answer_in_words_is_never_wrong() -> None:
    body = {"model": "any", "messages": [{"role": "user", "content": "Whales sing."}]}
    assert said(body).text == "Whales sing."


def ask(engine: Engine, path: str, body: Any) -> Any:
    headers = {"anthropic-version": "2023-06-01"}
    reply = engine.receive("POST", path, headers=headers, body=orjson.dumps(body), now=1.0)
    assert reply.status == 200, reply.body
    engine.end(reply, now=1.0)
    return orjson.loads(reply.body) if reply.events is None else reply.events


def test_wrong_answers_are_counted_by_what_is_wrong_with_them() -> None:
    engine = Engine(ALWAYS, now=0.0)
    for number in range(30):
        ask(engine, "/v1/chat/completions", chat(f"text {number}", stream=number % 2 == 0))
    counts = engine.stats().invalid_answers
    assert sum(counts.values()) == 30
    assert set(counts) == set(KINDS) - {"cut_off"}
    engine.reset(now=2.0)
    assert engine.stats().invalid_answers == {}


def test_anthropics_tool_input_stays_an_object() -> None:
    engine = Engine(ALWAYS, now=0.0)
    for number in range(12):
        body = {
            "model": "any",
            "max_tokens": 500,
            "messages": [{"role": "user", "content": f"text {number}"}],
            "tools": [{"name": "answer", "input_schema": SCHEMA}],
            "tool_choice": {"type": "tool", "name": "answer"},
        }
        (block,) = ask(engine, "/v1/messages", body)["content"]
        assert isinstance(block["input"], dict)
        assert not is_right(json.dumps(block["input"]))
    assert set(engine.stats().invalid_answers) == {"missing_field", "out_of_range"}


@pytest.mark.parametrize("rate", [-0.1, 1.5, "half"])
def test_a_rate_that_is_no_share_is_refused(rate: Any) -> None:
    with pytest.raises(ConfigurationError, match="invalid_answer_rate"):
        SimulatorSettings(invalid_answer_rate=rate)


def test_rows_of_a_job_are_answered_wrongly_and_counted_once_over_a_restart(tmp_path: Path) -> None:
    for _ in range(2):
        with Provider(state=tmp_path, invalid=0.5, seconds=2.0) as provider:
            if not provider.counts().jobs_created:
                job = OpenAI(provider).create(60, response_format=FORMAT)
                provider.until(2.5)
            else:
                provider.until(10.0)
                lines = OpenAI(provider).content(OpenAI(provider).job(job)["output_file_id"])
                counted = provider.counts().rows_invalid
    bodies = [line["response"]["body"]["choices"][0] for line in lines]
    wrong = [said for said in bodies if not is_right(said["message"]["content"])]
    assert 20 < len(wrong) < 40
    assert counted == len(wrong)
    assert {said["finish_reason"] for said in wrong} == {"stop"}


def test_the_same_conversation_is_answered_alike_in_a_job(tmp_path: Path) -> None:
    with Provider(state=tmp_path, invalid=1.0, seconds=1.0) as provider:
        job = OpenAI(provider).create(8, response_format=FORMAT)
        provider.until(10.0)
        lines = OpenAI(provider).content(OpenAI(provider).job(job)["output_file_id"])
    for line in lines:
        text = line["response"]["body"]["choices"][0]["message"]["content"]
        assert text == said(chat(f"Item {line['custom_id'].removeprefix('r-')}.")).text
