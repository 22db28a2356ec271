"""Checked map: items, prompts, its calls, and what collects the results."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sized
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from llmflow.arguments import by_name, checked_flag
from llmflow.call_options import (
    MAP,
    check_fields,
    checked_max_tokens,
    checked_options,
    checked_temperature,
)
from llmflow.errors import UnknownArgumentError, UsageError
from llmflow.items.idle import MOST_WAITING
from llmflow.items.sources import (
    READ_AHEAD,
    AsyncIterableSource,
    IterableSource,
    Source,
    checked_items,
)
from llmflow.mapping.engine import Ask, Begin, MapEngine, OnError, window_of
from llmflow.mapping.frames import Columns, Table, kind_of, table_of
from llmflow.mapping.prompts import MakePrompt, Prompt, prompt_maker
from llmflow.mapping.result import MapCounts, Result, ResultList, error_text
from llmflow.rows.records import DETAILS
from llmflow.types import Quota

if TYPE_CHECKING:
    from llmflow.batch import Batch
    from llmflow.calls.call import Call
    from llmflow.calls.mode_options import Fallback, ModeName, ModeOptions
    from llmflow.calls.session import Session
    from llmflow.calls.validate import Validate
    from llmflow.limits import Limiter
    from llmflow.mapping.surroundings import Surroundings
    from llmflow.runs.run import Run
    from llmflow.types import Response

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

    `items` and `prompt` are what the user passed, `surroundings` makes what goes on around the
    map, and `details` puts further columns into a frame. For the rest see `MapEngine`.
    """

    ask: Ask
    items: Any
    prompt: str | Callable[[Any], Prompt] | None
    concurrency: int
    ordered: bool
    on_error: OnError
    window: int | None = None
    surroundings: Callable[[], Surroundings] | None = None
    details: bool = False
    begin: Begin | None = None

    def __post_init__(self) -> None:
        limit = self.concurrency
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise UsageError(
                f"concurrency must be at least 1, a whole number, or None; got {limit!r}"
            )
        if self.on_error not in ("collect", "raise"):
            raise UsageError(f'on_error must be "collect" or "raise"; got {self.on_error!r}')
        if not isinstance(self.details, bool):
            raise UsageError(f"details must be True or False; got {self.details!r}")
        if self.kind is None:
            checked_items(self.items)
            prompt_maker(self.prompt)
        elif not self.lazy:
            self.prepared()

    @property
    def kind(self) -> tuple[str, str] | None:
        """Library and class of a frame or series; None for other items."""
        return kind_of(self.items)

    @property
    def lazy(self) -> bool:
        """True if the items are a query that has yet to run."""
        return self.kind == ("polars", "LazyFrame")

    def prepared(self) -> Prepared:
        """Return items and prompts in final form; collects lazy frames.

        Raises:
            InputError: the prompt does not fit the frame's columns.
        """
        if self.kind is None:
            items: Any = self.items
            total = len(self.items) if isinstance(self.items, Sized) else None
            return Prepared(items, prompt_maker(self.prompt), total, None)
        table = table_of(self.items)
        make_prompt = prompt_maker(self.prompt, columns=table.columns)
        return Prepared(table.rows(), make_prompt, len(table), table, self.details)

    def engine(self, ready: Prepared, source: Source | None = None) -> MapEngine[Any]:
        """Return a engine for the running event loop."""
        make = partial(self._engine, ready, source)
        return make() if self.surroundings is None else self.surroundings().begin(make)

    def _engine(self, ready: Prepared, source: Source | None) -> MapEngine[Any]:
        return MapEngine(
            self.ask,
            ready.make_prompt,
            source or source_of(ready.items, concurrency=self.concurrency),
            concurrency=self.concurrency,
            window=self.window or window_of(self.concurrency, ordered=self.ordered),
            ordered=self.ordered,
            on_error=self.on_error,
            total=ready.total,
            begin=self.begin,
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """Items and prompts in their final form."""

    items: Iterable[Any] | AsyncIterable[Any]
    make_prompt: MakePrompt
    total: int | None
    table: Table | None
    details: bool = False

    def collector(self) -> Collector:
        """Return what puts the results together."""
        if self.table is None:
            return _ListCollector()
        return _FrameCollector(self.table, details=self.details)


def source_of(items: Iterable[Any] | AsyncIterable[Any], *, concurrency: int) -> Source:
    """Return items of either kind as a source."""
    if isinstance(items, AsyncIterable):
        return AsyncIterableSource(items, read_ahead=min(READ_AHEAD, concurrency))
    return IterableSource(items)


class Collector(Protocol):
    """Puts results together that come in any order."""

    def add(self, result: Result[Any]) -> None:
        """Take one result."""

    def collected(self, counts: MapCounts) -> Any:
        """Return all of them in the order of the items."""


class _ListCollector:
    def __init__(self) -> None:
        self._results: list[Result[Any]] = []

    def add(self, result: Result[Any]) -> None:
        self._results.append(result)

    def collected(self, counts: MapCounts) -> ResultList[Any]:
        return ResultList(sorted(self._results, key=_index), counts)


def _index(result: Result[Any]) -> int:
    return result.index


class _FrameCollector:
    """Keeps what columns hold: a frame has no place for more."""

    def __init__(self, table: Table, *, details: bool) -> None:
        self._table = table
        names = ("response", *DETAILS) if details else ("response", "error")
        self._columns: Columns = {name: [None] * len(table) for name in names}
        self._details = details

    def add(self, result: Result[Any]) -> None:
        columns, index = self._columns, result.index
        if result.response is not None:
            columns["response"][index] = result.response.text
        elif result.error is not None:
            columns["error"][index] = error_text(result.error)
        if self._details:
            for name, value in result.details.items():
                columns[name][index] = value

    def collected(self, counts: MapCounts) -> Any:  # noqa: ARG002 - no place for them
        return self._table.joined(self._columns)


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

    def call_for(
        self, prompt: Prompt, arguments: tuple[Any, Any, Any, Any]
    ) -> tuple[Session, Call]:
        """Return an unasked call, and the session that asks it."""
        ...

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

    `place` is what was called, `options` are further fields of the body, and `fields` those
    that were given as keywords.
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

    def ask(prompt: Any) -> Awaitable[Response]:
        return llm.complete(prompt, **arguments)

    return MapSpec(
        ask=ask,
        items=items,
        prompt=prompt,
        concurrency=concurrency,
        ordered=ordered,
        on_error=on_error,
        surroundings=partial(_surroundings, llm) if progress else None,
        details=details,
        begin=partial(llm.call_for, arguments=(*arguments.values(),)) if in_jobs else None,
    )


def _surroundings(llm: Asked) -> Surroundings:
    from llmflow.mapping.surroundings import Surroundings

    return Surroundings(llm.run_around, progress=True)


def _unnamed(place: str, unnamed: tuple[Any, ...]) -> Exception:
    if isinstance(unnamed[0], str):
        write = place.replace("...", 'items, prompt="Summarize: {text}"')
        return UnknownArgumentError(f"{place} takes the prompt by name: write {write}")
    return by_name(place, ("items",), ("prompt",), unnamed)
