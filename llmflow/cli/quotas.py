"""``llmflow quotas``: shows configured, learned and effective limits."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple, cast

import click

from llmflow import loops
from llmflow.cli.options import CONFIG, JSON, endpoint_options
from llmflow.cli.terminal import complain, printable, write, write_json
from llmflow.errors import (
    ConfigurationError,
    InvalidRequestError,
    ProviderError,
    RequestTimeoutError,
    UsageError,
    redact,
)
from llmflow.format import counted, duration
from llmflow.shares import share_text
from llmflow.tables import columns
from llmflow.types import Request

if TYPE_CHECKING:
    from pathlib import Path

    from llmflow.config import Config
    from llmflow.limits import Limiter, LimiterStatistics
    from llmflow.limits.learned_limits import Remembered
    from llmflow.provider import ClientProvider, WireProvider
    from llmflow.transport import Timeout
    from llmflow.types import QuotaSignal

_FAILED: Final = 2
# Some models refuse to answer in one token; a refusal costs nothing.
_FEWEST_TOKENS: Final = (1, 16)
_NO_OPTIONS: Final[Mapping[str, Any]] = {}
_ELSEWHERE: Final = "another key or address"
_HEADINGS: Final = ("dimension", "configured", "learned", "effective", "burst window")
_NOTHING: Final = "-"


@click.command("quotas")
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
def quotas(**options: Any) -> int:
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
    name = options["model"]
    model = None if name is None else _Model(config, name, options)
    if options["forget"]:
        return _forget(path, model, entries, as_json=as_json)
    error: ProviderError | None = None
    if model is None:
        models = list(_models(config, entries))
    else:
        model.entry = entries.pop(model.key, None)
        error = model.probe(path) if options["probe"] else None
        same = {key: each for key, each in entries.items() if each.name == model.blank.name}
        models = [model, *_learned(config, same)]
    _print(path, models, as_json=as_json)
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


class _Limit(NamedTuple):
    """One limit of a model.

    It was `estimated` by trying, or else named by replies. `burst_seconds` is how many seconds'
    worth may be used at once; None for a day's limit.
    """

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
        if self.learned_at is not None:
            at = datetime.fromtimestamp(self.learned_at, UTC)
            values["learned_at"] = at.isoformat(timespec="seconds")
        return values

    def cells(self, now: float) -> tuple[str, ...]:
        """Return it as cells of a table."""
        configured = learned = _NOTHING
        if self.configured is not None:
            origin = f" ({printable(self.configured_by)})" if self.configured_by else ""
            configured = f"{_number(self.configured)}{origin}"
        if self.learned is not None and self.learned_at is not None:
            how = "found by trying" if self.estimated else "named"
            ago = duration(max(0.0, now - self.learned_at))
            learned = f"{_number(self.learned)}, {how} {ago} ago"
        burst = _NOTHING if self.burst_seconds is None else f"{self.burst_seconds:.3g} s"
        return configured, learned, _number(self.effective), burst


class _Model:
    """A model as ``llmflow run`` would use it, with its limits.

    `entry` is what runs have learned, perhaps with a provider that is not installed any more; `key`
    stands for the model in the file of learned limits, and is "" if it is not stored there.
    """

    def __init__(
        self,
        config: Config,
        name: str,
        options: Mapping[str, Any] = _NO_OPTIONS,
        *,
        entry: Remembered | None = None,
    ) -> None:
        from llmflow.limits.learned_limits import Remembered, digest
        from llmflow.types import Quota

        self.name, self.entry, self.settings = name, entry, config.settings(name)
        self.note: str | None = None
        self.signals: Sequence[QuotaSignal] | None = None
        self.provider: WireProvider | ClientProvider | None = None
        self.quota, self.origins, self.key = Quota(), dict[str, str](), ""
        try:
            self.provider = provider = self.settings.provider(base_url=options.get("base_url"))
        except ConfigurationError:
            if entry is None:
                raise
            self.blank = entry
            return
        given = {key: options[key] for key in ("rpm", "tpm") if options.get(key) is not None}
        configured = self.settings.quota_over(provider.default_quota) or self.quota
        self.quota = replace(configured, **given)
        self.origins = {**self.settings.quota_origins(), **{each: f"--{each}" for each in given}}
        domain = provider.domain
        self.key = digest(domain) or ""
        first, last = provider.name, provider.model
        if self.key and isinstance(domain, tuple):
            first, last = domain[0], domain[-1]
        self.blank = Remembered(provider=first, model=last)

    def limiter(self) -> Limiter:
        """Return a limiter as a run would begin with it."""
        from llmflow.limits import Limiter
        from llmflow.limits.registry import START_IN_FLIGHT
        from llmflow.transport import connection_limit

        most = connection_limit()
        limiter = Limiter(self.quota, max_in_flight=most, start_in_flight=START_IN_FLIGHT)
        if self.entry is not None:
            limiter.recall(self.entry.limits.values())
        return limiter

    def probe(self, path: Path | None) -> ProviderError | None:
        """Send one request; learn limits from the reply as a run would, and save them."""
        from llmflow.limits import learned_limits
        from llmflow.transport import Timeout

        assert self.provider is not None
        self.settings.check_key()
        self.provider.prepare()
        timeout = self.settings.timeout_over(Timeout())
        signals, error = loops.run(_probe(self.provider, timeout))
        self.signals = signals if signals or error is None else None
        limiter, now = self.limiter(), time.time()
        limiter.observe(signals)
        if learned := limiter.learned():
            self.entry = (self.entry or self.blank).updated(learned, rejected=False, now=now)
            if self.key:
                learned_limits.save(path, {self.key: self.entry}, now=now)
        return error

    def limits(self, statistics: LimiterStatistics) -> dict[str, _Limit]:
        """Return the limits by dimension."""
        from llmflow.rate_limits import DAY, RATE_LIMITS

        found, entry = {}, self.entry
        for name, (_, period, _) in RATE_LIMITS.items():
            if name not in statistics.limits:
                continue
            configured: float | None = getattr(self.quota, name)
            learned = entry.limits.get(name) if entry else None
            found[name] = _Limit(
                configured=configured,
                configured_by=None if configured is None else self.origins.get(name),
                learned=None if learned is None else learned.limit,
                estimated=None if learned is None else learned.estimated,
                learned_at=entry.times.get(name, 0.0) if entry and learned else None,
                effective=statistics.limits[name],
                burst_seconds=None if period >= DAY else statistics.burst_seconds[name],
            )
        return found

    def plain(self) -> dict[str, Any]:
        """Return its limits as plain values for JSON."""
        statistics, signals = self.limiter().statistics(), self.signals
        return {
            "model": self.name,
            "note": self.note,
            "dimensions": {name: each.plain() for name, each in self.limits(statistics).items()},
            "in_flight": {
                "configured": self.quota.max_concurrent,
                "at_first": _at_first(statistics),
                "effective": statistics.max_in_flight,
            },
            "share": statistics.share,
            "share_by": self.share_by,
            "reply": None if signals is None else [signal._asdict() for signal in signals],
        }

    @property
    def share_by(self) -> str | None:
        """The origin of the share of all limits that is used; None without one."""
        return None if self.quota.share is None else self.origins.get("share")

    def table(self, now: float) -> tuple[list[tuple[str, ...]], list[str]]:
        """Return the rows of its table, and remarks under it."""
        statistics = self.limiter().statistics()
        limits, remarks = self.limits(statistics), []
        rows = [_HEADINGS, *((name, *each.cells(now)) for name, each in limits.items())]
        first, most = _at_first(statistics), statistics.max_in_flight
        effective = f"{first:,} at first, then up to {most:,}" if first < most else f"{most:,}"
        configured = self.quota.max_concurrent
        given = _NOTHING if configured is None else f"{configured:,}"
        rows.append(("in flight", given, _NOTHING, effective, _NOTHING))
        if not limits:
            remarks.append("no limit is known: a run finds it by trying")
        if self.share_by is not None:
            share = share_text(statistics.share)
            remarks.append(f"a run uses {share} of each limit ({printable(self.share_by)})")
        if self.signals is not None:
            named = "; ".join(map(_signal, self.signals))
            remarks.append(f"the reply names {named or 'no limit'}")
        return rows, remarks


async def _probe(
    provider: WireProvider | ClientProvider, timeout: Timeout
) -> tuple[Sequence[QuotaSignal], ProviderError | None]:
    """Ask for one token, without admission or retries; return the reply's limits and error."""
    refusal: ProviderError | None = None
    for most in _FEWEST_TOKENS:
        message = {"role": "user", "content": "Hi"}
        request = Request(model=provider.model, messages=(message,), max_tokens=most)
        try:
            return await _ask(provider, request, timeout), None
        except ProviderError as error:
            error.provider = error.provider or provider.name
            error.model = error.model or provider.model
            refusal = error
            if not isinstance(error, InvalidRequestError) or "token" not in error.message:
                break
    assert refusal is not None
    return refusal.signals, refusal


