"""Replies that are made to break whoever reads them: a failure, never another exception."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from llmflow import errors
from llmflow.types import WireReply
from llmflow_providers.anthropic import AnthropicProvider
from llmflow_providers.openai import OpenAIProvider

OPENAI = OpenAIProvider("m", base_url="http://h/v1", api_key="sk-secret-1234")
ANTHROPIC = AnthropicProvider("m", base_url="http://h", api_key="sk-secret-1234")
PROVIDERS = (OPENAI, ANTHROPIC)
DEEP = "[" * 300 + "]" * 300
DEEPER = "[" * 1000 + "]" * 1000
LARGE = "1" * 30
LARGER = "1" * 400


def refused(
    provider: OpenAIProvider | AnthropicProvider, body: str, status: int = 500
) -> errors.ProviderError:
    with pytest.raises(errors.ProviderError) as caught:
        provider.decode(WireReply(status, {}, body.encode(), time.time()))
    return caught.value


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda each: each.name)
@pytest.mark.parametrize(
    "body",
    [
        DEEP,
        DEEPER,
        f'{{"error": {DEEP}}}',
        f'{{"error": {DEEPER}}}',
        f'{{"error": {{"message": {DEEPER}}}}}',
        f'{{"error": {{"metadata": {{"headers": {{"retry-after": {DEEPER}}}}}}}}}',
        f'{{"a": NaN, "b": {LARGE}}}',
        f'{{"error": {{"code": NaN, "type": {LARGE}}}}}',
        f'{{"a": NaN, "error": {{"availability": {{"retry_after": {LARGER}}}}}}}',
    ],
    ids=range(9),
)
def test_an_error_body_that_cannot_be_written_again_is_still_that_error(
    provider: OpenAIProvider | AnthropicProvider, body: str
) -> None:
    assert isinstance(refused(provider, body), errors.ServerError)
    assert isinstance(refused(provider, body, 400), errors.InvalidRequestError)
    refused(provider, body, 200)


@pytest.mark.parametrize(
    "line",
    [
        f'{{"custom_id": "r", "response": {{"status_code": 500, "body": {{"a": {DEEP}}}}}}}',
        f'{{"custom_id": "r", "response": {{"status_code": 200, "body": {DEEP}}}}}',
        f'{{"custom_id": "r", "a": NaN, "response": {{"status_code": 500, "body": {LARGE}}}}}',
    ],
    ids=range(3),
)
def test_a_row_whose_error_cannot_be_written_again_is_one_failed_row_at_openai(line: str) -> None:
    batch = OPENAI.batch
    assert batch is not None
    row = batch.read(line.encode())
    assert row.custom_id == "r"
    assert isinstance(row.error, errors.ProviderError)


@pytest.mark.parametrize(
    "result",
    [
        f'{{"type": "errored", "error": {DEEP}}}',
        f'{{"type": "succeeded", "message": {DEEP}}}',
        f'{{"type": "errored", "a": NaN, "error": {{"b": {LARGE}}}}}',
    ],
    ids=range(3),
)
def test_a_row_whose_error_cannot_be_written_again_is_one_failed_row_at_anthropic(
    result: str,
) -> None:
    row = ANTHROPIC.batch.read(f'{{"custom_id": "r", "result": {result}}}'.encode())
    assert row.custom_id == "r"
    assert isinstance(row.error, errors.ProviderError)


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda each: each.name)
def test_the_servers_own_delay_counts_where_its_body_repeats_headers_of_another(
    provider: OpenAIProvider | AnthropicProvider,
) -> None:
    headers = CIMultiDictProxy(CIMultiDict({"Retry-After": "7", "X-Request-Id": "req-1"}))
    error = {
        "message": "slow down",
        "type": "rate_limit_error",
        "metadata": {"headers": {"X-RateLimit-Limit": "20", "Retry-After": "40"}},
    }
    body = json.dumps({"error": error}).encode()
    with pytest.raises(errors.RateLimitError) as caught:
        provider.decode(WireReply(429, headers, body, time.time()))
    assert caught.value.retry_after == 7.0
    assert caught.value.request_id == "req-1"


def test_an_error_in_a_choice_without_a_message_is_that_error() -> None:
    choice = {"message": None, "error": {"code": 429, "message": "slow down"}}
    error = refused(OPENAI, json.dumps({"choices": [choice]}), 200)
    assert isinstance(error, errors.RateLimitError)
    assert isinstance(
        refused(OPENAI, json.dumps({"choices": [{"message": None}]}), 200), errors.BadReplyError
    )


ATOMS = ("null", "true", "0", "-1", "1.5", '"429"', '"error"', '""', "NaN", "1e999", DEEP)
ATOMS += (LARGE, LARGER, '"\\ud800"', "[]", "{}", "[null]", '{"a": 1}', '"nan"', '"inf"')
NAMES = (
    *("message", "code", "type", "status", "detail", "metadata", "details", "availability"),
    *("headers", "retry_after", "reset_at", "choices", "content", "usage", "finish_reason"),
    *("stop_reason", "error", "id", "model", "refusal", "text", "response", "status_code"),
    *("body", "result", "custom_id", "violations", "retryDelay", "Retry-After", "reasons"),
)


def some_json(rng: random.Random, depth: int = 5) -> str:
    kind = rng.random()
    if depth == 0 or kind < 0.3:
        return rng.choice(ATOMS)
    if kind < 0.4:
        return f"[{some_json(rng, depth - 1)}]"
    names = rng.sample(NAMES, rng.randint(1, 6))
    fields = ", ".join(f'"{name}": {some_json(rng, depth - 1)}' for name in names)
    return f"{{{fields}}}"


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.slow
def test_whatever_json_a_server_sends_is_an_answer_or_a_failure(seed: int) -> None:
    rng = random.Random(seed)
    batch = OPENAI.batch
    assert batch is not None
    readers: tuple[Callable[[bytes], object], ...] = (batch.read, ANTHROPIC.batch.read)
    for _ in range(300):
        body = some_json(rng).encode()
        status = rng.choice((200, 202, 400, 401, 404, 422, 429, 500, 529))
        for provider in PROVIDERS:
            delay = delay_of(provider, WireReply(status, {}, body, time.time()))
            assert delay is None or 0.0 <= delay < 1e9
        for read in readers:
            with contextlib.suppress(ValueError):
                read(body)


def delay_of(provider: OpenAIProvider | AnthropicProvider, reply: WireReply) -> float | None:
    try:
        provider.decode(reply)
    except errors.ProviderError as error:
        return error.retry_after
    return None
