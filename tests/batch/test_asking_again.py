"""Answers that are not accepted are asked for once more: in the next round of jobs, or live."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM, Budget, Price, Response, Run, RunStatistics, Usage
from llmflow.batch import Batch
from llmflow.errors import (
    BudgetExceededError,
    ConfigurationError,
    ContentFilterError,
    InvalidAnswerError,
)
from llmflow.format import counted as counted_in_words
from llmflow.testing import ScriptedProvider, run_virtual
from llmflow.types import Request
from tests.batch.fakes import FakeProvider, FakeServer, answer
from tests.batch.test_rounds import Echoes

QUICK = Batch(quiet=0.02, poll=0.005)


def must_be_even(response: Response) -> None:
    number = int(response.text.split()[-1])
    if number % 2:
        raise ValueError(f"{number} is odd")


def test_rows_that_are_not_accepted_go_into_the_next_round_with_what_was_wrong() -> None:
    server = FakeServer(
        fate=lambda prompt, job: "2" if "is odd" in prompt else prompt,
    )
    shared: dict[str, Any] = {"items": range(10)}
    node = Echoes(LLM(FakeProvider(server), batch=QUICK), mode="batch", validate=must_be_even)
    asyncio.run(node.run_async(shared))
    assert shared["answers"] == [f"{n}" if n % 2 == 0 else "2" for n in range(10)]
    assert server.sizes == [10, 5]


def test_what_is_not_accepted_twice_is_a_named_failure_with_its_answer() -> None:
    provider = ScriptedProvider(["1", "3"])
    with pytest.raises(InvalidAnswerError, match="3 is odd") as caught:
        run_virtual(LLM(provider, validate=must_be_even).complete("a number"))
    assert caught.value.response.text == "3"
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.response == caught.value.response
    messages = provider.requests[1].messages
    assert [each["role"] for each in messages] == ["user", "assistant", "user"]
    assert "1 is odd" in messages[-1]["content"]


def test_what_was_cut_off_gets_twice_the_tokens() -> None:
    def reply(request: Request) -> Response:
        cut = request.max_tokens == 50
        return replace(answer("2"), finish_reason="length" if cut else "stop")

    provider = ScriptedProvider(default=reply)
    llm = LLM(provider, validate=must_be_even, max_tokens=50)
    assert run_virtual(llm("a number")) == "2"
    assert [each.max_tokens for each in provider.requests] == [50, 100]


def test_what_was_cut_off_at_nobodys_bound_is_a_failure() -> None:
    provider = ScriptedProvider(default=replace(answer("2"), finish_reason="length"))
    with pytest.raises(InvalidAnswerError, match="cut off at the most that the model writes"):
        run_virtual(LLM(provider, validate=must_be_even)("a number"))
    assert len(provider.requests) == 1
    with pytest.raises(InvalidAnswerError, match="cut off at max_tokens=20: raise max_tokens"):
        run_virtual(LLM(provider, validate=must_be_even, max_tokens=10)("a number"))


def test_both_answers_are_in_the_journal() -> None:
    provider = ScriptedProvider(["1", "2"])

    async def main() -> str:
        async with Run("again"):
            return await LLM(provider, validate=must_be_even)("a number")

    assert asyncio.run(main()) == "2"
    assert asyncio.run(main()) == "2"
    assert len(provider.requests) == 2


def test_each_further_request_shows_the_last_answer_only() -> None:
    provider = ScriptedProvider(["1", "3", "5", "6"])
    assert run_virtual(LLM(provider, validate=must_be_even, reasks=3)("a number")) == "6"
    asked = [[each["content"] for each in request.messages] for request in provider.requests]
    assert [len(each) for each in asked] == [1, 3, 3, 3]
    assert [each[1] for each in asked[1:]] == ["1", "3", "5"]
    assert "5 is odd" in asked[-1][-1]


@pytest.mark.parametrize("reasks", [0, 1, 2])
def test_so_often_is_asked_again_and_the_error_says_how_often(reasks: int) -> None:
    provider = ScriptedProvider(default="1")
    llm = LLM(provider, validate=must_be_even, reasks=reasks)
    with pytest.raises(InvalidAnswerError) as caught:
        run_virtual(llm("a number"))
    assert len(provider.requests) == caught.value.asked == reasks + 1
    assert pickle.loads(pickle.dumps(caught.value)).asked == reasks + 1


def test_after_a_wrong_answer_what_is_cut_off_is_asked_with_twice_the_tokens() -> None:
    cut = replace(answer("2"), finish_reason="length")
    provider = ScriptedProvider(["1", cut, "2"])
    llm = LLM(provider, validate=must_be_even, max_tokens=50, reasks=2)
    assert run_virtual(llm("a number")) == "2"
    first, second, third = provider.requests
    assert (first.max_tokens, second.max_tokens, third.max_tokens) == (50, 50, 100)
    assert third.messages == second.messages


def test_tokens_are_doubled_up_to_what_the_model_writes() -> None:
    class Known(ScriptedProvider):
        name = "openai"

    cut = replace(answer("2"), finish_reason="length")
    provider = Known(default=cut, model="gpt-4o")  # 16,384 tokens
    with pytest.raises(InvalidAnswerError, match="cut off at the most that the model writes"):
        run_virtual(LLM(provider, validate=must_be_even, reasks=9, max_tokens=10_000)("?"))
    assert [each.max_tokens for each in provider.requests] == [10_000, 16_384]


def test_a_bound_among_the_options_is_doubled_there() -> None:
    provider = ScriptedProvider([replace(answer("2"), finish_reason="length"), "2"])
    llm = LLM(provider, validate=must_be_even, options={"max_completion_tokens": 30})
    assert run_virtual(llm("a number")) == "2"
    assert [each.options for each in provider.requests] == [
        {"max_completion_tokens": 30},
        {"max_completion_tokens": 60},
    ]


def test_what_a_provider_sends_by_default_is_doubled() -> None:
    class Bounded(ScriptedProvider):
        default_max_tokens = 40

    provider = Bounded([replace(answer("2"), finish_reason="length"), "2"])
    assert run_virtual(LLM(provider, validate=must_be_even)("a number")) == "2"
    assert [each.max_tokens for each in provider.requests] == [None, 80]


def test_an_answer_has_what_all_its_requests_took() -> None:
    price = Price(input=1_000_000, output=1_000_000)
    responses = [
        replace(answer(text), usage=Usage(input_tokens=n, output_tokens=1))
        for n, text in enumerate(["1", "2"], 1)
    ]
    llm = LLM(ScriptedProvider(responses), validate=must_be_even, price=price)
    found = run_virtual(llm.complete("a number"))
    assert found.text == "2"
    assert (found.usage.input_tokens, found.usage.output_tokens, found.attempts) == (3, 2, 2)
    assert found.cost == 5


def test_every_call_counts_once_however_often_it_is_asked(tmp_path: Path) -> None:
    replies = {"a": ["2", "8"], "b": ["1", "4"], "c": ["1", "3"]}
    provider = ScriptedProvider(
        default=lambda request: replies[request.messages[0]["content"]][len(request.messages) // 2]
    )

    async def counted(llm: LLM, wrong: list[int]) -> RunStatistics:
        async with Run("counted", folder=tmp_path) as run:
            results = await llm.map(["a", "b", "c"])
            assert [each.index for each in results.failed] == wrong
        assert counted_in_words(
            run.statistics().reasked, "answer was", "answers were"
        ) + " not accepted" in str(run.report())
        assert run.report().to_dict()["reasked"] == run.statistics().reasked
        return run.statistics()

    first = asyncio.run(counted(LLM(provider, validate=must_be_even), [2]))
    assert (first.answered, first.failed, first.reasked, first.requests) == (2, 1, 2, 5)
    again = asyncio.run(counted(LLM(provider, validate=must_be_even), [2]))
    assert (again.replayed, again.failed_before, again.reasked) == (2, 1, 2)
    assert again.done == 3
    stricter = LLM(provider, validate=lambda response: response.text != "2")
    mixed = asyncio.run(counted(stricter, []))
    assert (mixed.replayed, mixed.answered, mixed.failed, mixed.reasked) == (2, 1, 0, 1)
    assert len(provider.requests) == 6


def test_a_failure_goes_on_where_more_is_allowed_or_failures_are_asked_again(
    tmp_path: Path,
) -> None:
    provider = ScriptedProvider(["1", "3", "5", "7", "8"])

    async def ask(reasks: int, **options: Any) -> tuple[str, RunStatistics]:
        async with Run("going-on", folder=tmp_path, **options) as run:
            results = await LLM(provider, validate=must_be_even, reasks=reasks).map(["?"])
        error = results[0].error
        assert error is None or isinstance(error, InvalidAnswerError)
        return "" if error else results[0].text, run.statistics()

    for reasks, options, requests, text in (
        (1, {}, 2, ""),
        (1, {}, 2, ""),  # what failed is known to have failed
        (2, {}, 3, ""),
        (1, {}, 3, ""),  # also with fewer: what was asked is there
        (1, {"retry_failed": True}, 4, ""),
        (0, {"retry_failed": True}, 5, "8"),
        (0, {}, 5, "8"),
    ):
        found, done = asyncio.run(ask(reasks, **options))
        assert (found, len(provider.requests)) == (text, requests)
        assert done.done == 1
        assert done.failed_before == (not text and not done.requests)


def test_a_run_that_ended_between_two_answers_goes_on_with_the_next_request(
    tmp_path: Path,
) -> None:
    provider = ScriptedProvider(["1", "2"])
    ask = provider.complete

    async def stopped(request: Request, *, timeout: float) -> Response:
        if len(request.messages) > 1:
            raise KeyboardInterrupt
        return await ask(request, timeout=timeout)

    async def main() -> tuple[str, RunStatistics]:
        async with Run("ended", folder=tmp_path) as run:
            return await LLM(provider, validate=must_be_even)("?"), run.statistics()

    provider.complete = stopped  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    provider.complete = ask  # type: ignore[method-assign]
    text, done = asyncio.run(main())
    assert (text, done.answered, done.replayed, done.requests) == ("2", 1, 0, 1)
    text, done = asyncio.run(main())
    assert (text, done.answered, done.replayed, done.requests) == ("2", 0, 1, 0)
    assert len(provider.requests) == 2


def test_a_further_request_that_the_budget_does_not_cover_says_so(tmp_path: Path) -> None:
    provider = ScriptedProvider(["1", "2"])

    async def main() -> RunStatistics:
        async with Run("poor", folder=tmp_path, budget=Budget(requests=1)) as run:
            with pytest.raises(BudgetExceededError):
                await LLM(provider, validate=must_be_even)("?")
        return run.statistics()

    done = asyncio.run(main())
    assert (done.done, done.reasked, done.requests) == (0, 1, 1)


def test_a_further_request_that_fails_keeps_its_own_error() -> None:
    provider = ScriptedProvider(["1", ContentFilterError("no")])
    with pytest.raises(ContentFilterError):
        run_virtual(LLM(provider, validate=must_be_even)("a number"))


def test_false_is_no_and_everything_else_is_yes() -> None:
    assert run_virtual(LLM(ScriptedProvider(["a"]), validate=lambda r: r.text == "a")("?")) == "a"
    assert run_virtual(LLM(ScriptedProvider(["a"]), validate=lambda r: 0)("?")) == "a"
    with pytest.raises(InvalidAnswerError):
        run_virtual(LLM(ScriptedProvider(["a", "b"]), validate=lambda r: False)("?"))


@pytest.mark.parametrize("reasks", [-1, True, 1.5, "2"])
def test_what_is_no_number_of_times_is_refused(reasks: Any) -> None:
    with pytest.raises(ConfigurationError, match="reasks"):
        LLM(ScriptedProvider(), reasks=reasks)


def test_what_cannot_judge_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="validate"):
        LLM(ScriptedProvider(), validate="json")  # type: ignore[call-overload]
