"""The marked beginning of a prompt: what is marked on the wire, and what rows are seen to share."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llmflow.errors import ConfigurationError
from llmflow.types import MarkedPrefix, Request
from llmflow_providers.anthropic import AnthropicProvider

LONG = "Answer with the words that you were asked with. " * 120
MARK = {"cache_control": {"type": "ephemeral"}}
HOUR = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
PROVIDER = AnthropicProvider("claude-x", api_key="sk-ant-1")


def block(text: str, mark: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "text", "text": text, **(mark or {})}


def request(*content: Any, system: str | None = None, **options: Any) -> Request:
    return Request(
        model="claude-x",
        messages=tuple({"role": "user", "content": each} for each in content),
        system=system,
        options=options,
    )


def body(of: Request) -> dict[str, Any]:
    data: dict[str, Any] = orjson.loads(PROVIDER.encode(of).body)
    return data


def prefix(of: Request) -> MarkedPrefix | None:
    return PROVIDER.marked_prefix(of)


def test_the_option_marks_the_system_prompt_and_is_not_sent() -> None:
    sent = body(request("Hi", system="Be brief.", cache_system="1h"))
    assert sent["system"] == [block("Be brief.", HOUR)]
    assert "cache_system" not in sent


def test_of_a_system_prompt_in_blocks_the_last_one_is_marked() -> None:
    messages = (
        {"role": "system", "content": [block("One."), block("Two.")]},
        {"role": "user", "content": "Hi"},
    )
    sent = body(Request(model="m", messages=messages, options={"cache_system": "1h"}))
    assert sent["system"] == [block("One."), block("Two.", HOUR)]


@pytest.mark.parametrize("options", [{"cache_system": None}, {"cache_system": "5m"}])
def test_without_a_system_prompt_nothing_is_marked(options: dict[str, Any]) -> None:
    assert "system" not in body(request("Hi", **options))


def test_a_time_that_there_is_not_is_named() -> None:
    with pytest.raises(ConfigurationError, match="cache_system must be '5m' or '1h'; got 60"):
        body(request("Hi", system="Be brief.", cache_system=60))


def test_requests_that_begin_alike_have_one_prefix() -> None:
    one, two = (prefix(request(each, system=LONG, cache_system="1h")) for each in ("One", "Two"))
    assert one is not None
    assert one == two
    assert one.for_an_hour
    assert one.tokens > 1024


@pytest.mark.parametrize(
    "other",
    [
        request("One", system=f"{LONG}!", cache_system="5m"),
        request("One", system=LONG, cache_system="5m", tools=[{"name": "look"}]),
        Request(
            model="claude-y",
            messages=({"role": "user", "content": "One"},),
            system=LONG,
            options={"cache_system": "5m"},
        ),
    ],
)
def test_what_comes_before_the_mark_tells_them_apart(other: Request) -> None:
    one = prefix(request("One", system=LONG, cache_system="5m"))
    assert one is not None
    assert (found := prefix(other)) is not None
    assert found.digest != one.digest


def test_a_document_before_the_question_is_a_prefix() -> None:
    one, two = (prefix(request([block(LONG, MARK), block(each)])) for each in ("Who?", "When?"))
    assert one is not None
    assert one == two
    assert not one.for_an_hour


def test_the_longest_shared_mark_counts() -> None:
    asked = request([block(LONG, MARK), block("?")], system=LONG, cache_system="1h")
    alone = prefix(request("?", system=LONG, cache_system="1h"))
    found = prefix(asked)
    assert found is not None
    assert alone is not None
    assert found.tokens == 2 * alone.tokens


@pytest.mark.parametrize(
    "asked",
    [
        request("One", system=LONG),
        request("One", system="Be brief.", cache_system="5m"),  # too short to be cached
        request([block(LONG, MARK)]),  # all of it: nothing that differs can come after
    ],
)
def test_what_cannot_be_shared_is_no_prefix(asked: Request) -> None:
    assert prefix(asked) is None
