"""Odd but honest replies over real HTTP, in both dialects: what a map of rows comes to."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from llmflow import LLM, Budget, Price, Retry, Run
from llmflow.calls import refusals
from llmflow.errors import (
    BudgetExceededError,
    ContentFilterError,
    LLMFlowError,
    ModelNotFoundError,
    ProviderError,
    QuotaExhaustedError,
)
from llmflow.limits.registry import forget_limiters
from tests.odd_server import EVERY_CLIENT, Asked, Odd, OddServer, answer, odd_server, whole

PROMPTS = [f"row {number}" for number in range(12)]
FAST = Retry(attempts=5, wait_initial=0.001)

pytestmark = [pytest.mark.http, pytest.mark.parametrize("dialect", EVERY_CLIENT)]


@pytest.fixture(autouse=True)
def _fresh() -> None:
    forget_limiters()


def llm_for(server: OddServer, dialect: str, **options: Any) -> LLM:
    settings = {"api_key": "sk-odd-123456", "retry": FAST, "max_tokens": 50, **options}
    return LLM(f"{dialect}/m", base_url=server.url(dialect), **settings)


def sometimes(odd: Callable[[Asked], Odd]) -> Callable[[Asked], Odd]:
    """Return a rule by which every third row is answered oddly, when it is first asked."""

    def rule(asked: Asked) -> Odd:
        number = int(asked.prompt.rpartition(" ")[2])
        return odd(asked) if asked.nth == 1 and number % 3 == 0 else whole(asked)

    return rule


def outcomes(llm: LLM, prompts: list[str]) -> list[Any]:
    """Return answers and errors in the order of the prompts."""
    return [each.error or each.text for each in llm.map_sync(prompts)]


def mapped(rule: Callable[[Asked], Odd], dialect: str) -> tuple[list[Any], OddServer]:
    """Ask all prompts; return answers and errors, and the server."""
    with odd_server(rule) as server:
        llm = llm_for(server, dialect)
        return outcomes(llm, PROMPTS), server


def beside(error: Any, **rest: Any) -> Callable[[Asked], Odd]:
    return lambda asked: Odd(answer(asked.dialect, "", ending=None, error=error, **rest))


def ending(word: str) -> Callable[[Asked], Odd]:
    return lambda asked: Odd(answer(asked.dialect, "Half an ans", ending=word))


def status(number: int, **error: Any) -> Callable[[Asked], Odd]:
    return lambda asked: Odd({"error": {"message": "no", **error}}, number)


@pytest.mark.parametrize(
    "odd",
    [
        beside({"code": 429, "message": "slow", "metadata": {"headers": {"Retry-After": "0.01"}}}),
        beside({"code": "429", "message": "Please try again in 10ms."}),
        beside({"code": 502, "message": "upstream"}),
        beside({"message": "odd"}),
        ending("network_error"),
        ending("ABORT"),
        ending("error"),
        ending("insufficient_system_resource"),
        status(408),
        status(409),
        status(421),
        status(425),
        status(499),
        status(424, code="upstream_timeout"),
    ],
)
def test_what_passes_is_asked_again_and_no_row_is_empty(
    odd: Callable[[Asked], Odd], dialect: str
) -> None:
    results, server = mapped(sometimes(odd), dialect)
    assert results == [f"re: {prompt}" for prompt in PROMPTS]
    assert sorted(server.prompts) == sorted([*PROMPTS, *PROMPTS[::3]])


@pytest.mark.parametrize("number", [400, 405, 410, 422, 424])
def test_another_4xx_is_a_failed_row_that_was_asked_once(number: int, dialect: str) -> None:
    results, server = mapped(sometimes(status(number, code="odd")), dialect)
    failed = [each for each in results if isinstance(each, LLMFlowError)]
    assert (len(failed), len(server.asked)) == (4, 12)


@pytest.mark.parametrize("number", [201, 202, 203])
def test_any_2xx_with_a_completion_is_paid_for_once(number: int, dialect: str) -> None:
    results, server = mapped(
        sometimes(lambda asked: Odd(answer(asked.dialect, f"re: {asked.prompt}"), number)), dialect
    )
    assert results == [f"re: {prompt}" for prompt in PROMPTS]
    assert len(server.asked) == 12


@pytest.mark.parametrize(
    ("before", "sent", "text"),
    [
        (b"", rb"a\ud83d", "a\ufffd"),
        (b"", b"a\xff", "a\ufffd"),
        (b"", b"a\x01\n", "a\x01\n"),
        (b"\xef\xbb\xbf", b"a", "a"),
        (b"\n\r\n \n", b"a", "a"),
    ],
    ids=["surrogate", "UTF-8", "control", "BOM", "blank lines"],
)
def test_an_answer_in_json_that_is_not_strict_is_paid_for_once(
    before: bytes, sent: bytes, text: str, dialect: str
) -> None:
    def odd(asked: Asked) -> Odd:
        body = orjson.dumps(answer(asked.dialect, "MARK", score=0.5))
        return Odd(before + body.replace(b"MARK", sent).replace(b"0.5", b"NaN"))

    results, server = mapped(sometimes(odd), dialect)
    assert results[::3] == [text] * 4
    assert len(server.asked) == 12


@pytest.mark.parametrize(
    "odd",
    [
        status(403, metadata={"reasons": ["violence"], "flagged_input": "x"}),
        status(400, code="content_filter"),
        status(400, code="moderation_blocked"),
        lambda asked: Odd(
            b"<html><body>Forbidden</body></html>", 403, {"content-type": "text/html"}
        ),
    ],
)
def test_one_refused_input_is_one_failed_row(odd: Callable[[Asked], Odd], dialect: str) -> None:
    def rule(asked: Asked) -> Odd:
        return odd(asked) if asked.prompt == "row 7" else whole(asked)

    with odd_server(rule) as server:
        llm = llm_for(server, dialect)
        assert llm.run("row 0") == "re: row 0"
        results = outcomes(llm, PROMPTS)
    assert isinstance(results.pop(7), ContentFilterError)
    assert results == [f"re: {prompt}" for prompt in PROMPTS if prompt != "row 7"]
    assert len(server.asked) == 13


@pytest.mark.parametrize("word", ["content_filter", "REFUSAL", "safety"])
def test_a_filtered_answer_is_a_failed_row_with_its_partial_text(word: str, dialect: str) -> None:
    results, server = mapped(sometimes(ending(word)), dialect)
    failed = results[::3]
    assert all(isinstance(each, ContentFilterError) for each in failed)
    assert {each.partial_text for each in failed} == {"Half an ans"}
    assert len(server.asked) == 12


LIES: list[Any] = [
    {"prompt_tokens": -9, "completion_tokens": -9, "input_tokens": -9, "output_tokens": -9},
    {"prompt_tokens": "9", "completion_tokens": "4", "input_tokens": "9", "output_tokens": "4"},
    {"prompt_tokens": 0, "completion_tokens": 0, "input_tokens": 0, "output_tokens": 0},
    {"prompt_tokens": 9, "completion_tokens": 10**9, "input_tokens": 9, "output_tokens": 10**9},
    {},
    None,
    "much",
    [1],
]


@pytest.mark.parametrize("usage", LIES)
def test_a_budget_of_two_cents_holds_whatever_a_server_says_it_used(
    usage: Any, dialect: str
) -> None:
    with odd_server(lambda asked: Odd(answer(asked.dialect, "yes", usage=usage))) as server:
        # 100 tokens at $10 a million: a thousandth of a dollar.
        llm = llm_for(server, dialect, price=Price(input=1.0, output=10.0), max_tokens=100)
        with Run(budget=Budget(usd=0.02)) as run, contextlib.suppress(BudgetExceededError):
            for number in range(3_000):
                llm.run(f"row {number}")
        told = run.statistics()
    assert 15 <= len(server.asked) <= 20
    assert (told.input_tokens, told.output_tokens) == (0, 0)
    assert not told.cost


@pytest.mark.parametrize(
    "text",
    [
        "/chat/completions: Invalid model name passed in model=m. Call `/v1/models` to view them.",
        "The model `m` does not exist or you do not have access to it.",
        "m is not a valid model ID",
        "Model Not Exist",
        "Unknown model: m",
    ],
)
def test_a_400_about_a_model_that_is_not_there_ends_the_run_at_once(
    text: str, dialect: str
) -> None:
    error = {"message": text, "type": "invalid_request_error", "param": None, "code": "400"}
    with odd_server(lambda _: Odd({"error": error}, 400)) as server:
        llm = llm_for(server, dialect)
        with pytest.raises(ModelNotFoundError), Run():
            llm.map_sync([f"row {number}" for number in range(500)], concurrency=4)
    assert len(server.asked) <= 4


@pytest.mark.parametrize("code", [200, 429])
def test_a_quota_of_a_day_that_only_the_body_names_says_when_it_is_back(
    code: int, dialect: str
) -> None:
    back = (int(time.time()) // 3600 + 5) * 3600
    headers = {"X-RateLimit-Limit": "50", "X-RateLimit-Reset": str(back * 1000)}
    error = {
        "message": "Rate limit exceeded: free-models-per-day",
        "code": 429,
        "metadata": {"headers": headers},
    }
    with odd_server(lambda _: Odd({"error": error}, code)) as server:
        llm = llm_for(server, dialect)
        with pytest.raises(QuotaExhaustedError) as caught:
            llm.run("row 0")
    assert caught.value.retry_after == pytest.approx(back - time.time(), abs=60)
    assert time.strftime("%Y-%m-%d %H:00 UTC", time.gmtime(back)) in str(caught.value)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"retry-after": "0.3s"}, {"message": "slow"}),
        ({"retry-after-ms": "300"}, {"message": "slow"}),
        ({}, {"message": "Rate limit reached. Please try again in 0.3s."}),
        ({}, {"message": "Too many requests, wait 0.3 seconds"}),
        ({}, {"message": "Retry after 300 milliseconds"}),
        ({}, {"message": "slow", "metadata": {"headers": {"Retry-After": "0.3s"}}}),
        ({}, {"message": "slow", "retry_after": 0.3}),
    ],
)
def test_a_rate_limit_is_waited_out_as_long_as_it_says(
    headers: dict[str, str], error: dict[str, Any], dialect: str
) -> None:
    times: list[float] = []

    def rule(asked: Asked) -> Odd:
        times.append(time.monotonic())
        return Odd({"error": error}, 429, headers) if asked.nth == 1 else whole(asked)

    with odd_server(rule) as server:
        response = llm_for(server, dialect).complete_sync("row 0")
    assert (response.text, response.attempts) == ("re: row 0", 1)
    first, second = times
    assert second - first >= 0.3


def test_long_and_many_headers_are_read(dialect: str) -> None:
    headers = {f"X-Header-{number}": "value" for number in range(300)} | {"X-Long": "v" * 32_000}

    def rule(asked: Asked) -> Odd:
        return Odd(answer(asked.dialect, "Yes."), 200, headers)

    with odd_server(rule) as server:
        assert llm_for(server, dialect).run("row 0") == "Yes."
        assert len(server.asked) == 1


@pytest.mark.parametrize("number", [401, 403, 404])
@pytest.mark.parametrize("is_final", [False, True])
def test_a_refusal_after_answers_is_looked_at_once_more(
    is_final: bool, number: int, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "PAUSE_SECONDS", 0.05)

    def rule(asked: Asked) -> Odd:
        if asked.total == 4 or (is_final and asked.total > 4):
            return Odd({"error": {"message": "no", "code": "odd"}}, number)
        return whole(asked)

    with odd_server(rule) as server:
        llm = llm_for(server, dialect)
        kind = pytest.raises(ProviderError) if is_final else contextlib.nullcontext()
        with kind as caught, Run():
            results = llm.map_sync(PROMPTS, concurrency=1)
        if caught is None:
            assert [each.text for each in results] == [f"re: {prompt}" for prompt in PROMPTS]
        else:
            assert caught.value.fatal
        assert server.prompts[3] == server.prompts[4] == PROMPTS[3]
        assert len(server.asked) == (5 if is_final else 13)
