"""Plan of a run: what it would send, cost and take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from llmflow.arguments import checked_arguments
from llmflow.background import background
from llmflow.budget import Budget
from llmflow.config import load_config
from llmflow.errors import InputError, LLMFlowError, ProviderError, UsageError, redact
from llmflow.items.sources import checked_items
from llmflow.jobs.plan_estimates import Span
from llmflow.jobs.plan_forecast import Forecast, tiers_of
from llmflow.jobs.plan_report import COUNTS, BudgetReach, Output, Pace, Plan, Primer, Sampled
from llmflow.llm import LLM
from llmflow.mapping.frames import kind_of, table_of
from llmflow.mapping.prompts import MakePrompt, Prompt, prompt_maker
from llmflow.pricing import PRICES_AS_OF, context_of
from llmflow.rows import PromptTemplate, Selection

if TYPE_CHECKING:
    from llmflow.jobs.plan_survey import Question, Survey
    from llmflow.journal import RunSummary
    from llmflow.runs.run import Run
    from llmflow.types import Response

__all__ = ["BudgetReach", "Output", "Pace", "Plan", "Primer", "Sampled", "Span", "make_plan"]


@checked_arguments("make_plan(...)")
def make_plan(
    llm: LLM,
    items: Any,
    prompt: str | PromptTemplate | Selection | Callable[[Any], Prompt] | None = None,
    *,
    run: str | None = None,
    retry_failed: bool = False,
    cache: bool = False,
    budget: float | Budget | None = None,
    sample: int = 0,
    exact: bool = False,
    concurrency: int | None = None,
    origins: Mapping[str, str] | None = None,
    price_source: str | None = None,
    about: Mapping[str, Any] | None = None,
    seen: Callable[[int], None] = lambda count: None,  # noqa: ARG005
) -> Plan:
    """Estimate what the rest of a run would send, cost and take.

    Nothing is sent, and no key is needed, except for a `sample`. The items are read once, and
    memory does not grow with them. Above 20,000 items the tokens of a sample are counted, and
    amounts that follow from it are ranges which hold in 95 of 100 cases.

    >>> from llmflow import LLM
    >>> plan = make_plan(LLM("sim/demo"), ["The tide rises.", "It falls."], "Summarize: {text}")
    >>> plan
    <Plan: 2 of 2 rows left to ask sim/demo, cost free, time at least 0.2 s>
    >>> plan.left, plan.cost
    (2, Span(low=0.0, likely=0.0, high=0.0))

    Args:
        llm: who would be asked, with its bounds and its quota.
        items: what `LLM.map` takes: dicts, texts, a frame, a series, or anything to iterate over.
        prompt: as for `LLM.map`: a text with ``{field}``, a function of the item, or None where
            the items are prompts; a selection leaves out some.
        run: the name of the run whose answers count; None: there is none.
        retry_failed: whether what failed for good before would be asked again.
        cache: whether equal questions would have one answer.
        budget: what the run may spend over all its sessions: US dollars, or a `Budget` of them.
        sample: how many items to really ask, spread over all of them; they are paid. The
            answers are kept in the run, if there is one.
        exact: count the tokens of every item, however many.
        concurrency: how many items would be asked at once at the most.
        origins: who has set the configured limits, by dimension.
        price_source: who says what tokens cost; by default the table of public prices.
        about: what to keep with a run that the sample begins; as in `Run`.
        seen: is told now and then how many items were read.

    Raises:
        UsageError: an argument is wrong.
        InputError: the items cannot be read, or the prompt does not fit them.
        ConfigurationError: a budget is given, and the price is not known.
        JournalError: the run's journal cannot be read.
        ProviderError: of the sample: every item would fail, too.
    """
    # Not before: `from llmflow import *` must not load SQLite.
    from llmflow.jobs.plan_survey import Question, Survey
    from llmflow.journal import read_summary
    from llmflow.journal.reading import Lookup
    from llmflow.runs.catalog import checked_name, runs_folder

    usd = _checked(llm, budget, sample)
    rows, make_prompt = _rows_of(items, prompt)
    folder = None if run is None else runs_folder() / checked_name(run)
    summary = None if folder is None else read_summary(folder)
    lookup = None if folder is None else Lookup.open(folder)
    context = context_of(llm.model, base_url=getattr(llm.provider, "endpoint", None) or None)
    most_in, most_out = context or (None, None)
    try:
        survey = Survey(
            llm,
            make_prompt,
            is_empty=_emptiness(prompt),
            lookup=lookup,
            tiers=tiers_of(llm.price),
            max_input_tokens=most_in,
            retry_failed=retry_failed,
            cache=cache,
            exact=exact,
            keep=sample,
        )
        survey.read(rows, seen)
    finally:
        if lookup is not None:
            lookup.close()
    asked = _ask_sample(llm, survey, run, summary, about) if survey.kept() else None
    if asked is not None and folder is not None:
        summary = read_summary(folder)
    forecast = Forecast(llm, survey, asked, most_out=most_out)
    paces = tuple(forecast.paces(origins or _origins_of(llm), concurrency))
    is_free = llm.price is None or (llm.price.is_free and not price_source)
    skips = prompt if isinstance(prompt, Selection) else None
    spent = 0.0 if summary is None else summary.totals.cost or 0.0
    left, first = survey.items_left, survey.first
    return Plan(
        model=llm.model,
        **{name: survey.counts[name] for name in COUNTS},
        first_unusable=first.get("unusable"),
        first_empty=first.get("empty"),
        first_too_long=first.get("too_long"),
        skips_unusable=skips is not None and skips.skips_bad,
        skips_empty=skips is not None and skips.skips_empty,
        max_input_tokens=most_in,
        run=run,
        run_exists=summary is not None,
        left=left,
        input_tokens=forecast.all_inputs,
        input_tokens_left=forecast.inputs,
        measured=survey.measured,
        counting=survey.counting,
        corrected_by=forecast.corrected_by,
        output=forecast.output,
        output_tokens_left=forecast.output.each.times(left),
        price=llm.price,
        price_source=None if is_free else price_source or f"public prices of {PRICES_AS_OF}",
        cost=forecast.cost(),
        input_cost=forecast.cost(answers=False),
        batch_cost=forecast.cost(batch=True),
        primer=forecast.primer(survey.request(Question.of("-"))),
        paces=paces,
        binding=max(paces, key=lambda pace: (pace.seconds.likely, pace.days), default=None),
        budget=forecast.reach(usd, spent),
        sample=asked,
    )


def _ask_sample(
    llm: LLM,
    survey: Survey,
    run: str | None,
    summary: RunSummary | None,
    about: Mapping[str, Any] | None,
) -> Sampled:
    from llmflow.runs.run import Run

    # As a run of the command keeps them: the answers' texts are all that a row needs.
    # A failure here may be a moment's; the run is to find out for itself.
    entered = Run(
        run,
        store=load_config().journal.store or "answers",
        # What the run was started with is not a plan's to change.
        about=about if summary is None else summary.about,
        is_conclusive=lambda _: False,
    )
    return background.run(
        lambda: _ask(llm, survey, entered), instead="await asyncio.to_thread(make_plan, ...)"
    )


async def _ask(llm: LLM, survey: Survey, run: Run) -> Sampled:
    """Send the questions that a survey kept, and note their answers."""
    llm.prepare()
    questions = survey.kept()
    loop = asyncio.get_running_loop()

    async def one(question: Question) -> tuple[Response | ProviderError, float]:
        started = loop.time()
        try:
            response = await llm.complete(question.messages)
        except ProviderError as error:
            if error.fatal:
                raise
            return error, 0.0
        return response, max(0.0, loop.time() - started - response.waited)

    async with run:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(each)) for each in questions]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        kept = run.totals is not None
        asked = f"{len(questions):,} items were asked, as the sample of a plan"
        run.close(LLMFlowError(asked))  # as an incomplete one
    results = [task.result() for task in tasks]
    failures = [error for error, _ in results if isinstance(error, ProviderError)]
    new: list[tuple[Response, float]] = []
    for question, (response, seconds) in zip(questions, results, strict=True):
        if isinstance(response, ProviderError):
            continue
        usage = response.usage
        survey.note_sample(question, (usage.input_tokens, usage.output_tokens), kept=kept)
        if response.source == "provider":
            new.append((response, seconds))
    costs = [response.cost for response, _ in new]
    return Sampled(
        items=len(results),
        new=len(new),
        failed=len(failures),
        failure=redact(f"{type(failures[0]).__name__}: {failures[0]}") if failures else None,
        seconds=sum(seconds for _, seconds in new) / len(new) if new else None,
        cost=None if None in costs else sum(cost or 0.0 for cost in costs),
        kept=kept,
    )


def _rows_of(
    items: Any, prompt: str | PromptTemplate | Selection | Callable[[Any], Prompt] | None
) -> tuple[Iterable[Any], MakePrompt]:
    """Return an iterable of items, and the function that makes prompts.

    Raises:
        InputError: they are no items, or the prompt does not fit them.
        UsageError: the prompt is none.
    """
    selected: MakePrompt | None = None
    if isinstance(prompt, Selection):
        selected, prompt = prompt.prompt, prompt.template
    if kind_of(items) is not None:
        table = table_of(items)
        return table.rows(), selected or prompt_maker(prompt, columns=table.columns)
    checked_items(items)
    if isinstance(items, AsyncIterable):
        raise InputError(
            "make_plan reads items at once: collect them first, [item async for item in items]"
        )
    return items, selected or prompt_maker(prompt)


def _emptiness(prompt: Any) -> Callable[[Any, Any], bool]:
    """Return a function that tells whether an item's prompt fields are empty."""
    if isinstance(prompt, str):
        prompt = PromptTemplate(prompt)
    template = prompt.template if isinstance(prompt, Selection) else prompt
    if not isinstance(template, PromptTemplate):
        return lambda _, made: isinstance(made, str) and not made.strip()
    is_blank = template.is_blank

    def is_empty(item: Any, _: Any) -> bool:
        if type(item) is dict or isinstance(item, Mapping):
            return is_blank(item)
        return isinstance(item, str) and not item.strip()

    return is_empty


