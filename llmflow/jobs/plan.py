"""What a run would ask, cost and take, before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llmflow.arguments import checked_arguments
from llmflow.jobs.plan_values import BudgetReach, Output, Pace, Primer, Sampled, Span

if TYPE_CHECKING:
    from llmflow.budget import Budget
    from llmflow.llm import LLM
    from llmflow.mapping.prompts import Prompt
    from llmflow.pricing import Price
    from llmflow.rows import PromptTemplate, Selection

__all__ = ["BudgetReach", "Output", "Pace", "Plan", "Primer", "Sampled", "Span", "make_plan"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Plan:
    """What a run would come to: ``print(plan)`` shows it as a table, and so does a notebook.

    Args:
        model: the model string.
        items: rows.
        unusable: rows that no prompt can be made of; they fail without being asked.
        first_unusable: the first one's index, from 0, and what is wrong with it; or None.
        skips_unusable: whether they are left out instead.
        empty: rows with nothing in their prompt fields.
        first_empty: the first one's index, or None.
        skips_empty: whether they are left out; else they are asked as they are.
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
    skips_unusable: bool
    empty: int
    first_empty: int | None
    skips_empty: bool
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

    def __str__(self) -> str:
        from llmflow.jobs.plan_table import text_table
        from llmflow.jobs.plan_text import PYTHON, lines

        return text_table(self._title, lines(self, PYTHON))

    def __repr__(self) -> str:
        from llmflow.jobs.plan_text import short

        return f"<Plan: {short(self)}>"

    def _repr_html_(self) -> str:
        from llmflow.jobs.plan_table import html_table
        from llmflow.jobs.plan_text import PYTHON, lines

        return html_table(self._title, lines(self, PYTHON))

    @property
    def _title(self) -> str:
        return f"plan: {self.model}"

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
    """Plan a run: count, look into its journal, and say what is left comes to.

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
    from llmflow.jobs.planning import planned

    return planned(
        llm,
        items,
        prompt,
        run=run,
        retry_failed=retry_failed,
        cache=cache,
        budget=budget,
        sample=sample,
        exact=exact,
        concurrency=concurrency,
        origins=origins or {},
        price_source=price_source,
        about=about,
        seen=seen,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Span):
        return {name: _plain(amount) for name, amount in value._asdict().items()}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isinf(value) else value
