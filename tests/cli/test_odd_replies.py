"""Odd but honest replies, as the command line meets them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmflow.config import forget_configs
from tests.cli.conftest import Run, rows_of, write_rows
from tests.cli.sessions import answers, report_of
from tests.odd_server import (
    DIALECTS,
    EVERY_CLIENT,
    Asked,
    Odd,
    OddServer,
    answer,
    odd_server,
    whole,
)

PRICE = """
[providers.{name}]
retry = {{ wait_initial = 0.001 }}
price = {{ input = 1.0, output = 10.0 }}
"""

pytestmark = [pytest.mark.http, pytest.mark.parametrize("dialect", EVERY_CLIENT)]


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ask again at once, and know a price."""
    Path("llmflow.toml").write_text(
        "".join(PRICE.format(name=name) for name in (*DIALECTS, "litellm"))
    )
    monkeypatch.setenv("LLMFLOW_CONFIG", "llmflow.toml")
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "sk-odd-123456")
    forget_configs()
    yield
    forget_configs()


def words(server: OddServer, dialect: str, *more: str) -> list[str]:
    options = ["-p", "{text}", "-m", f"{dialect}/m", "--base-url", server.url(dialect)]
    return ["run", "in.jsonl", *options, "-o", "out.jsonl", *more]


def number(asked: Asked) -> int:
    return int(asked.prompt.rpartition(" ")[2])


def test_no_row_comes_out_empty_where_an_error_stands_beside_the_answer(
    dialect: str, run: Run
) -> None:
    def rule(asked: Asked) -> Odd:
        if asked.nth > 1 or number(asked) % 3:
            return whole(asked)
        code: Any = 429 if number(asked) % 2 else "429"
        error = {"code": code, "message": "Too many. Try again in 10ms."}
        return Odd(answer(asked.dialect, "", ending=None, error=error))

    write_rows("in.jsonl", 15)
    with odd_server(rule) as server:
        result = run(*words(server, dialect, "--json"))
        assert result.code == 0, result.err
        report = report_of(result)
        assert (report["answered"], report["rejected"]) == (15, 5)
        assert answers() == [f"re: text {n}" for n in range(15)]
        assert run(*words(server, dialect)).code == 0
        assert len(server.asked) == 20, "the journal has all of them"


