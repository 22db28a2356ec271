"""The settings of one model, merged from all tables that apply."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from llmflow.config.problems import FILE_NAME, Place, dotted, line_of
from llmflow.errors import ConfigurationError, MissingKeyError, redact
from llmflow.pricing import Price
from llmflow.provider import ClientProvider, WireProvider
from llmflow.provider_registry import FALLBACK_PROVIDER, installed_providers, provider_for
from llmflow.retry import Retry
from llmflow.shares import VARIABLE, share_of_environment
from llmflow.transport import Timeout
from llmflow.types import Quota

if TYPE_CHECKING:
    from llmflow.typed.methods import OutputMethod

STORES: Final = ("full", "answers", "off")
"""What a run may keep; see `llmflow.Run`."""
DURABILITIES: Final = ("process", "power")
"""What an answer may survive once it is written down; see `llmflow.journal.Journal`."""
_NOTHING: Final[Mapping[str, Any]] = {}
_WILD = frozenset("*?[")
_MERGED: Final = ("quota", "retry", "timeout", "price", "batch")
# Policies may be objects of tenacity's; the numbers that stand for them take their place.
_REPLACED_BY: Final = {
    "attempts": "stop",
    "total": "stop",
    "wait_initial": "wait",
    "wait_max": "wait",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The configured settings of one model with one key.

    Args:
        model: the model string that was asked for.
        target: the model string that a provider is made of: a name of the user's own is
            replaced by its kind.
        name: the provider's name of the user's own, or None.
        base_url: where the API is, or None for the provider's own address.
        key_env: the environment variable of the key, or None where the provider looks itself.
        quota: fields of a `Quota`.
        retry: fields of a `Retry`.
        timeout: fields of a `Timeout`.
        price: fields of a `Price`.
        batch: fields of a `Batch`.
        output_method: how the provider is asked for an output type; None: as it can be.
        origins: the line and place of each setting, such as ``"quota.rpm"``.
        source: the file, or None.
    """

    model: str
    target: str
    name: str | None = None
    base_url: str | None = None
    key_env: str | None = None
    quota: Mapping[str, Any] = field(default_factory=dict)
    retry: Mapping[str, Any] = field(default_factory=dict)
    timeout: Mapping[str, Any] = field(default_factory=dict)
    price: Mapping[str, Any] = field(default_factory=dict)
    batch: Mapping[str, Any] = field(default_factory=dict)
    output_method: OutputMethod | None = None
    origins: Mapping[str, str] = field(default_factory=dict)
    source: Path | None = None

    @property
    def keyless(self) -> bool:
        """True if no key is sent, as to another server."""
        return self.key_env is None and self.name is not None and self.base_url is not None

    def provider(
        self, *, base_url: str | None = None, api_key: str | None = None
    ) -> WireProvider | ClientProvider:
        """Make the model's provider; what is given wins over what is configured.

        Raises:
            ConfigurationError: as `llmflow.provider_registry.provider_for`.
        """
        key = self._key() if api_key is None else api_key
        provider = provider_for(self.target, base_url=base_url or self.base_url, api_key=key)
        if self.name is not None:
            provider.name = self.name
        return provider

    def check_key(self) -> None:
        """Check that the key's variable is set, where the configuration names one.

        Raises:
            MissingKeyError: it is not, or is empty.
        """
        if self.key_env is not None and not os.environ.get(self.key_env):
            where = f" ({self.origins['key_env']})" if "key_env" in self.origins else ""
            raise MissingKeyError(
                f"{self.model} needs an API key: set the environment variable {self.key_env}{where}"
            )

    def quota_over(self, default: Quota | None) -> Quota | None:
        """Return a quota with the configured limits in place of its own."""
        return replace(default or Quota(), **self.quota) if self.quota else default

    def quota_origins(self) -> dict[str, str]:
        """Return where each limit comes from, by dimension."""
        default = "the provider's default"
        return {
            each.name: self.origins.get(f"quota.{each.name}", default) for each in fields(Quota)
        }

    def timeout_over(self, default: Timeout) -> Timeout:
        """Return a timeout with the configured seconds in place of its own."""
        return replace(default, **self.timeout)

    def retry_over(self, default: Retry | None) -> Retry:
        """Return a policy with the configured numbers in place of its own."""
        changes: dict[str, Any] = dict(self.retry)
        changes |= {_REPLACED_BY[name]: None for name in self.retry if name in _REPLACED_BY}
        return replace(default or Retry(), **changes)

    def price_over(self, default: Price | None) -> Price | None:
        """Return a price with the configured amounts in place of its own.

        None where nothing is known and what is configured is not enough for a price: an
        answer that was paid for must not fail because of that. `check_price` tells.
        """
        changes: dict[str, Any] = dict(self.price)
        if not changes:
            return default
        if default is None:
            return None if self._price_lacks() else Price(**changes)
        if "input" in changes or "output" in changes:
            changes["longer"] = None  # the file says one price, for prompts of all lengths
        return replace(default, **changes)

    def check_price(self, default: Price | None) -> None:
        """Check that configured and public prices together make a price.

        Raises:
            ConfigurationError: it does not.
        """
        missing = self._price_lacks()
        if self.price and default is None and missing:
            raise ConfigurationError(
                f"no public price of {redact(self.model)} is known: the configured one needs "
                f"{' and '.join(missing)}, too ({self.origins[f'price.{next(iter(self.price))}']})"
            )

    def _price_lacks(self) -> list[str]:
        return [name for name in ("input", "output") if name not in self.price]

    def _key(self) -> str | None:
        if self.key_env is not None:
            return os.environ.get(self.key_env) or ""
        return "" if self.keyless else None


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalSettings:
    """The configured settings of runs' journals.

    Args:
        dir: the folder that holds a folder for each run; None: where it is by default.
        store: what is kept: ``"full"``, ``"answers"`` or ``"off"``; None: nothing is said.
        durability: what an answer survives once it is written down: the end of the
            ``"process"``, or a ``"power"`` cut, too; None: nothing is said.
        origins: the line and place of each setting, by its name.
    """

    dir: Path | None = None
    store: Literal["full", "answers", "off"] | None = None
    durability: Literal["process", "power"] | None = None
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A configuration: what ``llmflow.toml`` says, or nothing.

    >>> Config().settings("openai/gpt-6-luna").quota_over(None)

    Args:
        source: the file, or None where there is none.
        providers: the file's table ``providers``, its values read.
        journal: the file's table ``journal``.
        batch: the file's table ``batch``, its values read.
        lines: the lines of the file on which its settings stand.
    """

    source: Path | None = None
    providers: Mapping[str, Any] = field(default_factory=dict, repr=False)
    journal: JournalSettings = field(default_factory=JournalSettings)
    batch: Mapping[str, Any] = field(default_factory=dict, repr=False)
    lines: Mapping[Place, int] = field(default_factory=dict, repr=False, compare=False)

    def settings(self, model: str, *, api_key: str | None = None) -> Settings:
        """Return what is configured for a model.

        Args:
            model: the model string, ``provider/model``.
            api_key: the key that will be used, if it is given in code. Limits of a key apply
                where the key's variable holds it.
        """
        if not isinstance(model, str):
            return Settings(model=model, target=model)
        prefix, _, name = model.partition("/")
        table = self.providers.get(prefix)
        if not name or table is None:
            origins = {f"batch.{each}": self._origin(("batch", each)) for each in self.batch}
            return Settings(
                model=model,
                target=model,
                quota=_shared({}, origins),
                batch=self.batch,
                origins=origins,
                source=self.source,
            )
        kind = table.get("kind", prefix)
        own = kind != prefix and kind != FALLBACK_PROVIDER
        key_env = table.get("key_env")
        key_name = self._key_name(table, kind, api_key)
        merged, origins = self._merged(prefix, name, key_name)
        merged["quota"] = _shared(merged["quota"], origins)
        for each in ("kind", "base_url", "key_env"):
            if each in table:
                origins[each] = self._origin(("providers", prefix, each))
        return Settings(
            model=model,
            target=_target(model, kind, prefix),
            name=prefix if own else None,
            base_url=table.get("base_url"),
            key_env=key_env,
            origins=origins,
            source=self.source,
            **merged,
        )

    def _merged(
        self, provider: str, model: str, key_name: str | None
    ) -> tuple[dict[str, Any], dict[str, str]]:
        merged: dict[str, Any] = {each: {} for each in _MERGED}
        origins = {}
        for place, table in self._applying(provider, model, key_name):
            for section in _MERGED:
                for name, value in table.get(section, _NOTHING).items():
                    merged[section][name] = value
                    origins[f"{section}.{name}"] = self._origin((*place, section, name))
            if "output_method" in table:
                merged["output_method"] = table["output_method"]
                origins["output_method"] = self._origin((*place, "output_method"))
        return merged, origins

    def _applying(
        self, provider: str, model: str, key_name: str | None
    ) -> Iterator[tuple[Place, Mapping[str, Any]]]:
        """Yield the tables that apply, from the widest to the narrowest."""
        yield (), {"batch": self.batch}
        place: Place = ("providers", provider)
        table = self.providers[provider]
        yield place, table
        yield from _matching(place, table, model)
        key_table = table.get("keys", _NOTHING).get(key_name) if key_name else None
        if key_name and key_table is not None:
            place = (*place, "keys", key_name)
            yield place, key_table
            yield from _matching(place, key_table, model)

    @staticmethod
    def _key_name(table: Mapping[str, Any], kind: str, api_key: str | None) -> str | None:
        """Return the name of the variable that holds the key in use, if a table is named so."""
        named = table.get("keys", _NOTHING)
        if api_key:
            held = (name for name in named if os.environ.get(name) == api_key)
            return next(held, None)
        name: str = table.get("key_env") or own_variable(kind)
        return name if name in named else None

    def _origin(self, place: Place) -> str:
        return origin(place, self.source, self.lines)


def _shared(quota: dict[str, Any], origins: dict[str, str]) -> dict[str, Any]:
    """Return fields of a quota with the environment's share: it is nearer than a file."""
    share = share_of_environment()
    if share is None:
        return quota
    origins["quota.share"] = VARIABLE
    return {**quota, "share": share}


