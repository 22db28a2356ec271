"""Quota of one model as table, plain text and JSON."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any, Final, NamedTuple

from llmflow.cli.terminal import printable
from llmflow.format import duration
from llmflow.limits.statistics import LimiterStatistics
from llmflow.shares import share_text
from llmflow.tables import columns
from llmflow.types import QuotaSignal

HEADINGS: Final = ("dimension", "configured", "learned", "effective", "burst window")
_IN_FLIGHT: Final = "in flight"
_NOTHING: Final = "-"


class Line(NamedTuple):
    """One dimension of a quota.

    Args:
        dimension: such as ``"rpm"``.
        configured: the configured limit, or None.
        configured_by: a line of the file, an option, or the provider's own default.
        learned: the limit that earlier runs have learned, or None.
        estimated: whether that was found by trying; else replies have named it.
        learned_at: when that was learned, in seconds since 1970.
        effective: the limit that a run would start with.
        burst_seconds: how many seconds' worth may be used at once; None for a day's.
    """

    dimension: str
    configured: float | None
    configured_by: str | None
    learned: float | None
    estimated: bool | None
    learned_at: float | None
    effective: float
    burst_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The known limits of one model.

    Args:
        model: the model string.
        note: what is particular about it, or None.
        lines: its dimensions.
        statistics: of a limiter as a run would begin with it.
        max_concurrent: the configured number of calls in flight, or None.
        signals: what the reply to a probe named; None where nobody asked.
        share_origin: who has set the share of all this that is used; None: nobody.
    """

    model: str
    note: str | None
    lines: Sequence[Line]
    statistics: LimiterStatistics
    max_concurrent: int | None
    signals: Sequence[QuotaSignal] | None = None
    share_origin: str | None = None

    @property
    def at_first(self) -> int:
        """Calls in flight at the start: fewer while no limit is known."""
        statistics = self.statistics
        return statistics.max_in_flight if statistics.limits else statistics.window


def show(views: Sequence[View], stream: IO[str], *, now: float) -> None:
    """Print views: tables on a terminal, plain text elsewhere.

    Args:
        views: what to show.
        stream: where to.
        now: the time, in seconds since 1970.
    """
    if stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb"):
        _draw(views, stream, now)
        return
    for view in views:
        print(file=stream)
        print("\n".join(_text(view, now)), file=stream)
    stream.flush()


def plain(view: View) -> dict[str, Any]:
    """Return a view as plain values for JSON."""
    dimensions = {}
    for line in view.lines:
        values = line._asdict()
        if line.learned_at is not None:
            at = datetime.fromtimestamp(line.learned_at, UTC)
            values["learned_at"] = at.isoformat(timespec="seconds")
        dimensions[values.pop("dimension")] = values
    in_flight = {
        "configured": view.max_concurrent,
        "at_first": view.at_first,
        "effective": view.statistics.max_in_flight,
    }
    signals = view.signals
    return {
        "model": view.model,
        "note": view.note,
        "dimensions": dimensions,
        "in_flight": in_flight,
        "share": view.statistics.share,
        "share_by": view.share_origin,
        "reply": None if signals is None else [signal._asdict() for signal in signals],
    }


def _text(view: View, now: float) -> Iterator[str]:
    yield _title(view)
    yield from (f"  {line}" for line in columns([HEADINGS, *_cells(view, now)]))
    for text in _remarks(view):
        yield f"  {text}"


def _draw(views: Sequence[View], stream: IO[str], now: float) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=stream, highlight=False)
    for view in views:
        table = Table(title=Text(_title(view), style="bold"), title_justify="left")
        for heading in HEADINGS:
            table.add_column(heading)
        for row in _cells(view, now):
            table.add_row(*map(Text, row))
        console.print()
        console.print(table)
        for text in _remarks(view):
            console.print(Text(text))


def _title(view: View) -> str:
    return printable(f"{view.model} ({view.note})" if view.note else view.model)


def _cells(view: View, now: float) -> Iterator[tuple[str, ...]]:
    for line in view.lines:
        yield (
            line.dimension,
            _configured(line),
            _learned(line, now),
            _number(line.effective),
            _NOTHING if line.burst_seconds is None else f"{line.burst_seconds:.3g} s",
        )
    most = view.statistics.max_in_flight
    effective = f"{most:,}"
    if view.at_first < most:
        effective = f"{view.at_first:,} at first, then up to {effective}"
    configured = _NOTHING if view.max_concurrent is None else f"{view.max_concurrent:,}"
    yield (_IN_FLIGHT, configured, _NOTHING, effective, _NOTHING)


def _configured(line: Line) -> str:
    if line.configured is None:
        return _NOTHING
    origin = f" ({printable(line.configured_by)})" if line.configured_by else ""
    return f"{_number(line.configured)}{origin}"


def _learned(line: Line, now: float) -> str:
    if line.learned is None or line.learned_at is None:
        return _NOTHING
    how = "found by trying" if line.estimated else "named"
    return f"{_number(line.learned)}, {how} {duration(max(0.0, now - line.learned_at))} ago"


def _remarks(view: View) -> Iterator[str]:
    if not view.lines:
        yield "no limit is known: a run finds it by trying"
    if view.share_origin is not None:
        share = share_text(view.statistics.share)
        yield f"a run uses {share} of each limit ({printable(view.share_origin)})"
    if view.signals is not None:
        named = "; ".join(_signal(each) for each in view.signals)
        yield f"the reply names {named or 'no limit'}"


def _signal(signal: QuotaSignal) -> str:
    parts = [
        signal.dimension if signal.limit is None else f"{signal.dimension} {signal.limit:,.0f}"
    ]
    if signal.remaining is not None:
        parts.append(f"{signal.remaining:,.0f} left")
    if signal.reset is not None:
        parts.append(f"full again in {duration(signal.reset)}")
    return printable(", ".join(parts))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.4g}"
