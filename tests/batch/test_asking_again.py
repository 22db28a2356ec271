"""Answers that are not accepted are asked for once more: in the next round of jobs, or live."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import replace
from typing import Any

import pytest

from llmflow import LLM, Response, Run
from llmflow.batch import Batch
from llmflow.errors import ConfigurationError, InvalidAnswerError
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
    with pytest.raises(InvalidAnswerError, match="cut off"):
        run_virtual(LLM(provider, validate=must_be_even)("a number"))
    assert len(provider.requests) == 1


def test_both_answers_are_in_the_journal() -> None:
    provider = ScriptedProvider(["1", "2"])

    async def main() -> str:
        async with Run("again"):
            return await LLM(provider, validate=must_be_even)("a number")

    assert asyncio.run(main()) == "2"
    assert asyncio.run(main()) == "2"
    assert len(provider.requests) == 2


def test_false_is_no_and_everything_else_is_yes() -> None:
    assert run_virtual(LLM(ScriptedProvider(["a"]), validate=lambda r: r.text == "a")("?")) == "a"
    assert run_virtual(LLM(ScriptedProvider(["a"]), validate=lambda r: 0)("?")) == "a"
    with pytest.raises(InvalidAnswerError):
        run_virtual(LLM(ScriptedProvider(["a", "b"]), validate=lambda r: False)("?"))


def test_what_cannot_judge_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="validate"):
        LLM(ScriptedProvider(), validate="json")  # type: ignore[arg-type]