def origin(place: Place, source: Path | None, lines: Mapping[Place, int]) -> str:
    """Return a setting's place: file and line, or dotted path."""
    file = redact(source.name) if source is not None else FILE_NAME
    line = line_of(place, lines)
    return f"{file}, line {line}" if line else f"{file}: {dotted(place)}"


def own_variable(kind: str) -> str:
    """Return the variable in which a native provider looks for its key."""
    return f"{kind.upper().replace('-', '_')}_API_KEY"


def _target(model: str, kind: str, prefix: str) -> str:
    # litellm is asked for its providers by their own names: the whole string is its model.
    if kind == FALLBACK_PROVIDER and prefix not in installed_providers():
        return f"{FALLBACK_PROVIDER}/{model}"
    return f"{kind}/{model.partition('/')[2]}"


def _matching(
    place: Place, table: Mapping[str, Any], model: str
) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Yield the tables of the patterns that fit a model, the most specific last."""
    patterns = table.get("models", _NOTHING)
    fitting = [each for each in patterns if each == model or fnmatch.fnmatchcase(model, each)]

    def precision(pattern: str) -> tuple[bool, int]:
        return pattern == model, sum(letter not in _WILD for letter in pattern)

    for pattern in sorted(fitting, key=precision):
        yield (*place, "models", pattern), patterns[pattern]
