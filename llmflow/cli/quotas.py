"""``llmflow quotas``: shows configured, learned and effective limits."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

import click

from llmflow import loops
from llmflow.cli.options import CONFIG, JSON, endpoint_options
from llmflow.cli.terminal import complain, printable, write, write_json
from llmflow.errors import ConfigurationError, ProviderError, UsageError, redact
from llmflow.format import counted, duration
from llmflow.shares import share_text
from llmflow.tables import columns

if TYPE_CHECKING:
    from pathlib import Path

    from llmflow.config import Config, Settings
    from llmflow.limits import Limiter, LimiterStatistics
    from llmflow.limits.learned_limits import Remembered
    from llmflow.provider import ClientProvider, WireProvider
    from llmflow.types import Quota, QuotaSignal

_FAILED: Final = 2
_NO_OPTIONS: Final[Mapping[str, Any]] = {}
_ELSEWHERE: Final = "another key or address"
_HEADINGS: Final = ("dimension", "configured", "learned", "effective", "burst window")
_NOTHING: Final = "-"


@click.command("quotas", short_help="Show configured, learned and effective limits.")
@click.option("--model", metavar="MODEL", help="Only PROVIDER/MODEL.")
@endpoint_options
@click.option(
    "--probe",
    is_flag=True,
    help="Request one token from --model, which costs about that much, and show which limits the "
    "reply names.",
)
@click.option(
    "--forget", is_flag=True, help="Delete learned limits, of --model or of all; show nothing."
)
@CONFIG
@JSON
def command(**options: Any) -> int:
    """Show configured and learned limits, and those a run would start with.

    Lists the models of llmflow.toml and those whose limits a run has learned in the last seven
    days; or only --model. A learned limit was named by replies, or found by trying. The burst
    window is how many seconds' worth of a limit may be used at once.

    Learned limits are kept in llmflow/limits.json in the cache folder (~/.cache on Linux), which
    is safe to delete. LLMFLOW_STATE_DIR names another folder; "off" keeps nothing.
    LLMFLOW_SHARE=1/4 declares that four programs use the same key: this one uses a quarter of
    each limit.

    \b
    Examples:
      llmflow quotas
      llmflow quotas --model openai/gpt-6-luna --probe

    Exit codes: 0, or 2 if the probe failed or something is wrong.
    """
    from llmflow.config import load_config
    from llmflow.limits import learned_limits

    _check(options)
    as_json = options["as_json"]
    config, path = load_config(options["config"]), learned_limits.state_file()
    entries = learned_limits.load(path)
    model = None if options["model"] is None else _model(config, options["model"], options)
    if options["forget"]:
        return _forget(path, model, entries, as_json=as_json)
    views: list[_View] = []
    signals: Sequence[QuotaSignal] | None = None
    error: ProviderError | None = None
    if model is None:
        views += _configured(config, entries)
    else:
        if options["probe"]:
            signals, error = _probe(model)
            entries |= _learned(model, entries.get(model.key), signals, path)
            signals = signals if signals or error is None else None
        views.append(_view(model, entries.pop(model.key, None), signals=signals))
        entries = {key: each for key, each in entries.items() if each.name == model.blank.name}
    views += (_of_memory(config, key, entry) for key, entry in entries.items())
    _print(path, views, as_json=as_json)
    if error is not None:
        complain(str(error))
    return 0 if error is None else _FAILED


def _check(options: Mapping[str, Any]) -> None:
    if options["model"] is None:
        for name in ("base_url", "rpm", "tpm", "probe"):
            if options[name]:
                raise UsageError(f"--{name.replace('_', '-')} needs --model")
    if options["probe"] and options["forget"]:
        raise UsageError("--probe and --forget cannot be combined: run one after the other")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """A model as ``llmflow run`` would use it.

    `blank` is what is known of it without any memory; `key` stands for it in the memory, "" for
    what is not remembered.
    """

    name: str
    quota: Quota
    origins: Mapping[str, str]
    blank: Remembered
    key: str
    settings: Settings
    provider: WireProvider | ClientProvider | None


class _Limit(NamedTuple):
    """One limit of a model.

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

    def plain(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        values = self._asdict()
        del values["dimension"]
        if self.learned_at is not None:
            at = datetime.fromtimestamp(self.learned_at, UTC)
            values["learned_at"] = at.isoformat(timespec="seconds")
        return values

    def cells(self, now: float) -> tuple[str, ...]:
        """Return it as a row of a table."""
        configured = learned = _NOTHING
        if self.configured is not None:
            origin = f" ({printable(self.configured_by)})" if self.configured_by else ""
            configured = f"{_number(self.configured)}{origin}"
        if self.learned is not None and self.learned_at is not None:
            how = "found by trying" if self.estimated else "named"
            ago = duration(max(0.0, now - self.learned_at))
            learned = f"{_number(self.learned)}, {how} {ago} ago"
        burst = _NOTHING if self.burst_seconds is None else f"{self.burst_seconds:.3g} s"
        return self.dimension, configured, learned, _number(self.effective), burst


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """The known limits of one model."""

    model: _Model
    note: str | None
    limits: Sequence[_Limit]
    statistics: LimiterStatistics
    signals: Sequence[QuotaSignal] | None

    @property
    def at_first(self) -> int:
        """Calls in flight at the start: fewer while no limit is known."""
        statistics = self.statistics
        return statistics.max_in_flight if statistics.limits else statistics.window

    @property
    def share_by(self) -> str | None:
        """Who has set the share of all this that is used; None: nobody."""
        return None if self.model.quota.share is None else self.model.origins.get("share")

    def plain(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        signals = self.signals
        return {
            "model": self.model.name,
            "note": self.note,
            "dimensions": {each.dimension: each.plain() for each in self.limits},
            "in_flight": {
                "configured": self.model.quota.max_concurrent,
                "at_first": self.at_first,
                "effective": self.statistics.max_in_flight,
            },
            "share": self.statistics.share,
            "share_by": self.share_by,
            "reply": None if signals is None else [signal._asdict() for signal in signals],
        }

    def cells(self, now: float) -> Iterator[tuple[str, ...]]:
        """Yield the rows of its table."""
        yield _HEADINGS
        yield from (each.cells(now) for each in self.limits)
        most, configured = self.statistics.max_in_flight, self.model.quota.max_concurrent
        effective = f"{most:,}"
        if self.at_first < most:
            effective = f"{self.at_first:,} at first, then up to {effective}"
        given = _NOTHING if configured is None else f"{configured:,}"
        yield "in flight", given, _NOTHING, effective, _NOTHING

    def remarks(self) -> Iterator[str]:
        """Yield what is to be said under its table."""
        if not self.limits:
            yield "no limit is known: a run finds it by trying"
        if self.share_by is not None:
            share = share_text(self.statistics.share)
            yield f"a run uses {share} of each limit ({printable(self.share_by)})"
        if self.signals is not None:
            named = "; ".join(map(_signal, self.signals))
            yield f"the reply names {named or 'no limit'}"


def _model(config: Config, name: str, options: Mapping[str, Any] = _NO_OPTIONS) -> _Model:
    from llmflow.limits.learned_limits import Remembered, digest
    from llmflow.types import Quota

    settings = config.settings(name)
    provider = settings.provider(base_url=options.get("base_url"))
    given = {key: options[key] for key in ("rpm", "tpm") if options.get(key) is not None}
    quota = replace(settings.quota_over(provider.default_quota) or Quota(), **given)
    domain, key = provider.domain, digest(provider.domain)
    names = (domain[0], domain[-1]) if key and isinstance(domain, tuple) else None
    first, last = names or (provider.name, provider.model)
    return _Model(
        name=name,
        quota=quota,
        origins=settings.quota_origins() | {each: f"--{each}" for each in given},
        blank=Remembered(provider=first, model=last),
        key=key or "",
        settings=settings,
        provider=provider,
    )


def _configured(config: Config, entries: dict[str, Remembered]) -> Iterator[_View]:
    """Yield the configured models that have limits, with learned limits."""
    for provider, table in config.providers.items():
        for pattern in ("*", *(each for each in table.get("models", {}) if each != "*")):
            model = _model(config, f"{provider}/{pattern}")
            view = _view(model, entries.pop(model.key, None))
            if view.limits or model.quota.max_concurrent is not None:
                yield view


def _of_memory(config: Config, key: str, entry: Remembered) -> _View:
    """Return the view of a model that is only in the memory."""
    try:
        model = _model(config, entry.name)
    except ConfigurationError:  # its provider is not installed any more
        from llmflow.types import Quota

        model = _Model(
            name=entry.name,
            quota=Quota(),
            origins={},
            blank=entry,
            key="",
            settings=config.settings(entry.name),
            provider=None,
        )
    return _view(model, entry, note=None if model.key == key else _ELSEWHERE)


def _view(
    model: _Model,
    entry: Remembered | None,
    *,
    signals: Sequence[QuotaSignal] | None = None,
    note: str | None = None,
) -> _View:
    """Return what is known, and what a limiter makes of it."""
    statistics = _limiter(model, entry).statistics()
    limits = list(_limits(model, entry, statistics))
    return _View(model=model, note=note, limits=limits, statistics=statistics, signals=signals)


def _limits(
    model: _Model, entry: Remembered | None, statistics: LimiterStatistics
) -> Iterator[_Limit]:
    from llmflow.rate_limits import DAY, RATE_LIMITS

    for name, (_, period, _) in RATE_LIMITS.items():
        if name in statistics.limits:
            configured: float | None = getattr(model.quota, name)
            learned = entry.limits.get(name) if entry else None
            yield _Limit(
                dimension=name,
                configured=configured,
                configured_by=None if configured is None else model.origins.get(name),
                learned=None if learned is None else learned.limit,
                estimated=None if learned is None else learned.estimated,
                learned_at=entry.times.get(name, 0.0) if entry and learned else None,
                effective=statistics.limits[name],
                burst_seconds=None if period >= DAY else statistics.burst_seconds[name],
            )


def _limiter(model: _Model, entry: Remembered | None) -> Limiter:
    """Return a limiter as a run would begin with it."""
    from llmflow.limits import Limiter
    from llmflow.limits.registry import START_IN_FLIGHT
    from llmflow.transport import connection_limit

    limiter = Limiter(
        model.quota, max_in_flight=connection_limit(), start_in_flight=START_IN_FLIGHT
    )
    if entry is not None:
        limiter.recall(entry.limits.values())
    return limiter


def _probe(model: _Model) -> tuple[Sequence[QuotaSignal], ProviderError | None]:
    from llmflow.jobs.probe import probe
    from llmflow.transport import Timeout

    assert model.provider is not None
    model.settings.check_key()
    model.provider.prepare()
    timeout = model.settings.timeout_over(Timeout())
    return loops.run(probe(model.provider, timeout=timeout))


def _learned(
    model: _Model,
    entry: Remembered | None,
    signals: Sequence[QuotaSignal],
    path: Path | None,
) -> dict[str, Remembered]:
    """Learn limits from a reply as a run would, and save them."""
    from llmflow.limits import learned_limits

    limiter, now = _limiter(model, entry), time.time()
    limiter.observe(signals)
    learned = limiter.learned()
    if not learned:
        return {}
    found = {model.key: (entry or model.blank).updated(learned, rejected=False, now=now)}
    if model.key:
        learned_limits.save(path, found, now=now)
    return found


def _forget(
    path: Path | None, model: _Model | None, entries: Mapping[str, Remembered], *, as_json: bool
) -> int:
    from llmflow.limits import learned_limits

    keys = None
    if model is not None:
        keys = [
            key
            for key, entry in entries.items()
            if key == model.key or entry.name == model.blank.name
        ]
    try:
        count = learned_limits.forget(path, keys)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"{path} cannot be changed: {redact(reason)}") from error
    if as_json:
        write_json(sys.stdout, {"forgotten": count})
    else:
        write(sys.stdout, f"forgot the limits of {counted(count, 'model')}")
    return 0


def _print(path: Path | None, views: Sequence[_View], *, as_json: bool) -> None:
    from llmflow.config.files import display_name

    name = None if path is None else display_name(path)
    if as_json:
        write_json(sys.stdout, {"file": name, "models": [view.plain() for view in views]})
        return
    if name is None:
        write(sys.stdout, "learned limits are not kept: LLMFLOW_STATE_DIR is off")
    else:
        write(sys.stdout, f"learned limits: {printable(name)}")
    if not views:
        write(sys.stdout, "no limit is configured, and none was learned in the last seven days")
    _show(views, sys.stdout, now=time.time())


def _show(views: Sequence[_View], stream: IO[str], *, now: float) -> None:
    """Print views: tables on a terminal, plain text elsewhere."""
    draws = stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    for view in views:
        name = view.model.name
        title = printable(f"{name} ({view.note})" if view.note else name)
        if draws:
            _draw(title, list(view.cells(now)), view.remarks(), stream)
            continue
        lines = [*columns(list(view.cells(now))), *view.remarks()]
        print("\n".join(["", title, *(f"  {line}" for line in lines)]), file=stream)
    stream.flush()


def _draw(
    title: str, rows: Sequence[Sequence[str]], remarks: Iterator[str], stream: IO[str]
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=stream, highlight=False)
    table = Table(*rows[0], title=Text(title, style="bold"), title_justify="left")
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    console.print()
    console.print(table)
    for text in remarks:
        console.print(Text(text))


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
