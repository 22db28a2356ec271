"""Forecast of a plan: tokens, dollars and time from what was counted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from llmflow.budget.forecast import DEFAULT_OUTPUT
from llmflow.jobs.plan_estimates import Span
from llmflow.jobs.plan_report import BudgetReach, Output, Pace, Primer
from llmflow.rate_limits import DAY, RATE_LIMITS
from llmflow.shares import share_text
from llmflow.types import Charge, Usage

if TYPE_CHECKING:
    from llmflow.jobs.plan_report import Sampled
    from llmflow.jobs.plan_survey import Survey
    from llmflow.llm import LLM
    from llmflow.pricing import Price
    from llmflow.types import Request

ENOUGH: Final = 5
"""From how many prompts' tokens, as counted by the provider, others are corrected."""
_ESTIMATE: Final = Span(0.5, 1.0, 2.0)  # of tokens from characters; see `llmflow.tokens`
_MINUTE: Final = 60.0


def correction(survey: Survey) -> Span:
    """Return what tokens as counted here are to be multiplied by.

    The provider's own counts of prompts that it has answered tell; without them, a
    vocabulary is believed and an estimate is not.
    """
    if survey.inputs.count >= ENOUGH:
        return survey.inputs.of_others(survey.items_left)
    return Span.exactly(1) if survey.is_counted else _ESTIMATE


def output_of(survey: Survey, llm: LLM, asked: Sampled | None, *, most: int | None) -> Output:
    """Return how long answers are expected to be."""
    bound = llm.max_tokens or math.inf
    if known := survey.outputs.count:
        each = survey.outputs.of_others(survey.items_left)
        basis = "run" if asked is None or not asked.new else "sample"
        return Output(each=each.at_most(bound), basis=basis, answers=known)
    if (earlier := _of_earlier_runs(llm.model)) is not None:
        return replace(earlier, each=earlier.each.at_most(bound))
    if llm.max_tokens is not None:
        return Output(each=Span(0.0, bound, bound), basis="max_tokens")
    likely = float(DEFAULT_OUTPUT if most is None else min(DEFAULT_OUTPUT, most))
    return Output(each=Span(0.0, likely, float(most or math.inf)), basis="assumed")


def _of_earlier_runs(model: str) -> Output | None:
    """Return the average answer length of a model's earlier runs."""
    from llmflow.runs.catalog import list_runs

    known = [
        (run.totals.output_tokens, run.totals.answers)
        for run in list_runs()
        if run.about.get("model") == model and run.totals.answers and run.totals.output_tokens
    ]
    if not known:
        return None
    averages = [tokens / answers for tokens, answers in known]
    tokens, answers = map(sum, zip(*known, strict=True))
    each = Span(min(averages), tokens / answers, max(averages))
    return Output(each=each, basis="history", answers=answers)


def cost_of(
    price: Price | None, inputs: Sequence[tuple[int, Span]], each: Span, *, batch: bool = False
) -> Span | None:
    """Return a cost in US dollars; None where no price is known.

    `inputs` are, by the tier of the price, the number of prompts and their tokens; `each` are the
    tokens of one answer.
    """
    if price is None or (batch and not price.has_batch):
        return None
    total, tier = Span.exactly(0), price
    for items, tokens in inputs:
        rates = replace(tier, longer=None)
        rates = rates.in_batch() if batch else rates
        total += tokens.times(rates.input / 1e6) + each.times(items * rates.output / 1e6)
        tier = tier.longer[1] if tier.longer is not None else tier
    return total


def tiers_of(price: Price | None) -> tuple[int, ...]:
    """Return the numbers of tokens above which a prompt has another price."""
    tiers = []
    while price is not None and price.longer is not None:
        above, price = price.longer
        tiers.append(above)
    return tuple(tiers)


def primer_of(llm: LLM, request: Request, left: int) -> Primer | None:
    """Return what a cache primer saves; None if it saves nothing."""
    find = getattr(llm.provider, "marked_prefix", None)
    marked = None if find is None else find(request)
    price = llm.price
    if marked is None or price is None or not price.has_batch or left < 2:
        return None
    usd = (left - 1) * price.saved_by_cache(marked, batch=True)
    chosen = llm.batch is not None and llm.batch.primer
    return Primer(tokens=marked.tokens, usd=usd, chosen=chosen) if usd else None


def paces(
    llm: LLM,
    survey: Survey,
    inputs: Span,
    each: Span,
    *,
    origins: Mapping[str, str],
    asked: Sampled | None,
    concurrency: int | None,
) -> Iterator[Pace]:
    """Yield how long each limit that is known makes a run take."""
    statistics, count = llm.limiter.statistics(), survey.items_left
    if not count:
        return
    charges = list(_charges(llm, survey.reserved, count, inputs, each))
    for name, limit in statistics.limits.items():
        unit, period, _ = RATE_LIMITS[name]
        charge = Span(*(total[unit] for total in charges))
        configured = getattr(llm.limiter.quota, name)
        origin = origins.get(name, "given")
        if configured is None or limit < configured * statistics.share:
            origin = "learned by an earlier run" if asked is None else "learned"
        if statistics.share < 1.0:
            origin = f"{origin}; a share of {share_text(statistics.share)}"
        days, seconds = 1, charge.times(_MINUTE / limit)
        if period >= DAY:
            # A day's worth may be sent at once, and then nothing until the next day.
            days = max(1, math.ceil(charge.likely / limit))
            seconds = Span(*(max(0.0, amount / limit - 1) * DAY for amount in charge))
        yield Pace(
            dimension=name, limit=limit, origin=origin, charge=charge, seconds=seconds, days=days
        )
    if asked is not None and asked.seconds:
        at_once = min(statistics.max_in_flight, concurrency or statistics.max_in_flight)
        charge = Span.exactly(count * asked.seconds)
        yield Pace(
            dimension="in_flight",
            limit=at_once,
            origin="as slow as the sample's answers",
            charge=charge,
            seconds=charge.times(1 / at_once),
        )


def _charges(
    llm: LLM, reserved: Sequence[float], count: int, inputs: Span, each: Span
) -> Iterator[Charge]:
    """Yield what the provider charges for all items: low, likely, high.

    By its own rule for an average item: rules are sums, or on arrival, where they were summed.
    """
    average = Charge(*(value / count for value in reserved))._replace(requests=1.0)
    for prompt, answer in zip(inputs, each, strict=True):
        output = 0 if math.isinf(answer) else round(answer)
        usage = Usage(input_tokens=round(prompt / count), output_tokens=output)
        yield Charge(*(value * count for value in llm.provider.settle(average, usage)))


def reach(usd: float | None, spent: float, cost: Span | None, left: int) -> BudgetReach | None:
    """Return how many items a budget covers, given a price."""
    if usd is None or cost is None:
        return None
    room = max(0.0, usd - spent)
    items = (left if each <= room else math.floor(left * room / each) for each in reversed(cost))
    return BudgetReach(usd=usd, spent=spent, items=Span(*map(float, items)))
