"""Items and prompts of `make_plan`, as `LLM.map` takes them."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

from llmflow.budget import Budget
from llmflow.errors import InputError, UsageError
from llmflow.llm import LLM
from llmflow.mapping.frames import kind_of, table_of
from llmflow.mapping.prompts import MakePrompt, Prompt, prompt_maker
from llmflow.mapping.sources import checked_items
from llmflow.rows import PromptTemplate, Selection


def rows_of(
    items: Any, prompt: str | PromptTemplate | Selection | Callable[[Any], Prompt] | None
) -> tuple[Iterable[Any], MakePrompt]:
    """Return items one after the other, and what makes the prompt of each.

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


def emptiness(prompt: Any) -> Callable[[Any, Any], bool]:
    """Return what tells whether an item has nothing to ask about, by the item and its prompt."""
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


def checked_llm(llm: Any) -> LLM:
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


def checked_sample(sample: Any) -> None:
    """Check how many items are to be asked.

    Raises:
        UsageError: it is no whole number of at least 0.
    """
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
        raise UsageError(
            f"sample must be a whole number of items to ask, such as 20; got {sample!r}"
        )


def usd_of(budget: Any) -> float | None:
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


def origins_of(llm: LLM) -> dict[str, str]:
    """Return who has set the limits of an LLM, by dimension, where it is not the code."""
    quota, provided = llm.limiter.quota, llm.provider.default_quota
    settings = llm.configured
    default = provided if settings is None else settings.quota_over(provided)
    if default is None or quota != default:
        return {}
    places = {} if settings is None else settings.origins
    names = [each.name for each in fields(quota)]
    return {name: places.get(f"quota.{name}", "the provider's default") for name in names}
