"""Forecast of a plan: tokens, dollars and time from what was counted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from llmflow.budget.forecast import DEFAULT_OUTPUT
from llmflow.jobs.plan_values import (
    ASSUMED,
    HISTORY,
    MAX_TOKENS,
    RUN,
    SAMPLE,
    BudgetReach,
    Output,
    Pace,
    Primer,
    Span,
)
from llmflow.rate_limits import DAY, RATE_LIMITS
from llmflow.shares import share_text
from llmflow.types import Charge, Usage

if TYPE_CHECKING:
    from llmflow.jobs.plan_survey import Group, Survey
    from llmflow.jobs.plan_values import Sampled
    from llmflow.llm import LLM
    from llmflow.pricing import Price
    from llmflow.types import Request

ESTIMATE: Final = Span(0.5, 1.0, 2.0)
"""How far an estimate of tokens from characters may be off; see `llmflow.tokens`."""
ENOUGH: Final = 5
"""From how many prompts' tokens, as counted by the provider, others are corrected."""
_MINUTE: Final = 60.0


def correction(survey: Survey) -> Span:
    """Return what tokens as counted here are to be multiplied by.

    The provider's own counts of prompts that it has answered tell; without them, a
    vocabulary is believed and an estimate is not.
    """
    if survey.inputs.count >= ENOUGH:
        return survey.inputs.of_others(sum(group.items for group in survey.left))
    return Span.exactly(1) if survey.is_counted else ESTIMATE


def output_of(survey: Survey, llm: LLM, asked: Sampled | None, *, most: int | None) -> Output:
    """Return how long answers are expected to be.

    Args:
        survey: the items, with what is known of their answers.
        llm: who answers.
        asked: the sample that was asked, or None.
        most: the longest answer that the model gives; None where that is not known.
    """
    bound = llm.max_tokens or math.inf
    known = survey.outputs
    if known.count:
        each = known.of_others(sum(group.items for group in survey.left))
        basis = RUN if asked is None or not asked.new else SAMPLE
        return Output(each=_at_most(each, bound), basis=basis, answers=known.count)
    earlier = _of_earlier_runs(llm.model)
    if earlier is not None:
        return replace(earlier, each=_at_most(earlier.each, bound))
    if llm.max_tokens is not None:
        return Output(each=Span(0.0, bound, bound), basis=MAX_TOKENS)
    likely = float(DEFAULT_OUTPUT if most is None else min(DEFAULT_OUTPUT, most))
    return Output(each=Span(0.0, likely, float(most or math.inf)), basis=ASSUMED)


def _of_earlier_runs(model: str) -> Output | None:
    """Return the average answer length of a model's earlier runs."""
    from llmflow.runs.catalog import list_runs

    answers = tokens = 0
    averages = []
    for run in list_runs():
        totals = run.totals
        if run.about.get("model") == model and totals.answers and totals.output_tokens:
            answers += totals.answers
            tokens += totals.output_tokens
            averages.append(totals.output_tokens / totals.answers)
    if not averages:
        return None
    each = Span(min(averages), tokens / answers, max(averages))
    return Output(each=each, basis=HISTORY, answers=answers)


def _at_most(span: Span, bound: float) -> Span:
    return Span(*(min(each, bound) for each in span))


def cost_of(
    price: Price, inputs: list[Span], counts: list[int], each: Span, *, batch: bool = False
) -> Span:
    """Return what the items that are left cost, in US dollars.

    Args:
        price: what tokens cost.
        inputs: the tokens of the prompts, by the tier of the price.
        counts: how many items there are in each.
        each: the tokens of one answer.
        batch: whether they are asked in a batch job.
    """
    total, tier = Span.exactly(0), price
    for tokens, items in zip(inputs, counts, strict=True):
        rates = replace(tier, longer=None)
        rates = rates.in_batch() if batch else rates
        total += tokens.times(rates.input / 1e6) + each.times(items * rates.output / 1e6)
        tier = tier.longer[1] if tier.longer is not None else tier
    return total


