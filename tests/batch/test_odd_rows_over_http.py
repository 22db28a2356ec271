"""Rows of batch results whose replies are odd but honest: what a map of them comes to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmflow import LLM, Budget, Price, Run
from llmflow.batch import Batch
from llmflow.errors import BudgetExceededError, ContentFilterError, ModelNotFoundError
from tests.batch.hostile import DIALECTS, HostileJob, HostileServer, served
from tests.odd_server import answer

SIZE = 12
QUICK = Batch(quiet=0.02, poll=0.002, few=0)
PROMPTS = [f"row {number}" for number in range(SIZE)]

pytestmark = [pytest.mark.http, pytest.mark.parametrize("dialect", DIALECTS)]

Body = Callable[[str, str], Any]
"""Makes the body of an answer out of the dialect and the prompt."""


def row(dialect: str, name: str, body: Any, status: int = 200) -> bytes:
    """Return a line of results, of a reply or of a refusal."""
    if dialect == "anthropic":
        result = {"type": "succeeded", "message": body}
        if status >= 300:
            result = {"type": "errored", "error": {"type": "error", **body}}
        return orjson.dumps({"custom_id": name, "result": result}) + b"\n"
    response = {"status_code": status, "request_id": "req", "body": body}
    return orjson.dumps({"custom_id": name, "response": response, "error": None}) + b"\n"


def odd_once(body: Body, status: int = 200) -> Callable[[HostileJob], bytes]:
    """Return results in which every third row of the first job is odd."""

    def results(job: HostileJob) -> bytes:
        lines = job.lines
        for at, (name, text) in enumerate(job.rows):
            if job.number == 1 and at % 3 == 0:
                lines[at] = row(job.dialect, name, body(job.dialect, text), status)
        return b"".join(lines)

    return results


def asked(server: HostileServer, dialect: str, **options: Any) -> list[Any]:
    """Ask all prompts in batch mode; return answers and errors."""
    url = server.url if dialect == "anthropic" else f"{server.url}/v1"
    llm = LLM(f"{dialect}/m", base_url=url, api_key="sk-odd-1", max_tokens=50, batch=QUICK)
    return [each.error or each.text for each in llm.map_sync(PROMPTS, mode="batch", **options)]


def beside(error: Any) -> Body:
    return lambda dialect, _: answer(dialect, "", ending=None, error=error)


def ending(word: str) -> Body:
    return lambda dialect, _: answer(dialect, "Half an ans", ending=word)


@pytest.mark.parametrize(
    "body",
    [
        beside({"code": 429, "message": "slow"}),
        beside({"code": "429", "message": "slow"}),
        beside({"code": 502, "message": "upstream"}),
        beside({"message": "odd"}),
        ending("network_error"),
        ending("ABORT"),
        ending("insufficient_system_resource"),
    ],
)
def test_what_passes_is_asked_again_and_no_row_is_empty(body: Body, dialect: str) -> None:
    with served(HostileServer(odd_once(body))) as server:
        assert asked(server, dialect) == [f"re: {prompt}" for prompt in PROMPTS]
        assert server.sizes == [SIZE, SIZE // 3]


@pytest.mark.parametrize("status", [408, 409, 421, 425, 499])
def test_a_4xx_that_passes_is_asked_again(status: int, dialect: str) -> None:
    if dialect == "anthropic":
        pytest.skip("its rows have no status")
    refused = {"error": {"message": "no", "code": "odd"}}
    with served(HostileServer(odd_once(lambda *_: refused, status))) as server:
        assert asked(server, dialect) == [f"re: {prompt}" for prompt in PROMPTS]
        assert server.sizes == [SIZE, SIZE // 3]


@pytest.mark.parametrize("word", ["content_filter", "REFUSAL", "safety"])
def test_a_filtered_row_is_a_failure_with_its_partial_text(word: str, dialect: str) -> None:
    with served(HostileServer(odd_once(ending(word)))) as server:
        results = asked(server, dialect)
        assert server.sizes == [SIZE]
    failed = [each for each in results if not isinstance(each, str)]
    assert len(failed) == SIZE // 3
    for each in failed:
        assert isinstance(each, ContentFilterError)
        assert each.partial_text == "Half an ans"


def test_a_refused_input_is_one_failed_row(dialect: str) -> None:
    refused = {"message": "no", "type": "invalid_request_error", "code": "content_filter"}
    with served(HostileServer(odd_once(lambda *_: {"error": refused}, 400))) as server:
        results = asked(server, dialect)
        assert server.sizes == [SIZE]
    failed = [each for each in results if not isinstance(each, str)]
    assert [type(each) for each in failed] == [ContentFilterError] * (SIZE // 3)


def test_rows_about_a_model_that_is_not_there_end_the_run(dialect: str, tmp_path: Path) -> None:
    error = {"message": "Invalid model name passed in model=m", "type": "invalid_request_error"}

    def results(job: HostileJob) -> bytes:
        return b"".join(row(job.dialect, name, {"error": error}, 400) for name, _ in job.rows)

    with served(HostileServer(results)) as server:
        with pytest.raises(ModelNotFoundError), Run("r", folder=tmp_path):
            asked(server, dialect)
        assert server.sizes == [SIZE]


LIES: list[Any] = [
    {"prompt_tokens": -9, "completion_tokens": -9, "input_tokens": -9, "output_tokens": -9},
    {"prompt_tokens": "9", "completion_tokens": "4", "input_tokens": "9", "output_tokens": "4"},
    {"prompt_tokens": 9, "completion_tokens": 10**9, "input_tokens": 9, "output_tokens": 10**9},
    "much",
    None,
]


@pytest.mark.parametrize("usage", LIES)
def test_rows_whose_usage_cannot_be_are_charged_their_reserve(usage: Any, dialect: str) -> None:
    def results(job: HostileJob) -> bytes:
        body = answer(job.dialect, "yes", usage=usage)
        return b"".join(row(job.dialect, name, body) for name, _ in job.rows)

    with served(HostileServer(results)) as server:
        url = server.url if dialect == "anthropic" else f"{server.url}/v1"
        llm = LLM(
            f"{dialect}/m",
            base_url=url,
            api_key="sk-odd-1",
            max_tokens=100,
            batch=QUICK,
            price=Price(input=1.0, output=10.0),
        )
        run = Run(budget=Budget(usd=0.02))
        with run, pytest.raises(BudgetExceededError):
            llm.map_sync([f"row {number}" for number in range(200)], mode="batch")
        told = run.statistics()
        # The reserve of a row is a thousandth of a dollar.
        assert 15 <= sum(server.sizes) <= 20
    assert (told.input_tokens, told.output_tokens) == (0, 0)
    assert not told.cost
