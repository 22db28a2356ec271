"""Plan of a run: what it would send, cost and take."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from llmflow.arguments import checked_arguments
from llmflow.background import background
from llmflow.budget import Budget
from llmflow.config import load_config
from llmflow.errors import InputError, UsageError
from llmflow.items.sources import checked_items
from llmflow.jobs import plan_forecast as forecast
from llmflow.jobs.plan_report import Plan
from llmflow.jobs.plan_tokens import Question
from llmflow.jobs.plan_values import BudgetReach, Output, Pace, Primer, Sampled, Span
from llmflow.llm import LLM
from llmflow.mapping.frames import kind_of, table_of
from llmflow.mapping.prompts import MakePrompt, Prompt, prompt_maker
from llmflow.pricing import PRICES_AS_OF, context_of
from llmflow.rows import PromptTemplate, Selection

if TYPE_CHECKING:
    from llmflow.jobs.plan_survey import Survey
    from llmflow.journal import RunSummary
    from llmflow.pricing import Context, Price

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
    from llmflow.jobs.plan_survey import Survey
    from llmflow.journal import read_summary
    from llmflow.journal.lookup import Lookup
    from llmflow.runs.catalog import checked_name, runs_folder

    price, usd = _checked_llm(llm).price, _usd_of(budget)
    if usd is not None:
        Budget(usd=usd).check_price(llm.model, price)
    _check_sample(sample)
    rows, make_prompt = _rows_of(items, prompt)
    folder = None if run is None else runs_folder() / checked_name(run)
    summary, lookup = (
        (None, None) if folder is None else (read_summary(folder), Lookup.open(folder))
    )
    context = context_of(llm.model, base_url=getattr(llm.provider, "endpoint", None) or None)
    try:
        survey = Survey(
            llm,
            make_prompt,
            is_empty=_emptiness(prompt),
            lookup=lookup,
            tiers=forecast.tiers_of(price),
            max_input_tokens=None if context is None else context.max_input_tokens,
            retry_failed=retry_failed,
            cache=cache,
            exact=exact,
            keep=sample,
            charges=any(name not in ("rpm", "rpd") for name in llm.limiter.statistics().limits),
        )
        survey.read(rows, seen)
    finally:
        if lookup is not None:
            lookup.close()
    asked = _ask(llm, survey, run, summary, about) if survey.kept() else None
    if asked is not None and folder is not None:
        summary = read_summary(folder)
    return _plan(
        llm,
        survey,
        context=context,
        run=run,
        summary=summary,
        asked=asked,
        budget=usd,
        concurrency=concurrency,
        origins=origins or _origins_of(llm),
        price_source=price_source,
        selection=prompt if isinstance(prompt, Selection) else None,
    )


def _ask(
    llm: LLM,
    survey: Survey,
    run: str | None,
    summary: RunSummary | None,
    about: Mapping[str, Any] | None,
) -> Sampled:
    from llmflow.jobs.plan_sample import ask
    from llmflow.runs.run import Run

    if summary is not None:
        about = summary.about  # what the run was started with is not a plan's to change
    # As a run of the command keeps them: the answers' texts are all that a row needs.
    # A failure here may be a moment's; the run is to find out for itself.
    entered = Run(
        run,
        store=load_config().journal.store or "answers",
        about=about,
        is_conclusive=lambda _: False,
    )
    return background.run(
        lambda: ask(llm, survey, entered), instead="await asyncio.to_thread(make_plan, ...)"
    )


def _plan(
    llm: LLM,
    survey: Survey,
    *,
    context: Context | None,
    run: str | None,
    summary: RunSummary | None,
    asked: Sampled | None,
    budget: float | None,
    concurrency: int | None,
    origins: Mapping[str, str],
    price_source: str | None,
    selection: Selection | None,
) -> Plan:
    from llmflow.jobs.plan_survey import Group

    counts, price = survey.counts, llm.price
    factor = forecast.correction(survey)
    inputs = [survey.tokens(group).by(factor) for group in survey.left]
    items = [group.items for group in survey.left]
    left, whole = sum(items), Span.exactly(0)
    for each in inputs:
        whole += each
    most = None if context is None else context.max_output_tokens
    output = forecast.output_of(survey, llm, asked, most=most)
    cost = input_cost = batch = None
    if price is not None:
        cost = forecast.cost_of(price, inputs, items, output.each)
        input_cost = forecast.cost_of(price, inputs, items, Span.exactly(0))
        if price.has_batch:
            batch = forecast.cost_of(price, inputs, items, output.each, batch=True)
    paces = tuple(
        forecast.paces(
            llm,
            Group.together(survey.left),
            whole,
            output.each,
            origins=origins,
            asked=asked,
            concurrency=concurrency,
        )
    )
    spent = 0.0 if summary is None else summary.totals.cost or 0.0
    reach = None
    if budget is not None and cost is not None:
        reach = forecast.reach(budget, spent, cost, left)
    return Plan(
        model=llm.model,
        **asdict(counts),
        skips_unusable=selection is not None and selection.skips_bad,
        skips_empty=selection is not None and selection.skips_empty,
        max_input_tokens=None if context is None else context.max_input_tokens,
        run=run,
        run_exists=summary is not None,
        left=left,
        input_tokens=survey.tokens(survey.every).by(factor),
        input_tokens_left=whole,
        measured=survey.measured,
        counting=survey.counting,
        corrected_by=survey.inputs.count if survey.inputs.count >= forecast.ENOUGH else 0,
        output=output,
        output_tokens_left=output.each.times(left) if left else Span.exactly(0),
        price=price,
        price_source=None if price is None else price_source or _public_source(price),
        cost=cost,
        input_cost=input_cost,
        batch_cost=batch,
        primer=forecast.primer_of(llm, survey.request(Question.of("-")), left),
        paces=paces,
        binding=max(paces, key=lambda pace: (pace.seconds.likely, pace.days), default=None),
        budget=reach,
        sample=asked,
    )


def _public_source(price: Price) -> str | None:
    return None if price.is_free else f"public prices of {PRICES_AS_OF}"


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


def _checked_llm(llm: Any) -> LLM:
    """Return who would be asked.

    Raises:
        UsageError: it is no LLM.
    """
    if isinstance(llm, LLM):
        return llm
    write = "make_plan(llm, items, prompt)"
    if isinstance(llm, str):
        write = f"make_plan(LLM({llm!r}), items, prompt)"
    raise UsageError(f"make_plan takes an LLM first; got {type(llm).__name__}: write {write}")


def _check_sample(sample: Any) -> None:
    """Check how many items are to be asked.

    Raises:
        UsageError: it is no whole number of at least 0.
    """
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
        raise UsageError(
            f"sample must be a whole number of items to ask, such as 20; got {sample!r}"
        )


def _usd_of(budget: Any) -> float | None:
    """Return the dollars of a budget; None without one.

    Raises:
        UsageError: it has none.
    """
    if isinstance(budget, Budget):
        if budget.usd is None:
            raise UsageError(
                "make_plan tells how far US dollars go: give budget=5, or Budget(usd=5)"
            )
        return float(budget.usd)
    if budget is None:
        return None
    usd: float = budget
    return usd


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
