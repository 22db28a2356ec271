"""Output types at servers that know less than they are asked for, over real HTTP."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import orjson
import pytest
from pydantic import BaseModel

from llmflow import LLM, Quota
from llmflow.errors import InvalidAnswerError, InvalidRequestError, RefusalError
from llmflow.limits.registry import forget_limiters
from llmflow.typed.methods import ANSWER_TOOL
from tests.odd_server import Asked, Odd, Rule, answer, odd_server

PLENTY = Quota(rpm=1e6, tpm=1e9)


class Review(BaseModel):
    title: str
    mood: Literal["good", "bad"]


RIGHT = '{"title": "Tides", "mood": "good"}'
REVIEW = Review(title="Tides", mood="good")


@pytest.fixture(autouse=True)
def _limiters() -> Iterator[None]:
    forget_limiters()
    yield
    forget_limiters()


def method_of(asked: Asked) -> str:
    """Return how a body asks for its schema."""
    body = asked.body
    if "tools" in body:
        return "tool" if body.get("tool_choice", {}).get("type") != "auto" else "free tool"
    if "output_config" in body:
        return "json_schema"
    return str(body.get("response_format", {}).get("type", "prompt"))


def refusal(asked: Asked, message: str, status: int = 400, **more: Any) -> Odd:
    error = {"message": message, "type": "invalid_request_error", **more}
    body = {"error": error} if asked.dialect == "openai" else {"type": "error", "error": error}
    return Odd(body, status)


def called(asked: Asked, arguments: str) -> Odd:
    if asked.dialect == "anthropic":
        block = {"type": "tool_use", "id": "t", "name": ANSWER_TOOL}
        body = answer("anthropic", None, ending="tool_use")
        return Odd({**body, "content": [{**block, "input": orjson.loads(arguments)}]})
    function = {"name": ANSWER_TOOL, "arguments": arguments}
    body = answer("openai", None, ending="tool_calls")
    body["choices"][0]["message"]["tool_calls"] = [
        {"id": "c", "type": "function", "function": function}
    ]
    return Odd(body)


def said(asked: Asked, text: str = RIGHT) -> Odd:
    return Odd(answer(asked.dialect, text))


def lm_studio(asked: Asked) -> Odd:
    if method_of(asked) in ("json_schema", "prompt"):
        return said(asked)
    return Odd({"error": "'response_format.type' must be 'json_schema' or 'text'"}, 400)


def old_vllm(asked: Asked) -> Odd:
    if method_of(asked) == "json_schema":
        message = "Invalid parameter: 'response_format' of type 'json_schema' is not supported"
        return refusal(asked, message)
    if method_of(asked) == "tool":
        message = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser'
        return refusal(asked, message)
    return said(asked, f"Here you are:\n```json\n{RIGHT}\n```")


def router(asked: Asked) -> Odd:
    if method_of(asked) == "tool":
        return called(asked, RIGHT)
    return refusal(asked, "No endpoints found that can handle the requested parameters.", 404)


def old_claude(asked: Asked) -> Odd:
    if method_of(asked) == "json_schema":
        return refusal(asked, "'claude-next' does not support output format.")
    return called(asked, RIGHT)


def thinking_claude(asked: Asked) -> Odd:
    if method_of(asked) == "json_schema":
        return refusal(asked, "output_config: Extra inputs are not permitted")
    if method_of(asked) == "tool":
        return refusal(asked, "Thinking may not be enabled when tool_choice forces tool use.")
    return said(asked)


def strict_on_fields(asked: Asked) -> Odd:
    if "response_format" in asked.body or "tools" in asked.body:
        field = "response_format" if "response_format" in asked.body else "tools"
        detail = [{"type": "extra_forbidden", "loc": ["body", field], "msg": "Extra inputs"}]
        return Odd({"detail": detail}, 422)
    return said(asked)


SERVERS: dict[str, tuple[str, Rule, list[str]]] = {
    "LM Studio": ("openai/m", lm_studio, ["json_schema"]),
    "vLLM without a parser": ("openai/m", old_vllm, ["json_schema", "tool", "prompt"]),
    "OpenRouter": ("openai/m", router, ["json_schema", "tool"]),
    "a Claude without a format": ("anthropic/claude-opus-4-8", old_claude, ["json_schema", "tool"]),
    "a Claude that thinks": (
        "anthropic/claude-opus-4-8",
        thinking_claude,
        ["json_schema", "tool", "prompt"],
    ),
    "a server that takes no further field": (
        "openai/m",
        strict_on_fields,
        ["json_schema", "tool", "prompt"],
    ),
}


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_is_asked_by_the_methods_that_are_left(name: str) -> None:
    model, rule, methods = SERVERS[name]
    with odd_server(rule) as server:
        url = server.url(model.partition("/")[0])
        llm = LLM(model, base_url=url, api_key="k", quota=PLENTY, output_type=Review)
        first = llm.complete_sync("One")
        assert first.parsed == REVIEW
        used = list(dict.fromkeys(map(method_of, server.asked)))
        assert used == methods
        before = len(server.asked)
        assert llm.complete_sync("Two").parsed == REVIEW
        assert [method_of(each) for each in server.asked[before:]] == methods[-1:]


async def test_calls_in_flight_all_move_on_and_later_ones_ask_rightly_at_once() -> None:
    with odd_server(old_vllm) as server:
        llm = LLM(
            "openai/m", base_url=server.url("openai"), api_key="k", quota=PLENTY, output_type=Review
        )
        calls = [llm.complete(f"Call {number}") for number in range(40)]
        answers = await asyncio.gather(*calls)
        assert all(each.parsed == REVIEW for each in answers)
        before = len(server.asked)
        await asyncio.gather(*[llm.complete(f"Later {number}") for number in range(40)])
        assert Counter(map(method_of, server.asked[before:])) == {"prompt": 40}


def test_a_server_that_refuses_everything_is_an_error_and_no_endless_loop() -> None:
    def rule(asked: Asked) -> Odd:
        return refusal(asked, "response_format, tools and json schema are not supported here")

    with odd_server(rule) as server:
        llm = LLM("openai/m", base_url=server.url("openai"), api_key="k", output_type=Review)
        with pytest.raises(InvalidRequestError):
            llm.complete_sync("One")
        assert len(server.asked) <= 6


def test_a_rejected_generation_is_asked_again_once() -> None:
    def rule(asked: Asked) -> Odd:
        if asked.nth > 1 or len(asked.body["messages"]) > 2:
            return said(asked)
        return refusal(
            asked,
            "Failed to generate JSON. See 'failed_generation'.",
            code="json_validate_failed",
            failed_generation='{"title": "Tides", ',
        )

    with odd_server(rule) as server:
        llm = LLM("openai/m", base_url=server.url("openai"), api_key="k", output_type=Review)
        assert llm.complete_sync("One").parsed == REVIEW
        assert len(server.asked) == 2
        assert "Tides" in str(server.asked[1].body["messages"])


def test_a_rejected_generation_may_hold_the_answer() -> None:
    def rule(asked: Asked) -> Odd:
        text = f"<function={ANSWER_TOOL}>{RIGHT}</function>"
        return refusal(asked, "tool use", code="tool_use_failed", failed_generation=text)

    with odd_server(rule) as server:
        llm = LLM("openai/m", base_url=server.url("openai"), api_key="k", output_type=Review)
        assert llm.complete_sync("One").parsed == REVIEW
        assert len(server.asked) == 1


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_a_refusal_is_no_wrong_answer_and_not_asked_again(dialect: str) -> None:
    def rule(asked: Asked) -> Odd:
        if asked.dialect == "anthropic":
            return Odd(answer("anthropic", "I won't.", ending="refusal"))
        body = answer("openai", None)
        body["choices"][0]["message"]["refusal"] = "I won't."
        return Odd(body)

    with odd_server(rule) as server:
        model = "openai/m" if dialect == "openai" else "anthropic/claude-next"
        llm = LLM(model, base_url=server.url(dialect), api_key="k", output_type=Review)
        with pytest.raises(RefusalError) as caught:
            llm.complete_sync("One")
        assert caught.value.partial_text == "I won't."
        assert len(server.asked) == 1


def test_arguments_that_were_cut_off_are_told_apart() -> None:
    def rule(asked: Asked) -> Odd:
        odd = called(asked, '{"title": "Tid')
        odd.body["choices"][0]["finish_reason"] = "length"
        return odd

    with odd_server(rule) as server:
        llm = LLM(
            "openai/gpt-4-turbo", base_url=server.url("openai"), api_key="k", output_type=Review
        )
        with pytest.raises(InvalidAnswerError, match="cut off") as caught:
            llm.complete_sync("One", max_tokens=20)
        assert caught.value.response.text == '{"title": "Tid'
        sizes = [each.body["max_tokens"] for each in server.asked]
        assert sizes == [20, 40]