def _checked(llm: Any, budget: Any, sample: Any) -> float | None:
    """Check who would be asked, and a sample; return a budget's dollars.

    Raises:
        UsageError: it is no LLM, no budget in US dollars, or no number of items.
        ConfigurationError: a budget is given, and the price is not known.
    """
    if not isinstance(llm, LLM):
        who = f"LLM({llm!r})" if isinstance(llm, str) else "llm"
        raise UsageError(
            f"make_plan takes an LLM first; got {type(llm).__name__}: "
            f"write make_plan({who}, items, prompt)"
        )
    bounds = budget if budget is None or isinstance(budget, Budget) else Budget(usd=budget)
    if bounds is not None:
        if bounds.usd is None:
            raise UsageError(
                "make_plan tells how far US dollars go: give budget=5, or Budget(usd=5)"
            )
        bounds.check_price(llm.model, llm.price)
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
        raise UsageError(
            f"sample must be a whole number of items to ask, such as 20; got {sample!r}"
        )
    return None if bounds is None else float(bounds.usd)  # type: ignore[arg-type]


def _origins_of(llm: LLM) -> dict[str, str]:
    """Return where the limits of an LLM come from, by dimension."""
    quota, provided = llm.limiter.quota, llm.provider.default_quota
    settings = llm.configured
    default = provided if settings is None else settings.quota_over(provided)
    if default is None or quota != default:
        return {}
    if settings is None:
        return {each.name: "the provider's default" for each in fields(quota)}
    return settings.quota_origins()