async def _ask(
    provider: WireProvider | ClientProvider, request: Request, timeout: Timeout
) -> Sequence[QuotaSignal]:
    from llmflow import transport

    # Not by isinstance: before Python 3.12 that runs a protocol's properties.
    if hasattr(type(provider), "complete"):
        client, seconds = cast("ClientProvider", provider), timeout.total
        try:
            async with asyncio.timeout(seconds):
                return (await client.complete(request, timeout=seconds)).signals
        except TimeoutError as error:
            raise RequestTimeoutError(f"no answer within {seconds:g} s") from error
    wire = cast("WireProvider", provider)
    reply = await transport.send(wire.encode(request), timeout=timeout)
    signals = wire.signals(reply)
    try:
        wire.decode(reply)
    except ProviderError as error:
        error.signals = (*error.signals, *signals)
        raise
    return signals


def _at_first(statistics: LimiterStatistics) -> int:
    """Return the calls in flight at the start: fewer while no limit is known."""
    return statistics.max_in_flight if statistics.limits else statistics.window


def _models(config: Config, entries: dict[str, Remembered]) -> Iterator[_Model]:
    """Yield the configured models that have limits, and then those with learned ones."""
    for provider, table in config.providers.items():
        for pattern in ("*", *(each for each in table.get("models", {}) if each != "*")):
            model = _Model(config, f"{provider}/{pattern}")
            model.entry = entries.pop(model.key, None)
            if model.limiter().statistics().limits or model.quota.max_concurrent is not None:
                yield model
    yield from _learned(config, entries)