def test_failing_endings_and_passing_statuses_are_asked_again(dialect: str, run: Run) -> None:
    endings = ["NETWORK_ERROR", "abort", "error", "insufficient_system_resource"]
    statuses = [408, 409, 421, 425, 499]

    def rule(asked: Asked) -> Odd:
        n = number(asked)
        if asked.nth > 1 or n % 2:
            return whole(asked)
        if n % 4:
            return Odd(answer(asked.dialect, "Half", ending=endings[n // 4 % 4]))
        return Odd({"error": {"message": "no"}}, statuses[n // 4 % 5])

    write_rows("in.jsonl", 40)
    with odd_server(rule) as server:
        result = run(*words(server, dialect))
        assert result.code == 0, result.err
        assert answers() == [f"re: text {n}" for n in range(40)]
        assert len(server.asked) == 60


def test_answers_in_odd_json_are_paid_for_once(dialect: str, run: Run) -> None:
    sent = [rb"\udc00", b"\xff", b"\x01", b"ok"]

    def rule(asked: Asked) -> Odd:
        body = orjson.dumps(answer(asked.dialect, "MARK", score=0.5))
        body = body.replace(b"MARK", sent[number(asked) % 4]).replace(b"0.5", b"NaN")
        return Odd(b"\xef\xbb\xbf\n" + body, 200 + number(asked) % 4)

    write_rows("in.jsonl", 12)
    with odd_server(rule) as server:
        for _ in range(2):
            result = run(*words(server, dialect))
            assert result.code == 0, result.err
            assert answers() == ["\ufffd", "\ufffd", "\x01", "ok"] * 3
        assert len(server.asked) == 12


def test_refused_inputs_and_filtered_answers_are_failed_rows(dialect: str, run: Run) -> None:
    refused = {"message": "no", "metadata": {"reasons": ["x"], "flagged_input": "text 3"}}

    def rule(asked: Asked) -> Odd:
        if number(asked) == 3:
            return Odd({"error": refused}, 403)
        if number(asked) == 5:
            return Odd(answer(asked.dialect, "Half an ans", ending="content_filter"))
        return whole(asked)

    write_rows("in.jsonl", 10)
    with odd_server(rule) as server:
        for session in range(2):
            result = run(*words(server, dialect, "--json"))
            assert result.code == 1, result.err
            report = report_of(result)
            # What was written of the filtered answer is paid for, and counted once.
            assert report["input_tokens"] == (0 if session else 9 * 8)
            assert report["cost"] in ([None, 0.0] if session else [pytest.approx(9 * 28e-6)])
            assert len(rows_of("out.jsonl")) == 8
            first, second = sorted(rows_of("out.failed.jsonl"), key=lambda row: row["index"])
            assert first["error"]["type"] == second["error"]["type"] == "ContentFilterError"
            assert second["error"]["partial_text"] == "Half an ans"
        assert len(server.asked) == 10, "no session buys them again"


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -9, "completion_tokens": -9, "input_tokens": -9, "output_tokens": -9},
        {"prompt_tokens": "9", "completion_tokens": "9", "input_tokens": "9"},
        {"prompt_tokens": 10**12, "completion_tokens": 1, "input_tokens": 10**12},
    ],
)
def test_a_budget_of_two_cents_holds_whatever_a_server_says(
    usage: dict[str, Any], dialect: str, run: Run
) -> None:
    write_rows("in.jsonl", 3_000)
    with odd_server(lambda asked: Odd(answer(asked.dialect, "yes", usage=usage))) as server:
        more = ["--budget", "0.02", "--max-tokens", "100", "--json"]
        for _ in range(2):
            result = run(*words(server, dialect, *more))
            assert result.code == 3, result.err
            report = report_of(result)
            assert "-" not in str(report["cost"])
            assert report["input_tokens"] >= 0 <= report["output_tokens"]
        # The reserve of a row is a thousandth of a dollar, of both sessions together.
        assert 15 <= len(server.asked) <= 20


def test_a_model_that_is_not_there_ends_the_run_at_once(dialect: str, run: Run) -> None:
    text = "/chat/completions: Invalid model name passed in model=m. Call `/v1/models`"
    error = {"message": text, "type": "invalid_request_error", "param": None, "code": "400"}
    write_rows("in.jsonl", 500)
    with odd_server(lambda _: Odd({"error": error}, 400)) as server:
        result = run(*words(server, dialect, "--concurrency", "4"))
        assert result.code == 3
        assert "Invalid model name" in result.error
        assert "model's name" in result.error
        assert len(server.asked) <= 4


def test_a_days_quota_says_when_it_is_back(dialect: str, run: Run) -> None:
    back = (int(time.time()) // 3600 + 5) * 3600
    metadata = {"headers": {"X-RateLimit-Limit": "50", "X-RateLimit-Reset": str(back * 1000)}}
    error = {"message": "Rate limit exceeded: free-models-per-day", "code": 429}

    def rule(asked: Asked) -> Odd:
        if asked.total <= 5:
            return whole(asked)
        return Odd({"error": {**error, "metadata": metadata}}, 429)

    write_rows("in.jsonl", 20)
    with odd_server(rule) as server:
        result = run(*words(server, dialect, "--concurrency", "1"))
    assert result.code == 3
    assert time.strftime("back at %Y-%m-%d %H:00 UTC", time.gmtime(back)) in result.err
    assert len(server.asked) == 6
    assert len(rows_of("out.partial.jsonl")) == 5
