"""Forecast of a plan: tokens, dollars and time from what was counted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
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

_ENOUGH: Final = 5
"""From how many prompts' tokens, as counted by the provider, others are corrected."""
_ESTIMATE: Final = Span(0.5, 1.0, 2.0)  # of tokens from characters; see `llmflow.tokens`
_MINUTE: Final = 60.0


def tiers_of(price: Price | None) -> tuple[int, ...]:
    """Return the numbers of tokens above which a prompt has another price."""
    tiers = []
    while price is not None and price.longer is not None:
        above, price = price.longer
        tiers.append(above)
    return tuple(tiers)


class Forecast:
    """Tokens, dollars and time of the items left to ask.

    `asked` is the sample that was sent, `most_out` is the model's own bound of an answer.
    """

    def __init__(
        self, llm: LLM, survey: Survey, asked: Sampled | None, *, most_out: int | None
    ) -> None:
        self._llm, self._survey, self._asked = llm, survey, asked
        self._left = survey.items_left
        learned = survey.inputs.count
        self.corrected_by = learned if learned >= _ENOUGH else 0
        """Prompts whose tokens, as counted by the provider, have corrected the others."""
        # Without them a vocabulary is believed, and an estimate is not.
        factor = Span.exactly(1) if survey.is_counted else _ESTIMATE
        if self.corrected_by:
            factor = survey.inputs.of_others(self._left)
        self._tiers = [(group.items, survey.tokens(group).by(factor)) for group in survey.left]
        self.inputs: Span = sum((tokens for _, tokens in self._tiers), start=Span.exactly(0))
        """Input tokens of these items."""
        self.all_inputs = self.inputs + survey.tokens(survey.others).by(factor)
        """Input tokens of all items that can be asked."""
        self.output = self._output(most_out)
        """The expected length of an answer."""

    def _output(self, most: int | None) -> Output:
        survey, asked, bound = self._survey, self._asked, self._llm.max_tokens or math.inf
        if known := survey.outputs.count:
            each = survey.outputs.of_others(self._left)
            basis = "run" if asked is None or not asked.new else "sample"
            return Output(each=each.at_most(bound), basis=basis, answers=known)
        if (earlier := _of_earlier_runs(self._llm.model)) is not None:
            return replace(earlier, each=earlier.each.at_most(bound))
        if self._llm.max_tokens is not None:
            return Output(each=Span(0.0, bound, bound), basis="max_tokens")
        likely = float(DEFAULT_OUTPUT if most is None else min(DEFAULT_OUTPUT, most))
        return Output(each=Span(0.0, likely, float(most or math.inf)), basis="assumed")

    def cost(self, *, answers: bool = True, batch: bool = False) -> Span | None:
        """Return the cost in US dollars; None if no price is known."""
        tier = self._llm.price
        if tier is None or (batch and not tier.has_batch):
            return None
        each = self.output.each if answers else Span.exactly(0)
        total = Span.exactly(0)
        for items, tokens in self._tiers:
            rates = replace(tier, longer=None)
            rates = rates.in_batch() if batch else rates
            total += tokens.times(rates.input / 1e6) + each.times(items * rates.output / 1e6)
            tier = tier.longer[1] if tier.longer is not None else tier
        return total

    def primer(self, request: Request) -> Primer | None:
        """Return what a cache primer saves; None if it saves nothing."""
        llm, left = self._llm, self._left
        find = getattr(llm.provider, "marked_prefix", None)
        marked = None if find is None else find(request)
        if marked is None or llm.price is None or not llm.price.has_batch or left < 2:
            return None
        usd = (left - 1) * llm.price.saved_by_cache(marked, batch=True)
        chosen = llm.batch is not None and llm.batch.primer
        return Primer(tokens=marked.tokens, usd=usd, chosen=chosen) if usd else None

    def paces(self, origins: Mapping[str, str], concurrency: int | None) -> Iterator[Pace]:
        """Yield how long each limit that is known makes a run take."""
        llm, asked, count = self._llm, self._asked, self._left
        statistics = llm.limiter.statistics()
        if not count:
            return
        charges = list(self._charges())
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
                dimension=name,
                limit=limit,
                origin=origin,
                charge=charge,
                seconds=seconds,
                days=days,
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

    def _charges(self) -> Iterator[Charge]:
        """Yield what the provider charges for all items: low, likely, high.

        By its own rule for an average item: rules are sums, or on arrival, where they were summed.
        """
        count, settle = self._left, self._llm.provider.settle
        average = Charge(*(value / count for value in self._survey.reserved))
        average = average._replace(requests=1.0)
        for prompt, answer in zip(self.inputs, self.output.each, strict=True):
            output = 0 if math.isinf(answer) else round(answer)
            usage = Usage(input_tokens=round(prompt / count), output_tokens=output)
            yield Charge(*(value * count for value in settle(average, usage)))

    def reach(self, usd: float | None, spent: float) -> BudgetReach | None:
        """Return how many items a budget covers, given a price."""
        cost, left = self.cost(), self._left
        if usd is None or cost is None:
            return None
        room = max(0.0, usd - spent)
        items = (left if all_ <= room else math.floor(left * room / all_) for all_ in cost[::-1])
        return BudgetReach(usd=usd, spent=spent, items=Span(*map(float, items)))


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
