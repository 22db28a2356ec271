"""Arguments of a map's calls, the same for all of its items."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

if TYPE_CHECKING:
    from llmflow.batch import Batch
    from llmflow.calls.choice import Choice, Fallback, ModeName
    from llmflow.calls.validate import Validate
    from llmflow.limits import Limiter
    from llmflow.mapping.engine import OnError
    from llmflow.mapping.prompts import Prompt
    from llmflow.mapping.spec import MapSpec
    from llmflow.mapping.surroundings import Surroundings
    from llmflow.runs.run import Run
    from llmflow.types import Response


class Asked(Protocol):
    """Protocol: the parts of an LLM that a map uses."""

    @property
    def limiter(self) -> Limiter:
        """Admission by the quota."""
        ...

    @property
    def choice(self) -> Choice | None:
        """The mode that a call would be in."""
        ...

    @property
    def known_options(self) -> frozenset[str] | None:
        """The fields that calls take as keywords."""
        ...

    @property
    def run_around(self) -> Run | None:
        """The run that a call would belong to."""
        ...

    def varied(
        self,
        *,
        mode: ModeName | None = None,
        deadline: float | str | None = None,
        fallback: Fallback | None = None,
        batch: Batch | None = None,
        validate: Validate | None = None,
    ) -> Self:
        """Return the same with other settings."""
        ...

    def prepare(self) -> None:
        """Check key, model and extras."""

    def complete(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Awaitable[Response]:
        """Ask."""
        ...


class Given(NamedTuple):
    """Settings of every call of a map, beside its prompt.

    Args:
        place: what was called.
        system: instructions.
        max_tokens: upper bound of each answer.
        temperature: sampling temperature.
        options: further fields of the body.
        fields: those that were given as keywords.
    """

    place: str
    system: str | None
    max_tokens: int | None
    temperature: float | None
    options: Mapping[str, Any] | None
    fields: Mapping[str, Any]

    def arguments(self, known: frozenset[str] | None) -> dict[str, Any]:
        """Return the arguments of each call.

        Raises:
            UsageError: one of them cannot be one.
        """
        from llmflow.call_options import (
            MAP,
            check_fields,
            checked_max_tokens,
            checked_options,
            checked_temperature,
        )

        options = self.options
        if options is not None:
            options = checked_options(options)
        if self.fields:
            check_fields(self.fields, known=known, place=self.place, own=MAP)
            options = {**(options or {}), **self.fields}
        return {
            "system": self.system,
            "max_tokens": checked_max_tokens(self.max_tokens),
            "temperature": checked_temperature(self.temperature),
            "options": options,
        }


def varied(
    llm: Asked,
    mode: ModeName | None,
    deadline: float | str | None,
    fallback: Fallback | None,
    batch: Batch | None,
    validate: Validate | None,
) -> Asked:
    """Return an LLM with a map's settings, or the LLM itself."""
    if all(each is None for each in (mode, deadline, fallback, batch, validate)):
        return llm
    return llm.varied(
        mode=mode, deadline=deadline, fallback=fallback, batch=batch, validate=validate
    )


def spec_of(
    llm: Asked,
    items: Any,
    unnamed: tuple[Any, ...],
    given: Given,
    *,
    prompt: Any,
    concurrency: int | None,
    ordered: bool,
    on_error: OnError,
    progress: bool,
    details: bool,
) -> MapSpec:
    """Return a map, checked.

    Raises:
        UsageError: an argument is wrong.
    """
    from llmflow.arguments import checked_flag
    from llmflow.items.idle import MOST_WAITING
    from llmflow.mapping.spec import MapSpec, default_concurrency

    if unnamed:
        raise _unnamed(given.place, unnamed)
    checked_flag("progress", progress)
    arguments = given.arguments(llm.known_options)
    if concurrency is None and llm.choice is not None and llm.choice.mode != "parallel":
        concurrency = MOST_WAITING
    elif concurrency is None:
        concurrency = default_concurrency(llm.limiter.quota)
    llm.prepare()

    def ask(prompt: Any) -> Awaitable[Response]:
        return llm.complete(prompt, **arguments)

    return MapSpec(
        ask=ask,
        items=items,
        prompt=prompt,
        concurrency=concurrency,
        ordered=ordered,
        on_error=on_error,
        surroundings=_surroundings(llm) if progress else None,
        details=details,
    )


def _surroundings(llm: Asked) -> Callable[[], Surroundings]:
    from llmflow.mapping.surroundings import Surroundings

    return lambda: Surroundings(llm.run_around, progress=True)


def _unnamed(place: str, unnamed: tuple[Any, ...]) -> Exception:
    from llmflow.arguments import by_name

    if isinstance(unnamed[0], str):
        from llmflow.errors import UnknownArgumentError

        write = place.replace("...", 'items, prompt="Summarize: {text}"')
        return UnknownArgumentError(f"{place} takes the prompt by name: write {write}")
    return by_name(place, ("items",), ("prompt",), unnamed)
