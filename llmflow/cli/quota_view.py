"""What ``llmflow quotas`` shows of one model, as a table, as plain text and as JSON."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any, Final

from llmflow.cli.terminal import printable
from llmflow.format import duration
from llmflow.limits.learned import LearnedLimit
from llmflow.limits.statistics import LimiterStatistics
from llmflow.shares import share_text
from llmflow.types import QuotaSignal

HEADINGS: Final = ("dimension", "configured", "learned", "effective", "burst window")
_IN_FLIGHT: Final = "in flight"
_NOTHING: Final = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One dimension of a quota.

    Args:
        dimension: such as ``"rpm"``.
        configured: what was set, or None.
        origin: where: a line of the file, an option, or the provider's own default.
        learned: what is remembered of earlier runs, or None.
        learned_at: when that was learned, in seconds since 1970.
        effective: what a run would begin with.
        burst_seconds: how many seconds' worth of it may be used at once; None for a day's.
    """

    dimension: str
    configured: float | None
    origin: str | None
    learned: LearnedLimit | None
    learned_at: float
    effective: float
    burst_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is known of one model's quota.

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
        """How many calls may be in flight at first: fewer while no limit is known."""
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
        print("\n".join(_plain(view, now)), file=stream)
    stream.flush()


def as_json(view: View) -> dict[str, Any]:
    """Return a view as what JSON can hold."""
    dimensions = {
        line.dimension: {
            "configured": line.configured,
            "configured_by": line.origin,
            "learned": None if line.learned is None else line.learned.limit,
            "estimated": None if line.learned is None else line.learned.estimated,
            "learned_at": None if line.learned is None else _iso(line.learned_at),
            "effective": line.effective,
            "burst_seconds": line.burst_seconds,
        }
        for line in view.lines
    }
    in_flight = {
        "configured": view.max_concurrent,
        "at_first": view.at_first,
        "effective": view.statistics.max_in_flight,
    }
    probe = None
    if view.signals is not None:
        probe = [signal._asdict() for signal in view.signals]
    return {
        "model": view.model,
        "note": view.note,
        "dimensions": dimensions,
        "in_flight": in_flight,
        "share": view.statistics.share,
        "share_by": view.share_origin,
        "reply": probe,
    }


def _plain(view: View, now: float) -> Iterator[str]:
    yield _title(view)
    rows = [HEADINGS, *_cells(view, now)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"  {'  '.join(cells)}".rstrip()
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
    origin = f" ({printable(line.origin)})" if line.origin else ""
    return f"{_number(line.configured)}{origin}"


def _learned(line: Line, now: float) -> str:
    if line.learned is None:
        return _NOTHING
    how = "found by trying" if line.learned.estimated else "named"
    ago = f"{duration(max(0.0, now - line.learned_at))} ago"
    return f"{_number(line.learned.limit)}, {how} {ago}"


def _remarks(view: View) -> Iterator[str]:
    if not view.lines:
        yield "no limit is known: a run finds out what it may send"
    if view.share_origin is not None:
        share = share_text(view.statistics.share)
        yield f"of each limit a run uses a share of {share} ({printable(view.share_origin)})"
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
        parts.append(f"all back in {duration(signal.reset)}")
    return printable(", ".join(parts))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.4g}"


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
