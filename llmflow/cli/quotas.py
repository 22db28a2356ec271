"""``llmflow quotas``: shows configured, learned and effective limits."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import click

from llmflow import loops
from llmflow.cli.options import CONFIG, JSON, endpoint_options
from llmflow.cli.terminal import complain, printable, write, write_json
from llmflow.errors import ConfigurationError, ProviderError, UsageError, redact
from llmflow.format import counted

if TYPE_CHECKING:
    from pathlib import Path

    from llmflow.cli.quota_view import Line, View
    from llmflow.config import Config, Settings
    from llmflow.limits import Limiter
    from llmflow.limits.memory import Remembered
    from llmflow.provider import ClientProvider, WireProvider
    from llmflow.types import Quota, QuotaSignal

_FAILED: Final = 2
_NO_OPTIONS: Final[Mapping[str, Any]] = {}
_ELSEWHERE: Final = "another key or address"


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
    from llmflow.limits import memory

    _check(options)
    as_json = options["as_json"]
    config, path = load_config(options["config"]), memory.state_file()
    entries = memory.load(path)
    model = None if options["model"] is None else _model(config, options["model"], options)
    if options["forget"]:
        return _forget(path, model, entries, as_json=as_json)
    views: list[View] = []
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


def _model(config: Config, name: str, options: Mapping[str, Any] = _NO_OPTIONS) -> _Model:
    from llmflow.limits.memory import Remembered, digest
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


def _configured(config: Config, entries: dict[str, Remembered]) -> Iterator[View]:
    """Yield the configured models that have limits, with learned limits."""
    for provider, table in config.providers.items():
        for pattern in ("*", *(each for each in table.get("models", {}) if each != "*")):
            model = _model(config, f"{provider}/{pattern}")
            view = _view(model, entries.pop(model.key, None))
            if view.lines or view.max_concurrent is not None:
                yield view


def _of_memory(config: Config, key: str, entry: Remembered) -> View:
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
            learned = entry.limits.get(name) if entry else None
            yield Line(
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
    path: Path | None, model: _Model | None, entries: Mapping[str, Remembered], *, as_json: bool
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
    if as_json:
        write_json(sys.stdout, {"forgotten": count})
    else:
        write(sys.stdout, f"forgot the limits of {counted(count, 'model')}")
    return 0


def _print(path: Path | None, views: Sequence[View], *, as_json: bool) -> None:
    from llmflow.cli.quota_view import plain, show
    from llmflow.config.files import display_name

    name = None if path is None else display_name(path)
    if as_json:
        write_json(sys.stdout, {"file": name, "models": [plain(view) for view in views]})
        return
    if name is None:
        write(sys.stdout, "learned limits are not kept: LLMFLOW_STATE_DIR is off")
    else:
        write(sys.stdout, f"learned limits: {printable(name)}")
    if not views:
        write(sys.stdout, "no limit is configured, and none was learned in the last seven days")
    show(views, sys.stdout, now=time.time())
