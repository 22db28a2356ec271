"""The steps of `make_plan`: read the items once, ask a sample, reckon what is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmflow.jobs import plan_forecast as forecast
from llmflow.jobs.plan import Plan
from llmflow.jobs.plan_items import (
    checked_llm,
    checked_sample,
    emptiness,
    origins_of,
    rows_of,
    usd_of,
)
from llmflow.jobs.plan_question import Question
from llmflow.jobs.plan_survey import Group, Survey
from llmflow.jobs.plan_values import Sampled, Span
from llmflow.rows import Selection

if TYPE_CHECKING:
    from llmflow.journal import RunSummary
    from llmflow.journal.lookup import Lookup
    from llmflow.llm import LLM
    from llmflow.mapping.prompts import MakePrompt
    from llmflow.pricing import Context, Price


def planned(
    llm: LLM,
    items: Any,
    prompt: Any,
    *,
    run: str | None,
    retry_failed: bool,
    cache: bool,
    budget: Any,
    sample: int,
    exact: bool,
    concurrency: int | None,
    origins: Mapping[str, str],
    price_source: str | None,
    about: Mapping[str, Any] | None,
    seen: Callable[[int], None],
) -> Plan:
    """Return a plan; the arguments are those of `make_plan`."""
    price = checked_llm(llm).price
    usd = usd_of(budget)
    _check_budget(llm, usd, price)
    checked_sample(sample)
    rows, make_prompt = rows_of(items, prompt)
    selection = prompt if isinstance(prompt, Selection) else None
    folder, summary, lookup = _find_run(run)
    try:
        survey = _survey(
            llm,
            make_prompt,
            is_empty=emptiness(prompt),
            lookup=lookup,
            retry_failed=retry_failed,
            cache=cache,
            exact=exact,
            keep=sample,
        )
        survey.read(rows, seen)
    finally:
        if lookup is not None:
            lookup.close()
    asked = _ask(llm, survey, run, about) if survey.kept() else None
    if asked is not None and folder is not None:
        summary = _summary(folder)
    return _plan(
        llm,
        survey,
        run=run,
        summary=summary,
        asked=asked,
        budget=usd,
        concurrency=concurrency,
        origins=origins or origins_of(llm),
        price_source=price_source,
        selection=selection,
    )


def _check_budget(llm: LLM, budget: float | None, price: Price | None) -> None:
    if budget is not None:
        from llmflow.budget import Budget

        Budget(usd=budget).check_price(llm.model, price)


def _find_run(run: str | None) -> tuple[Path | None, RunSummary | None, Lookup | None]:
    from llmflow.journal.lookup import Lookup
    from llmflow.runs.catalog import checked_name, runs_folder

    if run is None:
        return None, None, None
    folder = runs_folder() / checked_name(run)
    return folder, _summary(folder), Lookup.open(folder)


def _summary(folder: Path) -> RunSummary | None:
    from llmflow.journal import read_summary

    return read_summary(folder)


def _survey(llm: LLM, make_prompt: MakePrompt, **options: Any) -> Survey:
    context = _context(llm)
    limits = llm.limiter.statistics().limits
    return Survey(
        llm,
        make_prompt,
        tiers=forecast.tiers_of(llm.price),
        max_input_tokens=None if context is None else context.max_input_tokens,
        charges=any(name not in ("rpm", "rpd") for name in limits),
        **options,
    )


def _context(llm: LLM) -> Context | None:
    from llmflow.pricing import context_of

    return context_of(llm.model, base_url=getattr(llm.provider, "endpoint", None) or None)


def _ask(llm: LLM, survey: Survey, run: str | None, about: Mapping[str, Any] | None) -> Sampled:
    from llmflow.background import background
    from llmflow.config import load_config
    from llmflow.jobs.plan_sample import ask
    from llmflow.runs.catalog import runs_folder
    from llmflow.runs.run import Run

    if run is not None and (known := _summary(runs_folder() / run)) is not None:
        about = known.about  # what the run was started with is not a plan's to change
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
    run: str | None,
    summary: RunSummary | None,
    asked: Sampled | None,
    budget: float | None,
    concurrency: int | None,
    origins: Mapping[str, str],
    price_source: str | None,
    selection: Selection | None,
) -> Plan:
    counts, context, price = survey.counts, _context(llm), llm.price
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
        items=counts.items,
        unusable=counts.unusable,
        first_unusable=counts.first_unusable,
        skips_unusable=selection is not None and selection.skips_bad,
        empty=counts.empty,
        first_empty=counts.first_empty,
        skips_empty=selection is not None and selection.skips_empty,
        too_long=counts.too_long,
        first_too_long=counts.first_too_long,
        max_input_tokens=None if context is None else context.max_input_tokens,
        run=run,
        run_exists=summary is not None,
        answered=counts.answered,
        failed_before=counts.failed_before,
        repeated=counts.repeated,
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
    from llmflow.pricing import PRICES_AS_OF

    return None if price.is_free else f"public prices of {PRICES_AS_OF}"
