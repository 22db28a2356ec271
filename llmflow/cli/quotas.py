"""``llmflow quotas``: which limits are configured, which were learned, and which would count."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

import click

from llmflow import loops
from llmflow.cli.options import AMOUNT, CONFIG
from llmflow.cli.terminal import complain, printable, write
from llmflow.errors import ConfigurationError, ProviderError, UsageError, redact

if TYPE_CHECKING:
    from pathlib import Path

    from llmflow.cli.quota_view import Line, View
    from llmflow.config import Config, Settings
    from llmflow.limits import Limiter
    from llmflow.limits.memory import Remembered
    from llmflow.provider import ClientProvider, WireProvider
    from llmflow.types import Quota, QuotaSignal

_FAILED: Final = 2
_ELSEWHERE: Final = "another key or address"


@click.command("quotas", short_help="Show which limits are configured, learned and in force.")
@click.option("--model", metavar="MODEL", help="Only PROVIDER/MODEL.")
@click.option("--base-url", metavar="URL", help="Address of a compatible server, up to /v1.")
@click.option("--rpm", type=AMOUNT, help="Requests per minute, as with llmflow run.")
@click.option("--tpm", type=AMOUNT, help="Tokens per minute, as with llmflow run.")
@click.option(
    "--probe",
    is_flag=True,
    help="Ask the model for one token, which costs about that much, and show what the reply "
    "says of the limits; with --model.",
)
@click.option(
    "--forget", is_flag=True, help="Forget what was learned, of --model or of all; show nothing."
)
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(**options: Any) -> int:
    """Show which limits are configured, which were learned, and which a run would begin with.

    Shown are the models of llmflow.toml and those of which a run has learned something in the
    last seven days; or the one that is named. A limit was named by replies, or found by trying.
    The burst window is how many seconds' worth of a limit may be used at once.

    What was learned is kept in llmflow/limits.json in the folder for caches (~/.cache on
    Linux), which is safe to delete. LLMFLOW_STATE_DIR names another folder; "off" keeps nothing.
    LLMFLOW_SHARE=1/4 says that this is one of four programs with the same key: a quarter of every
    limit is its own.

    \b
    Examples:
      llmflow quotas
      llmflow quotas --model openai/gpt-6-luna --probe

    Exit codes: 0, or 2 if the probe failed or something is wrong.
    """
    return _quotas(_Options(**options))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    model: str | None
    base_url: str | None
    rpm: float | None
    tpm: float | None
    probe: bool
    forget: bool
    config: str | None
    as_json: bool


def _quotas(options: _Options) -> int:
    from llmflow.config import load_config
    from llmflow.limits import memory

    _check(options)
    config, path = load_config(options.config), memory.state_file()
    entries = memory.load(path)
    model = None if options.model is None else _model(config, options.model, options)
    if options.forget:
        return _forget(options, path, model, entries)
    views: list[View] = []
    signals: Sequence[QuotaSignal] | None = None
    error: ProviderError | None = None
    if model is None:
        views += _configured(config, entries)
    else:
        if options.probe:
            signals, error = _probe(model)
            entries |= _learned(model, entries.get(model.key), signals, path)
            signals = signals if signals or error is None else None
        views.append(_view(model, entries.pop(model.key, None), signals=signals))
        entries = {key: each for key, each in entries.items() if each.name == model.blank.name}
    views += (_of_memory(config, key, entry) for key, entry in entries.items())
    _print(options, path, views)
    if error is not None:
        complain(str(error))
    return 0 if error is None else _FAILED


def _check(options: _Options) -> None:
    if options.model is None:
        for name in ("base_url", "rpm", "tpm", "probe"):
            if getattr(options, name):
                raise UsageError(f"--{name.replace('_', '-')} needs --model")
    if options.probe and options.forget:
        raise UsageError("--probe and --forget are two things: ask for one after the other")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """A model as ``llmflow run`` would use it.

    Args:
        name: the model string.
        quota: the configured limits.
        origins: who has set them, by dimension.
        blank: what is known of it without any memory.
        key: what stands for it in the memory; "" for what is not remembered.
        settings: its settings.
        provider: its provider, or None if that cannot be made.
    """

    name: str
    quota: Quota
    origins: Mapping[str, str]
    blank: Remembered
    key: str
    settings: Settings
    provider: WireProvider | ClientProvider | None


def _model(config: Config, name: str, options: _Options | None = None) -> _Model:
    from llmflow.limits.memory import Remembered, digest
    from llmflow.types import Quota

    settings = config.settings(name)
    provider = settings.provider(base_url=options.base_url if options else None)
    limits = {"rpm": options.rpm, "tpm": options.tpm} if options else {}
    given: dict[str, Any] = {key: value for key, value in limits.items() if value is not None}
    quota = replace(settings.quota_over(provider.default_quota) or Quota(), **given)
    domain, key = provider.domain, digest(provider.domain)
    names = (domain[0], domain[-1]) if key and isinstance(domain, tuple) else None
    first, last = names or (provider.name, provider.model)
    origins = {each.name: "the provider's default" for each in fields(quota)}
    origins |= {each: settings.origins.get(f"quota.{each}", origins[each]) for each in origins}
    return _Model(
        name=name,
        quota=quota,
        origins=origins | {each: f"--{each}" for each in given},
        blank=Remembered(provider=first, model=last),
        key=key or "",
        settings=settings,
        provider=provider,
    )


def _configured(config: Config, entries: dict[str, Remembered]) -> Iterator[View]:
    """Yield the models of the configuration that have limits, with what was learned of them."""
    for provider, table in config.providers.items():
        for pattern in ("*", *(each for each in table.get("models", {}) if each != "*")):
            model = _model(config, f"{provider}/{pattern}")
            view = _view(model, entries.pop(model.key, None))
            if view.lines or view.max_concurrent is not None:
                yield view


def _of_memory(config: Config, key: str, entry: Remembered) -> View:
    """Return what was learned of a model that is not in the configuration by this name."""
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
) -> View:
    """Return what is known, and what a limiter makes of it."""
    from llmflow.cli.quota_view import View

    limiter = _limiter(model, entry)
    return View(
        model=model.name,
        note=note,
        lines=list(_lines(model, entry, limiter)),
        statistics=limiter.statistics(),
        max_concurrent=model.quota.max_concurrent,
        share_origin=None if model.quota.share is None else model.origins.get("share"),
        signals=signals,
    )


def _lines(model: _Model, entry: Remembered | None, limiter: Limiter) -> Iterator[Line]:
    from llmflow.cli.quota_view import Line
    from llmflow.rate_limits import DAY, RATE_LIMITS

    statistics = limiter.statistics()
    for name, (_, period, _) in RATE_LIMITS.items():
        if name in statistics.limits:
            configured: float | None = getattr(model.quota, name)
            yield Line(
                dimension=name,
                configured=configured,
                origin=None if configured is None else model.origins.get(name),
                learned=entry.limits.get(name) if entry else None,
                learned_at=entry.times.get(name, 0.0) if entry else 0.0,
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
    """Learn from the reply as a run would, for this command and for the next one."""
    from llmflow.limits import memory

    limiter, now = _limiter(model, entry), time.time()
    limiter.observe(signals)
    learned = limiter.learned()
    if not learned:
        return {}
    found = {model.key: (entry or model.blank).updated(learned, rejected=False, now=now)}
    if model.key:
        memory.save(path, found, now=now)
    return found


def _forget(
    options: _Options,
    path: Path | None,
    model: _Model | None,
    entries: Mapping[str, Remembered],
) -> int:
    from llmflow.limits import memory

    keys = None
    if model is not None:
        keys = [
            key
            for key, entry in entries.items()
            if key == model.key or entry.name == model.blank.name
        ]
    try:
        count = memory.forget(path, keys)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"{path} cannot be changed: {redact(reason)}") from error
    if options.as_json:
        write(sys.stdout, f'{{"forgotten":{count}}}')
    else:
        write(sys.stdout, f"forgot the limits of {count:,} model{'' if count == 1 else 's'}")
    return 0


def _print(options: _Options, path: Path | None, views: Sequence[View]) -> None:
    from llmflow.cli.quota_view import as_json, show
    from llmflow.config.files import display_name

    name = None if path is None else display_name(path)
    if options.as_json:
        import orjson

        data = {"file": name, "models": [as_json(view) for view in views]}
        write(sys.stdout, orjson.dumps(data).decode())
        return
    if name is None:
        write(sys.stdout, "learned limits are not kept: LLMFLOW_STATE_DIR is off")
    else:
        write(sys.stdout, f"learned limits: {printable(name)}")
    if not views:
        write(sys.stdout, "no limit is configured, and none was learned in the last seven days")
    show(views, sys.stdout, now=time.time())
