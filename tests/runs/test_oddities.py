"""Cut and empty answers, and retries, are told: in statistics, reports, replays."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM, Run
from llmflow.batch import Batch
from llmflow.calls.observe import kind_of
from llmflow.errors import (
    BatchRowLostError,
    ConnectionFailedError,
    ProviderError,
    RequestTimeoutError,
    ServerError,
)
from llmflow.retry import Retry
from llmflow.runs.report import answer_words, retry_words
from llmflow.testing import ScriptedProvider, run_virtual
from llmflow.types import Response, Usage
from tests.batch.fakes import FakeProvider, FakeServer, echo


def answer(text: str, finish_reason: str | None = "stop") -> Response:
    return Response(
        text=text,
        usage=Usage(input_tokens=3, output_tokens=5),
        finish_reason=finish_reason,
        model="model",
        provider="scripted",
    )


CUT = answer("Half of", "length")
EMPTY = answer(" \n")
TOOL = answer("", "tool_calls")


@pytest.mark.parametrize(
    ("response", "is_cut", "is_empty"),
    [
        (answer("Fine."), False, False),
        (CUT, True, False),
        (EMPTY, False, True),
        (answer("", "length"), True, True),
        (TOOL, False, False),
        (answer("", None), False, True),
    ],
)
def test_an_answer_says_whether_it_is_cut_or_empty(
    response: Response, is_cut: bool, is_empty: bool
) -> None:
    assert (response.is_cut, response.is_empty) == (is_cut, is_empty)


def session(folder: Path, replies: list[Any]) -> Run:
    async def main() -> Run:
        async with Run("odd", folder=folder) as run:
            llm = LLM(ScriptedProvider(replies, default="fine"))
            await llm.map(map(str, range(6)), concurrency=1)
            return run

    return run_virtual(main())


def test_cut_and_empty_answers_are_counted_replayed_ones_too(tmp_path: Path) -> None:
    for _ in range(2):
        run = session(tmp_path, [CUT, EMPTY, TOOL, "whole", CUT])
        done = run.statistics()
        assert (done.answers, done.cut, done.empty) == (6, 2, 1)
        assert run.report().to_dict()["cut"] == 2
        lines = str(run.report()).splitlines()
        assert "2 answers cut at max_tokens, 1 empty" in lines
        assert "33.3% of the answers were cut: raise max_tokens" in lines


def test_where_all_is_well_nothing_is_said(tmp_path: Path) -> None:
    text = str(session(tmp_path, []).report())
    assert "cut" not in text
    assert "empty" not in text
    assert "retried" not in text


def test_shared_and_cached_answers_are_looked_at_too(tmp_path: Path) -> None:
    async def main() -> Run:
        async with Run(folder=tmp_path) as run:
            llm = LLM(ScriptedProvider([CUT], latency=1.0), dedupe=True)
            await asyncio.gather(*(llm.complete("same") for _ in range(3)))
            return run

    done = run_virtual(main()).statistics()
    assert (done.answered, done.shared, done.cut) == (1, 2, 3)


def test_retries_are_counted_by_what_failed(tmp_path: Path) -> None:
    script = [
        ServerError("oops", status=500),
        RequestTimeoutError("no answer"),
        ServerError("oops", status=500),
        "fine",
    ]
    run = session(tmp_path, script)
    done = run.statistics()
    assert (done.retries, done.retried) == ({"500": 2, "time-out": 1}, 3)
    told = "3 retried: 2 \N{MULTIPLICATION SIGN} 500, 1 \N{MULTIPLICATION SIGN} time-out"
    assert told in str(run.report()).splitlines()
    assert run.report().to_dict()["retries"] == {"500": 2, "time-out": 1}


def test_what_failed_for_good_was_retried_as_often_as_it_was_sent_again(tmp_path: Path) -> None:
    async def main() -> Run:
        async with Run(folder=tmp_path) as run:
            down = ServerError("oops", status=502)
            llm = LLM(ScriptedProvider(["up", *[down] * 3]), retry=Retry(attempts=3))
            await llm.complete("first")
            with pytest.raises(ServerError):
                await llm.complete("second")
            return run

    assert run_virtual(main()).statistics().retries == {"502": 2}


def test_rows_of_batch_jobs_that_are_asked_again_are_retries_and_their_cuts_are_told() -> None:
    def fate(prompt: str, job: int) -> str | ProviderError | None:
        if job == 1 and prompt in "12":
            return ServerError("oops", status=500)
        return None if job == 1 and prompt == "3" else echo(prompt, job)

    server = FakeServer(fate=fate)

    async def main() -> Run:
        llm = LLM(FakeProvider(server), batch=Batch(quiet=0.05, poll=0.01), mode="batch")
        async with Run() as run:
            await llm.map(map(str, range(10)))
            return run

    done = asyncio.run(main()).statistics()
    assert done.retries == {"500": 2, "lost in a batch job": 1}
    assert (done.cut, done.empty) == (0, 0)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ServerError("", status=500), "500"),
        (ServerError("", status=200), "server error"),
        (RequestTimeoutError(""), "time-out"),
        (RequestTimeoutError("", status=504), "504"),
        (ConnectionFailedError(""), "connection"),
        (BatchRowLostError("", code="expired"), "lost in a batch job"),
        (ProviderError("odd"), "ProviderError"),
    ],
)
def test_each_failure_has_a_word(error: ProviderError, kind: str) -> None:
    assert kind_of(error) == kind


def test_the_example_of_the_report() -> None:
    times = "\N{MULTIPLICATION SIGN}"
    told = retry_words({"time-out": 8, "500": 118})
    assert told == f"126 retried: 118 {times} 500, 8 {times} time-out"


def test_one_per_cent_is_not_more_than_one_per_cent() -> None:
    assert answer_words(1000, cut=10, empty=0, option="--max-tokens") == [
        "10 answers cut at max_tokens"
    ]
    assert len(answer_words(1000, cut=11, empty=0, option="--max-tokens")) == 2
    assert answer_words(1000, cut=0, empty=1, option="--max-tokens") == ["1 answer empty"]