def primer_of(llm: LLM, request: Request, left: int) -> Primer | None:
    """Return what a cache primer saves; None if it saves nothing.

    Args:
        llm: who would be asked.
        request: what is asked for a row, whatever the row has.
        left: the items that are left to ask.
    """
    find = getattr(llm.provider, "marked_prefix", None)
    marked = None if find is None else find(request)
    price = llm.price
    if marked is None or price is None or not price.has_batch or left < 2:
        return None
    usd = (left - 1) * price.saved_by_cache(marked, batch=True)
    chosen = llm.batch is not None and llm.batch.primer
    return Primer(tokens=marked.tokens, usd=usd, chosen=chosen) if usd else None


def tiers_of(price: Price | None) -> tuple[int, ...]:
    """Return the numbers of tokens above which a prompt has another price."""
    tiers = []
    while price is not None and price.longer is not None:
        tiers.append(price.longer[0])
        price = price.longer[1]
    return tuple(tiers)


def paces(
    llm: LLM,
    left: Group,
    inputs: Span,
    each: Span,
    *,
    origins: Mapping[str, str],
    asked: Sampled | None,
    concurrency: int | None,
) -> Iterator[Pace]:
    """Yield how long each limit that is known makes a run take.

    Args:
        llm: whose limits they are: configured, given, or learned by an earlier run.
        left: the items that are left to ask.
        inputs: the tokens of their prompts.
        each: the tokens of one answer.
        origins: who has set the configured limits.
        asked: the sample that was asked, which tells how long an answer takes.
        concurrency: how many items are asked at once at the most.
    """
    if not left.items:
        return
    statistics, quota = llm.limiter.statistics(), llm.limiter.quota
    charges = _charges(llm, left, inputs, each)
    for name, limit in statistics.limits.items():
        unit, period, _ = RATE_LIMITS[name]
        charge = Span(*(total[unit] for total in charges))
        configured = getattr(quota, name)
        origin = origins.get(name, "given")
        if configured is None or limit < configured * statistics.share:
            origin = "learned by an earlier run" if asked is None else "learned"
        if statistics.share < 1.0:
            origin = f"{origin}; a share of {share_text(statistics.share)}"
        days = 1
        if period >= DAY:
            # A day's worth may be sent at once, and then nothing until the next day.
            days = max(1, math.ceil(charge.likely / limit))
            seconds = Span(*(max(0.0, amount / limit - 1) * DAY for amount in charge))
        else:
            seconds = charge.times(_MINUTE / limit)
        yield Pace(
            dimension=name, limit=limit, origin=origin, charge=charge, seconds=seconds, days=days
        )
    at_once = min(statistics.max_in_flight, concurrency or statistics.max_in_flight)
    if asked is not None and asked.seconds:
        charge = Span.exactly(left.items * asked.seconds)
        yield Pace(
            dimension="in_flight",
            limit=at_once,
            origin="as slow as the sample's answers",
            charge=charge,
            seconds=charge.times(1 / at_once),
        )


def _charges(llm: LLM, left: Group, inputs: Span, each: Span) -> list[Charge]:
    """Return what the provider charges for all items: low, likely, high.

    By its own rule for an average item: rules are sums, or on arrival, where they were summed.
    """
    count = left.items
    average = Charge(*(value / count for value in left.reserved))._replace(requests=1.0)
    charges = []
    for prompt, answer in zip(inputs, each, strict=True):
        output = 0 if math.isinf(answer) else round(answer)
        usage = Usage(input_tokens=round(prompt / count), output_tokens=output)
        charges.append(Charge(*(v * count for v in llm.provider.settle(average, usage))))
    return charges


def reach(usd: float, spent: float, cost: Span, left: int) -> BudgetReach:
    """Return how many items a budget covers; arguments as in `BudgetReach`."""
    room = max(0.0, usd - spent)

    def items(total: float) -> float:
        return float(left) if total <= room else float(math.floor(left * room / total))

    return BudgetReach(
        usd=usd, spent=spent, items=Span(items(cost.high), items(cost.likely), items(cost.low))
    )
