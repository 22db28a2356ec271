"""What fails for good is written down with all that is known, and is asked again when wanted."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from llmflow import LLM, Failure, Retry, errors
from llmflow.errors import (
    AuthenticationError,
    BillingError,
    ContentFilterError,
    ContextLengthError,
    InvalidRequestError,
    JournalError,
    ModelNotFoundError,
    OutageError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitError,
    ServerError,
)
from llmflow.runs.catalog import find_run
from llmflow.runs.run import Run
from llmflow.testing import ScriptedProvider
from llmflow.types import Request
from tests.runs.asking import Answers, asked, in_run, numbered, play

REFUSAL = ContentFilterError(
    "refused because of its content",
    provider="scripted",
    model="model",
    status=400,
    code="content_filter",
    request_id="req-17",
)
ONE_ATTEMPT = Retry(attempts=1)


def once(llm: LLM) -> str:
    return llm.run("Hi")


def failing(error: ProviderError, *, on: str = "Hi") -> ScriptedProvider:
    """Return a provider that fails for one text and answers all others."""

    def answer(request: Request) -> str | ProviderError:
        text = str(request.messages[-1]["content"])
        return error if text == on else f"answer to {text}"

    return ScriptedProvider(default=answer)


def test_a_failure_is_raised_again_at_once_with_all_that_was_known() -> None:
    with pytest.raises(ContentFilterError) as first:
        play(once, LLM(ScriptedProvider([REFUSAL])))
    second = numbered()
    with pytest.raises(ContentFilterError) as again:
        play(once, LLM(second))
    assert second.requests == []
    assert (first.value.source, again.value.source) == ("provider", "journal")
    for name in ("message", "provider", "model", "status", "code", "request_id", "attempts"):
        assert getattr(again.value, name) == getattr(first.value, name), name
    assert str(again.value) == str(first.value)


def test_attempts_that_were_made_are_remembered() -> None:
    retry = Retry(attempts=3, wait_initial=0.001)
    with pytest.raises(ServerError) as first:
        play(once, LLM(ScriptedProvider([ServerError("down")] * 3), retry=retry))
    assert first.value.attempts == 3
    with pytest.raises(ServerError) as again:
        play(once, LLM(numbered()))
    assert again.value.attempts == 3


@pytest.mark.parametrize("kind", [ContextLengthError, InvalidRequestError, ServerError])
def test_what_says_something_of_the_request_is_written_down(kind: type[ProviderError]) -> None:
    with pytest.raises(kind):
        play(once, LLM(ScriptedProvider([kind("no")]), retry=ONE_ATTEMPT))
    second = numbered()
    with pytest.raises(kind):
        play(once, LLM(second))
    assert second.requests == []


@pytest.mark.parametrize(
    "kind",
    [AuthenticationError, BillingError, QuotaExhaustedError, OutageError, ModelNotFoundError],
)
def test_what_says_nothing_of_the_request_is_not_written_down(kind: type[ProviderError]) -> None:
    with pytest.raises(kind):
        play(once, LLM(ScriptedProvider([kind("no")])))
    second = numbered()
    assert play(once, LLM(second)) == "1. Hi"
    assert play(once, LLM(numbered())) == "1. Hi"
    assert len(second.requests) == 1


def test_no_error_of_the_tree_loses_its_class_in_the_journal() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, ProviderError)
        # Fatal ones are not written down, and rejections are waited out.
        and not (kind.fatal or issubclass(kind, RateLimitError))
    ]
    assert len(kinds) > 10
    for kind in kinds:
        name = f"run-{kind.__name__}"
        for provider in (ScriptedProvider([kind("no")]), numbered()):
            with pytest.raises(kind) as caught:
                play(once, LLM(provider, retry=ONE_ATTEMPT), name)
            assert type(caught.value) is kind


def test_cancelling_is_no_failure() -> None:
    async def cut_off(run: Run) -> None:
        llm = LLM(ScriptedProvider(latency=30.0))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(llm("Hi"), 0.05)
        assert run.statistics().failed == 0

    in_run(cut_off)
    second = numbered()
    assert play(once, LLM(second)) == "1. Hi"
    assert len(second.requests) == 1


def test_asked_again_an_answer_takes_the_place_of_the_failure() -> None:
    with pytest.raises(ContentFilterError):
        play(once, LLM(ScriptedProvider([REFUSAL])))
    second, third = numbered(), numbered()
    assert play(once, LLM(second), retry_failed=True) == "1. Hi"
    assert play(once, LLM(third)) == "1. Hi"
    assert (len(second.requests), len(third.requests)) == (1, 0)


def test_asked_again_what_was_answered_is_not() -> None:
    play(once, LLM(numbered()))
    second = numbered()
    assert play(once, LLM(second), retry_failed=True) == "1. Hi"
    assert second.requests == []


def test_asked_again_a_new_failure_takes_the_place_of_the_old_one() -> None:
    with pytest.raises(ContentFilterError):
        play(once, LLM(ScriptedProvider([REFUSAL])))
    with pytest.raises(ContextLengthError):
        play(once, LLM(ScriptedProvider([ContextLengthError("too long")])), retry_failed=True)
    with pytest.raises(ContextLengthError):
        play(once, LLM(numbered()))


def test_asked_again_in_vain_and_fatally_the_old_failure_stays() -> None:
    with pytest.raises(ContentFilterError):
        play(once, LLM(ScriptedProvider([REFUSAL])))
    with pytest.raises(BillingError):
        play(once, LLM(ScriptedProvider([BillingError("no credit")])), retry_failed=True)
    with pytest.raises(ContentFilterError):
        play(once, LLM(numbered()))


def test_a_node_that_collects_finds_the_failures_in_both_sessions() -> None:
    texts = ["a", "bad", "c"]

    async def program(llm: LLM) -> Any:
        shared: dict[str, Any] = {"texts": texts}
        await Answers(llm, on_error="collect").run_async(shared)
        return shared["out"]

    second = numbered()
    for provider, source in ((failing(REFUSAL, on="bad"), "provider"), (second, "journal")):
        out = play(program, LLM(provider))
        assert [out[0], out[2]] == ["answer to a", "answer to c"]
        assert isinstance(out[1], Failure)
        assert isinstance(out[1].error, ContentFilterError)
        assert out[1].error.source == source
        assert out[1].error.request_id == "req-17"
    assert second.requests == []


def test_a_node_that_tries_again_gets_the_failure_and_then_the_answer_again() -> None:
    async def program(llm: LLM) -> Any:
        shared: dict[str, Any] = {"texts": ["Hi"]}
        await Answers(llm, on_error="collect", max_retries=2).run_async(shared)
        return shared["out"]

    assert play(program, LLM(ScriptedProvider([REFUSAL, "fine"]))) == ["fine"]
    second = numbered()
    assert play(program, LLM(second)) == ["fine"]
    assert second.requests == []


def test_only_what_failed_is_asked_again() -> None:
    texts = ["a", "bad", "c"]
    with pytest.raises(ContentFilterError):
        play(
            lambda llm: llm.map_sync(texts, on_error="raise", concurrency=1),
            LLM(failing(REFUSAL, on="bad")),
        )
    second = numbered()
    results = play(lambda llm: llm.map_sync(texts), LLM(second), retry_failed=True)
    assert asked(second) == ["bad", "c"]
    assert results.failed == []


def test_statistics_tell_new_failures_from_old_ones() -> None:
    async def program(run: Run) -> Any:
        await asyncio.gather(*map(llm, ["a", "bad", "c"]), return_exceptions=True)
        return run.statistics()

    llm = LLM(failing(REFUSAL, on="bad"))
    first, again = in_run(program), in_run(program)
    assert (first.answered, first.failed, first.failed_before) == (2, 1, 0)
    assert (again.answered, again.replayed, again.failed, again.failed_before) == (0, 2, 0, 1)
    assert (first.done, again.done) == (3, 3)
    assert (first.requests, again.requests) == (3, 0)


def test_a_secret_in_an_error_is_not_in_the_file() -> None:
    secret = "sk-" + "verysecretkey123"
    error = ContentFilterError(errors.redact(f"no: key {secret}"))
    with pytest.raises(ContentFilterError):
        play(once, LLM(ScriptedProvider([error])), "with-a-secret")
    from llmflow.runs.catalog import find_run

    folder = find_run("with-a-secret").folder
    assert all(secret.encode() not in path.read_bytes() for path in folder.iterdir())


def test_a_key_that_a_provider_puts_into_an_error_is_not_kept() -> None:
    key = "sk-proj-" + "a1B2" * 10
    with pytest.raises(ContentFilterError), Run("with-a-key") as run:
        LLM(ScriptedProvider([ContentFilterError(f"refused for {key}")])).run("Hi")
    assert run.name is not None
    folder = find_run(run.name).folder
    assert not any(key.encode() in path.read_bytes() for path in folder.iterdir())


def ask_on_a_full_disk(llm: LLM) -> None:
    with Run("full") as run:
        assert run._journal is not None
        run._journal._connection.execute("PRAGMA max_page_count = 1")
        llm.run("Hi")


def test_an_answer_that_the_journal_could_not_take_is_with_the_error() -> None:
    answer = "x" * 1_000_000
    with pytest.raises(JournalError, match="make room") as caught:
        ask_on_a_full_disk(LLM(ScriptedProvider([answer])))
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.response.text == caught.value.response.text == answer
