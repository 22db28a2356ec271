"""``llmflow config``: checks and shows the configuration file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from llmflow.cli.options import CONFIG, JSON, CommandGroup
from llmflow.cli.terminal import printable, write, write_json
from llmflow.errors import ConfigurationError, redact
from llmflow.tables import columns

if TYPE_CHECKING:
    from llmflow.config import Config, Settings
    from llmflow.pricing import Price
    from llmflow.provider import Provider

# Kinds without a variable and an address of their own.
_KEYS_ELSEWHERE: Final = {"sim": "none is needed", "litellm": "the variable that litellm knows"}
_DEFAULT: Final = "default"
_PUBLIC: Final = "public price of"


@click.group("config", cls=CommandGroup)
def config() -> None:
    """Check and show the configuration file, llmflow.toml.

    It is searched for in the working directory and above it; --config FILE or the variable
    LLMFLOW_CONFIG names another one. Options on the command line override the file.
    """


@config.command("check", short_help="Check that everything in the file is valid.")
@CONFIG
def check(config: str | None) -> int:
    """Check that the file is valid; list all errors with their lines.

    Exit codes: 0 it is valid, 2 it is not, or there is no file.
    """
    from llmflow.config import load_config

    loaded = load_config(config)
    if loaded.source is None:
        raise ConfigurationError("there is no llmflow.toml in this folder or above it")
    missing = set()
    for model in _models(loaded):
        settings = _resolved(loaded, model)
        if settings.key_env is not None and not os.environ.get(settings.key_env):
            missing.add(settings.key_env)
    lines = [f"{_name(loaded)} is valid"]
    lines += [f"note: the environment variable {name} is not set" for name in sorted(missing)]
    write(sys.stdout, "\n".join(map(printable, lines)))
    return 0


@config.command("show", short_help="Show the effective settings, and where each comes from.")
@CONFIG
@click.option(
    "--model",
    metavar="MODEL",
    help="Show all settings of PROVIDER/MODEL, not only those of the file.",
)
@JSON
def show(config: str | None, model: str | None, as_json: bool) -> int:
    """Show the effective settings, and where each of them comes from.

    Keys are not shown, only whether their variables are set.
    """
    from llmflow.config import load_config

    loaded = load_config(config)
    if model is not None:
        found, journal = {model: list(_rows(_resolved(loaded, model)))}, {}
    else:
        found = {
            each: list(filter(_is_told, _rows(_resolved(loaded, each)))) for each in _models(loaded)
        }
        rows = [
            _Row(name, redact(str(getattr(loaded.journal, name))), origin)
            for name, origin in loaded.journal.origins.items()
        ]
        journal = {"journal": rows} if rows else {}
    if as_json:
        whole = {"file": _name(loaded), "models": _plain(found), **_plain(journal)}
        write_json(sys.stdout, whole)
    else:
        write(sys.stdout, "\n".join(_lines(loaded, {**journal, **found})))
    return 0


class _Row(NamedTuple):
    name: str
    value: Any
    origin: str


def _is_told(row: _Row) -> bool:
    return not row.origin.startswith((_DEFAULT, _PUBLIC)) or row.name == "key"


def _name(config: Config) -> str | None:
    from llmflow.config.files import display_name

    return None if config.source is None else display_name(config.source)


def _models(config: Config) -> Iterator[str]:
    """Yield a model string per table; ``NAME/*`` means all other models."""
    for provider, table in config.providers.items():
        yield f"{provider}/*"
        yield from (
            f"{provider}/{pattern}" for pattern in table.get("models", {}) if pattern != "*"
        )


def _resolved(config: Config, model: str) -> Settings:
    """Return the settings of a model, checked by converting all of them."""
    from llmflow.transport import Timeout

    settings = config.settings(model)
    settings.quota_over(None)
    settings.retry_over(None)
    settings.timeout_over(Timeout())
    if settings.price and not any(sign in model for sign in "*?["):
        settings.check_price(_public_price(settings.provider()))
    return settings


def _rows(settings: Settings) -> Iterator[_Row]:
    from llmflow.provider_registry import FALLBACK_PROVIDER, installed_providers
    from llmflow.retry import Retry
    from llmflow.transport import Timeout
    from llmflow.types import Quota

    provider, kind = settings.provider(), settings.target.partition("/")[0]
    kind = kind if kind in installed_providers() else FALLBACK_PROVIDER
    if settings.name is not None:
        yield _Row("kind", kind, settings.origins.get("kind", _DEFAULT))
    yield from _address(settings, provider, kind)
    yield _key(settings, kind)
    quota = settings.quota_over(provider.default_quota)
    if quota is None or replace(quota, share=None) == Quota():
        yield _Row("quota", "learned from the provider's replies", _DEFAULT)
    if quota is not None:
        yield from _values("quota", quota, settings)
    retry = settings.retry_over(provider.default_retry or Retry())
    yield from _values("retry", retry, settings)
    yield from _values("timeout", settings.timeout_over(Timeout()), settings)
    yield from _price(settings, provider)
    if settings.output_method is not None:
        origin = settings.origins["output_method"]
        yield _Row("output_method", settings.output_method, origin)
    if settings.batch:
        from llmflow.batch import Batch

        yield from _values("batch", Batch(**settings.batch), settings)


def _address(settings: Settings, provider: Provider, kind: str) -> Iterator[_Row]:
    if settings.base_url is not None:
        yield _Row("base_url", settings.base_url, settings.origins["base_url"])
    elif kind not in _KEYS_ELSEWHERE and getattr(provider, "base_url", None):
        variable = f"{kind.upper()}_BASE_URL"
        origin = variable if os.environ.get(variable) else _DEFAULT
        yield _Row("base_url", provider.base_url, origin)  # type: ignore[attr-defined]


def _key(settings: Settings, kind: str) -> _Row:
    from llmflow.config.settings import own_variable

    if settings.keyless:
        return _Row("key", "none is sent: no key_env", _DEFAULT)
    if settings.key_env is None and kind in _KEYS_ELSEWHERE:
        return _Row("key", _KEYS_ELSEWHERE[kind], _DEFAULT)
    name = settings.key_env or own_variable(kind)
    state = "set" if os.environ.get(name) else "not set"
    return _Row("key", f"{state} ({name})", settings.origins.get("key_env", _DEFAULT))


def _values(section: str, value: Any, settings: Settings) -> Iterator[_Row]:
    for each in fields(value):
        name, now = f"{section}.{each.name}", getattr(value, each.name)
        # A limit that is nowhere set is no news; one that the file takes away is.
        if now is not None or name in settings.origins:
            shown = type(now).__name__ if callable(now) else now
            yield _Row(name, shown, settings.origins.get(name, _DEFAULT))


def _public_price(provider: Provider) -> Price | None:
    from llmflow.pricing import price_of

    model = f"{provider.name}/{provider.model}"
    return price_of(model, base_url=getattr(provider, "base_url", None))


def _price(settings: Settings, provider: Provider) -> Iterator[_Row]:
    from llmflow import pricing

    price = settings.price_over(_public_price(provider))
    if price is None:
        yield _Row("price", "not known", _DEFAULT)
        return
    public = f"{_PUBLIC} {pricing.PRICES_AS_OF}"
    for row in _values("price", price, settings):
        origin = public if row.origin == _DEFAULT else row.origin
        if row.name == "price.longer" and row.value is not None:
            above, longer = row.value
            yield _Row(row.name, f"above {above:,} tokens: {longer}", origin)
        elif row.name != "price.longer":
            yield _Row(row.name, row.value, origin)


def _lines(config: Config, found: dict[str, list[_Row]]) -> Iterator[str]:
    name = _name(config)
    yield printable(f"configuration: {name}" if name else "configuration: no file here or above")
    for model, rows in found.items():
        yield from ("", printable(model))
        cells = [(f"  {row.name:<26}", _text(row.value), printable(row.origin)) for row in rows]
        yield from columns(cells)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return printable(f"{value:,.15g}" if isinstance(value, (int, float)) else str(value))


def _plain(found: dict[str, list[_Row]]) -> dict[str, dict[str, Any]]:
    return {
        model: {row.name: {"value": row.value, "from": row.origin} for row in rows}
        for model, rows in found.items()
    }
