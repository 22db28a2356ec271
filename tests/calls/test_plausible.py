"""Usage that cannot be counts as not said: nothing is free, and nothing closes a budget."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from llmflow import LLM, Budget, Price, Run
from llmflow.calls.call import plausible
from llmflow.errors import BudgetExceededError, ContentFilterError
from llmflow.testing import ScriptedProvider
from llmflow.types import Charge, Quota, Request, Response, Usage
from llmflow_providers.openai import OpenAIProvider
from llmflow_providers.sim import SimProvider
from tests.runs.asking import in_run

PRICE = Price(input=1.0, output=10.0)


def answer(read: int, written: int, cost: float | None = None) -> Response:
    return Response(
        text="yes",
        usage=Usage(input_tokens=read, output_tokens=written),
        finish_reason="stop",
        model="m",
        provider="p",
        cost=cost,
    )


@pytest.mark.parametrize(
    ("model", "charge", "read", "written", "is_believed"),
    [
        # Known context: 1,047,576 in, 32,768 out.
        ("gpt-4.1-mini", Charge(1, 10, 10, 10), 1_000_000, 30_000, True),
        ("gpt-4.1-mini", Charge(1, 10, 10, 10), 2_000_000, 0, False),
        ("gpt-4.1-mini", None, 2_000_000, 0, False),
        ("gpt-4.1-mini", None, 1_000_000, 0, True),
        # Not known: a hundred times what was expected.
        ("my-model", Charge(1, 20, 10, 10), 1_000, 1_000, True),
        ("my-model", Charge(1, 20, 10, 10), 1_000, 1_001, False),
        ("my-model", Charge(1, 10, 10, 0), 0, 100_000, True),  # no bound
        ("my-model", Charge(1, 10, 10, 0), 0, 200_000, False),
        ("my-model", Charge(tokens=20), 2_000, 0, True),
        ("my-model", None, 10**9, 0, True),
        ("my-model", Charge(1, 20, 10, 10), -1, 5, False),
        ("my-model", Charge(1, 20, 10, 10), 5, -1, False),
        ("my-model", None, -(10**9), 10**9, False),
    ],
)
def test_a_usage_is_believed_up_to_the_context_or_a_hundred_times_the_estimate(
    model: str, charge: Charge | None, read: int, written: int, is_believed: bool
) -> None:
    given = answer(read, written, cost=1.0)
    found = plausible(given, OpenAIProvider(model, api_key="sk-1"), charge)
    assert found == (given if is_believed else answer(0, 0))


def test_the_simulator_has_no_context_of_its_own() -> None:
    given = answer(10**12, 0)
    assert plausible(given, SimProvider("m"), Charge(1, 20, 10, 10)).usage == Usage()


def asking(usage: Usage, *, calls: int, **options: Any) -> tuple[int, Any]:
    """Ask so often within a budget; return how often it was answered, and the statistics."""

    def reply(request: Request) -> Response:
        return Response(
            text="yes", usage=usage, finish_reason="stop", model="m", provider="scripted"
        )

    llm = LLM(ScriptedProvider(default=reply), price=PRICE, max_tokens=100, **options)

    async def program(run: Run) -> tuple[int, Any]:
        answered = 0
        with contextlib.suppress(BudgetExceededError):
            for number in range(calls):
                await llm(f"text {number}")
                answered += 1
        return answered, run.statistics()

    answered, told = in_run(program, None, budget=Budget(usd=0.02))
    return answered, told


@pytest.mark.parametrize(
    "usage",
    [
        Usage(input_tokens=-100_000, output_tokens=-5),
        Usage(input_tokens=5, output_tokens=-100_000),
        Usage(),
        Usage(input_tokens=10**15),
        Usage(output_tokens=50_000),
    ],
)
def test_a_budget_holds_whatever_a_reply_says_that_it_used(usage: Usage) -> None:
    answered, told = asking(usage, calls=3_000)
    # The reserve is about $0.001: 100 tokens for $10 a million.
    assert 15 <= answered <= 20
    assert told.input_tokens == told.output_tokens == 0
    assert not told.cost


def test_an_absurd_usage_does_not_hold_up_the_quota() -> None:
    absurd = Usage(input_tokens=10**14, output_tokens=10**14)
    answered, _ = asking(absurd, calls=15, quota=Quota(tpm=100_000))
    assert answered == 15


def test_a_filtered_answer_is_charged_what_it_used() -> None:
    used = Usage(input_tokens=1_000, output_tokens=100)
    stopped = ContentFilterError("no", partial_text="Half", usage=used)
    llm = LLM(ScriptedProvider(default=stopped), price=PRICE, max_tokens=100)

    async def program(run: Run) -> Any:
        seen = 0
        with contextlib.suppress(BudgetExceededError):
            for number in range(100):
                with pytest.raises(ContentFilterError) as caught:
                    await llm(f"text {number}")
                assert caught.value.partial_text == "Half"
                assert caught.value.cost == pytest.approx(0.002)
                seen += 1
        return seen, run.statistics()

    seen, told = in_run(program, None, budget=Budget(usd=0.02))
    assert seen == 10
    assert told.cost == pytest.approx(0.02)
    assert (told.input_tokens, told.output_tokens) == (10_000, 1_000)
