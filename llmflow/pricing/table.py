"""The table of public prices, and looking up models in it."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import orjson

from llmflow.pricing.price import Price

FREE: Final = Price(input=0.0, output=0.0)

_SIMULATOR: Final = "sim"
_ANY_PROVIDER: Final = "litellm"
_ALIASES: Final = {
    "claude": "anthropic",
    "fireworks": "fireworks_ai",
    "google": "gemini",
    "grok": "xai",
    "together": "together_ai",
    "togetherai": "together_ai",
    "vertex": "vertex_ai",
}
_HOSTS: Final = {
    "ai.azure.com": "azure_ai",
    "api.anthropic.com": "anthropic",
    "api.cerebras.ai": "cerebras",
    "api.cohere.com": "cohere",
    "api.deepinfra.com": "deepinfra",
    "api.deepseek.com": "deepseek",
    "api.fireworks.ai": "fireworks_ai",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral",
    "api.moonshot.ai": "moonshot",
    "api.openai.com": "openai",
    "api.perplexity.ai": "perplexity",
    "api.sambanova.ai": "sambanova",
    "api.together.ai": "together_ai",
    "api.together.xyz": "together_ai",
    "api.x.ai": "xai",
    "api.z.ai": "zai",
    "cognitiveservices.azure.com": "azure",
    "generativelanguage.googleapis.com": "gemini",
    "openai.azure.com": "azure",
}
# Whose models are named without their provider, and asked in this order.
_HOMES: Final = ("openai", "anthropic", "gemini", "vertex_ai", "bedrock", "cohere")
_DATE: Final = re.compile(r"[-@](?:\d{4}-\d{2}-\d{2}|20\d{6})$")
_FINE_TUNED: Final = re.compile(r"(ft:[^:]+):")


class Context(NamedTuple):
    """The token limits of a model; None where unknown."""

    max_input_tokens: int | None = None
    max_output_tokens: int | None = None


def price_of(model: str, *, base_url: str | None = None) -> Price | None:
    """Return what a model's tokens cost, or None where nobody has told.

    >>> price_of("openai/gpt-6-luna").output
    0.5
    >>> price_of("openai/my-own-model")

    A name with a date that is not in the table costs what the name without it costs. The
    simulator is free.

    Args:
        model: the model string, ``provider/model``; with ``litellm/`` before it or not.
        base_url: where the model is asked, if that is known. It decides whose prices apply:
            a server of one's own has no public ones.
    """
    if model.partition("/")[0] == _SIMULATOR:
        return FREE
    row = _find(model, base_url)
    return None if row is None else _price(*row)


def context_of(model: str, *, base_url: str | None = None) -> Context | None:
    """Return a model's token limits, or None if unknown.

    Only models with a public price are known. Arguments as in `price_of`.
    """
    row = _find(model, base_url)
    return None if row is None else Context(*_table()["models"][row[0]].get("context", ()))


def as_of() -> str:
    """Return the day that the prices are of, such as ``"2026-11-24"``."""
    day: str = _table()["as_of"]
    return day


def source() -> str:
    """Return what the prices were read from, such as ``"litellm 1.106.2"``."""
    name: str = _table()["source"]
    return name


@functools.cache
def _table() -> Mapping[str, Any]:
    from importlib.resources import files  # 5 ms, and most programs ask for no price

    data = files("llmflow.pricing").joinpath("prices.json").read_bytes()
    table: Mapping[str, Any] = orjson.loads(data)
    return table


def _find(model: str, base_url: str | None) -> tuple[str, str] | None:
    """Return the name of a model's row in the table, and whose it is."""
    models = _table()["models"]
    for name in _names(model, base_url):
        for each in _spellings(name):
            if each in models:
                return each, each.partition("/")[0]
    return None


def _names(model: str, base_url: str | None) -> Iterator[str]:
    """Yield the full names that a model string can mean."""
    prefix, slash, name = model.partition("/")
    if slash and prefix == _ANY_PROVIDER:
        prefix, slash, name = name.partition("/")
    if not slash:
        prefix, name = "", prefix
    if base_url is not None:
        provider = _provider_at(base_url)
        if provider is not None:
            yield f"{provider}/{name}"
    elif prefix:
        yield f"{_ALIASES.get(prefix, prefix)}/{name}"
    else:
        yield from (f"{home}/{name}" for home in _HOMES)


def _provider_at(base_url: str) -> str | None:
    try:
        host = urlsplit(base_url).hostname or ""
    except ValueError:
        return None
    while host:  # such as my-resource.openai.azure.com
        if host in _HOSTS:
            return _HOSTS[host]
        host = host.partition(".")[2]
    return None


def _spellings(name: str) -> Iterator[str]:
    yield name
    undated = _DATE.sub("", name)
    if undated != name:
        yield undated
    provider, _, model = name.partition("/")
    tuned = _FINE_TUNED.match(model)
    if tuned is not None:
        yield f"{provider}/{tuned[1]}"


@functools.cache
def _price(name: str, provider: str) -> Price:
    row = {key: each for key, each in _table()["models"][name].items() if key != "context"}
    return _discounted(_made(row), _table()["batch_discounts"].get(provider))


def _made(row: Mapping[str, Any]) -> Price:
    if "longer" not in row:
        return Price(**row)
    above, longer = row["longer"]
    return Price(**{**row, "longer": (above, _made(longer))})


def _discounted(price: Price, discount: Mapping[str, Any] | None) -> Price:
    """Add the batch prices that follow from a provider's discount, where none are known."""
    if discount is None or price.has_batch:
        return price
    share, longer = discount["share"], price.longer
    cached = price.cached_input if discount.get("cached") else None
    return replace(
        price,
        batch_input=price.input * share,
        batch_output=price.output * share,
        batch_cached_input=None if cached is None else cached * share,
        longer=None if longer is None else (longer[0], _discounted(longer[1], discount)),
    )
