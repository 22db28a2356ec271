"""What a run would ask, cost and take, before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmflow.jobs import plan_forecast as forecast
from llmflow.jobs.plan_survey import Group, Survey
from llmflow.jobs.plan_values import BudgetReach, Output, Pace, Primer, Sampled, Span

if TYPE_CHECKING:
    from llmflow.journal import RunSummary
    from llmflow.journal.lookup import Lookup
    from llmflow.llm import LLM
    from llmflow.pricing import Context, Price
    from llmflow.rows import PromptTemplate

__all__ = ["BudgetReach", "Output", "Pace", "Plan", "Primer", "Sampled", "Span", "make_plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run would come to.

    Args:
        model: the model string.
        items: rows.
        unusable: rows that no prompt can be made of; they fail without being asked.
        first_unusable: the first one's index, from 0, and what is wrong with it; or None.
        too_long: rows with more tokens than the model takes; they are not in the price.
        first_too_long: the first one's index, or None.
        max_input_tokens: what the model takes; None where that is not known.
        run: the name of the run; None where answers are not kept.
        run_exists: whether there has been a session of it.
        answered: rows that the run has an answer to, which are not asked again.
        failed_before: rows that failed for good in it; asked again only with ``--retry-failed``.
        repeated: rows that ask what an earlier row asks.
        left: rows that are left to ask and to pay.
        input_tokens: of the prompts of all rows that can be asked.
        input_tokens_left: of those that are left.
        measured: of how many rows the tokens were counted.
        counting: how tokens are counted.
        corrected_by: from how many prompts' tokens, as counted by the provider, the counts
            were corrected; 0 where they were not.
        output: how long answers are expected to be.
        output_tokens_left: of all answers that are left.
        price: what tokens cost; None where nobody knows.
        price_source: who says so: a day, or a line of a file.
        cost: of what is left, in US dollars; None where no price is known.
        input_cost: the part of it that the prompts cost.
        batch_cost: the same in a batch job; None where no price of it is known.
        primer: what a cache primer saves in a batch job; None where no beginning is marked.
        paces: how long each limit makes it take; empty where none is known.
        binding: the one that makes it take longest; None where none is known.
        budget: how far a budget goes; None without one.
        sample: the sample that was asked, or None.
    """

    model: str
    items: int
    unusable: int
    first_unusable: tuple[int, str] | None
    too_long: int
    first_too_long: int | None
    max_input_tokens: int | None
    run: str | None
    run_exists: bool
    answered: int
    failed_before: int
    repeated: int
    left: int
    input_tokens: Span
    input_tokens_left: Span
    measured: int
    counting: str
    corrected_by: int
    output: Output
    output_tokens_left: Span
    price: Price | None
    price_source: str | None
    cost: Span | None
    input_cost: Span | None
    batch_cost: Span | None
    primer: Primer | None
    paces: tuple[Pace, ...]
    binding: Pace | None
    budget: BudgetReach | None
    sample: Sampled | None

    @property
    def seconds(self) -> Span | None:
        """How long it takes at the least; None where no limit is known."""
        return None if self.binding is None else self.binding.seconds

    def to_dict(self) -> dict[str, Any]:
        """Return it as what JSON can hold; amounts as ``low``, ``likely`` and ``high``."""
        data: dict[str, Any] = _plain({**asdict(self), "seconds": self.seconds})
        first = self.first_unusable
        data["first_unusable"] = first and {"index": first[0], "reason": first[1]}
        return data


def make_plan(
    llm: LLM,
    rows: Iterable[Mapping[str, Any]],
    template: PromptTemplate,
    *,
    run: str | None = None,
    retry_failed: bool = False,
    cache: bool = False,
    budget: float | None = None,
    sample: int = 0,
    exact: bool = False,
    concurrency: int | None = None,
    origins: Mapping[str, str] | None = None,
    price_source: str | None = None,
    about: Mapping[str, Any] | None = None,
    seen: Callable[[int], None] = lambda count: None,  # noqa: ARG005
) -> Plan:
    """Plan a run: count, look into its journal, and say what is left comes to.

    Nothing is sent, and no key is needed, except for a `sample`. The rows are read once, and
    memory does not grow with them. Above 20,000 rows the tokens of a sample are counted, and
    amounts that follow from it are ranges which hold in 95 of 100 cases.

    >>> from llmflow import LLM
    >>> from llmflow.rows import PromptTemplate
    >>> rows = [{"text": "The tide rises."}, {"text": "The tide falls."}]
    >>> plan = make_plan(LLM("sim/demo"), rows, PromptTemplate("Summarize: {text}"))
    >>> plan.left, plan.cost
    (2, Span(low=0.0, likely=0.0, high=0.0))

    Args:
        llm: who would be asked, with its bounds and its quota.
        rows: the rows.
        template: makes a prompt of a row.
        run: the name of the run whose answers count; None: there is none.
        retry_failed: whether what failed for good before would be asked again.
        cache: whether equal questions would have one answer.
        budget: what the run may spend over all its sessions, in US dollars.
        sample: how many items to really ask, spread over the rows; they are paid. The answers
            are kept in the run, if there is one.
        exact: count the tokens of every row, however many.
        concurrency: how many items would be asked at once at the most.
        origins: who has set the configured limits, by dimension.
        price_source: who says what tokens cost; by default the table of public prices.
        about: what to keep with a run that the sample begins; as in `Run`.
        seen: is told now and then how many rows were read.

    Raises:
        InputError: the rows cannot be read, or there are none.
        ConfigurationError: a budget is given, and the price is not known.
        JournalError: the run's journal cannot be read.
        ProviderError: of the sample: every item would fail, too.
    """
    price = llm.price
    _check_budget(llm, budget, price)
    folder, summary, lookup = _find_run(run)
    try:
        survey = _survey(
            llm,
            template,
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
        budget=budget,
        concurrency=concurrency,
        origins=origins or {},
        price_source=price_source,
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


def _survey(llm: LLM, template: PromptTemplate, **options: Any) -> Survey:
    context = _context(llm)
    limits = llm.limiter.statistics().limits
    return Survey(
        llm,
        template,
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
    entered = Run(run, store=load_config().journal.store or "answers", about=about)
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
        primer=forecast.primer_of(llm, survey.request("-"), left),
        paces=paces,
        binding=max(paces, key=lambda pace: (pace.seconds.likely, pace.days), default=None),
        budget=reach,
        sample=asked,
    )


def _public_source(price: Price) -> str | None:
    from llmflow.pricing import PRICES_AS_OF

    return None if price.is_free else f"public prices of {PRICES_AS_OF}"


def _plain(value: Any) -> Any:
    if isinstance(value, Span):
        return {name: _plain(amount) for name, amount in value._asdict().items()}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isinf(value) else value
