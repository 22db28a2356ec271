"""Refusals in batch mode: one input's, and the key's after it has worked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmflow import LLM, Run
from llmflow.batch import Batch
from llmflow.errors import AuthenticationError, ContentFilterError, ProviderError
from tests.batch.fakes import FakeProvider, FakeServer, echo

pytestmark = pytest.mark.every_python

QUICK = Batch(quiet=0.05, poll=0.01)


def ask(server: FakeServer, count: int = 10) -> list[Any]:
    async def main() -> list[Any]:
        llm = LLM(FakeProvider(server), batch=QUICK, mode="batch")
        async with Run():
            return await asyncio.gather(
                *(llm.complete(f"{number}") for number in range(count)), return_exceptions=True
            )

    return asyncio.run(main())


def test_a_row_that_is_refused_once_is_asked_again() -> None:
    def fate(prompt: str, job: int) -> str | ProviderError | None:
        return AuthenticationError("no") if prompt == "3" and job == 1 else echo(prompt, job)

    server = FakeServer(fate=fate)
    outcomes = ask(server)
    assert [each.text for each in outcomes] == [f"batch: {number}" for number in range(10)]
    assert server.sizes == [10, 1]


def test_a_row_that_is_refused_twice_has_the_error() -> None:
    def fate(prompt: str, job: int) -> str | ProviderError | None:
        return AuthenticationError("no") if prompt == "3" else echo(prompt, job)

    server = FakeServer(fate=fate)
    outcomes = ask(server)
    assert isinstance(outcomes[3], AuthenticationError)
    assert server.sizes == [10, 1]


def test_where_no_row_is_answered_the_refusal_is_believed_at_once() -> None:
    server = FakeServer(fate=lambda prompt, job: AuthenticationError("no"))
    outcomes = ask(server)
    assert {type(each) for each in outcomes} == {AuthenticationError}
    assert server.sizes == [10]


def test_a_filtered_row_is_a_failure_and_not_asked_again() -> None:
    def fate(prompt: str, job: int) -> str | ProviderError | None:
        return ContentFilterError("no") if prompt == "3" else echo(prompt, job)

    server = FakeServer(fate=fate)
    outcomes = ask(server)
    assert isinstance(outcomes[3], ContentFilterError)
    assert server.sizes == [10]


@pytest.mark.parametrize("times", [1, 2])
def test_a_creation_that_is_refused_after_a_job_is_tried_once_more(times: int) -> None:
    def refuses(number: int, rows: Any) -> ProviderError | None:
        return AuthenticationError("no", status=401) if 1 < number <= 1 + times else None

    server = FakeServer(refuses=refuses)

    async def main() -> Any:
        llm = LLM(FakeProvider(server), batch=QUICK, mode="batch")
        async with Run():
            await llm.complete("first")
            return await asyncio.gather(llm.complete("second"), return_exceptions=True)

    (outcome,) = asyncio.run(main())
    assert server.calls.count("create") == 3
    if times == 1:
        assert outcome.text == "batch: second"
    else:
        assert isinstance(outcome, AuthenticationError)


def test_a_page_in_place_of_a_row_is_that_rows_failure() -> None:
    page = AuthenticationError("<!DOCTYPE html><title>Blocked</title>", status=403)
    server = FakeServer(fate=lambda prompt, job: page if prompt == "3" else echo(prompt, job))
    outcomes = ask(server)
    assert isinstance(outcomes[3], ContentFilterError)
    assert server.sizes == [10]
