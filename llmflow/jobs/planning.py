"""Plan of a run: what it would send, cost and take."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Final

from llmflow.arguments import checked_arguments
from llmflow.background import background
from llmflow.budget import Budget
from llmflow.budget.forecast import DEFAULT_OUTPUT
from llmflow.config import load_config
from llmflow.errors import (
    InputError,
    InvalidAnswerError,
    LLMFlowError,
    ProviderError,
    UsageError,
    redact,
)
from llmflow.items.sources import checked_items
from llmflow.jobs.plan_estimates import Span
from llmflow.jobs.plan_report import COUNTS, BudgetReach, Output, Pace, Plan, Primer, Sampled
from llmflow.llm import LLM
from llmflow.mapping.frames import kind_of, rows_of
from llmflow.mapping.prompts import MakePrompt, Prompt, prompt_maker
from llmflow.pricing import PRICES_AS_OF, context_of
from llmflow.rate_limits import DAY, RATE_LIMITS
from llmflow.rows import PromptTemplate, Selection
from llmflow.shares import share_text
from llmflow.types import Charge, Usage

if TYPE_CHECKING:
    from llmflow.jobs.plan_survey import Question, Survey
    from llmflow.journal import RunSummary
    from llmflow.pricing import Price
    from llmflow.runs.run import Run
    from llmflow.types import Request, Response

__all__ = ["BudgetReach", "Output", "Pace", "Plan", "Primer", "Sampled", "Span", "make_plan"]

_ENOUGH: Final = 5
"""From how many prompts' tokens, as counted by the provider, others are corrected."""
_ESTIMATE: Final = Span(0.5, 1.0, 2.0)  # of tokens from characters; see `llmflow.tokens`
_MINUTE: Final = 60.0


@checked_arguments("make_plan(...)")
def make_plan(
    llm: LLM[Any],
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
            tiers=_tiers_of(llm.price),
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
    forecast = _Forecast(llm, survey, asked, most_out=most_out)
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

    async def one(question: Question) -> tuple[Response | LLMFlowError, float]:
        started = loop.time()
        try:
            response = await llm.complete(question.messages)
        except (ProviderError, InvalidAnswerError) as error:
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
    failures = [error for error, _ in results if isinstance(error, LLMFlowError)]
    new: list[tuple[Response, float]] = []
    for question, (response, seconds) in zip(questions, results, strict=True):
        if isinstance(response, LLMFlowError):
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
    """Return an iterable of items, and the function that makes prompts."""
    selected: MakePrompt | None = None
    if isinstance(prompt, Selection):
        selected, prompt = prompt.prompt, prompt.template
    if kind_of(items) is not None:
        rows = rows_of(items)
        return rows.rows(), selected or prompt_maker(prompt, columns=rows.columns)
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
    """Check who would be asked, and a sample; return a budget's dollars."""
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


def _tiers_of(price: Price | None) -> tuple[int, ...]:
    """Return the numbers of tokens above which a prompt has another price."""
    tiers = []
    while price is not None and price.longer is not None:
        above, price = price.longer
        tiers.append(above)
    return tuple(tiers)


class _Forecast:
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
        self.output = self._output(most_out)  # the expected length of an answer

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
