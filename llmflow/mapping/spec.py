"""Checked map: items, prompts, its calls, and what collects the results."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sized
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeVar

from llmflow.arguments import by_name, checked_flag
from llmflow.call_options import (
    MAP,
    check_fields,
    checked_max_tokens,
    checked_options,
    checked_temperature,
)
from llmflow.errors import UnknownArgumentError
from llmflow.items.idle import MOST_WAITING
from llmflow.items.runner import OnError, check_on_error
from llmflow.items.slots import check_limit
from llmflow.items.sources import (
    READ_AHEAD,
    AsyncIterableSource,
    IterableSource,
    Source,
    ThreadSource,
    checked_items,
)
from llmflow.mapping.collectors import Collector, FrameCollector
from llmflow.mapping.engine import Begin, MapEngine, window_of
from llmflow.mapping.frames import is_unread, kind_of, rows_of
from llmflow.mapping.prompts import MakePrompt, Prompt, prompt_maker
from llmflow.types import Quota

if TYPE_CHECKING:
    from llmflow.batch import Batch
    from llmflow.calls.call import Call
    from llmflow.calls.judge import Validate
    from llmflow.calls.mode_options import Fallback, ModeName, ModeOptions
    from llmflow.calls.session import Session
    from llmflow.limits import Limiter
    from llmflow.runs.run import Run
    from llmflow.typed.output_type import OutputType

ValueT_co = TypeVar("ValueT_co", covariant=True)

DEFAULT_CONCURRENCY = 100
_AT_LEAST_WITH_A_LIMIT = 1000


def default_concurrency(quota: Quota) -> int:
    """Return how many items are under way at once where nobody says.

    With a limit of requests the limiter paces: as many as the limit lets begin in a minute,
    and at least 1,000, are enough for any latency up to that. A quarter more than there may be
    connections are the most: those that wait are there when one is free, and the limiter
    knows that connections are what is missing. Without a limit, a modest number protects.

    >>> default_concurrency(Quota()), default_concurrency(Quota(rpm=60))
    (100, 1000)
    """
    if not quota.rpm:
        return DEFAULT_CONCURRENCY
    from llmflow.transport import connection_limit

    most = connection_limit() * 5 // 4
    return min(most, max(_AT_LEAST_WITH_A_LIMIT, math.ceil(float(quota.rpm))))


@dataclass(frozen=True, slots=True, kw_only=True)
class MapSpec:
    """One map, checked, not begun.

    `items` and `prompt` are what the user passed, `run_around` returns the run whose progress is
    shown, `details` puts further columns into a frame, and `output` is what answers are. For the
    rest see `MapEngine`.
    """

    begin: Begin
    items: Any
    prompt: str | Callable[[Any], Prompt] | None
    concurrency: int
    ordered: bool
    on_error: OnError
    in_jobs: bool = False
    window: int | None = None
    run_around: Callable[[], Run | None] | None = None
    details: bool = False
    output: OutputType | None = None

    def __post_init__(self) -> None:
        check_limit(self.concurrency, "concurrency")
        check_on_error(self.on_error)
        checked_flag("details", self.details)
        if kind_of(self.items) is None:
            checked_items(self.items)
            prompt_maker(self.prompt)
        elif kind_of(self.items) != ("polars", "LazyFrame"):  # which would look at its files
            prompt_maker(self.prompt, columns=rows_of(self.items).columns)

    @property
    def unread(self) -> bool:
        """True for a query or dataset, which is yet to be read."""
        return is_unread(self.items)

    def prepared(self, *, whole: bool = False) -> Prepared:
        """Return items and prompts in final form.

        With `whole`, for results in one piece, a query or dataset is read to its end; else as
        its rows are wanted.

        Raises:
            InputError: the prompt does not fit the frame's columns.
        """
        if kind_of(self.items) is None:
            items: Any = self.items
            total = len(self.items) if isinstance(self.items, Sized) else None
            return Prepared(items, prompt_maker(self.prompt), total, Collector())
        rows = rows_of(self.items)
        make_prompt = prompt_maker(self.prompt, columns=rows.columns)
        if not whole:
            return Prepared(rows.rows(), make_prompt, rows.total, None, blocks=self.unread)
        table = rows.whole()
        collector = FrameCollector(table, details=self.details, output=self.output)
        return Prepared(table.rows(), make_prompt, table.total, collector)

    def engine(self, ready: Prepared, source: Source | None = None) -> MapEngine[Any]:
        """Return an engine for the running event loop."""
        make = partial(
            MapEngine[Any],
            self.begin,
            ready.make_prompt,
            source or source_of(ready, concurrency=self.concurrency),
            concurrency=self.concurrency,
            window=self.window or window_of(self.concurrency, ordered=self.ordered),
            ordered=self.ordered,
            on_error=self.on_error,
            total=ready.total,
            in_jobs=self.in_jobs,
        )
        if self.run_around is None:
            return make()
        from llmflow.mapping.surroundings import show_progress

        return show_progress(make, self.run_around())


@dataclass(frozen=True, slots=True)
class Prepared:
    """Items and prompts in their final form.

    `collector` puts the results together, where they are wanted in one piece. `blocks` is true
    where reading an item may wait, as for a disk.
    """

    items: Iterable[Any] | AsyncIterable[Any]
    make_prompt: MakePrompt
    total: int | None
    collector: Collector | None
    blocks: bool = False


def source_of(ready: Prepared, *, concurrency: int) -> Source:
    """Return items of any kind as a source."""
    items = ready.items
    if isinstance(items, AsyncIterable):
        return AsyncIterableSource(items, read_ahead=min(READ_AHEAD, concurrency))
    return ThreadSource(items) if ready.blocks else IterableSource(items)


class Asked(Protocol):
    """Protocol: the parts of an LLM that a map uses."""

    @property
    def limiter(self) -> Limiter:
        """Admission by the quota."""
        ...

    @property
    def mode_options(self) -> ModeOptions | None:
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

    @property
    def output_type(self) -> OutputType | None:
        """The type of answers."""
        ...

    @property
    def varied(self) -> Callable[..., Self]:
        """Returns the same with other settings."""
        ...

    def prepare(self) -> None:
        """Check key, model and extras."""

    def call_for(
        self, prompt: Prompt, arguments: tuple[Any, Any, Any, Any]
    ) -> tuple[Session, Call]:
        """Return an unasked call, and the session that asks it."""
        ...


class Valued(Asked, Protocol[ValueT_co]):
    """Protocol: an LLM with a type of answers, for type checkers."""

    def _value_type(self) -> ValueT_co: ...


class Given(NamedTuple):
    """Settings of every call of a map, beside its prompt.

    `place` is what was called, `options` are further fields of the body, and `fields` those
    that were given as keywords.
    """

    place: str
    system: str | None
    max_tokens: int | None
    temperature: float | None
    options: Mapping[str, Any] | None
    fields: Mapping[str, Any]

    def arguments(self, known: frozenset[str] | None) -> tuple[Any, Any, Any, Any]:
        """Return the arguments of each call, as `LLM.call_for` takes them.

        Raises:
            UsageError: one of them cannot be one.
        """
        options = self.options
        if options is not None:
            options = checked_options(options)
        if self.fields:
            check_fields(self.fields, known=known, place=self.place, own=MAP)
            options = {**(options or {}), **self.fields}
        most = checked_max_tokens(self.max_tokens)
        return self.system, most, checked_temperature(self.temperature), options


def varied(
    llm: Asked,
    mode: ModeName | None,
    deadline: float | str | None,
    fallback: Fallback | None,
    batch: Batch | None,
    validate: Validate | None,
    output_type: Any,
    reasks: int | None,
) -> Asked:
    """Return an LLM with a map's settings, or the LLM itself."""
    given = (mode, deadline, fallback, batch, validate, output_type, reasks)
    if all(each is None for each in given):
        return llm
    return llm.varied(
        mode=mode,
        deadline=deadline,
        fallback=fallback,
        batch=batch,
        validate=validate,
        output_type=output_type,
        reasks=reasks,
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
    if unnamed:
        raise _unnamed(given.place, unnamed)
    checked_flag("progress", progress)
    arguments = given.arguments(llm.known_options)
    in_jobs = llm.mode_options is not None and llm.mode_options.mode != "parallel"
    if concurrency is None and in_jobs:
        concurrency = MOST_WAITING
    elif concurrency is None:
        concurrency = default_concurrency(llm.limiter.quota)
    llm.prepare()
    return MapSpec(
        begin=partial(llm.call_for, arguments=arguments),
        items=items,
        prompt=prompt,
        concurrency=concurrency,
        ordered=ordered,
        on_error=on_error,
        in_jobs=in_jobs,
        run_around=(lambda: llm.run_around) if progress else None,
        details=details,
        output=llm.output_type,
    )


def _unnamed(place: str, unnamed: tuple[Any, ...]) -> Exception:
    if isinstance(unnamed[0], str):
        write = place.replace("...", 'items, prompt="Summarize: {text}"')
        return UnknownArgumentError(f"{place} takes the prompt by name: write {write}")
    return by_name(place, ("items",), ("prompt",), unnamed)
