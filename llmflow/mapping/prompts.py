"""Prompts of items: by template, by function, or as they are."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

from llmflow.errors import InputError, LLMFlowError, UsageError
from llmflow.rows.cells import is_missing
from llmflow.rows.template import PromptTemplate

Prompt: TypeAlias = str | Sequence[Mapping[str, Any]]
"""A text, or chat messages with ``role`` and ``content``."""

MakePrompt: TypeAlias = Callable[[Any, int], Any]
"""Makes the prompt of an item and its index; raises an `LLMFlowError` where it cannot."""

_STEP = re.compile(r"[.\[]")


def prompt_maker(
    prompt: str | PromptTemplate | Callable[[Any], Prompt] | None,
    *,
    columns: Collection[str] | None = None,
) -> MakePrompt:
    """Return what makes an item's prompt.

    Args:
        prompt: a template, a function of the item, or None for items that are prompts.
        columns: the fields that every item has, where that is known: of a frame.

    Raises:
        UsageError: the prompt cannot be one, or not for these columns.
    """
    if prompt is None:
        if columns is not None:
            raise InputError(
                "a frame's rows are no prompts: give prompt=..., such as 'Summarize: {text}'"
            )
        return _as_it_is
    if isinstance(prompt, str):
        prompt = PromptTemplate(prompt)
    if isinstance(prompt, PromptTemplate):
        return _from_template(prompt, columns)
    if not callable(prompt):
        raise UsageError(
            f"prompt must be a text such as 'Summarize: {{text}}', or a function of the item; "
            f"got {type(prompt).__name__}"
        )
    if inspect.iscoroutinefunction(prompt):
        raise UsageError("prompt must be a plain function: an async one cannot be called for items")
    return _from_function(prompt)


def _as_it_is(item: Any, index: int) -> Any:
    if isinstance(item, Mapping):
        raise InputError(
            f"item {index} is a dict and no prompt: give prompt=..., such as 'Summarize: {{text}}'"
        )
    if type(item) is not str and is_missing(item):
        raise InputError(f"item {index} is null")
    return item


def _from_template(template: PromptTemplate, columns: Collection[str] | None) -> MakePrompt:
    fields = template.fields
    if columns is not None:
        # Every row would fail in the same way: say so before the first is asked.
        template.check_names(columns)
    alone = fields[0] if len(fields) == 1 and not _STEP.search(fields[0]) else None
    render = template.render

    def make(item: Any, index: int) -> str:
        if isinstance(item, Mapping):
            return render(item, index=index)
        if alone is None:
            raise InputError(
                f"item {index} is {_kind(item)} and no dict, so it cannot fill the prompt's fields "
                f"{', '.join(map(repr, fields))}; give dicts, or a function as prompt=..."
            )
        return render({alone: item}, index=index)

    return make


def _kind(item: object) -> str:
    return "a text" if isinstance(item, str) else f"a {type(item).__name__}"


def _from_function(function: Callable[[Any], Prompt]) -> MakePrompt:
    def make(item: Any, index: int) -> Prompt:
        try:
            made = function(item)
        except LLMFlowError:
            raise
        except Exception as error:
            # One bad item must not stop the others, whatever the user's code makes of it.
            said = f"{type(error).__name__}: {error}"
            raise InputError(f"the prompt function failed for item {index}: {said}") from error
        if inspect.iscoroutine(made):
            made.close()
            raise InputError(
                f"the prompt function returned a coroutine for item {index}: it returns what to "
                "ask, and does not ask"
            )
        if type(made) is not str and is_missing(made):
            raise InputError(f"the prompt function returned no prompt for item {index}: {made}")
        return made

    return make