def _learned(config: Config, entries: Mapping[str, Remembered]) -> Iterator[_Model]:
    for key, entry in entries.items():
        model = _Model(config, entry.name, entry=entry)
        model.note = None if model.key == key else _ELSEWHERE
        yield model


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


def _print(path: Path | None, models: Sequence[_Model], *, as_json: bool) -> None:
    """Print limits: tables on a terminal, plain text elsewhere."""
    from llmflow.config.files import display_name

    stream, now = sys.stdout, time.time()
    name = None if path is None else display_name(path)
    if as_json:
        write_json(stream, {"file": name, "models": [model.plain() for model in models]})
        return
    where = "learned limits are not kept: LLMFLOW_STATE_DIR is off"
    write(stream, where if name is None else f"learned limits: {printable(name)}")
    if not models:
        write(stream, "no limit is configured, and none was learned in the last seven days")
    terminal = stream if stream is not None and stream.isatty() else None
    draws = os.environ.get("TERM", "") not in ("", "dumb")
    for model in models:
        title = printable(f"{model.name} ({model.note})" if model.note else model.name)
        rows, remarks = model.table(now)
        if draws and terminal is not None:
            _draw(title, rows, remarks, terminal)
        else:
            lines = [f"  {line}" for line in (*columns(rows), *remarks)]
            write(stream, "\n".join(["", title, *lines]))


def _draw(
    title: str, rows: Sequence[Sequence[str]], remarks: Sequence[str], stream: IO[str]
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
