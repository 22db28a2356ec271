"""Sample of a plan: a few items, sent, paid for and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from llmflow.errors import LLMFlowError, ProviderError, redact
from llmflow.jobs.plan_values import Sampled
from llmflow.runs.run import Run

if TYPE_CHECKING:
    from llmflow.jobs.plan_survey import Survey
    from llmflow.jobs.plan_tokens import Question
    from llmflow.llm import LLM
    from llmflow.types import Response

    _Outcome: TypeAlias = tuple[Question, Response | ProviderError, float]


class _OnlyASampleError(LLMFlowError):
    """Ends the session of a sample as an incomplete one."""


async def ask(llm: LLM, survey: Survey, run: Run) -> Sampled:
    """Send the questions that a survey kept, and note their answers.

    Args:
        llm: whom to ask.
        survey: what is known of the items.
        run: what the answers are written down in; not entered yet.

    Raises:
        ProviderError: every item would fail, too.
        UsageError: the key is missing, or another setting is wrong.
    """
    llm.prepare()
    questions = survey.kept()
    loop = asyncio.get_running_loop()

    async def one(question: Question) -> _Outcome:
        started = loop.time()
        try:
            response = await llm.complete(question.messages)
        except ProviderError as error:
            if error.fatal:
                raise
            return question, error, 0.0
        return question, response, max(0.0, loop.time() - started - response.waited)

    kept = False
    tasks: list[asyncio.Task[_Outcome]] = []
    try:
        async with run:
            kept = run.totals is not None
            async with asyncio.TaskGroup() as group:
                tasks += [group.create_task(one(each)) for each in questions]
            raise _OnlyASampleError(f"{len(questions):,} items were asked, as the sample of a plan")
    except _OnlyASampleError:
        pass
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return _summed(survey, [task.result() for task in tasks], kept=kept)


def _summed(survey: Survey, results: Sequence[_Outcome], *, kept: bool) -> Sampled:
    new = failed = 0
    seconds, cost = 0.0, 0.0
    failure: str | None = None
    priced = True
    for question, outcome, took in results:
        if isinstance(outcome, ProviderError):
            failed += 1
            failure = failure or redact(f"{type(outcome).__name__}: {outcome}")
            continue
        usage = outcome.usage
        survey.note_answer(survey.count(question), usage.input_tokens, usage.output_tokens)
        if kept:
            survey.note_asked(question)
        if outcome.source == "provider":
            new += 1
            seconds += took
            priced = priced and outcome.cost is not None
            cost += outcome.cost or 0.0
    return Sampled(
        items=len(results),
        new=new,
        failed=failed,
        failure=failure,
        seconds=seconds / new if new else None,
        cost=cost if priced else None,
        kept=kept,
    )
